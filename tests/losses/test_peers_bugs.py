"""One test for each bug that other tools have in their losses: it fails where the bug is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdcache.core.types import PackedRows
from kdcache.losses import divergence
from kdcache.losses.objective import Objective
from kdcache.losses.packed import unpack
from kdcache.losses.selection import select
from kdcache.losses.targets import SparseTargets
from tests.losses import oracle

R, V = 8, 200
LABELS = torch.tensor([0, 1, -100, 3, 4, 5, -100, 7])


def test_ids_of_classes_that_were_not_kept_are_defined_and_weigh_nothing() -> None:
    """Uninitialised ids are written where fewer than k classes came back."""
    teacher, student = oracle.logits(0, R, V, scale=4.0), oracle.logits(1, R, V)
    targets = oracle.keep(teacher, top_k=50, top_p=0.8)
    unused = torch.arange(targets.ids_RK.shape[1]) >= targets.num_kept_R[:, None]
    assert bool(unused.any())
    assert bool((targets.ids_RK[unused] == 0).all())
    other = SparseTargets(
        **{name: getattr(targets, name) for name in SparseTargets.__dataclass_fields__ if name != "ids_RK"},
        ids_RK=targets.ids_RK.masked_fill(unused, V - 1),
    )
    for loss, tail in (("ce", "uniform"), ("ce", "bucket"), ("mse", "uniform"), ("jsd", "bucket")):
        objective = Objective(loss=loss, tau_t=2.0, tail=tail)  # type: ignore[arg-type]
        one, two = (student.clone().requires_grad_() for _ in range(2))
        first, second = objective.rows(one, targets), objective.rows(two, other)
        torch.testing.assert_close(first, second, rtol=0, atol=1e-12)
        torch.testing.assert_close(
            oracle.gradient(first.sum(), one), oracle.gradient(second.sum(), two), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("tau", [0.5, 2.0, 4.0, 8.0])
def test_the_tails_mass_follows_the_temperature(tau: float) -> None:
    """A ghost class that holds the tail's mass at temperature 1 lacks the factor (V - k)^(1 - 1/tau) at others."""
    teacher = torch.cat([torch.full((1, 4), 3.0), torch.zeros(1, V - 4)], dim=1).double()  # a flat tail: exact by hand
    targets = oracle.keep(teacher, top_k=4)
    _, log_mass = divergence.teacher_distribution(targets, tau_t=tau, dtype=torch.float64)
    head, tail = 4 * np.exp(3 / tau), float(V - 4)
    assert float(log_mass.exp()) == pytest.approx(tail / (head + tail), rel=1e-5)
    at_one = (V - 4) / (4 * np.exp(3) + V - 4)
    ghost = at_one ** (1 / tau) / (at_one ** (1 / tau) + 4 * (np.exp(3) / (4 * np.exp(3) + V - 4)) ** (1 / tau))
    assert abs(ghost - tail / (head + tail)) > 0.05


def test_the_kept_classes_are_not_renormalised() -> None:
    """Top-k probabilities scaled up to 1 are another distribution, and at higher temperatures an absurd one."""
    teacher = oracle.logits(2, R, V, scale=1.0)
    targets = oracle.keep(teacher, top_k=8)
    for tau in (1.0, 4.0):
        log_p, _ = divergence.teacher_distribution(targets, tau_t=tau, dtype=torch.float64)
        expected = torch.softmax(teacher / tau, 1).gather(1, targets.ids_RK)
        torch.testing.assert_close(log_p.exp(), expected, rtol=1e-3, atol=1e-5)
        assert float(log_p.exp().sum(1).max()) < 0.5


@pytest.mark.parametrize("kd_scale", ["tau_s^2", "tau_t^2", "none"])
@pytest.mark.parametrize("loss", oracle.LOSSES)
def test_the_scale_is_on_the_loss_and_on_its_gradient(loss: str, kd_scale: str) -> None:
    """tau^2 multiplies the reported loss only."""
    targets, student = oracle.keep(oracle.logits(3, R, V), top_k=8), oracle.logits(4, R, V).requires_grad_()
    settings = {"loss": loss, "tau_t": 3.0, "tau_s": 2.0}
    scaled = Objective(**settings, kd_scale=kd_scale)(student, targets, LABELS)  # type: ignore[arg-type]
    plain = Objective(**settings, kd_scale="none")(student, targets, LABELS)  # type: ignore[arg-type]
    factor = {"tau_s^2": 4.0, "tau_t^2": 9.0, "none": 1.0}[kd_scale]
    torch.testing.assert_close(scaled.total, factor * plain.total)
    torch.testing.assert_close(scaled.soft, plain.soft)
    torch.testing.assert_close(oracle.gradient(scaled.total, student), factor * oracle.gradient(plain.total, student))


@pytest.mark.parametrize(("loss", "tail"), [("ce", "uniform"), ("ce", "bucket"), ("reverse_kl", "bucket")])
def test_the_gradient_is_that_of_the_loss_where_the_kept_mass_is_below_one(loss: str, tail: str) -> None:
    """A backward pass that assumes that the kept probabilities add up to 1."""
    targets = oracle.keep(oracle.logits(5, R, V, scale=0.5), top_k=4)
    log_p, _ = divergence.teacher_distribution(targets, tau_t=1.0, dtype=torch.float64)
    assert float(log_p.exp().sum(1).max()) < 0.2
    objective = Objective(loss=loss, tail=tail)  # type: ignore[arg-type]
    student = oracle.logits(6, R, V).requires_grad_()
    assert oracle.finite_differences(lambda s: objective.rows(s, targets), student, fast=True)


