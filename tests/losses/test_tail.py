"""The tail curve: exact at its points, close elsewhere, with as many atoms as the tail has values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdcache.core.types import NUM_ATOMS
from kdcache.losses import tail

H = 2 / (2 * NUM_ATOMS + 1)
TAUS = [0.5 * 2 ** (i / 3) for i in range(25)]


def curve(logprobs_RV: Tensor, *, num_atoms: int = NUM_ATOMS) -> Tensor:
    everything = torch.ones_like(logprobs_RV, dtype=torch.bool)
    return tail.gauss_atoms(logprobs_RV, everything, logprobs_RV.amax(dim=1), num_atoms=num_atoms)


def size(logprobs_RV: Tensor) -> Tensor:
    return torch.full((len(logprobs_RV),), logprobs_RV.shape[1])


def normal(spread: float, *, num_classes: int = 20_000) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.log_softmax(spread * torch.randn(8, num_classes, generator=generator), dim=1)


def number_used(atoms_RN2: Tensor) -> list[int]:
    return torch.isfinite(atoms_RN2[..., 1]).sum(dim=1).tolist()


def test_two_classes_by_hand() -> None:
    logprobs = torch.tensor([[-1.0, -3.0]])
    atoms = curve(logprobs)
    assert number_used(atoms) == [2]
    used = atoms[0][torch.isfinite(atoms[0, :, 1])]
    position, log_weight = used[used[:, 0].argsort()].T
    torch.testing.assert_close(position, torch.tensor([-3.0, -1.0]))
    torch.testing.assert_close(log_weight, torch.zeros(2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("j", range(1, 2 * NUM_ATOMS))
def test_the_curve_is_exact_at_its_points(j: int) -> None:
    logprobs = normal(2.0)
    found = tail.log_mass(curve(logprobs).double(), size(logprobs), tau=1 / (j * H))
    torch.testing.assert_close(found, torch.logsumexp(logprobs.double() * (j * H), dim=1), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("values", "atoms"), [([-9.0], 1), ([-3.0, -9.0], 2), ([-3.0, -6.0, -9.0], 3), ([-3.0, -5.0, -6.0, -9.0], 4)]
)
def test_a_tail_of_few_values_gets_as_many_atoms_and_no_error(values: list[float], atoms: int) -> None:
    logprobs = torch.tensor(values).repeat(60 // atoms)[None]
    found = curve(logprobs)
    assert number_used(found) == [atoms]
    for tau in TAUS:
        exact = torch.logsumexp(logprobs.double() / tau, dim=1)
        torch.testing.assert_close(tail.log_mass(found.double(), size(logprobs), tau=tau), exact, rtol=0, atol=1e-5)


def test_a_long_tail_of_one_nat_keeps_all_its_atoms() -> None:
    logprobs = normal(1.0)
    found = curve(logprobs)
    assert set(number_used(found)) == {NUM_ATOMS}
    for tau in TAUS:
        exact = torch.logsumexp(logprobs.double() / tau, dim=1)
        torch.testing.assert_close(tail.log_mass(found.double(), size(logprobs), tau=tau), exact, rtol=0, atol=2e-4)


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("top_k", [16, 64, 256])
def test_the_mass_of_the_tail_is_known_at_any_temperature(spread: float, top_k: int) -> None:
    logprobs = normal(spread).sort(dim=1, descending=True).values
    inside = torch.arange(logprobs.shape[1]) >= top_k
    atoms = tail.gauss_atoms(logprobs, inside.expand_as(logprobs), logprobs[:, top_k - 1], num_atoms=NUM_ATOMS)
    for tau in TAUS:
        exact = torch.softmax(logprobs.double() / tau, dim=1)[:, top_k:].sum(dim=1)
        kept = torch.logsumexp(logprobs[:, :top_k].double() / tau, dim=1)
        found = tail.log_mass(atoms.double(), size(logprobs) - top_k, tau=tau)
        torch.testing.assert_close(torch.sigmoid(found - kept), exact, rtol=0, atol=6e-4)


def test_no_tail_has_no_mass() -> None:
    logprobs = normal(1.0, num_classes=4)
    atoms = tail.gauss_atoms(logprobs, torch.zeros_like(logprobs, dtype=torch.bool), logprobs.amin(dim=1), num_atoms=5)
    assert number_used(atoms) == [0] * 8
    assert tail.log_mass(atoms, torch.zeros(8, dtype=torch.int64), tau=2.0).tolist() == [-torch.inf] * 8
