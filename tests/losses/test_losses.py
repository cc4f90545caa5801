"""Sparse losses against the dense formulas, in value and gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from kdcache.core.configuration import Configuration
from kdcache.core.errors import IncompatibleTargets, TrainingError
from kdcache.losses import divergence, rule
from kdcache.losses.objective import Objective
from kdcache.losses.targets import from_rows, select, to_rows

R, V = 5, 400
TAUS = [(1.0, 1.0), (4.0, 1.0), (2.0, 2.0), (4.0, 4.0)]


def _logits(seed: int, scale: float = 2.0) -> torch.Tensor:
    return torch.randn(R, V, generator=torch.Generator().manual_seed(seed)) * scale


def _targets(teacher: torch.Tensor, k: int):
    labels = torch.tensor([1, 2, -100, 4, 5])
    return select(teacher, labels, torch.full((R,), V), top_k=k), labels


@pytest.mark.parametrize(("tau_t", "tau_s"), TAUS)
@pytest.mark.parametrize("loss", ["ce", "mse"])
def test_a_dense_row_gives_the_dense_loss_and_gradient(loss, tau_t, tau_s):
    teacher, student = _logits(0), _logits(1).double().requires_grad_()
    targets, labels = _targets(teacher, V)
    objective = Objective(loss=loss, tau_t=tau_t, tau_s=tau_s)
    objective(student, targets, labels).total.backward()
    ours, student.grad = student.grad.clone(), None
    t = teacher.double()
    if loss == "ce":
        p, log_q = torch.softmax(t / tau_t, 1), torch.log_softmax(student / tau_s, 1)
        expected = -(p * log_q).sum(1).mean()
    else:
        expected = (t / tau_t - student / tau_s).square().mean(1).mean()
    (tau_s**2 * expected).backward()
    torch.testing.assert_close(ours, student.grad, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("k", [1, 16, 64])
@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0, 64.0])
def test_the_tail_curve_gives_the_mass_at_any_temperature(k, tau):
    teacher = _logits(2, scale=1.5)
    targets, _ = _targets(teacher, k)
    _, log_mass = divergence.teacher_distribution(targets, tau_t=tau, dtype=torch.float64)
    p = torch.softmax(teacher.double() / tau, 1)
    expected = 1 - p.gather(1, targets.ids_RK).sum(1)
    assert (log_mass.exp() - expected).abs().max() < 6e-4


@pytest.mark.parametrize("tail", ["uniform", "bucket"])
def test_gradcheck_of_the_sparse_cross_entropy(tail):
    targets, _ = _targets(_logits(3), 8)
    student = _logits(4).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: divergence.cross_entropy(s, targets, tau_t=2.0, tau_s=1.5, tail=tail), (student,), fast_mode=True
    )


def test_gradcheck_of_the_sparse_squared_error():
    targets, _ = _targets(_logits(3), 8)
    student = _logits(4).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: divergence.squared_error(s, targets, tau_t=2.0, tau_s=1.0), (student,), fast_mode=True
    )


def test_cross_entropy_minus_entropy_is_zero_where_the_student_is_the_teacher():
    teacher = _logits(5)
    targets, _ = _targets(teacher, V)
    loss = divergence.cross_entropy(teacher, targets, tau_t=2.0, tau_s=2.0, tail="uniform")
    torch.testing.assert_close(loss, divergence.entropy(targets, tau_t=2.0, tail="uniform"), rtol=1e-4, atol=1e-4)


def test_a_two_class_row_by_hand():
    targets = select(torch.tensor([[0.0, np.log(3.0)]]), torch.tensor([1]), torch.tensor([2]), top_k=64)
    loss = Objective(loss="ce", tau_t=1, tau_s=1)(torch.zeros(1, 2), targets, torch.tensor([1]))
    assert float(loss.total) == pytest.approx(np.log(2))
    assert float(targets.gold_R) == pytest.approx(np.log(0.75))


def test_alpha_mixes_hard_and_soft_and_unlabelled_rows_count_for_the_teacher_alone():
    targets, labels = _targets(_logits(6), V)
    student = _logits(7)
    mixed = Objective(loss="ce", tau_t=2, tau_s=1, alpha=0.25)(student, targets, labels)
    hard = functional.cross_entropy(student, labels, ignore_index=-100)
    assert float(mixed.hard) == pytest.approx(float(hard), rel=1e-5)
    assert float(mixed.total) == pytest.approx(0.75 * float(mixed.hard) + 0.25 * float(mixed.soft), rel=1e-5)
    alone = Objective(loss="ce", tau_t=2, tau_s=1)(student, targets, torch.full((R,), -100))
    assert float(alone.total) == pytest.approx(float(mixed.soft), rel=1e-6)


def test_masked_rows_are_removed_rows():
    targets, labels = _targets(_logits(6), 8)
    student, objective = _logits(7), Objective(loss="ce", tau_t=2, tau_s=1, alpha=0.5)
    weights = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0])
    kept = weights > 0
    masked = objective(student, targets, labels, weights_R=weights)
    removed = objective(student[kept], targets.rows(kept), labels[kept])
    assert float(masked.total) == pytest.approx(float(removed.total), rel=1e-6)


@pytest.mark.parametrize("k", [8, V])
def test_rows_survive_the_flat_form(k):
    targets, _ = _targets(_logits(8), k)
    again = from_rows(to_rows(targets, rows_per_item=np.ones(R, dtype=np.int64)))
    torch.testing.assert_close(again.logprobs_RK, targets.logprobs_RK)
    assert again.ids_RK.tolist() == targets.ids_RK.tolist()


def test_padded_classes_are_never_classes():
    teacher = _logits(9)
    teacher[:, 300:] = -torch.inf
    targets = select(teacher, torch.zeros(R, dtype=torch.long), torch.full((R,), 300), top_k=8)
    assert int(targets.ids_RK.max()) < 300
    loss = divergence.cross_entropy(_logits(10), targets, tau_t=1.0, tau_s=1.0, tail="uniform")
    same = divergence.cross_entropy(_logits(10)[:, :300], targets, tau_t=1.0, tau_s=1.0, tail="uniform")
    torch.testing.assert_close(loss, same)


def test_what_cannot_be_selected_is_refused():
    teacher = _logits(9)
    teacher[0, 3] = -torch.inf
    full = torch.full((R,), V)
    with pytest.raises(IncompatibleTargets, match="declare the true number of classes"):
        select(teacher, torch.zeros(R, dtype=torch.long), full, top_k=8)
    with pytest.raises(TrainingError, match="label 400 of row 0 is outside its 400 classes"):
        select(_logits(9), torch.full((R,), V), full, top_k=8)
    with pytest.raises(IncompatibleTargets, match="top_k = 0 keeps nothing"):
        select(_logits(9), torch.zeros(R, dtype=torch.long), full, top_k=0)


def test_students_that_do_not_fit_are_refused():
    targets, labels = _targets(_logits(0), 8)
    with pytest.raises(IncompatibleTargets, match="the student has 10 classes and the teacher 400"):
        divergence.cross_entropy(torch.zeros(R, 10), targets, tau_t=1.0, tau_s=1.0, tail="uniform")
    with pytest.raises(IncompatibleTargets, match="2 student rows meet 5 teacher rows"):
        divergence.squared_error(torch.zeros(2, V), targets, tau_t=1.0, tau_s=1.0)
    with pytest.raises(IncompatibleTargets, match="needs teacher rows"):
        Objective()(torch.zeros(R, V), None, labels)


@pytest.mark.parametrize(
    ("settings", "kind", "tail"),
    [
        ({"tau_t": 4, "tau_s": 1}, "bounded", "uniform"),
        ({"tau_t": 2}, "bounded", "bucket"),
        ({"tau_t": 4}, "approximate", "bucket"),
        ({"tau_t": 0.25, "tau_s": 1}, "approximate", "uniform"),
        ({"loss": "mse"}, "approximate", "uniform"),
        ({"alpha": 0, "teacher": None}, "exact", "uniform"),
    ],
)
def test_the_rule(settings, kind, tail):
    verdict = rule.judge(Configuration(**settings), top_k=64, num_classes=50_000)
    assert (verdict.kind, verdict.tail) == (kind, tail)


def test_an_approximate_loss_is_refused_with_ways_out():
    configuration = Configuration(loss="mse")
    with pytest.raises(IncompatibleTargets, match=r"Dump with top_k >= 100 .* or set allow_approximate: true"):
        rule.require(configuration, top_k=8, num_classes=100, allow_approximate=False, cache="c")
    verdict = rule.require(configuration, top_k=8, num_classes=100, allow_approximate=True, cache="c")
    assert str(verdict).startswith("approximate: MSE over top 8 of 100 classes")
