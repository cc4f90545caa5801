"""Ids and tails that fast and compact share."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.cache.codec import check_arrays, encode, pack, unpack
from kdcache.cache.codecs.sparse import round_mantissa
from kdcache.core.errors import CacheDamaged

from ..conftest import build_item, build_rows, identity_of, tables_of


@given(values=st.lists(st.floats(width=32), min_size=1, max_size=20), bits=st.integers(1, 22))
def test_rounding_a_mantissa_is_within_half_a_unit_and_idempotent(values, bits):
    values = np.array(values, np.float32)
    rounded = round_mantissa(values, bits=bits)
    np.testing.assert_array_equal(round_mantissa(rounded, bits=bits), rounded)
    normal = np.isfinite(values) & np.isfinite(rounded) & (np.abs(values) > 1e-30)
    assert (np.abs(rounded[normal] / values[normal] - 1) <= 2.0 ** -(bits + 1)).all()
    np.testing.assert_array_equal(rounded[~np.isfinite(values)], values[~np.isfinite(values)])


def arrays_of(codec, *, num_classes=9, rows=3):
    made = build_rows([build_item("a", num_rows=rows, num_classes=num_classes)], top_k=4)
    identity = identity_of(made, codec=codec)
    tables = tables_of(identity)
    return encode(made, identity.row_format, tables, num_rows=rows + 1), identity, tables


@pytest.mark.parametrize("codec", ["fast", "compact"])
@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("ids", (0, 1), 9, "ids has a class outside 0 to V - 1"),
        ("num_kept", 0, 0, "num_kept 0 of 9 classes at row 0 is impossible"),
        ("num_kept", 1, 5, "num_kept 5 of 9 classes at row 1 is impossible"),
        ("num_kept", 3, 1, "num_kept 1 of 2147483647 classes at row 3 is impossible"),
        ("num_classes", 1, 3, "num_kept 4 of 3 classes at row 1 is impossible"),
        ("num_classes", 1, 10, "num_classes has a value outside 1 to 9, the teacher's"),
        ("lse", 0, np.nan, "lse or gold is not finite"),
        ("gold", 0, np.inf, "lse or gold is not finite"),
        ("moments", (0, 1), np.nan, "moments is not finite"),
        ("moments", (3, 1), 0, "moments is not finite, or stands where no row is"),
        ("atom_shift", 0, 17, "an atom shift of 17; at most 16 is possible"),
        ("atoms", (0, np.s_[:], 1), 65_535, "a row has a tail but no atoms, or atoms but no tail"),
        ("atoms", (3, 0, 1), 5, "a row has a tail but no atoms, or atoms but no tail"),
    ],
)
def test_a_value_that_no_row_has_is_damage(codec, name, place, value, message):
    arrays, identity, tables = arrays_of(codec)
    arrays[name] = arrays[name].copy()
    arrays[name][place] = value
    with pytest.raises(CacheDamaged, match=message):
        check_arrays(arrays, identity.row_format, tables)


@pytest.mark.parametrize("codec", ["fast", "compact"])
def test_an_id_beyond_a_row_of_fewer_classes_is_damage(codec):
    items = [build_item("a", num_classes=6), build_item("b", num_classes=9)]
    rows = build_rows(items, top_k=3)
    identity = identity_of(rows, codec=codec)
    tables = tables_of(identity)
    check_arrays(encode(rows, identity.row_format, tables), identity.row_format, tables)
    wrong = dataclasses.replace(
        rows, num_classes=np.array([9, 9], np.int32), ids=np.array([[8, *rows.ids[0, 1:]], rows.ids[1]])
    )
    arrays = encode(wrong, identity.row_format, tables)
    arrays["num_classes"][0] = 6
    with pytest.raises(CacheDamaged, match="ids has a class outside 0 to V - 1"):
        check_arrays(arrays, identity.row_format, tables)


@pytest.mark.parametrize("codec", ["fast", "compact"])
def test_a_row_that_keeps_all_its_classes_has_no_tail_in_a_block_of_a_sparse_teacher(codec):
    # Selection gives such rows no atoms at all; the block's arrays have the teacher's number.
    rows = build_rows([build_item("a", num_classes=3, num_rows=2)], top_k=3)
    assert rows.atoms.shape[1] == 0
    identity = identity_of(rows, codec=codec, num_classes=9, top_k=4, num_atoms=5)
    tables = tables_of(identity)
    arrays = encode(rows, identity.row_format, tables)
    check_arrays(arrays, identity.row_format, tables)
    found = unpack(pack(rows, identity.row_format, tables))
    assert found.atoms.shape == (2, 5, 2)
    assert (found.atoms[..., 1] == -np.inf).all()
    assert [sorted(ids) for ids in found.ids.tolist()] == [[0, 1, 2]] * 2
