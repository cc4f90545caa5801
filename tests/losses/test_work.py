"""The kernel on sparse rows: against plain formulas, by finite differences, masked, ragged, padded, in every dtype."""

from __future__ import annotations

import math

import pytest
import torch

from kdcache.core.configuration import Loss
from kdcache.core.errors import IncompatibleTargets, TrainingError
from kdcache.losses import work
from kdcache.losses.objective import Objective
from kdcache.losses.rule import Tail
from kdcache.losses.targets import Mixture, SparseTargets
from tests.losses import oracle

R, V, K = 7, 60, 9
CLASSES = torch.tensor([60, 60, 41, 60, 9, 5, 33])  # ragged; one row keeps all of its 9 classes, one of its 5
LABELS = torch.tensor([0, 59, -100, 7, 8, 4, -100])
FORMS = [("ce", "uniform"), ("ce", "bucket"), ("mse", "uniform"), ("reverse_kl", "bucket"), ("jsd", "bucket")]
TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def _targets(seed: int = 0, *, ragged: bool = True, top_p: float = 1.0) -> SparseTargets:
    return oracle.keep(oracle.logits(seed, R, V), top_k=K, classes=CLASSES if ragged else None, top_p=top_p)


@pytest.mark.parametrize("ragged", [True, False])
@pytest.mark.parametrize("tau", [(1.0, 1.0), (2.0, 1.5), (4.0, 1.0)])
@pytest.mark.parametrize("alpha", [0.25, 1.0])
@pytest.mark.parametrize(("loss", "tail"), FORMS)
def test_a_sparse_loss_is_its_formula(
    loss: Loss, tail: Tail, alpha: float, tau: tuple[float, float], ragged: bool
) -> None:
    targets = _targets(ragged=ragged, top_p=0.6)
    assert targets.num_kept_R.unique().numel() > 2  # padded k
    student = oracle.logits(1, R, V).requires_grad_()
    objective = Objective(loss=loss, tau_t=tau[0], tau_s=tau[1], alpha=alpha, tail=tail, jsd_beta=0.3)
    found = objective(student, targets, LABELS)
    soft = oracle.sparse(targets, student, loss=loss, tau_t=tau[0], tau_s=tau[1], tail=tail, beta=0.3).mean()
    hard = torch.stack(
        [
            -torch.log_softmax(student[r, : CLASSES[r] if ragged else V], 0)[LABELS[r]]
            for r in range(R)
            if LABELS[r] >= 0
        ]
    ).mean()
    expected = (1 - alpha) * hard + alpha * tau[1] ** 2 * soft
    torch.testing.assert_close(found.total, expected, **TIGHT)
    torch.testing.assert_close(found.soft, soft.detach(), **TIGHT)
    torch.testing.assert_close(oracle.gradient(found.total, student), oracle.gradient(expected, student), **TIGHT)


