"""At k = V, and from hidden vectors, every loss is the dense loss: value and gradient."""

from __future__ import annotations

import itertools

import pytest
import torch

from kdcache.core.configuration import KDScale, Loss
from kdcache.losses.head import Head
from kdcache.losses.objective import Objective
from kdcache.losses.targets import HiddenTargets, Mixture
from tests.losses import oracle

R, V, D = 6, 37, 11
TAUS = [(1.0, 1.0), (4.0, 1.0), (2.0, 2.0), (4.0, 4.0), (0.7, 3.0)]
LABELS = torch.tensor([3, 36, -100, 0, 5, -100])
TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def _hidden(seed: int, **settings: float) -> tuple[HiddenTargets, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(V, D, generator=generator).double(), torch.randn(V, generator=generator).double()
    hidden = torch.randn(R, D, generator=generator).double()
    head = Head(weight_VD=weight, bias_V=bias, **settings)
    logits = hidden @ weight.T + bias
    logits = logits * settings.get("scale", 1.0)
    if cap := settings.get("soft_cap"):
        logits = cap * torch.tanh(logits / cap)
    classes = torch.full((R,), V)
    return HiddenTargets(hidden_RD=hidden, head=head, num_classes_R=classes, gold_R=torch.full((R,), torch.nan)), logits


def _expected(teacher: torch.Tensor, student: torch.Tensor, objective: Objective) -> torch.Tensor:
    """The whole of equation 1, plainly."""
    tau_s = objective.student_temperature
    soft = oracle.dense(
        teacher, student, loss=objective.loss, tau_t=objective.tau_t, tau_s=tau_s, beta=objective.jsd_beta
    ).mean()
    hard = torch.nn.functional.cross_entropy(student, LABELS, ignore_index=-100)
    scale = {"tau_s^2": tau_s**2, "tau_t^2": objective.tau_t**2, "none": 1.0}[objective.kd_scale]
    return (1 - objective.alpha) * hard + objective.alpha * scale * soft


@pytest.mark.slow
@pytest.mark.parametrize("store", ["topk", "hidden"])
@pytest.mark.parametrize("loss", oracle.LOSSES)
@pytest.mark.parametrize("tail", ["uniform", "bucket"])
def test_every_configuration_is_the_dense_one(store: str, loss: Loss, tail: str) -> None:
    hidden, teacher = _hidden(0)
    targets = oracle.keep(teacher, top_k=V) if store == "topk" else hidden
    scales: tuple[KDScale, ...] = ("tau_s^2", "tau_t^2", "none")
    for (tau_t, tau_s), alpha, scale in itertools.product(TAUS, (0.3, 1.0), scales):
        objective = Objective(loss=loss, tau_t=tau_t, tau_s=tau_s, alpha=alpha, kd_scale=scale, jsd_beta=0.2, tail=tail)
        student = oracle.logits(1, R, V).requires_grad_()
        total = objective(student, targets, LABELS).total
        expected = _expected(teacher, student, objective)
        torch.testing.assert_close(total, expected, **TIGHT)
        torch.testing.assert_close(oracle.gradient(total, student), oracle.gradient(expected, student), **TIGHT)


@pytest.mark.parametrize("settings", [{}, {"scale": 0.25}, {"soft_cap": 3.0}, {"scale": 2.0, "soft_cap": 5.0}])
def test_a_head_with_scale_and_soft_cap_gives_its_own_logits(settings: dict[str, float]) -> None:
    targets, teacher = _hidden(2, **settings)
    torch.testing.assert_close(targets.head.logits(targets.hidden_RD), teacher, **TIGHT)
    student = oracle.logits(3, R, V)
    value = Objective(loss="jsd", tau_t=2.0, tau_s=1.5).rows(student, targets)
    torch.testing.assert_close(value, oracle.dense(teacher, student, loss="jsd", tau_t=2.0, tau_s=1.5), **TIGHT)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("alpha", [0.4, 1.0])
def test_a_mixture_is_the_weighted_sum_of_two_cross_entropies(weight: float, alpha: float) -> None:
    hidden, one = _hidden(4)
    two = oracle.logits(5, R, V)
    mixture = Mixture(first=hidden, second=oracle.keep(two, top_k=V), weight=weight)
    student = oracle.logits(6, R, V).requires_grad_()
    objective = Objective(teacher="a+b", teacher_weight=weight, tau_t=2.0, tau_s=1.5, alpha=alpha)
    total = objective(student, mixture, LABELS).total
    expected = weight * _expected(one, student, objective) + (1 - weight) * _expected(two, student, objective)
    torch.testing.assert_close(total, expected, **TIGHT)
    torch.testing.assert_close(oracle.gradient(total, student), oracle.gradient(expected, student), **TIGHT)


def test_kl_is_cross_entropy_less_the_teachers_entropy_and_zero_for_the_teacher_itself() -> None:
    teacher = oracle.logits(7, R, V)
    objective = Objective(loss="ce", tau_t=2.0, tau_s=2.0)
    for targets in (oracle.keep(teacher, top_k=V), _hidden(0)[0]):
        same = teacher if targets is not None and hasattr(targets, "ids_RK") else _hidden(0)[1]
        assert abs(float(objective(same, targets, LABELS).kl)) < 1e-12
        found = objective(oracle.logits(8, R, V), targets, LABELS)
        log_p = torch.log_softmax(same / 2, 1)
        entropy = -(log_p.exp() * log_p).sum(1).mean()
        torch.testing.assert_close(found.kl, found.soft - entropy, **TIGHT)


@pytest.mark.parametrize("loss", ["mse", "reverse_kl", "jsd"])
def test_the_other_losses_are_zero_for_the_teacher_itself(loss: Loss) -> None:
    teacher = oracle.logits(9, R, V)
    found = Objective(loss=loss, tau_t=1.7, tau_s=1.7)(teacher, oracle.keep(teacher, top_k=V), LABELS)
    assert abs(float(found.soft)) < 1e-12
    assert float(found.kl) == float(found.soft)
