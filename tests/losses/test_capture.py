"""From packed rows to the gradient: all of it can be captured in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from kdcache.cache import codec
from kdcache.core.configuration import Loss
from kdcache.core.row_format import RowFormat
from kdcache.core.types import HiddenRows, PackedRows
from kdcache.losses import blocks
from kdcache.losses.facts import Facts
from kdcache.losses.gpu import products
from kdcache.losses.head import Head
from kdcache.losses.objective import Objective
from kdcache.losses.packed import PackedTargets, Teacher, arrays_of, expand, share
from kdcache.losses.rule import Tail
from kdcache.losses.targets import SparseTargets, to_rows
from tests.capturing import Capturable
from tests.losses import oracle

R, V, K, D = 7, 60, 9, 8
LABELS = torch.tensor([0, 59, -100, 7, 8, 4, -100])
WEIGHTS = torch.tensor([1.0, 1, 1, 1, 1, 1, 0])
FACTS = Facts(width=V, ragged=True, unlabelled=True, fillers=True, has_tail=True)
"""What a graph is captured with, so that it serves all batches of its shape."""
FORMS = [("ce", "uniform"), ("ce", "bucket"), ("mse", "uniform"), ("reverse_kl", "bucket"), ("jsd", "bucket")]
SPARSE = ("dense", "fast", "compact")
HIDDEN = ("float32", "float16", "bfloat16", "int8")
HEAD = {"weight": np.random.default_rng(5).normal(size=(V, 6)).astype(np.float32)}


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "FREE_TO_LOOK", frozenset())
    monkeypatch.setattr(products, "_mixed", lambda device, dtype: False)  # tried in the eager steps before a capture


def _sparse(name: str, seed: int) -> PackedRows:
    top_k, top = (V, 0) if name == "dense" else (K, 5)
    targets = oracle.keep(oracle.logits(seed, R, V), top_k=top_k)
    targets = targets._map(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)
    rows = to_rows(targets, rows_per_item=np.ones(R, dtype=np.int64))
    shared = {"id_table": np.random.default_rng(0).permutation(V).astype(np.int32)} if name == "compact" else {}
    return codec.pack(rows, RowFormat.of(codec=name, num_classes=V, top_k=top_k, num_atoms=top), shared)


def _hidden(name: str) -> PackedRows:
    generator = np.random.default_rng(1)
    rows = HiddenRows(
        row_ptr=np.arange(R + 1),
        hidden=generator.normal(size=(R, 6)).astype(np.float32),
        num_classes=np.full(R, V, dtype=np.int32),
        lse=np.zeros(R, dtype=np.float32),
        gold=np.full(R, np.nan, dtype=np.float32),
    )
    shared = {"mean": generator.normal(size=6).astype(np.float32), "rotation_seed": np.array([7], dtype=np.int64)}
    row_format = RowFormat.of(store="hidden", codec=name, num_classes=V, top_k=0, hidden_size=6, num_atoms=0)
    return codec.pack(rows, row_format, shared if name == "int8" else {})


def packed_targets(kind: str) -> PackedTargets:
    """Rows of one teacher, by their codec, or of two: `fast+int8`."""
    rows = tuple(_hidden(name) if name in HIDDEN else _sparse(name, 0) for name in kind.split("+"))
    teachers = tuple(Teacher(head=HEAD if part.store == "hidden" else None) for part in rows)
    return PackedTargets(rows=rows, teachers=teachers, weight=0.4)


def _there(tensors: dict[str, Tensor], device: str) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "made",
    [
        lambda x: torch.tensor([1.0, 2.0], device=x.device),
        lambda x: torch.as_tensor(np.ones(2)),
        lambda x: x[[0, 1]],
        lambda x: x.__setitem__(0, 1.0),
        lambda x: x[x > 0],
        lambda x: float(x.sum()),
        lambda x: x.to("meta"),
    ],
)
def test_the_watch_finds_what_a_capture_refuses(made: Callable[[Tensor], object]) -> None:
    ones = torch.ones(2, 3)
    refused = r"waits for the device|what the host holds|one device to another"
    with pytest.raises(AssertionError, match=refused), Capturable():
        made(ones)


def test_the_watch_finds_what_comes_from_another_device() -> None:
    there, here = torch.ones(2, 3, device="meta"), torch.ones(2, dtype=torch.long)
    for mixed in (lambda: there.copy_(torch.ones(2, 3)), lambda: there[here], lambda: torch.ones(()).to("meta")):
        with pytest.raises(AssertionError, match="from one device to another"), Capturable():
            mixed()
    with Capturable():
        torch.where(there > 0, 0.0, there)
        torch.full((2,), 1.0, device="meta")


@pytest.mark.parametrize("name", [*SPARSE, *HIDDEN])
def test_expanding_takes_nothing_from_the_host_and_gives_what_unpacking_gives(name: str) -> None:
    packed = packed_targets(name)
    expected = packed.to("cpu")
    for device in ("cpu", "meta"):
        sent, head = _there(packed.arrays(), device), packed.teachers[0].head
        packed.expand(sent)  # tables go to the device once
        with Capturable():
            found = packed.expand(sent)
        assert found.num_classes_R.device.type == device
        if device == "meta":
            continue
        for field in found.__dataclass_fields__:
            if field != "head":
                torch.testing.assert_close(
                    getattr(found, field), getattr(expected, field), rtol=0, atol=0, equal_nan=True
                )
        assert head is None or found.head is packed.expand(sent).head  # type: ignore[union-attr]


def test_arrays_of_another_batch_are_expanded_by_the_first_ones_teacher() -> None:
    one, other = _sparse("compact", 0), _sparse("compact", 1)
    packed = PackedTargets(rows=(one,), teachers=(Teacher(),))
    found = packed.expand(PackedTargets(rows=(other,), teachers=(Teacher(),)).arrays())
    expected = expand("topk", "compact", arrays_of(other), share(other.shared, None, "cpu"))
    assert isinstance(found, SparseTargets)
    assert isinstance(expected, SparseTargets)
    assert found.ids_RK.tolist() == expected.ids_RK.tolist()
    assert found.logprobs_RK.tolist() == expected.logprobs_RK.tolist()


def test_arrays_are_named_by_their_teachers_number() -> None:
    names = set(packed_targets("compact+int8").arrays())
    assert {"0.ids", "0.gaps", "0.num_classes", "1.hidden", "1.scale", "1.num_classes"} <= names
    assert {name.split(".")[0] for name in names} == {"0", "1"}


def _steps() -> list[tuple[str, Loss, Tail]]:
    """Kinds of rows and losses that go together."""
    every: list[tuple[str, Loss, Tail]] = [
        (kind, loss, tail)  # type: ignore[misc]
        for kind in ("dense", "compact", "int8", "float16")
        for loss, tail in FORMS
    ]
    return [*every, ("fast+int8", "ce", "uniform"), ("fast+compact", "ce", "bucket")]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("kind", "loss", "tail"), _steps())
def test_a_step_on_logits(kind: str, loss: Loss, tail: Tail, dtype: torch.dtype, device: str) -> None:
    packed, teacher = packed_targets(kind), "a+b" if "+" in kind else "a"
    objective = Objective(teacher=teacher, loss=loss, tau_t=2.0, tau_s=1.5, alpha=0.6, tail=tail)
    leaf = oracle.logits(2, R, V).to(device, dtype).requires_grad_()
    sent = _there({**packed.arrays(), "labels": LABELS, "weights": WEIGHTS, "count": torch.tensor(6)}, device)
    packed.expand(sent)
    with Capturable():
        losses = objective(
            leaf * 1.0,
            packed.expand(sent),
            sent["labels"],
            weights_R=sent["weights"],
            num_rows=sent["count"],
            num_labels=sent["count"],
            facts=FACTS,
            in_place=True,
        )
        losses.total.backward()
    assert leaf.grad is not None
    assert leaf.grad.device.type == device


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("compute", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["dense", "compact", "int8", "fast+int8", "none"])
def test_a_step_from_hidden_vectors(kind: str, compute: torch.dtype | None, device: str) -> None:
    objective = Objective(teacher="a+b" if "+" in kind else "a", tau_t=2.0, alpha=0.5, tail="bucket")
    sent = _there({"labels": LABELS, "weights": WEIGHTS, "count": torch.tensor(6.0)}, device)
    targets: Callable[[], object] = lambda: None  # noqa: E731
    if kind == "none":
        objective = Objective(teacher=None, alpha=0)
    else:
        packed = packed_targets(kind)
        sent |= _there(packed.arrays(), device)
        packed.expand(sent)
        targets = lambda: packed.expand(sent)  # noqa: E731
    student = [
        oracle.logits(n, *shape).to(device, torch.float32).requires_grad_() for n, shape in ((5, (R, D)), (6, (V, D)))
    ]
    bias = torch.zeros(V, device=device, requires_grad=True)
    with Capturable():
        losses = objective.from_hidden(
            student[0],
            Head(weight_VD=student[1], bias_V=bias, scale=0.5, soft_cap=20.0),
            targets(),  # type: ignore[arg-type]
            sent["labels"],
            weights_R=sent["weights"],
            num_rows=sent["count"],
            num_labels=sent["count"],
            facts=FACTS,
            compute=compute,
        )
        losses.total.backward()
    assert all(tensor.grad is not None and tensor.grad.dtype == torch.float32 for tensor in (*student, bias))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("ragged", [True, False])
@pytest.mark.parametrize(("loss", "tail"), FORMS)
def test_a_step_on_rows_without_a_tail(loss: Loss, tail: Tail, ragged: bool, device: str) -> None:
    packed, objective = packed_targets("dense"), Objective(loss=loss, tau_t=2.0, tau_s=1.5, alpha=0.6, tail=tail)
    leaf = oracle.logits(2, R, V + 1).to(device, torch.float32).requires_grad_()
    sent = _there({**packed.arrays(), "labels": LABELS, "weights": WEIGHTS, "count": torch.tensor(6)}, device)
    packed.expand(sent)
    facts = replace(FACTS, has_tail=False, ragged=ragged)
    given = {"weights_R": sent["weights"], "num_rows": sent["count"], "num_labels": sent["count"], "facts": facts}
    with Capturable():
        objective(leaf, packed.expand(sent), sent["labels"], **given).total.backward()  # type: ignore[arg-type]
    assert leaf.grad is not None


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_step_on_hard_labels(device: str) -> None:
    leaf = oracle.logits(2, R, V).to(device, torch.float32).requires_grad_()
    sent = _there({"labels": LABELS, "weights": WEIGHTS, "count": torch.tensor(6)}, device)
    with Capturable():
        given = {"weights_R": sent["weights"], "num_labels": sent["count"], "facts": FACTS}
        Objective(teacher=None, alpha=0)(leaf, None, sent["labels"], **given).total.backward()  # type: ignore[arg-type]
    assert leaf.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count_type", [torch.int64, torch.float32, torch.float64])
@pytest.mark.parametrize("counts", [(6, 4), (0, 0), (1_000, 3)])
def test_counts_on_the_device_are_counts(dtype: torch.dtype, count_type: torch.dtype, counts: tuple[int, int]) -> None:
    objective, targets = Objective(loss="ce", tau_t=2.0, alpha=0.4), packed_targets("fast").to("cpu")
    found = []
    for num_rows, num_labels in (counts, [torch.tensor(count, dtype=count_type) for count in counts]):
        leaf, given = (
            oracle.logits(2, R, V).to(dtype).requires_grad_(),
            {"num_rows": num_rows, "num_labels": num_labels},
        )
        losses = objective(leaf, targets, LABELS, weights_R=WEIGHTS, facts=FACTS, **given)  # type: ignore[arg-type]
        hidden = oracle.logits(5, R, V).to(dtype).requires_grad_()
        head = Head(weight_VD=torch.eye(V, dtype=dtype))
        also = objective.from_hidden(hidden, head, targets, LABELS, weights_R=WEIGHTS, facts=FACTS, **given)  # type: ignore[arg-type]
        (losses.total + also.total).backward()
        assert losses.total.dtype == losses.hard.dtype == losses.kl.dtype == dtype
        found.append([losses.total, losses.hard, losses.soft, losses.kl, also.total, leaf.grad, hidden.grad])
    for of_number, of_tensor in zip(*found, strict=True):
        torch.testing.assert_close(of_tensor, of_number, rtol=1e-7, atol=0)