@pytest.mark.slow
@pytest.mark.parametrize("in_blocks", [True, False])
@pytest.mark.parametrize(("loss", "tail"), FORMS)
def test_loss_and_gradient_agree_by_finite_differences(
    loss: Loss, tail: Tail, in_blocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_blocks:
        monkeypatch.setitem(work.BLOCK_ELEMENTS, "cpu", 2 * V)
    targets, weights = _targets(), torch.tensor([1.0, 0, 1, 1, 1, 1, 0])
    objective = Objective(loss=loss, tau_t=2.0, tau_s=1.5, alpha=0.6, tail=tail, kd_scale="tau_t^2")
    student = oracle.logits(2, R, V).requires_grad_()
    assert oracle.finite_differences(lambda s: objective(s, targets, LABELS, weights_R=weights).total, student)


@pytest.mark.parametrize(("loss", "tail"), FORMS)
def test_gradcheck_of_each_rows_loss(loss: Loss, tail: Tail) -> None:
    targets = _targets()
    student = oracle.logits(2, R, V).requires_grad_()
    objective = Objective(loss=loss, tau_t=2.0, tau_s=1.5, tail=tail)
    assert oracle.finite_differences(lambda s: objective.rows(s, targets), student, fast=True)


@pytest.mark.parametrize(("loss", "tail"), FORMS)
def test_masked_rows_are_removed_rows_whatever_they_hold(loss: Loss, tail: Tail) -> None:
    targets, weights = _targets(), torch.tensor([1.0, 1, 0, 0, 1, 0, 1])
    kept = weights > 0
    student = oracle.logits(3, R, V)
    student[3] = torch.nan
    student[5] = torch.inf
    student.requires_grad_()
    objective = Objective(loss=loss, tau_t=2.0, tau_s=1.0, alpha=0.5, tail=tail)
    masked = objective(student, targets, LABELS, weights_R=weights)
    gradient = oracle.gradient(masked.total, student)
    fewer = student.detach()[kept].requires_grad_()
    removed = objective(fewer, targets.rows(kept), LABELS[kept])
    for name in ("total", "hard", "soft", "kl"):
        torch.testing.assert_close(getattr(masked, name), getattr(removed, name), **TIGHT)
    torch.testing.assert_close(gradient[kept], oracle.gradient(removed.total, fewer), **TIGHT)
    assert bool((gradient[~kept] == 0).all())


@pytest.mark.parametrize(("loss", "tail"), FORMS)
def test_a_row_in_a_batch_is_the_row_alone(loss: Loss, tail: Tail) -> None:
    targets, student = _targets(), oracle.logits(4, R, V)
    objective = Objective(loss=loss, tau_t=2.0, tau_s=1.5, tail=tail)
    together = objective.rows(student, targets)
    alone = torch.cat([objective.rows(student[r : r + 1], targets.rows(slice(r, r + 1))) for r in range(R)])
    torch.testing.assert_close(together, alone, **TIGHT)


@pytest.mark.parametrize(("loss", "tail"), FORMS)
def test_micro_batches_over_ranks_and_accumulation_are_one_batch(loss: Loss, tail: Tail) -> None:
    targets, student = _targets(), oracle.logits(5, R, V).requires_grad_()
    objective = Objective(loss=loss, tau_t=2.0, tau_s=1.5, alpha=0.3, tail=tail)
    whole = objective(student, targets, LABELS)
    expected = oracle.gradient(whole.total, student)
    total = student.new_zeros(())
    gradient = torch.zeros_like(student)
    for part in (slice(0, 3), slice(3, 4), slice(4, 7)):
        piece = student.detach()[part].requires_grad_()
        losses = objective(piece, targets.rows(part), LABELS[part], num_rows=R, num_labels=int((LABELS >= 0).sum()))
        total = total + losses.total.detach()
        gradient[part] = oracle.gradient(losses.total, piece)
    torch.testing.assert_close(total, whole.total.detach(), **TIGHT)
    torch.testing.assert_close(gradient, expected, **TIGHT)


def test_hand_computed_rows() -> None:
    # teacher (3/4, 1/4), student uniform over two classes
    teacher, student = torch.tensor([[math.log(3.0), 0.0]]).double(), torch.zeros(1, 2, dtype=torch.float64)
    targets, label = oracle.keep(teacher, top_k=2), torch.tensor([1])

    def value(**settings: object) -> float:
        return float(Objective(**settings)(student, targets, label).total)  # type: ignore[arg-type]

    assert value() == pytest.approx(math.log(2))
    assert value(alpha=0.5, tau_t=2, tau_s=1) == pytest.approx(math.log(2))
    assert value(loss="mse") == pytest.approx(math.log(3) ** 2 / 2)
    assert value(loss="mse", tau_t=2) == pytest.approx(math.log(3) ** 2 / 2)  # tied, times tau^2
    assert value(loss="reverse_kl") == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    m = [0.25 * 0.75 + 0.75 * 0.5, 0.25 * 0.25 + 0.75 * 0.5]
    expected = 0.25 * (0.75 * math.log(0.75 / m[0]) + 0.25 * math.log(0.25 / m[1]))
    expected += 0.75 * (0.5 * math.log(0.5 / m[0]) + 0.5 * math.log(0.5 / m[1]))
    assert value(loss="jsd", jsd_beta=0.25) == pytest.approx(expected)


def test_a_sparse_row_by_hand() -> None:
    # Four classes with probabilities 1/2, 1/4, 1/8, 1/8; two are kept. The student is uniform but for its first class.
    teacher = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).double().log()
    student = torch.tensor([[math.log(3.0), 0, 0, 0]]).double()
    targets = oracle.keep(teacher, top_k=2)
    uniform = Objective(tail="uniform").rows(student, targets)
    assert float(uniform) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(6))
    bucket = Objective(tail="bucket").rows(student, targets)
    assert float(bucket) == pytest.approx(0.5 * math.log(2) + 0.25 * math.log(6) + 0.25 * math.log(3), rel=1e-6)
    reverse = Objective(loss="reverse_kl").rows(student, targets)
    assert float(reverse) == pytest.approx(math.log(2 / 3) / 6 + math.log(4 / 3) / 3, rel=1e-5)


