"""Autocast changes nothing inside of a loss; `compute` is where the head's products run in 16 bits."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kdcache.core.configuration import Loss
from kdcache.losses import fused
from kdcache.losses.head import Head
from kdcache.losses.objective import Losses, Objective
from kdcache.losses.rule import Tail
from kdcache.losses.targets import HiddenTargets, Mixture, Targets
from tests.losses import oracle

R, V, D = 13, 41, 8
LABELS = torch.tensor([0, 40, -100, 7, 8, 4, -100, 1, 2, 3, 5, 6, 9])
FORMS = [("ce", "uniform"), ("ce", "bucket"), ("mse", "uniform"), ("reverse_kl", "bucket"), ("jsd", "bucket")]


@pytest.fixture(autouse=True)
def _chunks_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fused.CHUNK_ELEMENTS, "cpu", 4 * V)


def _normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _targets(kind: str) -> Targets | Mixture | None:
    topk = oracle.keep(oracle.logits(1, R, V), top_k=6)
    hidden = HiddenTargets(
        hidden_RD=_normal(4, R, 5),
        head=Head(weight_VD=_normal(2, V, 5), bias_V=_normal(3, V)),
        num_classes_R=torch.full((R,), V),
        gold_R=torch.full((R,), torch.nan),
    )
    mixture = Mixture(first=topk, second=hidden, weight=0.4)
    return {"topk": topk, "hidden": hidden, "mixture": mixture, "none": None}[kind]


def _objective(kind: str, **settings: Any) -> Objective:
    if kind == "none":
        return Objective(teacher=None, alpha=0)
    return Objective(teacher="a+b" if kind == "mixture" else "a", tau_t=2.0, tau_s=1.5, alpha=0.4, **settings)


def _autocast(on: bool) -> Any:
    return torch.autocast("cpu", torch.bfloat16) if on else nullcontext()


def _same(one: Losses, two: Losses) -> None:
    for name in ("total", "hard", "soft", "kl"):
        found, expected = getattr(one, name), getattr(two, name)
        assert found.dtype == expected.dtype
        assert found.item() == expected.item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["topk", "hidden"])
@pytest.mark.parametrize(("loss", "tail"), FORMS)
def test_a_loss_on_logits_is_the_same_to_the_last_bit(loss: Loss, tail: Tail, kind: str, dtype: torch.dtype) -> None:
    objective, targets, leaf = _objective(kind, loss=loss, tail=tail), _targets(kind), _normal(9, R, V, dtype=dtype)
    assert not isinstance(targets, Mixture | None)
    found = []
    for on in (True, False):
        student = leaf.clone().requires_grad_()
        with _autocast(on):
            losses = objective(student, targets, LABELS)
            losses.total.backward()
            found.append((losses, student.grad, objective.rows(leaf, targets), objective.above_floor(leaf, targets)))
    (one, *tensors), (two, *expected) = found
    _same(one, two)
    assert one.total.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for tensor, other in zip(tensors, expected, strict=True):
        torch.testing.assert_close(tensor, other, rtol=0, atol=0)


@pytest.mark.parametrize("labels", [LABELS, LABELS.clamp(min=0)])
def test_hard_labels_on_logits_are_the_same_to_the_last_bit(labels: Tensor) -> None:
    found = []
    for on in (True, False):
        student = _normal(9, R, V).requires_grad_()
        with _autocast(on):
            losses = _objective("none")(student, None, labels)
            losses.total.backward()
        found.append((losses, student.grad))
    _same(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=0)


def _from_hidden(
    kind: str, *, on: bool, compute: torch.dtype | None, low: bool = False
) -> tuple[Losses, tuple[Tensor, ...]]:
    hidden, weight, bias = _normal(5, R, D), _normal(6, V, D), _normal(7, V)
    leaves = [t.requires_grad_() for t in (hidden.bfloat16() if low else hidden, weight, bias)]
    head, objective = Head(weight_VD=leaves[1], bias_V=leaves[2]), _objective(kind, tail="bucket")
    with _autocast(on):
        losses = objective.from_hidden(leaves[0], head, _targets(kind), LABELS, compute=compute)
    return losses, torch.autograd.grad(losses.total, leaves)


@pytest.mark.parametrize("compute", [None, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["topk", "hidden", "mixture", "none"])
def test_head_and_loss_are_the_same_to_the_last_bit(kind: str, compute: torch.dtype | None) -> None:
    (one, found), (two, expected) = (_from_hidden(kind, on=on, compute=compute) for on in (True, False))
    _same(one, two)
    for gradient, other in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=0, atol=0)
    if compute in (None, torch.float32):
        _same(one, _from_hidden(kind, on=False, compute=None)[0])


@pytest.mark.parametrize("low", [True, False])
@pytest.mark.parametrize("compute", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["topk", "hidden", "mixture", "none"])
def test_products_in_16_bits_are_near_those_in_float32(kind: str, compute: torch.dtype, low: bool) -> None:
    """Rounding logits moves a loss by at most twice the largest change of one (softmax), and factors and sums of 8
    terms are each rounded: with logits up to 10 that is 3 units of 2^-8 x 10 / tau at most; gradients: 2^-8, thrice."""
    found, gradients = _from_hidden(kind, on=True, compute=compute, low=low)
    expected, exact = _from_hidden(kind, on=False, compute=None)
    torch.testing.assert_close(found.total, expected.total, rtol=0, atol=2.0**-8 * 10)
    assert [gradient.dtype for gradient in gradients] == [
        torch.bfloat16 if low else torch.float32,
        *[torch.float32] * 2,
    ]
    for gradient, other in zip(gradients, exact, strict=True):
        assert float((gradient.float() - other).norm() / other.norm()) < 3 * 2.0**-8


def test_weight_gradients_are_summed_in_float32_from_rounded_factors() -> None:
    (_, (_, d_weight, d_bias)), hidden = (
        _from_hidden("topk", on=True, compute=torch.bfloat16),
        _normal(5, R, D).bfloat16(),
    )
    logits = torch.nn.functional.linear(hidden, _normal(6, V, D).bfloat16(), _normal(7, V).bfloat16()).requires_grad_()
    _objective("topk", tail="bucket")(logits, _targets("topk"), LABELS).total.backward()
    assert logits.grad is not None
    expected = logits.grad.float().T @ hidden.float()
    torch.testing.assert_close(d_weight, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(d_bias, logits.grad.float().sum(dim=0), rtol=1e-5, atol=1e-7)
    assert not torch.equal(d_weight, d_weight.bfloat16().float())


class _Weights(TorchDispatchMode):
    """Notes the types of new tensors of the weight's shape."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {arg.data_ptr() for arg in args if isinstance(arg, Tensor)}
        if isinstance(result, Tensor) and result.shape == (V, D) and result.data_ptr() not in known:
            self.found.append(result.dtype)
        return result


def test_the_head_is_copied_once_a_call_however_many_chunks_there_are() -> None:
    weight = _normal(6, V, D).requires_grad_()
    with _Weights() as weights:
        head = Head(weight_VD=weight)
        losses = _objective("topk").from_hidden(
            _normal(5, R, D), head, _targets("topk"), LABELS, compute=torch.bfloat16
        )
        losses.total.backward()
    assert weights.found == [torch.float32, torch.bfloat16]  # the gradient, and the copy
