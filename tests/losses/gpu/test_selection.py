"""The selection by kernels is that of the plain path and of float64, whatever the rows look like."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kdcache.core.errors import IncompatibleTargets, TrainingError
from kdcache.core.types import NUM_ATOMS
from kdcache.losses import divergence, gpu, selection, tail
from kdcache.losses.gpu import selection as kernels
from kdcache.losses.gpu import tail as tail_kernels
from kdcache.losses.selection import check, log_partition_flagged, select_flagged
from kdcache.losses.targets import SparseTargets

H = 2 / (2 * NUM_ATOMS + 1)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def logits(seed: int, rows: int, classes: int, *, scale: float = 3.0) -> Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)) * scale


class Case:
    """Logits through the kernels, and what float64 says of them; atoms only where asked for, since they take long.

    Attributes:
        targets, bad_R: what came back, on the CPU.
        powers_RJ, last_R: what the atoms were made of.
    """

    def __init__(
        self,
        logits_RV: Tensor,
        device: torch.device,
        *,
        top_k: int,
        classes: list[int] | None = None,
        labels: list[int] | None = None,
        top_p: float = 1.0,
        atoms: bool = False,
    ) -> None:
        rows, width = logits_RV.shape
        self.logits_RV = logits_RV
        self.classes = [width] * rows if classes is None else classes
        self.labels = [-100] * rows if labels is None else labels
        self.top_k, self.top_p = top_k, top_p
        seen: list[Tensor] = []

        def spy(powers_RJ: Tensor, last_R: Tensor, *, min_pivot: float) -> Tensor:
            seen.extend([powers_RJ.cpu(), last_R.cpu()])
            if atoms:
                return tail_kernels.gauss_atoms(powers_RJ, last_R, min_pivot=min_pivot)
            return powers_RJ.new_zeros(len(powers_RJ), NUM_ATOMS, 2)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "gauss_atoms", spy)
            targets, bad_R = select_flagged(
                logits_RV.to(device) if logits_RV.is_contiguous() else logits_RV,
                torch.tensor(self.labels, device=device),
                torch.tensor(self.classes, device=device),
                widest=max(self.classes),
                top_k=top_k,
                top_p=top_p,
                dense=False,
            )
        self.targets, self.bad_R = targets.to("cpu"), bad_R.cpu()
        self.powers_RJ, self.last_R = seen

    def check(self) -> SparseTargets:
        """Compare all rows with float64."""
        assert self.bad_R.tolist() == [0] * len(self.classes)
        for r in range(len(self.classes)):
            self.check_row(r)
        return self.targets

    def check_row(self, r: int) -> None:
        t, own = self.targets, self.classes[r]
        x = self.logits_RV[r, :own].cpu().double()
        lse = torch.logsumexp(x, 0)
        logprobs, ids = (x - lse).sort(descending=True, stable=True)
        wanted = min(self.top_k, own)
        if self.top_p < 1:
            wanted = min(wanted, int((logprobs.exp().cumsum(0) < self.top_p).sum()) + 1)
        assert int(t.num_kept_R[r]) == wanted
        width = t.ids_RK.shape[1]
        assert t.ids_RK[r].tolist() == ids[:wanted].tolist() + [0] * (width - wanted)
        close(t.lse_R[r], lse)
        close(t.logprobs_RK[r, :wanted], logprobs[:wanted])
        assert t.logprobs_RK[r, wanted:].tolist() == [-torch.inf] * (width - wanted)
        label = self.labels[r]
        close(t.gold_R[r], torch.tensor(torch.nan) if label == -100 else x[label] - lse)
        close(self.last_R[r], logprobs[wanted - 1])
        others = logprobs[wanted:]
        y = (H * (others - logprobs[wanted - 1])).exp()
        powers = torch.stack([(y**j).sum() for j in range(2 * NUM_ATOMS)])
        torch.testing.assert_close(self.powers_RJ[r], powers, rtol=1e-6, atol=1e-300)
        size = max(len(others), 1)
        mean = others.sum() / size
        close(t.moments_R2[r], torch.stack([mean, (others - mean).square().sum() / size]))


def close(found: Tensor, expected: Tensor) -> None:
    """Within the rounding of float32."""
    torch.testing.assert_close(found.double(), expected.double(), rtol=4e-7, atol=2e-6, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("classes", "k"), [(67, 5), (1001, 64), (4099, 8)])
def test_rows_are_those_of_float64(device: torch.device, dtype: torch.dtype, classes: int, k: int) -> None:
    rows = logits(classes, 3, classes).to(dtype)
    Case(rows, device, top_k=k, labels=[-100, 0, classes - 1]).check()


def test_the_plain_path_gives_the_same(device: torch.device) -> None:
    rows = logits(1, 4, 333).bfloat16()
    found = Case(rows, device, top_k=16, top_p=0.9, labels=[1, 2, -100, 4], atoms=True).check()
    plain, bad_R = selection._select_chunk(
        rows,
        torch.tensor([1, 2, -100, 4]),
        torch.full((4,), 333),
        selection._Keep(dense=False, top_k=16, top_p=0.9, width=333),
    )
    assert bad_R.tolist() == [0] * 4
    for name in ("ids_RK", "num_kept_R", "num_classes_R"):
        assert getattr(found, name).tolist() == getattr(plain, name).tolist()
        assert getattr(found, name).dtype == getattr(plain, name).dtype
    for name in ("logprobs_RK", "lse_R", "moments_R2", "gold_R"):
        torch.testing.assert_close(getattr(found, name), getattr(plain, name), rtol=4e-7, atol=2e-6, equal_nan=True)
    torch.testing.assert_close(found.atoms_RN2, plain.atoms_RN2, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [1, 3, 20, 64])
def test_equal_logits_come_in_class_order_also_where_the_last_is_kept(device: torch.device, k: int) -> None:
    rows = logits(2, 3, 333).round()
    rows[1] = rows[1].sign()  # three values
    rows[2] = torch.where(torch.arange(333) % 2 == 0, 0.0, -0.0)
    Case(rows, device, top_k=k).check()


@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_a_row_with_more_candidates_than_places_is_swept_again(device: torch.device, dtype: torch.dtype) -> None:
    rows = torch.zeros(4, 1001, dtype=dtype)  # all equal
    rows[1] = -7.25
    rows[2] = logits(3, 1, 1001)[0].clamp(max=1.0).to(dtype)  # a third at the top
    rows[3] = logits(3, 1, 1001)[0].to(dtype)  # fits
    rows[3, 400:420] = 9.0
    found = Case(rows, device, top_k=16).check()
    assert found.ids_RK[0].tolist() == list(range(16))
    Case(rows, device, top_k=16, top_p=0.01, classes=[1001, 700, 1001, 333]).check()


def test_rows_that_ascend_are_swept_again_too(device: torch.device) -> None:
    """Sixteen tiles hold the highest 1,024, and there are 256 places."""
    row = torch.arange(4200, dtype=torch.float32) / 400
    Case(torch.stack([row, row.flip(0)]), device, top_k=16).check()


def test_padding_is_never_a_class_and_rows_differ_in_width(device: torch.device) -> None:
    rows = logits(4, 6, 700)
    rows[:, 650:] = torch.inf
    rows[0, 1:] = torch.nan
    rows[1, 2:] = -torch.inf
    Case(rows, device, top_k=24, classes=[1, 2, 23, 24, 25, 650], labels=[0, 1, -100, 23, 24, 649]).check()


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Memory that nothing was written to holds NaN."""
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = before


