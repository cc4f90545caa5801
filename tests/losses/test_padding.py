"""A graph's shapes are wider than its batches: rows of fillers, columns beyond K, classes beyond V change nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from kdcache.core.configuration import Loss
from kdcache.losses import blocks
from kdcache.losses.facts import Facts, find
from kdcache.losses.head import Head
from kdcache.losses.objective import Losses, Objective
from kdcache.losses.packed import PackedTargets
from kdcache.losses.rule import Tail
from tests.losses import oracle
from tests.losses.test_capture import FORMS, packed_targets

R, V, D, EXTRA, WIDER = 7, 60, 8, 3, 5
LABELS = torch.tensor([0, 59, -100, 7, 8, 4, -100])
NEAR = {"rtol": 1e-6, "atol": 1e-7}
KINDS = ("dense", "fast", "compact", "float32", "float16", "bfloat16", "int8", "fast+int8", "dense+compact")
FILLS = ("repeat", "zeros")


@pytest.fixture(autouse=True, params=["free to look", "as on a GPU"])
def _device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "as on a GPU":
        monkeypatch.setattr(blocks, "FREE_TO_LOOK", frozenset())


def _steps() -> list[tuple[str, Loss, Tail]]:
    every: list[tuple[str, Loss, Tail]] = [
        (kind, loss, tail)  # type: ignore[misc]
        for kind in KINDS
        for loss, tail in (FORMS if "+" not in kind else FORMS[:2])
    ]
    return every


def _rows_more(tensor: Tensor, fill: str) -> Tensor:
    """With rows of fillers."""
    more = (
        tensor[:1].expand(EXTRA, *tensor.shape[1:]) if fill == "repeat" else tensor.new_zeros(EXTRA, *tensor.shape[1:])
    )
    return torch.cat([tensor, more])


def _columns_more(name: str, tensor: Tensor) -> Tensor:
    """With columns beyond the kept classes, which hold anything."""
    if name.split(".")[1] not in ("ids", "ids_high", "logprobs", "gaps"):
        return tensor
    anything = torch.full((len(tensor), WIDER), 7).to(tensor.dtype)
    return torch.cat([tensor, anything], dim=1)


def _objective(kind: str, alpha: float, loss: Loss, tail: Tail) -> Objective:
    return Objective(
        teacher="a+b" if "+" in kind else "a",
        teacher_weight=0.4,
        loss=loss,
        tau_t=2.0,
        tau_s=1.5,
        alpha=alpha,
        tail=tail,
    )


def _facts(packed: PackedTargets | None) -> Facts:
    tail = packed is not None and packed.has_tail
    return find(LABELS.numpy(), np.full(R, V), has_tail=tail)


def _compare(one: Losses, two: Losses) -> None:
    for name in ("total", "hard", "soft", "kl"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), **NEAR)


@pytest.mark.parametrize("alpha", [0.4, 1.0])
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize(("kind", "loss", "tail"), _steps())
def test_rows_of_fillers_change_nothing(kind: str, loss: Loss, tail: Tail, fill: str, alpha: float) -> None:
    packed = packed_targets(kind)
    sent = {name: _columns_more(name, _rows_more(tensor, fill)) for name, tensor in packed.arrays().items()}
    small, large = packed.expand(packed.arrays()), packed.expand(sent)
    labels = torch.cat([LABELS, torch.full((EXTRA,), -100)])
    weights = torch.cat([torch.ones(R), torch.zeros(EXTRA)])
    facts = _facts(packed)
    padded = replace(facts, unlabelled=True, fillers=True)
    objective, counts = _objective(kind, alpha, loss, tail), {"num_rows": R, "num_labels": 5}
    leaf = oracle.logits(2, R, V).float()
    one, two = leaf.clone().requires_grad_(), _rows_more(leaf, "repeat").requires_grad_()
    expected = objective(one, small, LABELS, facts=facts, **counts)
    found = objective(two, large, labels, weights_R=weights, facts=padded, **counts)
    _compare(found, expected)
    expected.total.backward()
    found.total.backward()
    assert one.grad is not None
    assert two.grad is not None
    torch.testing.assert_close(two.grad[:R], one.grad, rtol=1e-6, atol=1e-7)
    assert two.grad[R:].abs().max().item() == 0


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("kind", [*KINDS, "none"])
def test_rows_of_fillers_change_nothing_of_head_and_loss(kind: str, fill: str) -> None:
    packed = None if kind == "none" else packed_targets(kind)
    labels = torch.cat([LABELS, torch.full((EXTRA,), -100)])
    weights = torch.cat([torch.ones(R), torch.zeros(EXTRA)])
    small = large = None
    if packed is not None:
        sent = {name: _columns_more(name, _rows_more(tensor, fill)) for name, tensor in packed.arrays().items()}
        small, large = packed.expand(packed.arrays()), packed.expand(sent)
    facts = _facts(packed)
    padded = replace(facts, unlabelled=True, fillers=True)
    objective = Objective(teacher=None, alpha=0) if packed is None else _objective(kind, 0.4, "ce", "bucket")
    gradients = []
    for more, targets in ((False, small), (True, large)):
        hidden = oracle.logits(5, R, D).float()
        hidden = (_rows_more(hidden, "repeat") if more else hidden).requires_grad_()
        weight = oracle.logits(6, V, D).float().requires_grad_()
        head = Head(weight_VD=weight, soft_cap=30.0)
        given = {"weights_R": weights, "facts": padded} if more else {"facts": facts}
        losses = objective.from_hidden(
            hidden,
            head,
            targets,
            labels if more else LABELS,
            num_rows=R,
            num_labels=5,
            **given,  # type: ignore[arg-type]
        )
        losses.total.backward()
        gradients.append((losses, hidden.grad, weight.grad))
    (one, d_hidden, d_weight), (two, more_hidden, more_weight) = gradients
    _compare(two, one)
    assert d_hidden is not None
    assert more_hidden is not None
    torch.testing.assert_close(more_hidden[:R], d_hidden, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(more_weight, d_weight, rtol=1e-6, atol=1e-6)
    assert more_hidden[R:].abs().max().item() == 0


@pytest.mark.parametrize(("kind", "loss", "tail"), _steps())
def test_a_width_beyond_every_rows_classes_changes_nothing(kind: str, loss: Loss, tail: Tail) -> None:
    packed = packed_targets(kind)
    targets, facts = packed.to("cpu"), _facts(packed)
    objective = _objective(kind, 0.4, loss, tail)
    leaf = oracle.logits(2, R, V).float()
    one, two = leaf.clone().requires_grad_(), torch.cat([leaf, torch.full((R, WIDER), 9.0)], dim=1).requires_grad_()
    expected = objective(one, targets, LABELS, facts=facts)
    found = objective(two, targets, LABELS, facts=replace(facts, width=V + WIDER - 1, ragged=True))
    _compare(found, expected)
    expected.total.backward()
    found.total.backward()
    assert one.grad is not None
    assert two.grad is not None
    torch.testing.assert_close(two.grad[:, :V], one.grad, rtol=1e-6, atol=1e-7)
    assert two.grad[:, V:].abs().max().item() == 0


@pytest.mark.parametrize("alpha", [0.4, 1.0])
@pytest.mark.parametrize("kind", ["dense", "fast", "int8"])
def test_facts_of_a_graph_serve_a_batch_without_fillers_labels_or_tails(kind: str, alpha: float) -> None:
    packed = packed_targets(kind)
    targets, facts = packed.to("cpu"), _facts(packed)
    general = Facts(width=V, ragged=True, unlabelled=True, fillers=True, has_tail=True)
    objective = _objective(kind, alpha, "ce", "uniform")
    leaves = [oracle.logits(2, R, V).float().requires_grad_() for _ in range(2)]
    one, two = (objective(leaf, targets, LABELS, facts=f) for leaf, f in zip(leaves, (facts, general), strict=True))
    _compare(two, one)
    one.total.backward()
    two.total.backward()
    torch.testing.assert_close(leaves[1].grad, leaves[0].grad, rtol=1e-6, atol=1e-7)
