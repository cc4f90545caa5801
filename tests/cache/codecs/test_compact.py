"""Ids by frequency, gaps of one byte."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.cache.codec import check_arrays, encode, pack, unpack
from kdcache.core.errors import CacheDamaged, CacheError

from ..conftest import build_item, build_rows, identity_of, tables_of


def rows_with(*logprobs):
    """One row with these log-probabilities; the tail is made to fit nothing."""
    rows = build_rows([build_item("a", num_classes=100)], top_k=len(logprobs))
    return dataclasses.replace(rows, logprobs=np.array([logprobs], np.float32))


def packed(rows):
    identity = identity_of(rows, codec="compact")
    return pack(rows, identity.row_format, tables_of(identity))


def test_gaps_and_shift_are_those_of_the_docstring():
    arrays = packed(rows_with(-0.5, -1.0, -1.0, -3.0)).arrays
    assert (arrays["first"].tolist(), arrays["gaps"].tolist(), arrays["gap_shift"].tolist()) == (
        [-0.5],
        [[0, 16, 0, 64]],
        [0],
    )
    arrays = packed(rows_with(-0.0, -8.0, -9.0)).arrays
    assert (arrays["gaps"].tolist(), arrays["gap_shift"].tolist()) == ([[0, 128, 16]], [1])


@settings(max_examples=60)
@given(
    gaps=st.lists(st.floats(0, 60, width=32), min_size=1, max_size=40),
    first=st.floats(-40, 0, width=32),
)
def test_errors_do_not_add_up_and_the_shift_is_the_smallest_that_fits(gaps, first):
    logprobs = np.float32(first) - np.cumsum(np.array([0, *gaps]), dtype=np.float64)
    rows = rows_with(*np.minimum.accumulate(logprobs).astype(np.float32))
    found = packed(rows)
    step = 2.0**-5 * 2.0 ** int(found.arrays["gap_shift"][0])
    assert np.abs(unpack(found).logprobs - rows.logprobs).max() <= step / 2 + 0.02  # float16 of the first, up to 32
    assert np.abs(unpack(found).logprobs[0, 0] - rows.logprobs[0, 0]) <= 0.02
    used = found.arrays["gaps"][0]
    assert used.max() <= 254
    if found.arrays["gap_shift"][0]:
        assert used.max() > 254 / 2 - 2


def test_rows_that_do_not_fall_are_sorted_with_their_ids():
    rows = rows_with(-3.0, -0.5, -1.0)
    found = unpack(packed(rows))
    assert found.ids.tolist() == rows.ids[:, [1, 2, 0]].tolist()
    assert found.logprobs.tolist() == [[-0.5, -1.0, -3.0]]


def test_a_single_class_has_a_gap_of_zero():
    assert packed(rows_with(-0.25)).arrays["gaps"].tolist() == [[0]]
    assert unpack(packed(rows_with(-0.25))).logprobs.tolist() == [[-0.25]]


def test_ids_are_places_in_the_table():
    rows = rows_with(-0.5, -1.0)
    identity = identity_of(rows, codec="compact")
    table = np.roll(np.arange(100), 1).astype(np.int32)
    arrays = encode(rows, identity.row_format, {"id_table": table})
    assert arrays["ids"].tolist() == ((rows.ids + 1) % 100).tolist()
    assert unpack(pack(rows, identity.row_format, {"id_table": table})).ids.tolist() == rows.ids.tolist()


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("gaps", (0, 1), 255, "gaps has a hole, or values where no row is"),
        ("gaps", (1, 1), 3, "gaps has a hole, or values where no row is"),
        ("first", 0, np.nan, "first has a hole, or values where no row is"),
        ("first", 1, -1, "first has a hole, or values where no row is"),
        ("gaps", (0, 0), 1, "gaps begins a row with another value than 0"),
        ("gap_shift", 0, 17, "a gap shift over 16 is impossible"),
    ],
)
def test_a_hole_in_the_gaps_is_damage(name, place, value, message):
    rows = rows_with(-0.5, -1.0, -2.0)
    identity = identity_of(rows, codec="compact")
    tables = tables_of(identity)
    arrays = encode(rows, identity.row_format, tables, num_rows=2)
    arrays[name][place] = value
    with pytest.raises(CacheDamaged, match=message):
        check_arrays(arrays, identity.row_format, tables)


def test_a_log_probability_beyond_float16_is_refused():
    with pytest.raises(CacheError, match="row 0 has a log-probability that is not finite in float16"):
        packed(rows_with(-1.0, -1e6))


def test_a_log_probability_above_zero_is_refused():
    with pytest.raises(CacheError, match=r"a log-probability of 0\.5 is above 0"):
        packed(rows_with(0.5, -1.0))
