"""Head and loss in one, chunk by chunk: the same loss and gradients as the logits held whole."""

from __future__ import annotations

import pytest
import torch

from kdcache.core.configuration import Loss
from kdcache.core.errors import IncompatibleTargets, TrainingError
from kdcache.losses import fused
from kdcache.losses.head import Head
from kdcache.losses.objective import Objective
from kdcache.losses.targets import HiddenTargets, Mixture, Targets
from tests.losses import oracle

R, V, D = 13, 41, 8
LABELS = torch.tensor([0, 40, -100, 7, 8, 4, -100, 1, 2, 3, 5, 6, 9])
WEIGHTS = torch.tensor([1.0, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1])
TIGHT = {"rtol": 1e-10, "atol": 1e-12}


@pytest.fixture(autouse=True)
def chunks_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fused.CHUNK_ELEMENTS, "cpu", 4 * V)


def _normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _targets(kind: str) -> Targets | Mixture:
    topk = oracle.keep(oracle.logits(1, R, V), top_k=6)
    head = Head(weight_VD=_normal(2, V, 5), bias_V=_normal(3, V))
    hidden = HiddenTargets(
        hidden_RD=_normal(4, R, 5), head=head, num_classes_R=torch.full((R,), V), gold_R=torch.full((R,), torch.nan)
    )
    if kind == "mixture":
        return Mixture(first=topk, second=hidden, weight=0.4)
    return {"topk": topk, "hidden": hidden}[kind]


def _student(**settings: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Head]:
    hidden, weight, bias = (_normal(seed, *shape).requires_grad_() for seed, *shape in ((5, R, D), (6, V, D), (7, V)))
    return hidden, weight, bias, Head(weight_VD=weight, bias_V=bias, **settings)


@pytest.mark.parametrize("settings", [{}, {"scale": 0.5}, {"scale": 1.5, "soft_cap": 4.0}])
@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize(
    ("kind", "loss"),
    [("topk", "ce"), ("topk", "mse"), ("topk", "jsd"), ("hidden", "ce"), ("hidden", "reverse_kl"), ("mixture", "ce")],
)
def test_it_is_the_objective_of_the_logits(kind: str, loss: Loss, alpha: float, settings: dict[str, float]) -> None:
    hidden, weight, bias, head = _student(**settings)
    teacher = "a+b" if kind == "mixture" else "a"
    objective = Objective(teacher=teacher, loss=loss, tau_t=2.0, tau_s=1.5, alpha=alpha, tail="bucket")
    targets = _targets(kind)
    whole = objective(head.logits(hidden), targets, LABELS, weights_R=WEIGHTS, num_rows=20, num_labels=9)
    expected = torch.autograd.grad(whole.total, (hidden, weight, bias))
    found = objective.from_hidden(hidden, head, targets, LABELS, weights_R=WEIGHTS, num_rows=20, num_labels=9)
    for name in ("total", "hard", "soft", "kl"):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name), **TIGHT)
    for one, two in zip(torch.autograd.grad(found.total * 3, (hidden, weight, bias)), expected, strict=True):
        torch.testing.assert_close(one, 3 * two, **TIGHT)


def test_hard_labels_alone_without_a_bias() -> None:
    hidden, weight, _, _ = _student()
    objective, head = Objective(teacher=None, alpha=0), Head(weight_VD=weight)
    found = objective.from_hidden(hidden, head, None, LABELS)
    expected = torch.nn.functional.cross_entropy(hidden @ weight.T, LABELS, ignore_index=-100)
    torch.testing.assert_close(found.total, expected, **TIGHT)
    gradients = zip(
        torch.autograd.grad(found.total, (hidden, weight)), torch.autograd.grad(expected, (hidden, weight)), strict=True
    )
    for one, two in gradients:
        torch.testing.assert_close(one, two, **TIGHT)


def test_a_frozen_head_gets_no_gradient_and_hidden_vectors_get_theirs() -> None:
    hidden, weight, bias, _ = _student()
    head = Head(weight_VD=weight.detach(), bias_V=bias.detach())
    objective = Objective(tau_t=2.0)
    objective.from_hidden(hidden, head, _targets("topk"), LABELS).total.backward()
    assert hidden.grad is not None
    assert weight.grad is None
    with torch.no_grad():
        assert not objective.from_hidden(hidden, head, _targets("topk"), LABELS).total.requires_grad


def test_weight_gradients_are_summed_in_float32_for_a_bfloat16_head() -> None:
    hidden, weight, bias, _ = _student()
    low = [tensor.detach().bfloat16().requires_grad_() for tensor in (hidden, weight, bias)]
    high = [tensor.detach().double().requires_grad_() for tensor in low]
    objective, targets = Objective(tau_t=2.0, alpha=0.5), _targets("topk")
    found = objective.from_hidden(low[0], Head(weight_VD=low[1], bias_V=low[2]), targets, LABELS).total
    expected = objective.from_hidden(high[0], Head(weight_VD=high[1], bias_V=high[2]), targets, LABELS).total
    torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=1e-2)
    found_gradients = torch.autograd.grad(found, low)
    assert [gradient.dtype for gradient in found_gradients] == [torch.bfloat16] * 3
    for one, two in zip(found_gradients, torch.autograd.grad(expected, high), strict=True):
        assert float((one.double() - two).norm() / two.norm()) < 2e-2


def test_no_rows_and_second_passes() -> None:
    hidden, _, _, head = _student()
    none = Objective().from_hidden(hidden[:0], head, _targets("topk").rows(slice(0, 0)), LABELS[:0]).total
    none.backward()
    assert none.item() == 0
    total = Objective().from_hidden(hidden, head, _targets("topk"), LABELS).total
    total.backward(retain_graph=True)
    with pytest.raises(TrainingError, match=r"differentiated twice"):
        total.backward()


def test_a_head_of_too_few_classes_is_refused() -> None:
    hidden, weight, bias, _ = _student()
    head = Head(weight_VD=weight[:7], bias_V=bias[:7])
    with pytest.raises(IncompatibleTargets, match=r"the student has 7 classes and the teacher 41"):
        Objective().from_hidden(hidden, head, _targets("topk"), LABELS)