def test_a_mask_divides_once() -> None:
    """Masked rows are left out of the sum, and then of the count again."""
    targets, student = oracle.keep(oracle.logits(7, R, V), top_k=8), oracle.logits(8, R, V)
    weights = (torch.arange(R) < 3).float()
    objective = Objective(tau_t=2.0, alpha=0.5)
    found = objective(student, targets, LABELS, weights_R=weights)
    rows = objective.rows(student, targets)
    torch.testing.assert_close(found.soft, rows[:3].sum() / 3)
    hard = torch.nn.functional.cross_entropy(student[:2], LABELS[:2])  # the third row has no label
    torch.testing.assert_close(found.hard, hard)
    given = objective(student, targets, LABELS, weights_R=weights, num_rows=12, num_labels=7)
    torch.testing.assert_close(given.soft, rows[:3].sum() / 12)
    torch.testing.assert_close(given.hard, hard * 2 / 7)


def test_the_loss_is_a_sum_over_classes_and_a_mean_over_rows() -> None:
    """`KLDivLoss(reduction="mean")` divides by rows times classes."""
    teacher, student = oracle.logits(9, R, V), oracle.logits(10, R, V)
    log_q = torch.log_softmax(student, 1)
    expected = torch.nn.functional.kl_div(log_q, torch.softmax(teacher, 1), reduction="batchmean")
    torch.testing.assert_close(Objective()(student, oracle.keep(teacher, top_k=V), LABELS).kl, expected)


@pytest.mark.parametrize("fill", [0.0, -torch.inf, 1e4])
@pytest.mark.parametrize("top_k", [16, V])
def test_padding_of_the_vocabulary_has_no_probability_whatever_fills_it(fill: float, top_k: int) -> None:
    """Padding filled with zero logits takes mass from the true classes."""
    teacher, student = oracle.logits(11, R, V), oracle.logits(12, R, V)
    padding = torch.full((R, 16), fill, dtype=torch.float64)
    sizes, none = torch.full((R,), V), torch.full((R,), -100)
    targets = select(torch.cat([teacher, padding], 1), none, sizes, top_k=top_k)
    expected = select(teacher, none, sizes, top_k=top_k)
    for loss in oracle.LOSSES:
        objective = Objective(loss=loss, tau_t=2.0, alpha=0.5)  # type: ignore[arg-type]
        padded = objective(torch.cat([student, padding], 1), targets, LABELS)
        for name in ("total", "hard", "soft", "kl"):
            torch.testing.assert_close(getattr(padded, name), getattr(objective(student, expected, LABELS), name))


def test_ids_over_131072_and_over_2_to_the_24th_are_kept() -> None:
    """17 bits an id: classes from 131,072 on come back as others."""
    ids = np.array([[151_935, 131_072, 3]]), np.array([[2**31 - 3, 2**24, 65_536]])
    for row, high, classes in ((ids[0], np.uint8, 151_936), (ids[1], np.uint16, 2**31 - 1)):
        packed = PackedRows(
            row_ptr=np.array([0, 1]),
            store="topk",
            codec="fast",
            arrays={
                "ids": (row & 0xFFFF).astype(np.uint16),
                "ids_high": (row >> 16).astype(high),
                "logprobs": np.array([[-1.0, -2.0, -3.0]], dtype=np.float16),
                "num_kept": np.array([3], dtype=np.int32),
                "num_classes": np.array([classes], dtype=np.int32),
                "lse": np.zeros(1, dtype=np.float32),
                "gold": np.zeros(1, dtype=np.float32),
                "atoms": np.zeros((1, 5, 2), dtype=np.uint16),
                "atom_shift": np.zeros(1, dtype=np.uint8),
                "moments": np.zeros((1, 2), dtype=np.float32),
            },
            shared={},
        )
        found = unpack(packed, device="cpu")
        assert isinstance(found, SparseTargets)
        assert found.ids_RK.tolist() == row.tolist()
    teacher = torch.zeros(1, 131_080)
    teacher[0, 131_079] = 5.0
    kept = select(teacher, torch.tensor([-100]), torch.tensor([131_080]), top_k=2)
    assert int(kept.ids_RK[0, 0]) == 131_079
    student = torch.zeros(1, 131_080, requires_grad=True)
    gradient = oracle.gradient(Objective().rows(student, kept).sum(), student)
    assert int(gradient.argmin()) == 131_079


def test_a_row_without_a_label_teaches_by_its_teacher_alone() -> None:
    """-100 read as a class, or the row dropped from the distillation loss too."""
    targets, student = oracle.keep(oracle.logits(13, R, V), top_k=8), oracle.logits(14, R, V).requires_grad_()
    total = Objective(alpha=0.5, tau_t=2.0)(student, targets, LABELS).total
    gradient = oracle.gradient(total, student)
    soft = oracle.gradient(Objective(tau_t=2.0)(student, targets, LABELS).total, student)
    torch.testing.assert_close(gradient[LABELS < 0], 0.5 * soft[LABELS < 0])
