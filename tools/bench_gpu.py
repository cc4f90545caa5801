"""What a machine with a GPU should be asked, in one call of under ten minutes: `python -m tools.bench_gpu`.

Time and memory of losses, of output head and loss, of the selection, of whole dumps and of training steps
(`tools/bench_gpu_steps.py`), each beside what one would use instead, interleaved; whether kernels agree with the plain
path on this card; and the tests marked `gpu`, where pytest is installed. Prints a table with ratio, limit and card; a
missed limit gives exit code 1. `liger-kernel` and `cut-cross-entropy` stand beside it where they are installed.

What has a limit comes first; what is only shown of training steps comes last, as far as `--seconds` allow. Two calls do
the same in two parts: with `--no-steps`, and `python -m tools.bench_gpu_steps`.

`--small` runs all of it at tiny sizes on whatever device there is, in a minute and a half, and judges agreement alone:
a CPU has other limits (`tools/bench_losses.py`, `tools/bench_dump.py`, `tools/bench_step.py`).
"""

from __future__ import annotations

import importlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kdcache.losses import gpu
from kdcache.losses.facts import find
from kdcache.losses.head import Head
from kdcache.losses.objective import Objective
from kdcache.losses.selection import select_flagged
from kdcache.losses.targets import HiddenTargets, SparseTargets, Targets
from kdcache.teacher.settings import DumpConfig
from tools import bench_dump, bench_gpu_steps
from tools.bench_losses import make_case, peak_bytes, seconds
from tools.bench_table import Table, machine, parser

