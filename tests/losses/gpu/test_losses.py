"""Kernels of losses against the plain path in float64 and the formulas: values and gradients, every kind of row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdcache.losses import fused, gpu
from kdcache.losses import work as working
from kdcache.losses.divergence import Distance
from kdcache.losses.facts import find
from kdcache.losses.gpu import loss as launching
from kdcache.losses.head import Head
from kdcache.losses.objective import Objective
from kdcache.losses.selection import select
from kdcache.losses.targets import HiddenTargets, Mixture, SparseTargets, Targets

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
R, V, K, D = 6, 301, 9, 12
CLASSES = torch.tensor([301, 301, 140, 301, 9, 5])  # one row keeps all of its 9 classes, one of its 5
LABELS = torch.tensor([0, 300, -100, 7, 8, 4])
FORMS = [("ce", "uniform"), ("ce", "bucket"), ("mse", "uniform")]
TAUS = [(2.0, 1.0), (2.0, 2.0), (4.0, 1.5)]
CASES = [(1.0, 1.0, 1.0, False), (2.0, 1.0, 0.3, True), (2.0, 2.0, 1.0, True), (4.0, 1.5, 0.3, False)]
"""tau_t, tau_s, alpha, whether rows differ in V."""
# The interpreter computes with numpy, which warns of infinities that a mask drops right after.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def noise(seed: int, *shape: int, scale: float = 2.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def sparse(seed: int = 0, *, top_k: int = K, ragged: bool = False, top_p: float = 1.0) -> SparseTargets:
    """Rows as the plain path selects them, on the CPU."""
    with plainly():
        classes = CLASSES if ragged else torch.full((R,), V)
        return select(noise(seed, R, V), torch.zeros(R, dtype=torch.long), classes, top_k=top_k, top_p=top_p)


def hidden(seed: int = 0, *, dtype: torch.dtype = torch.float32, ragged: bool = False) -> HiddenTargets:
    head = Head(weight_VD=noise(seed + 50, V, D, scale=0.5), bias_V=noise(seed + 51, V, scale=0.5))
    classes = CLASSES if ragged else torch.full((R,), V)
    vectors = noise(seed + 52, R, D).to(dtype)
    return HiddenTargets(hidden_RD=vectors, head=head, num_classes_R=classes, gold_R=torch.full((R,), torch.nan))


@contextmanager
def plainly() -> Iterator[None]:
    """Without kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "usable", lambda device: False)
        yield


def on(device: torch.device, targets: Targets | Mixture | None) -> Targets | Mixture | None:
    return None if targets is None else targets.to(device)


def run(
    objective: Objective,
    logits_RV: Tensor,
    targets: Targets | Mixture | None,
    labels_R: Tensor = LABELS,
    *,
    in_place: bool = False,
    **given: Any,
) -> tuple[dict[str, Tensor], Tensor]:
    """Terms and gradient by the kernels."""
    leaf = logits_RV.to(DEVICE).requires_grad_()
    weights = given.pop("weights_R", None)
    weights = None if weights is None else weights.to(DEVICE)
    losses = objective(
        leaf * 1.0, on(DEVICE, targets), labels_R.to(DEVICE), weights_R=weights, in_place=in_place, **given
    )
    (gradient,) = torch.autograd.grad(losses.total, leaf)
    return {name: getattr(losses, name).detach().cpu() for name in ("total", "hard", "soft", "kl")}, gradient.cpu()


def wide(targets: Targets | Mixture | None) -> Any:
    """The same targets in float64, for the reference."""
    if targets is None:
        return None
    if isinstance(targets, Mixture):
        return Mixture(first=wide(targets.first), second=wide(targets.second), weight=targets.weight)
    if isinstance(targets, HiddenTargets):
        return replace(targets, hidden_RD=targets.hidden_RD.double())
    return targets._map(lambda t: t.double() if t.is_floating_point() else t)