@pytest.mark.parametrize("loss", ["reverse_kl", "jsd"])
@pytest.mark.parametrize("k", [1, 8, 32])
def test_the_bucketed_tail_is_a_lower_bound_of_the_dense_divergence(loss: Loss, k: int) -> None:
    teacher, student = oracle.logits(6, 20, V), oracle.logits(7, 20, V)
    objective = Objective(loss=loss, tau_t=1.0, tau_s=1.0, jsd_beta=0.7)
    bound = objective.rows(student, oracle.keep(teacher, top_k=k))
    exact = oracle.dense(teacher, student, loss=loss, tau_t=1.0, tau_s=1.0, beta=0.7)
    assert bool((bound <= exact + 1e-6).all())
    assert bool((bound >= -1e-6).all())


@pytest.mark.parametrize("tail", ["uniform", "bucket"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_student_with_almost_nothing_in_the_tail_has_a_finite_loss_and_gradient(
    tail: Tail, dtype: torch.dtype
) -> None:
    targets = _targets(ragged=False)
    far = 200.0 if dtype == torch.float32 else 800.0  # its tail underflows
    student = oracle.logits(8, R, V, scale=0.1).scatter(1, targets.ids_RK, far).to(dtype).requires_grad_()
    found = Objective(tail=tail).rows(student, targets)
    expected = oracle.sparse(targets, student.double(), loss="ce", tau_t=1.0, tau_s=1.0, tail=tail)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    gradient = oracle.gradient(found.sum(), student)
    torch.testing.assert_close(gradient, oracle.gradient(expected.sum(), student), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 4e-3), (torch.float16, 5e-4)])
@pytest.mark.parametrize(("loss", "tail"), FORMS)
def test_lower_precisions_are_computed_in_float32(
    loss: Loss, tail: Tail, dtype: torch.dtype, tolerance: float, alpha: float, in_place: bool
) -> None:
    targets = _targets()
    leaf = oracle.logits(9, R, V).to(dtype).requires_grad_()
    exact = leaf.detach().double().requires_grad_()
    objective = Objective(loss=loss, tau_t=2.0, tau_s=1.5, alpha=alpha, tail=tail)
    found = objective(leaf * 1.0, targets, LABELS, in_place=in_place).total
    expected = objective(exact, targets, LABELS).total
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)  # float32 from the same logits
    assert found.dtype == torch.float32
    gradient = oracle.gradient(found, leaf)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient.double(), oracle.gradient(expected, exact), rtol=tolerance, atol=tolerance / 20)


