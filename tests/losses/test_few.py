"""Few logits take ways of their own, with fewer operations; what they give is what many logits get."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch

from kdcache.core.configuration import Loss
from kdcache.losses import autograd, blocks, objective, soft
from kdcache.losses.facts import find, look
from kdcache.losses.objective import Losses, Objective
from kdcache.losses.rule import Tail
from kdcache.losses.sparse import SparseSoftmax
from tests.losses import oracle

R, V = 7, 12
CLASSES = torch.tensor([12, 12, 4, 12, 9, 5, 7])
LABELS = torch.tensor([0, 11, -100, 7, 8, 4, -100])
TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def _same(one: Losses, two: Losses) -> None:
    for name in ("total", "hard", "soft", "kl"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), **TIGHT)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("width", [V, V + 3])
@pytest.mark.parametrize("count", [None, 5, torch.tensor(5)])
@pytest.mark.parametrize("labels", [LABELS, LABELS.clamp(min=1)])
def test_hard_labels(
    labels: torch.Tensor, count: int | torch.Tensor | None, width: int, in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    facts = find(labels.numpy(), np.full(R, V), has_tail=False)
    for few in (1 << 14, 0):
        monkeypatch.setattr(blocks, "FEW_ELEMENTS", few)
        monkeypatch.setattr(objective, "FEW_ELEMENTS", few)
        leaf = oracle.logits(0, R, width).requires_grad_()
        losses = Objective(teacher=None, alpha=0)(
            leaf * 1.0, None, labels, num_labels=count, facts=facts, in_place=in_place
        )
        losses.total.backward()
        found.append((losses, leaf.grad))
    _same(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], **TIGHT)
    assert found[0][1] is not None


def test_the_reports_of_hard_labels_are_no_part_of_the_total() -> None:
    losses = Objective(teacher=None, alpha=0)(oracle.logits(0, R, V).requires_grad_(), None, LABELS.clamp(min=0))
    losses.hard.zero_()
    losses.soft.add_(1)
    assert losses.total.item() > 0
    assert losses.kl.item() == 0
    assert not losses.hard.requires_grad


@pytest.mark.parametrize("ragged", [True, False])
@pytest.mark.parametrize("alpha", [0.4, 1.0])
@pytest.mark.parametrize(
    ("loss", "tail"), [("ce", "uniform"), ("ce", "bucket"), ("reverse_kl", "bucket"), ("jsd", "bucket")]
)
def test_rows_without_a_tail(
    loss: Loss, tail: Tail, alpha: float, ragged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept classes stand in the order of their probabilities, or padded where rows differ in V."""
    targets = oracle.keep(oracle.logits(1, R, V), top_k=V, classes=CLASSES if ragged else None)
    labels = torch.where(LABELS < CLASSES, LABELS, 0) if ragged else LABELS
    chosen = Objective(loss=loss, tau_t=2.0, tau_s=1.5, alpha=alpha, tail=tail, jsd_beta=0.3)
    found = []
    for general in (False, True):
        if general:
            monkeypatch.setattr(
                soft, "WholeSoftmax", lambda targets, distance, dtype, facts: SparseSoftmax(targets, distance, dtype)
            )
        leaf = oracle.logits(2, R, V + 2).requires_grad_()
        losses = chosen(leaf, targets, labels)
        losses.total.backward()
        found.append((losses, leaf.grad))
    _same(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], **TIGHT)


def test_weights_that_are_neither_0_nor_1_count_as_fillers_do() -> None:
    weights = torch.tensor([1, 0.5, 1, 1, 1, 1, 1])
    assert find(LABELS.numpy(), np.full(R, V), weights.numpy(), has_tail=False).fillers
    assert look(LABELS, weights, None, width=V).fillers
    assert not look(LABELS, torch.ones(R), None, width=V).fillers
    leaf = oracle.logits(0, R, V)
    rows = torch.nn.functional.cross_entropy(leaf, LABELS.clamp(min=0), reduction="none") * weights
    found = Objective(teacher=None, alpha=0)(leaf, None, LABELS.clamp(min=0), weights_R=weights)
    torch.testing.assert_close(found.total, rows.sum() / weights.sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("in_place", [True, False])
def test_losses_that_nobody_differentiates_let_go_of_their_gradient(
    in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[object]] = []

    class Held(autograd._Held):
        def __init__(self) -> None:
            held.append(weakref.ref(self))

    monkeypatch.setattr(autograd, "_Held", Held)
    targets, leaf = oracle.keep(oracle.logits(1, R, V), top_k=4), oracle.logits(2, R, V).requires_grad_()
    one, two = Objective().rows(leaf, targets), Objective()(leaf * 1.0, targets, LABELS, in_place=in_place)
    assert all(known() is not None for known in held)
    del one, two
    assert [known() for known in held] == [None, None]
