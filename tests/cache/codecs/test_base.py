"""Checks that all codecs share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kdcache.cache.codecs.base import Kept, check_entries, check_logprobs, not_finite, sign_set
from kdcache.core.errors import CacheDamaged, CacheError


@given(bits=hnp.arrays(np.uint32, 20), dtype=st.sampled_from([np.float16, np.float32]))
def test_not_finite_by_bits_is_what_numpy_says(bits, dtype):
    values = np.concatenate([bits.view(dtype), np.array([np.inf, -np.inf, np.nan, 0.0, -0.0], dtype)])
    np.testing.assert_array_equal(not_finite(values), ~np.isfinite(values))


@given(
    counts=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    repeat=st.sampled_from([1, 40]),
    fault=st.none() | st.tuples(st.integers(0, 10**6), st.integers(0, 2), st.sampled_from([0, 200, 254, 255])),
)
def test_checking_runs_of_rows_says_what_checking_each_entry_says(counts, repeat, fault):
    counts = np.repeat(np.array(counts), repeat)
    mask = np.arange(3) < counts[:, None]
    codes = np.where(mask, np.uint8(7), np.uint8(255))
    if fault is not None:
        codes[fault[0] % len(codes), fault[1]] = fault[2]
    expected = bool(np.where(mask, codes <= 200, codes == 255).all())
    assert check_entries(codes, Kept(counts, 3), largest=200, fill=255) == expected


def test_log_probabilities_have_their_sign_bit_set_zero_too():
    found = sign_set(np.array([0.0, 1e-4, -2.5, np.nan], np.float32))
    assert found.tolist()[:3] == [0.0, 0.0, -2.5]
    assert np.signbit(found[:3]).all()
    assert np.isnan(found[3])
    with pytest.raises(CacheError, match=r"a log-probability of 0\.25 is above 0"):
        sign_set(np.array([-1.0, 0.25], np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf, 0.0, 0.5])
def test_any_value_that_is_no_log_probability_is_a_hole(dtype, value):
    kept = Kept(np.array([2, 2, 1, 0]), 2)
    values = np.array([[-0.0, -5], [-1e-3, -60_000], [-1, np.nan], [np.nan, np.nan]], dtype)
    check_logprobs(values, kept)
    for row in (0, 2):
        broken = values.copy()
        broken[row, 0] = value
        with pytest.raises(CacheDamaged, match="logprobs has a hole, a value that is no log-probability"):
            check_logprobs(broken, kept)
    broken = values.copy()
    broken[3, 1] = -1.0
    with pytest.raises(CacheDamaged, match="values where no row is"):
        check_logprobs(broken, kept)