def check(
    objective: Objective,
    logits_RV: Tensor,
    targets: Targets | Mixture | None,
    *,
    labels_R: Tensor = LABELS,
    value: float = 1e-5,
    slope: float = 1e-5,
    **given: Any,
) -> None:
    """The kernels give what the plain path gives in float64 from the same logits."""
    found, gradient = run(objective, logits_RV, targets, labels_R, **given)
    in_place, also = run(objective, logits_RV, targets, labels_R, in_place=True, **given)
    with plainly():
        leaf = logits_RV.double().requires_grad_()
        expected = objective(leaf, wide(targets), labels_R, **given)
        (reference,) = torch.autograd.grad(expected.total, leaf)
    for name, number in found.items():
        wanted = getattr(expected, name).detach()
        torch.testing.assert_close(number.double(), wanted, rtol=value, atol=value, msg=lambda m, n=name: f"{n}: {m}")
        torch.testing.assert_close(in_place[name], number, rtol=0, atol=0)
    assert float((gradient.double() - reference).norm() / reference.norm()) <= slope
    torch.testing.assert_close(gradient.double(), reference, rtol=1e-4, atol=slope * float(reference.abs().max()))
    torch.testing.assert_close(also, gradient, rtol=0, atol=0)


@pytest.mark.parametrize(("tau_t", "tau_s", "alpha", "ragged"), CASES)
@pytest.mark.parametrize(("loss", "tail"), FORMS)
def test_a_sparse_loss_and_its_gradient(
    loss: Any, tail: Any, tau_t: float, tau_s: float, alpha: float, ragged: bool
) -> None:
    objective = Objective(loss=loss, tau_t=tau_t, tau_s=tau_s, alpha=alpha, tail=tail)
    check(objective, noise(1, R, V), sparse(ragged=ragged, top_p=0.8))


@pytest.mark.parametrize("top_k", [1, 2, V - 1, V])
@pytest.mark.parametrize(("loss", "tail"), FORMS)
def test_any_number_of_kept_classes(loss: Any, tail: Any, top_k: int) -> None:
    check(Objective(loss=loss, tau_t=2.0, tau_s=1.5, alpha=0.6, tail=tail), noise(2, R, V), sparse(top_k=top_k))


@pytest.mark.parametrize(("loss", "tail"), FORMS)
def test_more_kept_classes_and_more_classes_than_a_program_holds_at_once(
    loss: Any, tail: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "LARGEST_BLOCK", 128)
    monkeypatch.setattr(launching, "KEPT_BLOCK", 16)
    for top_k in (50, V):
        objective = Objective(loss=loss, tau_t=2.0, tau_s=1.5, alpha=0.6, tail=tail)
        check(objective, noise(3, R, V), sparse(top_k=top_k, ragged=top_k == 50))


@pytest.mark.parametrize(("dtype", "slope"), [(torch.bfloat16, 4e-3), (torch.float16, 5e-4)])
@pytest.mark.parametrize(("loss", "tail"), FORMS)
def test_logits_in_sixteen_bits_are_computed_in_float32(loss: Any, tail: Any, dtype: torch.dtype, slope: float) -> None:
    objective = Objective(loss=loss, tau_t=2.0, tau_s=1.5, alpha=0.4, tail=tail)
    logits, targets = noise(4, R, V).to(dtype), sparse()
    found, gradient = run(objective, logits, targets)
    assert gradient.dtype == dtype
    with plainly():
        leaf = logits.double().requires_grad_()
        expected = objective(leaf, wide(targets), LABELS)
        (reference,) = torch.autograd.grad(expected.total, leaf)
    torch.testing.assert_close(found["total"].double(), expected.total.detach(), rtol=1e-5, atol=1e-5)
    assert float((gradient.double() - reference).norm() / reference.norm()) < slope


@pytest.mark.parametrize("tail", ["uniform", "bucket"])
def test_a_student_with_almost_nothing_in_the_tail(tail: Any) -> None:
    targets = sparse()
    for far in (6.0, 20.0, 200.0):  # the last underflows
        student = noise(5, R, V, scale=0.1).scatter(1, targets.ids_RK, far)
        check(Objective(tail=tail, alpha=0.5), student, targets, value=2e-5)