def test_float16_gradients_of_many_rows_do_not_vanish_before_the_loss_scale_is_applied() -> None:
    targets, leaf = _targets(ragged=False), oracle.logits(9, R, V).half().requires_grad_()
    objective = Objective(tau_t=1.0, alpha=0.5)
    total = objective(leaf * 1.0, targets, LABELS, num_rows=1 << 20, num_labels=1 << 20).total
    gradient = oracle.gradient(total * 2.0**20, leaf)
    exact = leaf.detach().double().requires_grad_()
    expected = oracle.gradient(objective(exact, targets, LABELS, num_rows=1, num_labels=1).total, exact)
    torch.testing.assert_close(gradient.double(), expected, rtol=2e-3, atol=1e-6)


def test_in_place_the_logits_become_their_gradient() -> None:
    targets, leaf = _targets(), oracle.logits(10, R, V).requires_grad_()
    logits = leaf * 1.0
    memory = logits.data_ptr()
    total = Objective()(logits, targets, LABELS, in_place=True).total
    expected = oracle.gradient(Objective()(leaf, targets, LABELS).total, leaf)
    assert logits.data_ptr() == memory
    torch.testing.assert_close(logits.detach(), expected, **TIGHT)
    torch.testing.assert_close(oracle.gradient(total, leaf), expected, **TIGHT)


def test_in_place_whoever_needs_the_logits_again_gets_an_error() -> None:
    targets, objective = _targets(), Objective()

    def logits() -> torch.Tensor:
        return oracle.logits(10, R, V).requires_grad_() * 1.0

    needed = logits().exp()  # exp's backward pass reads its own output
    total = objective(needed, targets, LABELS, in_place=True).total
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()
    used = logits()
    total = objective(used, targets, LABELS, in_place=True).total
    with pytest.raises(TrainingError, match=r"used after the loss had overwritten them; set in_place to False"):
        (total + used.sum()).backward()
    written = logits()
    total = objective(written, targets, LABELS, in_place=True).total
    with torch.no_grad():
        written.zero_()
    with pytest.raises(TrainingError, match=r"written to after the loss had overwritten them"):
        total.backward()
    leaf = oracle.logits(10, R, V).requires_grad_()
    with pytest.raises(RuntimeError, match="leaf"):
        objective(leaf, targets, LABELS, in_place=True)


def test_in_place_a_view_is_left_alone() -> None:
    base = oracle.logits(10, R, 2 * V).requires_grad_() * 1.0
    before = base.detach().clone()
    Objective()(base[:, :V], _targets(), LABELS, in_place=True).total.backward()
    torch.testing.assert_close(base.detach(), before, rtol=0, atol=0)


def test_a_second_backward_pass_is_refused() -> None:
    student = oracle.logits(11, R, V).requires_grad_()
    total = Objective()(student, _targets(), LABELS).total
    total.backward(retain_graph=True)
    with pytest.raises(TrainingError, match=r"differentiated twice; compute it again"):
        total.backward()


