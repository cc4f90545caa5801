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
    assert pack(rows, identity_of(rows).row_format, {}).arrays["ids"][0].tolist() == rows.ids.tolist()


def test_a_log_probability_beyond_float16_is_refused():
    rows = build_rows([build_item("a", num_classes=50)], top_k=8)
    with pytest.raises(CacheError, match="row 0 has a log-probability that is not finite in float16"):
        encode(dataclasses.replace(rows, logprobs=rows.logprobs - 1e6), identity_of(rows).row_format, {})
