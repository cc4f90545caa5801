"""Rows <-> the arrays of a block, whatever the codec; `codecs/` tests each."""

import dataclasses

import numpy as np
import pytest

from kdcache.cache.codec import check_arrays, encode
from kdcache.core.errors import CacheDamaged, CacheError

from .conftest import build_head, build_hidden, build_item, build_rows, build_teacher, identity_of


def rows_of(sizes, *, num_classes=7, top_k=4):
    items = [build_item(f"i{n}", num_rows=size, num_classes=num_classes) for n, size in enumerate(sizes)]
    return build_rows(items, top_k=top_k)


def change(rows, **values):
    return dataclasses.replace(rows, **values)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda r: change(r, lse=r.lse[:-1]), "the arrays of the rows differ in length"),
        (lambda r: change(r, ids=r.ids[:-1]), "the arrays of the rows differ in length"),
        (lambda r: change(r, row_ptr=np.array([0, 1])), "row_ptr must rise from 0 to 2"),
        (lambda r: change(r, num_kept=r.num_kept[:-1]), "the arrays of the rows differ in length"),
        (lambda r: change(r, ids=r.ids[:, :3]), r"ids are \[2, 3\] and logprobs \[2, 4\]; both are \[rows, entries\]"),
        (
            lambda r: change(r, ids=r.ids.ravel()[:2]),
            r"ids are \[2\] and logprobs \[2, 4\]; both are",
        ),
        (lambda r: change(r, num_kept=np.array([0, 4])), "row 0 keeps 0 of 7 classes; at least 1, at most all"),
        (lambda r: change(r, num_kept=np.array([4, -1])), "row 1 keeps -1 of 7 classes; at least 1, at most all"),
        (
            lambda r: change(r, num_kept=np.array([4, 5])),
            "row 1 keeps 5 of 7 classes; at least 1, at most all, and at most the 4 entries of a row",
        ),
        (lambda r: change(r, ids=r.ids + 7), "a row keeps a class outside 0 to V - 1"),
    ],
)
def test_rows_that_no_block_can_hold_are_refused(broken, message):
    rows = rows_of([2])
    with pytest.raises(CacheError, match=message):
        encode(broken(rows), identity_of(rows).row_format, {})


def test_hidden_rows_that_no_block_can_hold_are_refused():
    rows = build_hidden([build_item("a", num_rows=2)], build_head(num_classes=3, hidden_size=4))
    identity = build_teacher(store="hidden", codec="float32", top_k=0, hidden_size=4, num_classes=3)
    with pytest.raises(CacheError, match="the arrays of the rows differ in length"):
        encode(change(rows, hidden=rows.hidden[:1]), identity.row_format, {})
    with pytest.raises(CacheError, match="row_ptr must rise from 0 to 2"):
        encode(change(rows, row_ptr=np.array([0, 3])), identity.row_format, {})


def test_rows_of_another_store_are_refused():
    rows = rows_of([2])
    hidden = build_teacher(store="hidden", codec="float32", top_k=0, hidden_size=4)
    with pytest.raises(CacheError, match="SparseRows cannot be stored in store hidden"):
        encode(rows, hidden.row_format, {})


def test_rows_beyond_the_block_or_of_other_items_are_refused():
    rows = rows_of([3])
    with pytest.raises(CacheError, match="the rows end at row 2, but the block has 2 rows"):
        encode(rows, identity_of(rows).row_format, {}, num_rows=2)
    with pytest.raises(CacheError, match="the rows belong to 1 items, the plan has 2 in this block"):
        encode(rows, identity_of(rows).row_format, {}, first_row=np.array([0, 3]))


def test_rows_wider_than_the_teacher_keeps_are_damage():
    rows = rows_of([3])
    arrays = encode(rows, identity_of(rows).row_format, {})
    with pytest.raises(CacheDamaged, match="the rows are 4 classes wide; their teacher keeps at most 3"):
        check_arrays(arrays, identity_of(rows, top_k=3).row_format, {})