def test_a_gradient_of_the_gradient_is_refused() -> None:
    student = oracle.logits(11, R, V).requires_grad_()
    (first,) = torch.autograd.grad(Objective()(student, _targets(), LABELS).total, student, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        first.sum().backward()


def test_a_factor_on_the_loss_is_a_factor_on_the_gradient() -> None:
    student = oracle.logits(12, R, V).requires_grad_()
    once = oracle.gradient(Objective()(student, _targets(), LABELS).total, student)
    thrice = oracle.gradient(Objective()(student, _targets(), LABELS).total * 3, student)
    torch.testing.assert_close(thrice, 3 * once, **TIGHT)
    factors = torch.arange(R, dtype=torch.float64)
    rows = oracle.gradient((Objective().rows(student, _targets()) * factors).sum(), student)
    torch.testing.assert_close(rows, once * R * factors[:, None], **TIGHT)


def test_without_gradients_nothing_is_kept() -> None:
    student = oracle.logits(13, R, V).requires_grad_()
    with torch.no_grad():
        total = Objective(alpha=0.5)(student, _targets(), LABELS).total
    assert not total.requires_grad
    torch.testing.assert_close(total, Objective(alpha=0.5)(student, _targets(), LABELS).total.detach(), **TIGHT)


def test_padding_of_the_students_vocabulary_gets_no_gradient_and_changes_nothing() -> None:
    targets, student = _targets(ragged=False), oracle.logits(14, R, V)
    padded = torch.cat([student, torch.full((R, 4), -torch.inf), torch.full((R, 2), 50.0)], dim=1).requires_grad_()
    for loss, tail in FORMS:
        objective = Objective(loss=loss, tau_t=2.0, alpha=0.5, tail=tail)  # type: ignore[arg-type]
        total = objective(padded, targets, LABELS).total
        torch.testing.assert_close(total.detach(), objective(student, targets, LABELS).total, **TIGHT)
        assert bool((oracle.gradient(total, padded)[:, V:] == 0).all())


def test_hard_labels_alone_are_torchs_cross_entropy() -> None:
    student = oracle.logits(15, R, V).requires_grad_()
    found = Objective(teacher=None, alpha=0)(student, None, LABELS)
    expected = torch.nn.functional.cross_entropy(student, LABELS, ignore_index=-100)
    torch.testing.assert_close(found.total, expected, **TIGHT)
    torch.testing.assert_close(oracle.gradient(found.total, student), oracle.gradient(expected, student), **TIGHT)
    assert float(found.soft) == 0


def test_unlabelled_rows_count_for_the_teacher_alone() -> None:
    student, targets = oracle.logits(16, R, V), _targets()
    mixed = Objective(alpha=0.25)(student, targets, LABELS)
    none = Objective(alpha=0.25)(student, targets, torch.full((R,), -100))
    assert float(none.hard) == 0
    torch.testing.assert_close(none.soft, mixed.soft, **TIGHT)
    torch.testing.assert_close(mixed.total, 0.75 * mixed.hard + 0.25 * mixed.soft, **TIGHT)


def test_no_rows_give_zero_and_a_gradient() -> None:
    student = torch.zeros(0, V, requires_grad=True)
    total = Objective()(student, _targets().rows(slice(0, 0)), LABELS[:0]).total
    total.backward()
    assert total.item() == 0
    assert student.grad is not None


def test_a_sparse_mixture_is_the_weighted_sum() -> None:
    student = oracle.logits(17, R, V).requires_grad_()
    one, two = _targets(18), _targets(19)
    mixed = Objective(teacher="a+b", tau_t=2.0, tau_s=1.0).rows(student, Mixture(first=one, second=two, weight=0.3))
    expected = 0.3 * Objective(tau_t=2.0, tau_s=1.0).rows(student, one)
    expected = expected + 0.7 * Objective(tau_t=2.0, tau_s=1.0).rows(student, two)
    torch.testing.assert_close(mixed, expected, **TIGHT)
    torch.testing.assert_close(oracle.gradient(mixed.sum(), student), oracle.gradient(expected.sum(), student), **TIGHT)
    with pytest.raises(IncompatibleTargets, match=r"the first teacher has 7 rows and the second 2"):
        Mixture(first=one, second=two.rows(slice(0, 2)))


def test_what_does_not_fit_is_refused() -> None:
    targets, student = _targets(), oracle.logits(20, R, V)
    with pytest.raises(IncompatibleTargets, match=r"the student has 10 classes and the teacher 60; give the student"):
        Objective()(student[:, :10], targets, LABELS)
    with pytest.raises(IncompatibleTargets, match=r"2 student rows meet 7 teacher rows and 7 labels"):
        Objective()(student[:2], targets, LABELS)
    with pytest.raises(IncompatibleTargets, match=r"alpha = 1 needs teacher rows; open the cache with a teacher"):
        Objective()(student, None, LABELS)
    with pytest.raises(IncompatibleTargets, match=r"label 9 of row 4 is outside its 9 classes; check the labels"):
        Objective(alpha=0.5)(student, targets, torch.full((R,), 9))
    assert float(Objective()(student, targets, torch.full((R,), 9)).hard) == 0  # alpha = 1 looks at no label
