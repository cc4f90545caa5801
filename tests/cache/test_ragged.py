"""Taking and joining ragged rows."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.cache.ragged import concatenate, take
from kdcache.core.errors import CacheError

from .conftest import build_item, build_rows


def some_rows(sizes, *, top_k=2, num_classes=5):
    items = [build_item(f"i{n}", num_rows=size, num_classes=num_classes) for n, size in enumerate(sizes)]
    return [build_rows([item], top_k=top_k, seed=n) for n, item in enumerate(items)]


def same(one, other):
    for name in one.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@settings(max_examples=25)
@given(sizes=st.lists(st.integers(0, 3), min_size=1, max_size=5), data=st.data())
def test_taking_items_is_joining_their_rows(sizes, data):
    parts = some_rows(sizes)
    chosen = data.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=6))
    found, wanted = take(concatenate(parts), np.array(chosen)), concatenate([parts[i] for i in chosen])
    width = wanted.ids.shape[1]  # taking keeps the width, joining has that of its parts
    assert not found.kept[:, width:].any()
    same(dataclasses.replace(found, ids=found.ids[:, :width], logprobs=found.logprobs[:, :width]), wanted)


def test_a_dense_part_beside_a_sparse_one_gets_unused_atoms():
    joined = concatenate([*some_rows([1], top_k=9), *some_rows([1])])
    assert joined.atoms.shape == (2, 5, 2)
    assert np.isneginf(joined.atoms[0, :, 1]).all()
    assert joined.num_kept.tolist() == [5, 2]


def test_rows_of_different_widths_are_padded_to_the_widest():
    narrow, wide = some_rows([2], top_k=2)[0], some_rows([1], top_k=4)[0]
    joined = concatenate([narrow, wide, narrow])
    assert joined.ids.shape == joined.logprobs.shape == (5, 4)
    assert joined.num_kept.tolist() == [2, 2, 4, 2, 2]
    assert joined.kept.sum(axis=1).tolist() == [2, 2, 4, 2, 2]
    assert joined.ids[~joined.kept].tolist() == [0] * 8
    assert joined.logprobs[~joined.kept].tolist() == [-np.inf] * 8
    np.testing.assert_array_equal(joined.ids[2], wide.ids[0])
    np.testing.assert_array_equal(joined.ids[3:, :2], narrow.ids)
    assert (joined.ids.dtype, joined.logprobs.dtype) == (np.int64, np.float32)


def test_joining_keeps_narrow_types():
    parts = [
        dataclasses.replace(part, ids=part.ids.astype(np.int32), logprobs=part.logprobs.astype(np.float16))
        for part in (some_rows([2], top_k=2)[0], some_rows([1], top_k=4)[0])
    ]
    joined = concatenate(parts)
    assert (joined.ids.dtype, joined.logprobs.dtype) == (np.int32, np.float16)
    assert np.isneginf(joined.logprobs[0, 2:]).all()


def test_nothing_to_join_and_an_index_outside_are_refused():
    with pytest.raises(CacheError, match="there are no rows to join"):
        concatenate([])
    with pytest.raises(CacheError, match=r"item indices must lie in range\(1\), not 0 to 1"):
        take(some_rows([2])[0], np.array([0, 1]))


def test_taking_nothing_gives_no_rows():
    nothing = take(some_rows([2])[0], np.array([], dtype=np.int64))
    assert (nothing.num_items, nothing.num_rows) == (0, 0)
