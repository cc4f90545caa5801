"""Items <-> items.parquet."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.cache.items import items_from_parquet, items_to_parquet
from kdcache.core.errors import CacheDamaged, CacheError

from .conftest import build_item


def same(one, other):
    assert (one.uid, dict(one.meta)) == (other.uid, dict(other.meta))
    assert sorted(one.inputs) == sorted(other.inputs)
    for name, array in one.inputs.items():
        assert array.dtype == other.inputs[name].dtype == np.int32
        np.testing.assert_array_equal(array, other.inputs[name])
    for name in ("positions_R", "labels_R", "classes_R"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@settings(max_examples=20)
@given(sizes=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 4)), min_size=1, max_size=6))
def test_items_come_back_and_equal_items_give_equal_bytes(sizes):
    items = [build_item(f"ü{n}", num_tokens=t, num_rows=r) for n, (t, r) in enumerate(sizes)]
    content = items_to_parquet(items)
    assert content == items_to_parquet(items)
    columns = items_from_parquet(content)
    assert columns.num_items == len(items)
    assert columns.num_bytes > 0
    for n, item in enumerate(items):
        same(columns.item(n), item)


def test_arrays_of_an_item_cannot_be_changed_by_accident():
    item = items_from_parquet(items_to_parquet([build_item("a")])).item(0)
    with pytest.raises(ValueError, match="read-only"):
        item.inputs["input_ids"][0] = 1


def test_items_that_do_not_fit_together_are_refused():
    item = build_item("a", num_rows=2)
    other = dataclasses.replace(item, uid="b", inputs={"input_ids": item.inputs["input_ids"]})
    with pytest.raises(CacheError, match=r"item 'b' has inputs \['input_ids'\], its neighbours"):
        items_to_parquet([item, other])
    with pytest.raises(CacheError, match="item 'a' has positions, labels and classes of different lengths"):
        items_to_parquet([dataclasses.replace(item, labels_R=item.labels_R[:1])])
    with pytest.raises(CacheError, match="meta of item 'a' is not JSON"):
        items_to_parquet([dataclasses.replace(item, meta={"x": float("nan")})])
    with pytest.raises(CacheError, match="meta of item 'a' is not JSON"):
        items_to_parquet([dataclasses.replace(item, meta={"x": np.int32(1)})])


def test_a_flipped_bit_in_a_page_fails_its_checksum():
    content = bytearray(items_to_parquet([build_item(f"i{n}", num_tokens=40) for n in range(9)]))
    content[60] ^= 8
    with pytest.raises(CacheDamaged, match=r"items\.parquet cannot be read: .*CRC"):
        items_from_parquet(bytes(content))


def test_another_parquet_file_is_not_taken_for_items():
    with pytest.raises(CacheDamaged, match=r"items\.parquet cannot be read"):
        items_from_parquet(b"PAR1 not really PAR1")