def test_squares_far_from_the_tails_mean_do_not_cancel() -> None:
    targets = sparse(top_k=V - 3)
    student = noise(6, R, V, scale=0.1).scatter_add(1, targets.ids_RK[:, :20], torch.full((R, 20), 300.0))
    check(Objective(loss="mse"), student, targets)


@pytest.mark.parametrize(("loss", "tail"), FORMS)
def test_rows_without_a_part_get_nothing_whatever_they_hold(loss: Any, tail: Any) -> None:
    student, weights = noise(7, R, V), torch.tensor([1.0, 0, 1, 0, 1, 1])
    student[1], student[3] = torch.nan, torch.inf
    objective = Objective(loss=loss, tau_t=2.0, tau_s=1.0, alpha=0.5, tail=tail)
    found, gradient = run(objective, student, sparse(), weights_R=weights)
    kept = weights > 0
    fewer, expected = run(objective, student[kept], sparse().rows(kept), LABELS[kept])
    for name, number in fewer.items():
        torch.testing.assert_close(found[name], number, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient[kept], expected, rtol=1e-6, atol=1e-8)
    assert bool((gradient[~kept] == 0).all())
    none, gradient = run(objective, student, sparse(), weights_R=torch.zeros(R))
    assert float(none["total"]) == 0
    assert bool((gradient == 0).all())


def test_hard_labels_alone() -> None:
    check(Objective(teacher=None, alpha=0), noise(8, R, V), None)


