"""A teacher's logits to sparse targets: what is kept, in which order, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kdcache.core.errors import IncompatibleTargets, TrainingError
from kdcache.losses import divergence
from kdcache.losses import selection as module
from kdcache.losses.selection import check, log_partition, log_partition_flagged, select, select_flagged
from kdcache.losses.targets import from_rows, to_rows
from tests.losses import oracle

R, V = 6, 400
NONE = torch.full((R,), -100)
FULL = torch.full((R,), V)


@pytest.mark.parametrize("top_p", [0.2, 0.5, 0.9, 0.99])
def test_top_p_keeps_the_fewest_classes_that_reach_the_mass_and_no_more_than_top_k(top_p: float) -> None:
    teacher = oracle.logits(0, R, V, scale=4.0)
    p = torch.softmax(teacher, 1).sort(dim=1, descending=True).values
    found = select(teacher, NONE, FULL, top_k=40, top_p=top_p)
    for r in range(R):
        needed = int((p[r].cumsum(0) < top_p).sum()) + 1
        assert int(found.num_kept_R[r]) == min(40, needed)
    unused = torch.arange(40) >= found.num_kept_R[:, None]
    assert bool((found.ids_RK[unused] == 0).all())
    assert bool((found.logprobs_RK[unused] == -torch.inf).all())


@pytest.mark.parametrize("top_p", [0.3, 1.0])
@pytest.mark.parametrize("k", [1, 16, 64])
@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0, 64.0])
def test_the_tail_curve_gives_the_mass_at_any_temperature(k: int, tau: float, top_p: float) -> None:
    teacher = oracle.logits(2, R, V, scale=1.5)
    targets = oracle.keep(teacher, top_k=k, top_p=top_p)
    log_p, log_mass = divergence.teacher_distribution(targets, tau_t=tau, dtype=torch.float64)
    p = torch.softmax(teacher / tau, 1)
    kept = torch.isfinite(log_p)
    expected = 1 - torch.where(kept, p.gather(1, targets.ids_RK), 0.0).sum(1)
    assert (log_mass.exp() - expected).abs().max() < 6e-4


def test_rows_come_in_order_of_probability_and_a_dense_result_in_class_order() -> None:
    teacher = oracle.logits(1, R, 20)
    classes = torch.tensor([20, 3, 20, 5, 20, 20])
    dense = select(teacher, NONE, classes, top_k=20)
    assert dense.ids_RK[0].tolist() == list(range(20))
    assert dense.atoms_RN2.shape[1] == 0
    ranked = select(teacher, NONE, classes, top_k=20, dense=False)
    assert ranked.num_kept_R.tolist() == classes.tolist()
    assert ranked.ids_RK[0].tolist() == teacher[0].argsort(descending=True).tolist()
    assert bool((ranked.atoms_RN2[..., 1] == -torch.inf).all())  # no tail, no atom


def test_padding_of_the_vocabulary_is_never_a_class() -> None:
    teacher = oracle.logits(9, R, V)
    padded = torch.cat([teacher, torch.full((R, 6), 1e4)], dim=1)  # even where a model puts large logits there
    for k in (8, V):
        one, two = select(padded, NONE, FULL, top_k=k), select(teacher, NONE, FULL, top_k=k)
        assert one.ids_RK.tolist() == two.ids_RK.tolist()
        torch.testing.assert_close(one.lse_R, two.lse_R, rtol=0, atol=0)
        torch.testing.assert_close(one.atoms_RN2, two.atoms_RN2, rtol=0, atol=0)
    assert select(padded, NONE, FULL, top_k=V + 6).ids_RK.shape[1] == V


class _Largest(TorchDispatchMode):
    """Bytes of the largest memory that any operation makes, beside that of a given tensor."""

    def __init__(self, beside: torch.Tensor) -> None:
        super().__init__()
        self._own = beside.untyped_storage().data_ptr()
        self.num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() != self._own:
                self.num_bytes = max(self.num_bytes, tensor.untyped_storage().size())
        return out


def test_selection_makes_nothing_larger_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CPU_CHUNK_ELEMENTS", 2 * V)
    teacher = oracle.logits(3, 50, V).float()
    with _Largest(teacher) as seen:
        chunked = select(teacher, torch.full((50,), -100), torch.full((50,), V), top_k=8, top_p=0.5)
    assert 2 * V * 4 <= seen.num_bytes <= 2 * V * 8  # two rows in float64, of the tail curve's power sums
    monkeypatch.setattr(module, "CPU_CHUNK_ELEMENTS", 50 * V)
    whole = select(teacher, torch.full((50,), -100), torch.full((50,), V), top_k=8, top_p=0.5)
    assert chunked.ids_RK.tolist() == whole.ids_RK.tolist()
    torch.testing.assert_close(chunked.atoms_RN2, whole.atoms_RN2)


@pytest.mark.parametrize("k", [8, V])
def test_rows_survive_the_way_to_the_cache(k: int) -> None:
    targets = select(oracle.logits(8, R, V).float(), NONE, FULL, top_k=k, top_p=0.8)
    again = from_rows(to_rows(targets, rows_per_item=np.ones(R, dtype=np.int64)))
    width = again.ids_RK.shape[1]
    torch.testing.assert_close(again.logprobs_RK, targets.logprobs_RK[:, :width])
    assert again.ids_RK.tolist() == targets.ids_RK[:, :width].tolist()


def test_what_a_device_has_converted_stays_as_it_is() -> None:
    targets = select(oracle.logits(8, R, V).float(), NONE, FULL, top_k=8)
    narrow = replace(targets, ids_RK=targets.ids_RK.int(), logprobs_RK=targets.logprobs_RK.half())
    rows = to_rows(narrow, rows_per_item=np.ones(R, dtype=np.int64))
    assert (rows.ids.dtype, rows.logprobs.dtype, rows.ids.shape) == (np.int32, np.float16, (R, 8))
    again = from_rows(rows)
    assert (again.ids_RK.dtype, again.logprobs_RK.dtype) == (torch.int64, torch.float32)
    torch.testing.assert_close(again.logprobs_RK, targets.logprobs_RK.half().float(), rtol=0, atol=0)


@pytest.mark.parametrize("k", [1, 7, 40, 390])
def test_equal_logits_are_kept_in_class_order_as_by_a_stable_sort(k: int) -> None:
    coarse = oracle.logits(4, R, V).round()  # some seventeen values
    coarse[1] = 0.0
    coarse[2, ::2] = -0.0
    expected = coarse.sort(dim=1, descending=True, stable=True).indices[:, :k]
    found = select(coarse, NONE, FULL, top_k=k)
    assert found.ids_RK.tolist() == expected.tolist()
    ragged = torch.tensor([400, 3, 20, 41, 39, 400])
    for r, ids in enumerate(select(coarse, NONE, ragged, top_k=k, dense=False).ids_RK.tolist()):
        own = coarse[r, : ragged[r]].sort(descending=True, stable=True).indices[:k].tolist()
        assert ids == own + [0] * (k - len(own))


def test_logits_that_only_their_log_probabilities_make_equal_keep_their_order() -> None:
    teacher = torch.zeros(1, V)
    teacher[0, :10] = 1 + torch.arange(10) * 2**-23  # less than the step of float32 at -5
    assert select(teacher, NONE[:1], FULL[:1], top_k=4).ids_RK.tolist() == [[9, 8, 7, 6]]


def test_flags_name_the_rows_and_check_says_what_they_mean() -> None:
    teacher = oracle.logits(5, R, V)
    teacher[1, 7], teacher[2, 0], teacher[3, 399] = torch.nan, torch.inf, -torch.inf
    labels = torch.tensor([-100, -100, 3, 400, -1, 399])
    targets, bad_R = select_flagged(teacher, labels, FULL, widest=V, top_k=8)
    assert (bad_R.dtype, bad_R.tolist()) == (torch.uint8, [0, 1, 1, 2, 2, 0])
    alone = select(teacher[5:], labels[5:], FULL[5:], top_k=8)
    assert targets.ids_RK[5:].tolist() == alone.ids_RK.tolist()
    lse_R, gold_R, again_R = log_partition_flagged(teacher, labels, FULL)
    assert again_R.tolist() == bad_R.tolist()
    assert (lse_R[5], gold_R[5]) == (alone.lse_R[0], alone.gold_R[0])
    with pytest.raises(TrainingError, match=r"label 400 of row 3 is outside its 400 classes"):
        check(bad_R, labels, FULL)
    with pytest.raises(IncompatibleTargets, match=r"not finite .* declare the true number of classes"):
        log_partition(teacher[:3], labels[:3], FULL[:3])


def test_what_cannot_be_selected_is_refused() -> None:
    teacher = oracle.logits(9, R, V)
    holed = teacher.clone()
    holed[0, 3] = -torch.inf
    with pytest.raises(IncompatibleTargets, match=r"not finite .* declare the true number of classes"):
        select(holed, NONE, FULL, top_k=8)
    with pytest.raises(TrainingError, match=r"label 400 of row 0 is outside its 400 classes"):
        select(teacher, torch.full((R,), V), FULL, top_k=8)
    with pytest.raises(IncompatibleTargets, match=r"top_k = 0 keeps nothing"):
        select(teacher, NONE, FULL, top_k=0)
    with pytest.raises(IncompatibleTargets, match=r"top_p = 0 is no probability mass; it must lie in \(0, 1\]"):
        select(teacher, NONE, FULL, top_k=8, top_p=0)
    with pytest.raises(IncompatibleTargets, match=r"a row has 401 classes, but the teacher gives 400 logits"):
        select(teacher, NONE, FULL + 1, top_k=8)
    with pytest.raises(IncompatibleTargets, match=r"a dense row keeps all its 400 classes, but top_k is 8"):
        select(teacher, NONE, FULL, top_k=8, dense=True)