@pytest.mark.usefixtures("poisoned")
def test_what_a_short_row_leaves_unwritten_is_not_read(device: torch.device) -> None:
    Case(logits(14, 3, 9000), device, top_k=8, classes=[9000, 700, 4]).check()


@pytest.mark.parametrize(("classes", "k"), [(1, 1), (2, 1), (67, 66), (67, 67), (257, 256), (1500, 256)])
def test_few_classes_beside_the_kept_ones(device: torch.device, classes: int, k: int) -> None:
    Case(logits(5, 2, classes), device, top_k=k).check()


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9])
def test_what_top_p_cuts_goes_to_the_tail(device: torch.device, top_p: float) -> None:
    found = Case(logits(6, 4, 333), device, top_k=200, top_p=top_p).check()
    assert int(found.num_kept_R.max()) < 200


def test_rows_may_lie_in_a_wider_tensor_or_across_it(device: torch.device) -> None:
    wide = logits(7, 3, 384).to(device)
    Case(wide[:, :333], device, top_k=16).check()
    Case(wide[:, 1:334], device, top_k=16).check()
    Case(logits(7, 333, 3).to(device).T, device, top_k=16).check()


def test_logits_of_any_size_are_no_trouble(device: torch.device) -> None:
    rows = logits(8, 3, 333)
    rows[0] += 3e4
    rows[1] *= 1e4
    rows[2, 50:] -= 1e6
    case = Case(rows, device, top_k=8, atoms=True)
    assert case.bad_R.tolist() == [0, 0, 0]
    for r in range(3):
        expected = rows[r].double().sort(descending=True, stable=True)
        assert case.targets.ids_RK[r].tolist() == expected.indices[:8].tolist()
        assert bool(torch.isfinite(case.targets.atoms_RN2[r, :, 0]).all())
        assert bool((case.powers_RJ[r] <= 325).all())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NaN in the interpreter's numpy