GIB = 1 << 30
OBJECTIVES: Mapping[str, Objective] = {
    "CE, uniform tail, tau 1/1": Objective(tau_t=1.0),
    "CE, bucket tail, tau 2/2": Objective(tau_t=2.0, tail="bucket"),
    "MSE": Objective(loss="mse"),
    "CE tau 2/1 and hard labels": Objective(tau_t=2.0, tau_s=1.0, alpha=0.5),
    "hard labels": Objective(teacher=None, alpha=0),
}
OTHERS: Mapping[str, Objective] = {
    "reverse KL": Objective(loss="reverse_kl", tail="bucket"),
    "JSD": Objective(loss="jsd", tail="bucket"),
}
"""On the plain path on every device: shown, not judged."""
REPEATS = 9
FUSED = Objective(tau_t=2.0, tau_s=1.0, alpha=0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What is run. `small` ones are for a CPU.

    Attributes:
        logits: (rows, classes, dtype, limit) of losses on logits.
        heads: (rows, hidden size, classes, limit of time, limit of memory in GiB) of head and loss.
        selections: (rows, classes, limit in microseconds a row).
        llama: layers, width, classes, heads, inner width of the dump's teacher.
        texts: (count, tokens) of the dump.
        long: (count, tokens, classes) of the dump that must fit.
    """

    logits: tuple[tuple[int, int, torch.dtype, float], ...]
    heads: tuple[tuple[int, int, int, float, float], ...]
    selections: tuple[tuple[int, int, float], ...]
    llama: tuple[int, int, int, int, int]
    texts: tuple[int, int]
    long: tuple[int, int, int]


FULL = Sizes(
    logits=((4096, 50_257, torch.float32, 0.50), (8192, 128_256, torch.bfloat16, 0.45)),
    heads=((8192, 2048, 128_256, 0.70, 1.8), (4096, 512, 131_072, 0.45, 1.2)),
    selections=((4096, 49_152, 0.5), (4096, 128_256, 0.9)),
    llama=(20, 2048, 49_152, 16, 5632),
    texts=(384, 512),
    long=(64, 2048, 128_256),
)
SMALL = Sizes(
    logits=((6, 301, torch.float32, 0.50), (6, 257, torch.bfloat16, 0.45)),
    heads=((6, 16, 333, 0.70, 1.8),),
    selections=((4, 333, 0.5),),
    llama=(1, 32, 16_500, 4, 64),
    texts=(4, 24),
    long=(2, 32, 16_500),
)
STORES = {"topk fast": 1.15, "topk compact": 1.20, "hidden float16": 1.25}
LONG_GIB = 24.0


def ratios(functions: Mapping[str, Callable[[], Any]], base: Callable[[], Any], device: str) -> dict[str, float]:
    """Median of time over the mean of `base` before and after, interleaved; three rounds warm up."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(REPEATS + 3):
        before = seconds(base, device)
        for name, function in functions.items():
            own = seconds(function, device)
            after = seconds(base, device)
            if number >= 3:
                found[name].append(2 * own / (before + after))
            before = after
    return {name: statistics.median(values) for name, values in found.items()}


def on_logits(sizes: Sizes, device: str, table: Table) -> None:
    """Losses on logits over eager `F.cross_entropy`, gradient included."""
    for rows, classes, dtype, limit in sizes.logits:
        case = make_case(rows, classes, device)
        logits, labels = case.logits_RV.to(dtype), case.labels_R
        facts = find(labels.cpu().numpy(), np.full(rows, classes), has_tail=True)

        def loss(objective: Objective, logits: Tensor = logits, case: Any = case, facts: Any = facts) -> None:
            leaf = logits.detach().requires_grad_()
            targets = case.targets if objective.alpha else None
            counts = {"num_rows": len(leaf), "num_labels": len(leaf)}
            objective(leaf, targets, case.labels_R, facts=facts, **counts).total.backward()

        def base(logits: Tensor = logits, labels: Tensor = labels) -> None:
            functional.cross_entropy(logits.detach().requires_grad_(), labels).backward()

        functions: dict[str, Callable[[], None]] = {
            name: lambda o=objective, run=loss: run(o)  # type: ignore[misc]
            for name, objective in (OBJECTIVES | OTHERS).items()
        }
        sure = logits.scatter_add(1, case.targets.ids_RK, torch.full_like(case.targets.logprobs_RK, 14).to(dtype))
        bucket = OBJECTIVES["CE, bucket tail, tau 2/2"]
        functions["CE, bucket tail, a student with next to nothing in the tail"] = partial(loss, bucket, sure)
        functions |= {name: partial(f, logits, labels) for name, f in logit_peers()}
        what = f"{rows:,} x {classes:,} {str(dtype).removeprefix('torch.')}"
        for name, ratio in ratios(functions, base, device).items():
            table.add(f"loss over F.cross_entropy, {what}: {name}", ratio, limit if name in OBJECTIVES else None)


def logit_peers() -> Iterator[tuple[str, Callable[[Tensor, Tensor], None]]]:
    """Plain cross-entropy of other libraries, where they are installed."""
    if find_spec("liger_kernel"):
        liger = importlib.import_module("liger_kernel.transformers").LigerCrossEntropyLoss()

        def run(logits: Tensor, labels: Tensor) -> None:
            liger(logits.detach().clone().requires_grad_(), labels).backward()

        yield "Liger CE, hard labels (on a copy, which it overwrites)", run


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadCase:
    """Vectors before an output head, and the head.

    Attributes:
        hidden: [R, D].
        weight: [V, D].
        labels: [R], on the device.
        labels_here: the same on the CPU.
    """

    hidden: Tensor
    weight: Tensor
    labels: Tensor
    labels_here: Any

    def leaves(self) -> tuple[Tensor, Tensor]:
        """Both as leaves of a graph of their own."""
        return self.hidden.detach().requires_grad_(), self.weight.detach().requires_grad_()

    def naive(self) -> None:
        """All logits at once, and `F.cross_entropy`."""
        hidden, weight = self.leaves()
        functional.cross_entropy(functional.linear(hidden, weight), self.labels).backward()

    def fused(self, targets: Targets) -> None:
        """In chunks: a teacher's rows and hard labels."""
        hidden, weight = self.leaves()
        count, classes = len(hidden), len(weight)
        facts = find(self.labels_here, np.full(count, classes), has_tail=isinstance(targets, SparseTargets))
        losses = FUSED.from_hidden(
            hidden, Head(weight_VD=weight), targets, self.labels, num_rows=count, num_labels=count, facts=facts
        )
        losses.total.backward()


def with_head(sizes: Sizes, device: str, table: Table) -> None:
    """Output head and loss over the naive way, time and extra memory, with sparse and with hidden targets."""
    for rows, size, classes, limit, gib in sizes.heads:
        dtype = torch.bfloat16
        generator = torch.Generator(device=device).manual_seed(1)
        hidden = torch.randn(rows, size, generator=generator, device=device).to(dtype)
        weight = (torch.randn(classes, size, generator=generator, device=device) / size**0.5).to(dtype)
        teacher = make_case(rows, classes, device)
        labels, sparse = teacher.labels_R, teacher.targets
        del teacher
        case = HeadCase(hidden=hidden, weight=weight, labels=labels, labels_here=labels.cpu().numpy())
        vectors = HiddenTargets(
            hidden_RD=hidden.flip(0).half(),
            head=Head(weight_VD=weight.flip(0).float()),
            num_classes_R=torch.full_like(labels, classes),
            gold_R=torch.full(labels.shape, torch.nan, device=device),
        )
        functions: dict[str, Callable[[], None]] = {
            "sparse": partial(case.fused, sparse),
            "hidden": partial(case.fused, vectors),
        }
        found = ratios(functions | dict(head_peers(case)), case.naive, device)
        what = f"{rows:,} x {size:,} x {classes:,} bfloat16"
        table.add(f"head + loss over linear + CE, {what}, k = 64", found.pop("sparse"), limit)
        table.add(f"the same, hidden targets of equal D, {what}", found.pop("hidden"), 1.1)
        for name, ratio in found.items():
            table.add(f"the same, {name}, hard labels, {what}", ratio, None)
        table.add(f"its extra memory, {what}, k = 64", peak_bytes(functions["sparse"], device) / GIB, gib, " GiB")
        table.add(f"extra memory of the naive way, {what}", peak_bytes(case.naive, device) / GIB, None, " GiB")


def head_peers(case: HeadCase) -> Iterator[tuple[str, Callable[[], None]]]:
    """Fused head and cross-entropy of other libraries, where they are installed."""
    if find_spec("liger_kernel"):
        liger = importlib.import_module("liger_kernel.transformers").LigerFusedLinearCrossEntropyLoss()

        def run_liger() -> None:
            hidden, weight = case.leaves()
            liger(weight, hidden, case.labels).backward()

        yield "Liger", run_liger
    if find_spec("cut_cross_entropy"):
        cut = importlib.import_module("cut_cross_entropy").linear_cross_entropy

        def run_cut() -> None:
            hidden, weight = case.leaves()
            cut(hidden, weight, case.labels).backward()

        yield "cut-cross-entropy", run_cut


def selection(sizes: Sizes, device: str, table: Table) -> None:
    """Microseconds a row of the selection, all included, and of `torch.topk` alone; and whether its ids are right."""
    for rows, classes, limit in sizes.selections:
        dtype = torch.bfloat16
        generator = torch.Generator(device=device).manual_seed(2)
        logits = (torch.randn(rows, classes, generator=generator, device=device) * 3).to(dtype)
        labels = torch.randint(0, classes, (rows,), generator=generator, device=device)
        widths = torch.full_like(labels, classes)

        def own(logits: Tensor = logits, labels: Tensor = labels, widths: Tensor = widths) -> SparseTargets:
            return select_flagged(logits, labels, widths, widest=logits.shape[1], top_k=64)[0]

        times = [seconds(own, device) for _ in range(REPEATS + 3)][3:]
        table.add(f"selection, k = 64, V {classes:,}", statistics.median(times) / rows * 1e6, limit, " us a row")
        times = [seconds(lambda x=logits: x.topk(64), device) for _ in range(REPEATS + 3)][3:]  # type: ignore[misc]
        table.add(f"torch.topk alone, V {classes:,}", statistics.median(times) / rows * 1e6, None, " us a row")
        wanted = logits[:64].float().sort(dim=1, descending=True, stable=True).indices[:, :64]
        wrong = (own().ids_RK[:64] != wanted).float().mean().item()
        table.add(f"ids unlike a stable sort, V {classes:,}", wrong, 0, always=True)


def agreement(device: str, table: Table) -> None:
    """Kernels against the plain path in float64, from the same logits."""
    case = make_case(64, 1001, device)
    wide = case.targets._map(lambda t: t.double() if t.is_floating_point() else t)
    for name, objective in OBJECTIVES.items():
        found = _value_and_gradient(objective, case.logits_RV, case.targets, case.labels_R)
        wanted = _value_and_gradient(objective, case.logits_RV.double(), wide, case.labels_R)
        value = abs(found[0] - wanted[0]) / abs(wanted[0])
        slope = float((found[1].double() - wanted[1]).norm() / wanted[1].norm())
        table.add(f"loss off the plain path, float32: {name}", value, 1e-5, always=True)
        table.add(f"gradient off the plain path, float32: {name}", slope, 1e-5, always=True)


def _value_and_gradient(
    objective: Objective, logits: Tensor, targets: SparseTargets, labels: Tensor
) -> tuple[float, Tensor]:
    leaf = logits.detach().clone().requires_grad_()
    total = objective(leaf, targets if objective.alpha else None, labels).total
    (gradient,) = torch.autograd.grad(total, leaf)
    return float(total.detach()), gradient


def dumps(sizes: Sizes, device: str, table: Table, folder: Path) -> None:
    """Dumps of a Llama to disk over its bare forward pass, and one of long texts that must fit."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    layers, width, classes, heads, inner = sizes.llama
    count, length = sizes.texts
    settings = {"layers": layers, "width": width, "heads": heads, "inner": inner, "dtype": dtype, "device": device}
    model = bench_dump.llama(classes=classes, **settings)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    config = DumpConfig(batch_size=64, batch_tokens=32_768, block_tokens=max(length, count * length // 6))
    name = str(dtype).removeprefix("torch.")
    items = bench_dump.random_items(count, length, classes)
    case = bench_dump.Case(model=model, items=items, config=config, dtype=name)
    functions: dict[str, Callable[[], None]] = {
        store: lambda s=bench_dump.STORES[store]: bench_dump.dump(case, s, folder / "cache")  # type: ignore[misc]
        for store in STORES
    }
    what = f"{parameters / 1e9:.2f} B Llama, {count} x {length} tokens, V {classes:,}"
    for store, ratio in bench_dump.ratios(case, functions, repeats=3).items():
        table.add(f"dump to disk over the bare forward, {what}: {store}", ratio, STORES[store])
    del case, model, functions
    bench_dump.forget()
    count, length, classes = sizes.long
    model = bench_dump.llama(classes=classes, **settings)
    config = replace(config, batch_tokens=count * length, block_tokens=count * length)
    items = bench_dump.random_items(count, length, classes)
    case = bench_dump.Case(model=model, items=items, config=config, dtype=name)
    for store in ("topk fast", "hidden float16"):
        run = lambda s=bench_dump.STORES[store]: bench_dump.dump(case, s, folder / "cache")  # noqa: E731
        peak = peak_bytes(run, device) if device == "cuda" else bench_dump.peak_bytes(run)
        what = f"memory beside the model, one batch of {count} x {length} tokens, V {classes:,}: {store}"
        table.add(what, peak / GIB, LONG_GIB, " GiB")
    bench_dump.forget()


def run_tests(table: Table) -> None:
    """The tests that really use the GPU: dumps, trainings, kernels, and that every command ends."""
    if not find_spec("pytest"):
        print("| tests marked gpu | not run: pytest is not installed | | |", flush=True)
        return
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "tests")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        table.add("tests marked gpu: over 300 s", 1, 0, always=True)
        return
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    table.add(f"exit code of the tests marked gpu ({last})", done.returncode, 0, always=True)


def main() -> int:
    """Run everything and print the table; 1 if a limit is missed, 2 without a GPU."""
    options = parser(__doc__, seconds=bench_gpu_steps.SECONDS)
    options.add_argument("--no-tests", action="store_true", help="Leave out the tests marked gpu.")
    options.add_argument("--no-steps", action="store_true", help="Leave out training steps.")
    args = options.parse_args()
    until = time.perf_counter() + args.seconds
    found = machine(small=args.small)
    if found is None:
        return 2
    device, name = found
    kernels = "kernels" if gpu.usable(torch.device(device)) else "no kernels: the plain path"
    print(f"{name}, {kernels}{', small sizes' if args.small else ''}\n", flush=True)
    table, sizes = Table(judged=not args.small), SMALL if args.small else FULL
    table.begin()
    agreement(device, table)
    on_logits(sizes, device, table)
    with_head(sizes, device, table)
    selection(sizes, device, table)
    with tempfile.TemporaryDirectory(dir=args.out) as name:
        folder = Path(name)
        dumps(sizes, device, table, folder)
        steps_sizes = bench_gpu_steps.SMALL if args.small else bench_gpu_steps.FULL
        steps = bench_gpu_steps.Steps(sizes=steps_sizes, device=device, table=table, folder=folder)
        if not args.no_steps:
            steps.judged()
        if device == "cuda" and not args.no_tests:
            run_tests(table)
        if not args.no_steps:
            steps.shown(until)
    return table.end()


if __name__ == "__main__":
    sys.exit(main())
