"""Quantised atoms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.cache.atoms import UNUSED, decode_atoms, encode_atoms
from kdcache.core.errors import CacheDamaged, CacheError


def curve(atoms, beta):
    return np.log(np.exp(atoms[..., 1].astype(np.float64) + beta * atoms[..., 0].astype(np.float64)).sum(axis=-1))


def atoms_of(positions, shares, tail):
    return np.array([[[p, np.log(s * tail)] for p, s in zip(positions, shares, strict=True)]], dtype=np.float32)


def test_codes_of_a_hand_computed_row():
    # 2.5 nats are 2560 steps; half the tail is log 2 of 32 nats in 65,534 codes: 1419.5.
    codes, shift = encode_atoms(atoms_of([-2.5, -4.0], [0.5, 0.5], 10), np.array([10]))
    assert codes.tolist() == [[[2560, 1420], [4096, 1420]]]
    assert shift.tolist() == [0]


@settings(max_examples=40)
@given(
    positions=st.lists(st.floats(-40, 0, width=32), min_size=5, max_size=5),
    parts=st.lists(st.floats(0.05, 1), min_size=5, max_size=5),
    tail=st.integers(6, 10**6),
    beta=st.floats(0, 2),
)
def test_the_curve_survives_quantisation(positions, parts, tail, beta):
    shares = np.array(parts) / sum(parts)
    atoms = atoms_of(positions, shares, tail)
    decoded = decode_atoms(*encode_atoms(atoms, np.array([tail])), np.array([tail]))
    assert curve(decoded, 0.0) == pytest.approx(np.log(tail), abs=1e-5)
    assert curve(decoded, beta) == pytest.approx(curve(atoms, beta), abs=2e-3)


def test_a_deep_atom_doubles_the_step_of_its_row_only():
    atoms = np.concatenate([atoms_of([-100.0], [1.0], 7), atoms_of([-63.0], [1.0], 7), atoms_of([-300.0], [1.0], 7)])
    codes, shift = encode_atoms(atoms, np.array([7, 7, 7]))
    assert shift.tolist() == [1, 0, 3]
    np.testing.assert_allclose(decode_atoms(codes, shift, np.array([7, 7, 7]))[:, 0, 0], [-100, -63, -300], rtol=1e-4)


def test_unused_atoms_stay_unused_and_a_row_without_a_tail_has_none():
    atoms = atoms_of([-1.0, -9.0], [1.0, 1.0], 4)
    atoms[0, 1, 1] = -np.inf
    codes, shift = encode_atoms(atoms, np.array([4]))
    assert codes[0, 1, 1] == UNUSED
    assert decode_atoms(codes, shift, np.array([4]))[0, 1].tolist() == [0.0, -np.inf]
    atoms[..., 1] = -np.inf
    codes, shift = encode_atoms(atoms, np.array([0]))
    assert np.isneginf(decode_atoms(codes, shift, np.array([0]))[..., 1]).all()


@pytest.mark.parametrize("atom", [(0.5, 0.0), (np.nan, 0.0), (-1.0, 5.0), (-1e9, 0.0)])
def test_atoms_that_are_no_tail_are_refused(atom):
    with pytest.raises(CacheError, match=r"positions must lie in \[-2\^22, 0\] and weights must not exceed V - k"):
        encode_atoms(np.array([[atom]], dtype=np.float32), np.array([3]))


def test_codes_that_nobody_wrote_are_damage():
    codes, shift = encode_atoms(atoms_of([-1.0], [1.0], 4), np.array([4]))
    with pytest.raises(CacheDamaged, match="a row has a tail but no atoms, or atoms but no tail"):
        decode_atoms(codes, shift, np.array([0]))
    with pytest.raises(CacheDamaged, match="an atom shift of 17; at most 16 is possible"):
        decode_atoms(codes, np.array([17], np.uint8), np.array([4]))