def test_what_cannot_be_kept_is_flagged_and_the_others_are_right(device: torch.device) -> None:
    rows = logits(9, 8, 333)
    rows[1, 7], rows[2, 332], rows[3, 0], rows[4, :] = torch.nan, -torch.inf, torch.inf, torch.nan
    labels = [3, -100, 0, -100, 333, -1, 200, 332]
    case = Case(rows, device, top_k=16, labels=labels, classes=[333] * 6 + [200, 333])
    assert case.bad_R.dtype == torch.uint8
    assert case.bad_R.tolist() == [0, 1, 1, 1, 2, 2, 2, 0]
    case.check_row(0)
    case.check_row(7)
    classes = torch.tensor(case.classes)
    with pytest.raises(TrainingError, match=r"label 333 of row 4 is outside its 333 classes"):
        check(case.bad_R, torch.tensor(labels), classes)
    with pytest.raises(IncompatibleTargets, match=r"declare the true number of classes"):
        check(case.bad_R[:4], torch.tensor(labels), classes)
    assert bool((case.targets.ids_RK >= 0).all())
    assert bool((case.targets.ids_RK < 333).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_sum_exp_and_gold_alone(device: torch.device, dtype: torch.dtype) -> None:
    rows = logits(10, 6, 5001).to(dtype)
    rows[4, 4000] = -torch.inf
    labels = torch.tensor([0, -100, 66, 67, 5, 4999])
    classes = torch.tensor([5001, 1001, 67, 67, 5001, 5000])
    found = log_partition_flagged(rows.to(device), labels.to(device), classes.to(device))
    lse_R, gold_R, bad_R = (part.cpu() for part in found)
    assert bad_R.tolist() == [0, 0, 0, 2, 1, 0]
    for r in (0, 1, 2, 5):
        x = rows[r, : classes[r]].double()
        close(lse_R[r], torch.logsumexp(x, 0))
        close(gold_R[r], x[labels[r]] - torch.logsumexp(x, 0) if labels[r] >= 0 else torch.tensor(torch.nan))


def test_more_kept_classes_and_dense_rows_are_left_to_pytorch(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, labels, classes = logits(11, 2, 333), torch.tensor([5, -100]), torch.tensor([333, 300])
    monkeypatch.setattr(kernels, "select", None)
    for top_k, dense in [(257, None), (333, None)]:
        targets, bad_R = select_flagged(
            rows.to(device), labels.to(device), classes.to(device), widest=333, top_k=top_k, dense=dense
        )
        assert bad_R.tolist() == [0, 0]
        assert targets.ids_RK.shape == (2, top_k)
    doubles = select_flagged(rows.double().to(device), labels.to(device), classes.to(device), widest=333, top_k=8)[0]
    assert doubles.lse_R.dtype == torch.float64


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_the_mass_of_the_tail_is_that_of_the_dense_row(device: torch.device, spread: float) -> None:
    rows = logits(12, 3, 1001, scale=spread)
    targets = Case(rows, device, top_k=16, atoms=True).targets
    for tau in (0.5, 0.8, 1.0, 1.7, 4.0, 64.0):
        _, log_mass = divergence.teacher_distribution(targets, tau_t=tau, dtype=torch.float64)
        kept = torch.softmax(rows.double() / tau, 1).gather(1, targets.ids_RK).sum(1)
        torch.testing.assert_close(log_mass.exp(), 1 - kept, rtol=0, atol=6e-4)


def tails() -> tuple[Tensor, Tensor]:
    """Tails of all kinds, as float32 log-probabilities and which classes are there: [R, V]."""
    values = [[], [-9.0], [-3.0, -9.0], [-3.0, -6.0, -9.0], [-3.0, -5.0, -6.0, -9.0], [-1.0, -1.0 - 2**-20]]
    values += [[-2.0], [-2.0, -90.0], [-2.0, -2.5, -3000.0], [-1e5], [float(-i) for i in range(40)]]
    rows = [v * (60 // len(v) if 0 < len(v) < 9 else 1) for v in values]
    for seed, spread in enumerate([1e-3, 0.03, 0.3, 1.0, 3.0, 6.0, 12.0, 40.0]):
        rows += [logits(seed, 1, count, scale=spread)[0].tolist() for count in (3, 5, 6, 12, 60, 1000)]
    width = max(map(len, rows))
    inside = torch.tensor([[i < len(row) for i in range(width)] for row in rows])
    return torch.tensor([row + [0.0] * (width - len(row)) for row in rows]), inside


def powers(logprobs_RV: Tensor, inside_RV: Tensor, last_R: Tensor) -> Tensor:
    """The tails' power sums, in float64."""
    y_RV = ((logprobs_RV.double() - last_R.double()[:, None]) * H).exp().where(inside_RV, 0.0)
    return torch.stack([inside_RV.sum(1).double(), *(y_RV.pow(j).sum(1) for j in range(1, 2 * NUM_ATOMS))], dim=1)


def test_atoms_are_those_of_the_plain_path_and_as_many(device: torch.device) -> None:
    logprobs_RV, inside_RV = tails()
    last_R = torch.where(inside_RV, logprobs_RV, -torch.inf).amax(1).clamp(min=-1e5) + 0.25
    powers_RJ = powers(logprobs_RV, inside_RV, last_R)
    plain_RN2 = tail.gauss_atoms(logprobs_RV, inside_RV, last_R, num_atoms=NUM_ATOMS)
    found_RN2 = tail_kernels.gauss_atoms(powers_RJ.to(device), last_R.to(device), min_pivot=tail.MIN_PIVOT).cpu()
    used_RN = torch.isfinite(found_RN2[..., 1])
    assert used_RN.tolist() == torch.isfinite(plain_RN2[..., 1]).tolist()
    assert set(used_RN.sum(1).tolist()) == {0, 1, 2, 3, 4, 5}
    assert bool((found_RN2[..., 0][~used_RN] == 0).all())
    for j in range(2 * NUM_ATOMS):  # both are the curve itself, wherever its nodes are ill-conditioned
        size_R = inside_RV.sum(1)
        one, two = (tail.log_mass(a.double(), size_R, tau=1 / (j * H + 1e-9)) for a in (found_RN2, plain_RN2))
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(found_RN2[:6], plain_RN2[:6], rtol=1e-5, atol=1e-4)


def test_sums_that_are_no_tails_give_as_many_atoms_as_by_the_plain_path(device: torch.device) -> None:
    """A last power sum that is too small would need a node below zero, one that is too large is no matter."""
    logprobs_RV = logits(15, 1, 1000)
    inside_RV, last_R = torch.ones_like(logprobs_RV, dtype=torch.bool), logprobs_RV.amax(1)
    powers_RJ = powers(logprobs_RV, inside_RV, last_R).repeat(36, 1)
    for row, factor in enumerate([0.0, 0.5, 0.9, 0.99, 0.9999, 1.0001, 1.01, 1.1, 2.0]):
        for j in (9, 7, 5, 3):
            powers_RJ[4 * row + (9 - j) // 2, j] *= factor
    last_R = last_R.repeat(36)
    plain_RN2 = tail._atoms(powers_RJ, last_R, num_atoms=NUM_ATOMS, h=H)
    found_RN2 = tail_kernels.gauss_atoms(powers_RJ.to(device), last_R.to(device), min_pivot=tail.MIN_PIVOT).cpu()
    used_RN = torch.isfinite(found_RN2[..., 1])
    assert used_RN.tolist() == torch.isfinite(plain_RN2[..., 1]).tolist()
    assert set(used_RN.sum(1).tolist()) >= {2, 3, 4, 5}
    torch.testing.assert_close(found_RN2, plain_RN2, rtol=1e-5, atol=1e-4)


def test_the_same_logits_give_the_same_bits(device: torch.device) -> None:
    rows = logits(13, 4, 1001).bfloat16()
    one, two = (Case(rows, device, top_k=64, atoms=True) for _ in range(2))
    assert torch.equal(one.powers_RJ, two.powers_RJ)
    assert torch.equal(one.targets.atoms_RN2, two.targets.atoms_RN2)
    assert torch.equal(one.targets.ids_RK, two.targets.ids_RK)


@pytest.mark.parametrize(
    ("width", "k", "tile"),
    [(67, 5, 2), (333, 64, 1), (49_152, 64, 64), (128_256, 64, 64), (49_152, 256, 32), (2_000_000, 64, 512)],
)
def test_tiles_are_smaller_where_there_would_be_few(width: int, k: int, tile: int) -> None:
    assert kernels.tile_size(width, k) == tile


def test_kernels_are_used_where_they_can_run(device: torch.device) -> None:
    assert gpu.usable(device)
    assert gpu.usable(torch.device("cuda"))