def test_padding_of_a_vocabulary_gets_no_gradient() -> None:
    targets, student = sparse(), noise(9, R, V)
    padded = torch.cat([student, torch.full((R, 4), -torch.inf), torch.full((R, 2), 50.0)], dim=1)
    objective = Objective(tau_t=2.0, alpha=0.5)
    found, gradient = run(objective, padded, targets)
    expected, own = run(objective, student, targets)
    torch.testing.assert_close(found["total"], expected["total"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient[:, :V], own, rtol=1e-5, atol=1e-9)
    assert bool((gradient[:, V:] == 0).all())


def test_one_class_has_no_loss_and_no_gradient() -> None:
    targets = select(torch.zeros(2, 1), torch.zeros(2, dtype=torch.long), torch.ones(2, dtype=torch.long), top_k=1)
    found, gradient = run(Objective(alpha=0.5), torch.tensor([[3.0], [-1.0]]), targets, torch.tensor([0, 0]))
    assert float(found["total"]) == pytest.approx(0, abs=1e-6)
    assert float(gradient.abs().max()) <= 1e-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("tau", TAUS[:2])
@pytest.mark.parametrize("loss", ["ce", "mse"])
def test_a_teacher_of_hidden_vectors(loss: Any, tau: tuple[float, float], ragged: bool, dtype: torch.dtype) -> None:
    objective = Objective(loss=loss, tau_t=tau[0], tau_s=tau[1], alpha=0.7)
    check(objective, noise(10, R, V), hidden(dtype=dtype, ragged=ragged))


def test_a_teacher_of_hidden_vectors_beside_logits_in_bfloat16_is_computed_in_sixteen_bits() -> None:
    targets, logits = hidden(dtype=torch.float16), noise(11, R, V).bfloat16()
    objective = Objective(tau_t=2.0)
    found, gradient = run(objective, logits, targets)
    with plainly():
        leaf = logits.double().requires_grad_()
        expected = objective(leaf, wide(targets), LABELS)
        (reference,) = torch.autograd.grad(expected.total, leaf)
    torch.testing.assert_close(found["total"].double(), expected.total.detach(), rtol=2e-3, atol=2e-3)
    assert float((gradient.double() - reference).norm() / reference.norm()) < 5e-3


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_mixture_of_two_teachers(weight: float) -> None:
    objective = Objective(teacher="a+b", tau_t=2.0, tau_s=1.0, alpha=0.4)
    check(objective, noise(12, R, V), Mixture(first=sparse(13), second=sparse(14, top_k=4), weight=weight))
    check(objective, noise(12, R, V), Mixture(first=sparse(13), second=hidden(15), weight=weight))


def test_a_row_that_only_the_first_teacher_has_a_part_in_keeps_it() -> None:
    objective, weights = Objective(teacher="a+b", tau_t=2.0), torch.tensor([1.0, 0, 1, 1, 0, 1])
    check(objective, noise(12, R, V), Mixture(first=sparse(13), second=hidden(15)), weights_R=weights)


def test_a_class_that_a_student_rules_out_has_no_gradient() -> None:
    student = noise(24, R, V)
    student[:, 50] = -torch.inf
    check(Objective(teacher=None, alpha=0), student, None)


def test_every_second_row_of_targets() -> None:
    targets, labels = sparse(ragged=True), LABELS[::2]
    student = noise(25, R // 2, V)
    given = on(DEVICE, targets)
    assert isinstance(given, SparseTargets)
    leaf = student.to(DEVICE).requires_grad_()
    found = Objective(alpha=0.5)(leaf, given.rows(slice(0, None, 2)), labels.to(DEVICE))
    expected, gradient = run(Objective(alpha=0.5), student, targets.rows(torch.arange(0, R, 2)), labels)
    torch.testing.assert_close(found.total.detach().cpu(), expected["total"], rtol=0, atol=0)
    torch.testing.assert_close(torch.autograd.grad(found.total, leaf)[0].cpu(), gradient, rtol=0, atol=0)


def test_temperatures_and_factors_differ_from_row_to_row() -> None:
    """Each row of one launch is what the plain path gives for it alone."""
    targets, logits = sparse(), noise(16, R, V)
    taus_t, taus_s = torch.tensor([0.5, 1, 2, 4, 1.5, 3]), torch.tensor([1.0, 2, 1, 4, 0.7, 1.3])
    hard, soft = torch.tensor([0.5, 0, 1, 0.1, 0, 2]), torch.tensor([0.3, 1, 0, 2, 0, 0.5])
    labels = LABELS.clamp(min=0)
    facts = find(labels.numpy(), np.full(R, V), has_tail=True)
    planned = working.plan((R, V), targets, labels, Distance(), facts, hard_R=hard, soft_R=soft).launcher
    assert planned is not None
    for tail in ("uniform", "bucket", "mse"):
        rows = replace(planned.rows, inverse_tau_t_R=1 / taus_t, inverse_tau_s_R=1 / taus_s)
        there = {f.name: getattr(rows, f.name) for f in fields(rows)}
        rows = launching.Rows(**{n: v.to(DEVICE) if isinstance(v, Tensor) else v for n, v in there.items()})
        launcher = launching.Launcher(rows=rows, teachers=((targets.to(DEVICE), 1.0),), mode=tail)
        gradient = torch.empty(R, V, device=DEVICE)
        total = launcher.run(logits.to(DEVICE), gradient)[0]
        for r in range(R):
            one = slice(r, r + 1)
            distance = Distance(
                loss="mse" if tail == "mse" else "ce",
                tau_t=float(taus_t[r]),
                tau_s=float(taus_s[r]),
                tail="bucket" if tail == "bucket" else "uniform",
            )
            with plainly():
                work = working.plan(
                    (1, V), wide(targets.rows(one)), labels[one], distance, replace(facts, fillers=True),
                    hard_R=hard[one].double(), soft_R=soft[one].double(),
                )  # fmt: skip
                expected = torch.empty(1, V, dtype=torch.float64)
                alone = work.run(logits[one].double(), expected)
            torch.testing.assert_close(total[one].cpu().double(), alone.total, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(gradient[one].cpu().double(), expected, rtol=1e-5, atol=1e-7)


def test_a_factor_on_the_loss_is_a_factor_on_the_gradient() -> None:
    targets, logits = on(DEVICE, sparse()), noise(17, R, V).to(DEVICE).requires_grad_()
    labels = LABELS.to(DEVICE)
    (once,) = torch.autograd.grad(Objective()(logits, targets, labels).total, logits)
    (thrice,) = torch.autograd.grad(Objective()(logits, targets, labels).total * 3, logits)
    torch.testing.assert_close(thrice, 3 * once)
    factors = torch.arange(R, dtype=torch.float32, device=DEVICE)
    (rows,) = torch.autograd.grad((Objective().rows(logits, targets) * factors).sum(), logits)
    torch.testing.assert_close(rows, once * R * factors[:, None])


def test_without_gradients_the_values_are_the_same() -> None:
    targets, logits, labels = on(DEVICE, sparse()), noise(18, R, V).to(DEVICE).requires_grad_(), LABELS.to(DEVICE)
    objective = Objective(alpha=0.5, tau_t=2.0)
    with torch.no_grad():
        found = objective(logits, targets, labels)
    expected = objective(logits, targets, labels)
    assert not found.total.requires_grad
    torch.testing.assert_close(found.total, expected.total.detach(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["topk", "hidden", "mixture", "hard"])
@pytest.mark.parametrize("settings", [{}, {"scale": 1.5, "soft_cap": 4.0}])
def test_head_and_loss_in_chunks(kind: str, settings: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fused.CHUNK_ELEMENTS, DEVICE.type, 4 * V)
    targets: Any = {
        "topk": sparse(),
        "hidden": hidden(),
        "mixture": Mixture(first=sparse(), second=hidden()),
        "hard": None,
    }[kind]
    objective = Objective(
        teacher={"hard": None, "mixture": "a+b"}.get(kind, "a"),
        tau_t=2.0,
        tau_s=1.0,
        alpha=0.0 if kind == "hard" else 0.4,
    )
    tensors = [noise(20, R, D), noise(21, V, D, scale=0.3), noise(22, V)]
    own = [tensor.to(DEVICE).requires_grad_() for tensor in tensors]
    head = Head(weight_VD=own[1], bias_V=own[2], **settings)
    found = objective.from_hidden(own[0], head, on(DEVICE, targets), LABELS.to(DEVICE))
    gradients = torch.autograd.grad(found.total * 2, own)
    with plainly():
        exact = [tensor.double().requires_grad_() for tensor in tensors]
        head = Head(weight_VD=exact[1], bias_V=exact[2], **settings)
        expected = objective.from_hidden(exact[0], head, wide(targets), LABELS)
        references = torch.autograd.grad(expected.total * 2, exact)
    torch.testing.assert_close(found.total.detach().cpu().double(), expected.total.detach(), rtol=1e-5, atol=1e-5)
    for one, two in zip(gradients, references, strict=True):
        assert float((one.cpu().double() - two).norm() / two.norm()) < 1e-5


def test_logits_that_lie_across_memory() -> None:
    targets, across = sparse(), noise(23, V, R).T
    labels = LABELS.to(DEVICE)
    leaf = across.contiguous().to(DEVICE).requires_grad_()
    expected = Objective(tau_t=1.0)(leaf, targets.to(DEVICE), labels).total
    (gradient,) = torch.autograd.grad(expected, leaf)
    planned = working.plan(
        (R, V), targets.to(DEVICE), labels, Distance(), find(LABELS.numpy(), np.full(R, V), has_tail=True),
        hard_R=None, soft_R=torch.full((R,), 1 / R, device=DEVICE),
    ).launcher  # fmt: skip
    assert planned is not None
    into = torch.empty(V, R, device=DEVICE).T
    total = planned.run(across.to(DEVICE), into)[0]
    assert into.stride(1) != 1
    torch.testing.assert_close(into, gradient, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(total.sum(), expected.detach(), rtol=1e-6, atol=1e-6)


def test_no_rows() -> None:
    leaf = torch.zeros(0, V, device=DEVICE, requires_grad=True)
    total = Objective()(leaf, on(DEVICE, sparse().rows(slice(0, 0))), LABELS[:0].to(DEVICE)).total
    total.backward()
    assert total.item() == 0
    assert leaf.grad is not None
