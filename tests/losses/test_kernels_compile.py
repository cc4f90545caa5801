"""The kernels compile for GPUs, without one: the interpreter forgives what the compiler does not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from kdcache.losses import gpu
from kdcache.losses.head import Head
from kdcache.losses.objective import Objective
from kdcache.losses.selection import log_partition_flagged, select, select_flagged
from kdcache.losses.targets import HiddenTargets, Mixture, SparseTargets

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not gpu.INSTALLED or gpu.INTERPRETED, reason="needs Triton's compiler"),
]

R, V = 3, 2048
POINTERS = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.uint8: "*u8",
}
CAPABILITIES = (80, 90)


def compiled(kernel: Any, capability: int, arguments: tuple[Any, ...], options: dict[str, Any]) -> str:
    """The machine code of a launch, as `kernel[grid](*arguments, **options)` would have it made."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    named = dict(zip(kernel.arg_names, arguments, strict=False))
    named |= {name: options.pop(name) for name in list(options) if name in kernel.arg_names}
    fixed = {kernel.arg_names[i] for i in kernel.constexprs}
    plain = {kernel.arg_names[i] for i in range(len(kernel.arg_names)) if kernel.params[i].do_not_specialize}
    signature, constants, attributes = {}, {}, {}
    for number, name in enumerate(kernel.arg_names):
        value = named[name]
        if isinstance(value, torch.Tensor):
            signature[name] = POINTERS[value.dtype]
            attributes[(number,)] = [["tt.divisibility", 16]]
        elif name in fixed or value is None or (value == 1 and name not in plain):
            signature[name], constants[name] = "constexpr", value
        else:
            signature[name] = "i32" if isinstance(value, int) else "fp32"
            if isinstance(value, int) and value % 16 == 0 and name not in plain:
                attributes[(number,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Triton about itself
        found = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert found.asm["cubin"]
    return str(found.asm["ptx"])


class Launches:
    """Stands where a kernel is launched: compiles, and leaves the results as they are."""

    def __init__(self, kernel: Any, capability: int, seen: dict[str, list[str]]) -> None:
        self._kernel, self._capability, self._seen = kernel, capability, seen

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            code = compiled(self._kernel, self._capability, arguments, options)
            self._seen.setdefault(self._kernel.__name__, []).append(code)

        return launch


@pytest.fixture(params=CAPABILITIES)
def seen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Kernel -> the code of each of its launches, on CPU tensors that stand for a GPU's."""
    from kdcache.losses.gpu import loss_kernels, selection_kernels, tail_kernels

    found: dict[str, list[str]] = {}
    for module in (loss_kernels, selection_kernels, tail_kernels):
        for name, kernel in list(vars(module).items()):
            if hasattr(kernel, "arg_names") and name in LAUNCHED:
                monkeypatch.setattr(module, name, Launches(kernel, request.param, found))
    monkeypatch.setattr(gpu, "usable", lambda device: True)
    return found


LAUNCHED = {
    *("sparse_rows", "dense_rows", "scale_rows", "scan", "threshold", "collect", "overflow", "rank", "finish"),
    "gauss",
}


def targets(*, top_k: int) -> SparseTargets:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "usable", lambda device: False)
        return select(torch.randn(R, V), torch.zeros(R, dtype=torch.long), torch.full((R,), V), top_k=top_k)


def run(objective: Objective, rows: Any, dtype: torch.dtype) -> None:
    leaf = torch.zeros(R, V, dtype=dtype, requires_grad=True)
    total = objective(leaf, rows, torch.zeros(R, dtype=torch.long)).total
    torch.autograd.grad(total * 2, leaf)


def test_losses_on_logits(seen: dict[str, list[str]]) -> None:
    rows = targets(top_k=64)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        run(Objective(tau_t=2.0, tau_s=1.0, alpha=0.5), rows, dtype)
    for objective in (
        Objective(tau_t=2.0, tail="bucket"),
        Objective(tau_t=2.0, tail="bucket", alpha=0.5),
        Objective(loss="mse"),
        Objective(loss="mse", alpha=0.5),
    ):
        run(objective, rows, torch.bfloat16)
    run(Objective(teacher=None, alpha=0), None, torch.bfloat16)
    assert {name: len(codes) for name, codes in seen.items()} == {"sparse_rows": 8, "scale_rows": 8}


def test_hidden_teachers_mixtures_and_more_kept_classes_than_a_program_holds(seen: dict[str, list[str]]) -> None:
    hidden = HiddenTargets(
        hidden_RD=torch.randn(R, 8).half(),
        head=Head(weight_VD=torch.randn(V, 8)),
        num_classes_R=torch.tensor([V, V - 5, 7]),
        gold_R=torch.full((R,), torch.nan),
    )
    for objective in (Objective(tau_t=2.0, alpha=0.5), Objective(loss="mse")):
        run(objective, hidden, torch.bfloat16)
        run(objective, targets(top_k=V), torch.float32)
    run(Objective(teacher="a+b", tau_t=2.0, alpha=0.5), Mixture(first=targets(top_k=64), second=hidden), torch.float32)
    assert set(seen) == {"sparse_rows", "dense_rows", "scale_rows"}


def test_without_a_gradient(seen: dict[str, list[str]]) -> None:
    with torch.no_grad():
        Objective(tail="bucket", alpha=0.5)(torch.zeros(R, V), targets(top_k=64), torch.zeros(R, dtype=torch.long))
    assert set(seen) == {"sparse_rows"}


def test_the_selection(seen: dict[str, list[str]]) -> None:
    none, full = torch.full((R,), -100), torch.full((R,), 49_152)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        logits = torch.zeros(R, 49_152, dtype=dtype)
        select_flagged(logits, none, full, widest=49_152, top_k=64)
    select_flagged(logits, none, full, widest=49_152, top_k=256, top_p=0.9)
    log_partition_flagged(logits, none, full)
    counts = {name: len(codes) for name, codes in seen.items()}
    assert counts == {
        "scan": 5,
        **dict.fromkeys(("threshold", "collect", "overflow", "rank", "finish", "gauss"), 4),
    }
