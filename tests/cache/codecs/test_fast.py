"""float16 log-probabilities in rank order."""

import dataclasses

import numpy as np
import pytest

from kdcache.cache.codec import encode, pack, unpack
from kdcache.core.errors import CacheError

from ..conftest import build_item, build_rows, identity_of


def test_log_probabilities_are_the_float16_of_the_teacher_s_bit_by_bit():
    rows = build_rows([build_item("a", num_rows=4, num_classes=50)], top_k=8, float16=False)
    found = unpack(pack(rows, identity_of(rows).row_format, {}))
    np.testing.assert_array_equal(found.logprobs, rows.logprobs.astype(np.float16).astype(np.float32))
    assert (found.logprobs != rows.logprobs).any()


def test_rank_order_is_kept():
    rows = build_rows([build_item("a", num_classes=50)], top_k=8)
    assert pack(rows, identity_of(rows).row_format, {}).arrays["ids"].tolist() == rows.ids.tolist()


def test_a_log_probability_beyond_float16_is_refused():
    rows = build_rows([build_item("a", num_classes=50)], top_k=8)
    with pytest.raises(CacheError, match="row 0 has a log-probability that is not finite in float16"):
        encode(dataclasses.replace(rows, logprobs=rows.logprobs - 1e6), identity_of(rows).row_format, {})


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_log_probability_of_zero_or_just_above_is_stored_as_minus_zero(dtype):
    rows = build_rows([build_item("a", num_classes=50)], top_k=3)
    for first in (0.0, -0.0, 5e-4):
        logprobs = np.array([[first, -9.0, -9.5]], dtype)
        arrays = encode(dataclasses.replace(rows, logprobs=logprobs), identity_of(rows).row_format, {})
        assert arrays["logprobs"].view(np.uint16)[0].tolist() == [0x8000, 0xC880, 0xC8C0]
    for first, message in (
        (0.5, r"a log-probability of 0\.5 is above 0"),
        (np.nan, "row 0 has a log-probability"),
    ):
        logprobs = np.array([[first, -9.0, -9.5]], dtype)
        with pytest.raises(CacheError, match=message):
            encode(dataclasses.replace(rows, logprobs=logprobs), identity_of(rows).row_format, {})
