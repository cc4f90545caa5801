"""A step waits for the device nowhere: what a loss has to know of its rows comes with the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdcache.core.configuration import Loss
from kdcache.losses import blocks
from kdcache.losses.facts import Facts, find
from kdcache.losses.head import Head
from kdcache.losses.objective import Objective
from kdcache.losses.rule import Tail
from kdcache.losses.selection import log_partition_flagged, select, select_flagged
from kdcache.losses.targets import HiddenTargets, Mixture, SparseTargets, Targets
from tests.capturing import NoWaiting
from tests.losses import oracle

R, V, K, D = 7, 60, 9, 8
CLASSES = torch.tensor([60, 60, 41, 60, 9, 5, 33])
LABELS = torch.tensor([0, 59, -100, 7, 8, 4, -100])
WEIGHTS = torch.tensor([1.0, 1, 1, 1, 1, 1, 0])
FORMS = [("ce", "uniform"), ("ce", "bucket"), ("mse", "uniform"), ("reverse_kl", "bucket"), ("jsd", "bucket")]


@pytest.fixture(params=["free to look", "as on a GPU"])
def _device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain path as it runs where a look costs a wait."""
    if request.param == "as on a GPU":
        monkeypatch.setattr(blocks, "FREE_TO_LOOK", frozenset())


def _facts(*, tail: bool) -> Facts:
    return find(LABELS.numpy(), CLASSES.numpy().astype(np.int64), WEIGHTS.numpy(), has_tail=tail)


def _sparse(dtype: torch.dtype = torch.float32) -> SparseTargets:
    targets = oracle.keep(oracle.logits(0, R, V), top_k=K, classes=CLASSES)
    return targets._map(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def _hidden() -> HiddenTargets:
    vectors, weight = oracle.logits(3, R, 5).float(), oracle.logits(4, V, 5).float()
    return HiddenTargets(
        hidden_RD=vectors,
        head=Head(weight_VD=weight),
        num_classes_R=CLASSES,
        gold_R=torch.full((R,), torch.nan),
    )


def _targets(kind: str) -> Targets | Mixture:
    if kind == "mixture":
        return Mixture(first=_sparse(), second=_hidden(), weight=0.4)
    return _sparse() if kind == "topk" else _hidden()


def test_the_watch_finds_what_waits() -> None:
    ones = torch.ones(3)
    for wait in (lambda: bool(ones.any()), lambda: ones.nonzero(), lambda: ones[ones > 0], lambda: float(ones.sum())):
        with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
            wait()


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("kind", ["topk", "hidden"])
@pytest.mark.parametrize(("loss", "tail"), FORMS)
def test_a_loss_on_logits_and_its_backward_pass(
    loss: Loss, tail: Tail, kind: str, in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "FREE_TO_LOOK", frozenset())
    objective = Objective(loss=loss, tau_t=2.0, tau_s=1.5, alpha=0.6, tail=tail)
    targets, facts, leaf = _targets(kind), _facts(tail=kind == "topk"), oracle.logits(2, R, V).float().requires_grad_()
    with NoWaiting():
        given = {"weights_R": WEIGHTS, "num_rows": 6, "num_labels": 5, "facts": facts}
        losses = objective(leaf * 1.0, targets, LABELS, in_place=in_place, **given)  # type: ignore[arg-type]
        (losses.total * 2).backward()
    assert leaf.grad is not None


@pytest.mark.parametrize("kind", ["topk", "hidden", "mixture"])
def test_head_and_loss_in_chunks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "FREE_TO_LOOK", frozenset())
    objective = Objective(teacher="a+b" if kind == "mixture" else "a", tau_t=2.0, alpha=0.5, tail="bucket")
    hidden, weight = oracle.logits(5, R, D).float().requires_grad_(), oracle.logits(6, V, D).float().requires_grad_()
    targets, facts = _targets(kind), _facts(tail=kind != "hidden")
    with NoWaiting():
        head = Head(weight_VD=weight)
        losses = objective.from_hidden(hidden, head, targets, LABELS, num_rows=6, num_labels=5, facts=facts)
        losses.total.backward()
    assert hidden.grad is not None
    assert weight.grad is not None


def test_hard_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "FREE_TO_LOOK", frozenset())
    leaf = oracle.logits(2, R, V).float().requires_grad_()
    with NoWaiting():
        facts = _facts(tail=False)
        Objective(teacher=None, alpha=0)(leaf, None, LABELS, num_labels=5, facts=facts).total.backward()
    assert leaf.grad is not None


def test_what_a_dump_keeps_of_dense_rows_and_of_hidden_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The atoms of sparse rows are a kernel's on a GPU: see tests/losses/gpu."""
    logits = oracle.logits(7, R, V).float()
    expected = select(logits, LABELS, CLASSES, top_k=V, dense=True)
    monkeypatch.setattr(blocks, "FREE_TO_LOOK", frozenset())
    with NoWaiting():
        found, bad_R = select_flagged(logits, LABELS, CLASSES, widest=V, top_k=V, dense=True)
        lse_R, gold_R, again_R = log_partition_flagged(logits, LABELS, CLASSES)
    torch.testing.assert_close(found.logprobs_RK, expected.logprobs_RK)
    torch.testing.assert_close(lse_R, expected.lse_R)
    torch.testing.assert_close(gold_R, expected.gold_R, equal_nan=True)
    assert bad_R.tolist() == again_R.tolist() == [0] * R


@pytest.mark.parametrize(("loss", "tail"), FORMS)
@pytest.mark.usefixtures("_device")
def test_without_looking_the_values_are_the_formulas(loss: Loss, tail: Tail) -> None:
    objective = Objective(loss=loss, tau_t=2.0, tau_s=1.5, tail=tail)
    targets, leaf = _sparse(torch.float64), oracle.logits(2, R, V).requires_grad_()
    found = objective.rows(leaf, targets)
    expected = oracle.sparse(targets, leaf, loss=loss, tau_t=2.0, tau_s=1.5, tail=tail)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    gradients = [oracle.gradient(value.sum(), leaf) for value in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-10)


@pytest.mark.usefixtures("_device")
def test_without_looking_a_tail_that_underflows_is_finite() -> None:
    targets = oracle.keep(oracle.logits(0, R, V), top_k=K)
    student = oracle.logits(8, R, V, scale=0.1).scatter(1, targets.ids_RK, 200.0).float().requires_grad_()
    found = Objective(tail="bucket").rows(student, targets)
    expected = oracle.sparse(targets, student.double(), loss="ce", tau_t=1.0, tau_s=1.0, tail="bucket")
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    gradients = [oracle.gradient(value.sum(), student) for value in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
