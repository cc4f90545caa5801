"""Rows <-> arrays of a block."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.cache.codec import decode, encode
from kdcache.cache.ragged import take
from kdcache.core.errors import CacheDamaged, CacheError

from .conftest import build_item, build_rows

GOLDEN = Path(__file__).parents[1] / "golden"


def rows_of(sizes, *, num_classes=7, top_k=4):
    items = [build_item(f"i{n}", num_rows=size, num_classes=num_classes) for n, size in enumerate(sizes)]
    return build_rows(items, top_k=top_k)


def same(one, other, *, but=()):
    for name in one.__dataclass_fields__:
        if name not in but:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=4), top_k=st.integers(1, 8), gap=st.integers(0, 2))
def test_decoding_gives_back_what_was_encoded_bit_by_bit(sizes, top_k, gap):
    rows = rows_of(sizes, top_k=top_k)
    first_row = np.cumsum([0, *(size + gap for size in sizes[:-1])])
    arrays = encode(rows, num_rows=max(sum(sizes) + gap * len(sizes), 1), first_row=first_row)
    if rows.num_rows == 0:
        return
    decoded = decode(arrays, row_ptr=rows.row_ptr)
    same(rows, decoded, but=("atoms", "moments") if top_k >= 7 else ("atoms",))
    if top_k < 7:
        np.testing.assert_allclose(decoded.atoms, rows.atoms, atol=1e-3)
    again = encode(decoded, num_rows=len(arrays["lse"]), first_row=first_row)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array.view(np.uint8), again[name].view(np.uint8), err_msg=name)


def test_dense_rows_are_float32_in_class_order_whatever_order_they_come_in():
    rows = rows_of([1], num_classes=3, top_k=3)
    turned = dataclasses.replace(rows, ids=rows.ids[::-1], logprobs=rows.logprobs[::-1])
    arrays = encode(turned)
    assert sorted(arrays) == ["gold", "logprobs", "lse", "num_classes", "num_kept"]
    assert arrays["logprobs"].dtype == np.float32
    same(decode(arrays), rows)


def test_rows_of_different_widths_share_a_block():
    items = [build_item("a", num_classes=2), build_item("b", num_classes=9)]
    arrays = encode(build_rows(items, top_k=4), num_rows=3)
    assert arrays["num_kept"].tolist() == [2, 4, 2**31 - 1]
    assert arrays["ids"][0, 2:].tolist() == [65535, 65535]
    assert np.isnan(arrays["logprobs"][0, 2:]).all()
    assert arrays["ids"][2].tolist() == [65535] * 4
    assert arrays["atoms"][2].min() == 65535
    rows, decoded = build_rows(items, top_k=4), decode(arrays)
    same(decoded, rows, but=("atoms", "logprobs"))
    np.testing.assert_array_equal(decoded.logprobs, rows.logprobs.astype(np.float16))


@pytest.mark.parametrize(("num_classes", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_ids_take_two_bytes_up_to_65536_classes(num_classes, dtype):
    rows = rows_of([1], num_classes=num_classes, top_k=3)
    rows = dataclasses.replace(rows, ids=np.array([num_classes - 1, 0, 1]))
    arrays = encode(rows)
    assert arrays["ids"].dtype == dtype
    assert decode(arrays).ids.tolist() == [num_classes - 1, 0, 1]


def test_bytes_of_a_small_block_are_frozen():
    # Literal on purpose: a change here makes every cache in the world unreadable.
    golden = json.loads((GOLDEN / "block.json").read_text())
    rows = rows_of([2, 1], num_classes=7, top_k=3)
    arrays = {
        name: np.frombuffer(bytes.fromhex(a["hex"]), a["dtype"]).reshape(a["shape"]) for name, a in golden.items()
    }
    decoded = decode(arrays, row_ptr=np.array([0, 2, 3]))
    encoded = encode(decoded, num_rows=4, first_row=np.array([0, 2]))
    assert {name: array.tobytes().hex() for name, array in encoded.items()} == {n: a["hex"] for n, a in golden.items()}
    assert decoded.ids.tolist() == rows.ids.tolist()


def change(rows, **values):
    return dataclasses.replace(rows, **values)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda r: change(r, lse=r.lse[:-1]), "the arrays of the rows differ in length"),
        (lambda r: change(r, ids=r.ids[:-1]), "the arrays of the rows differ in length"),
        (lambda r: change(r, row_ptr=np.array([0, 1])), "row_ptr must rise from 0 to 2"),
        (lambda r: change(r, entry_ptr=np.array([0, 9, 8])), "entry_ptr must rise from 0 to 8"),
        (lambda r: change(r, entry_ptr=np.array([0, 0, 8])), "row 0 keeps 0 of 7 classes; at least 1, at most all"),
        (lambda r: change(r, ids=r.ids + 7), "a row keeps a class outside 0 to V - 1"),
        (lambda r: change(r, logprobs=r.logprobs - 1e6), "row 0 has a log-probability that is not finite in float16"),
    ],
)
def test_rows_that_no_block_can_hold_are_refused(broken, message):
    with pytest.raises(CacheError, match=message):
        encode(broken(rows_of([2])))


def test_a_dense_row_that_keeps_a_class_twice_is_refused():
    rows = rows_of([1], num_classes=3, top_k=3)
    with pytest.raises(CacheError, match="not finite in float32, or keeps a class twice"):
        encode(change(rows, ids=np.array([0, 0, 1])))


def test_rows_beyond_the_block_or_of_other_items_are_refused():
    with pytest.raises(CacheError, match="the rows end at row 2, but the block has 2 rows"):
        encode(rows_of([3]), num_rows=2)
    with pytest.raises(CacheError, match="the rows belong to 1 items, the plan has 2 in this block"):
        encode(rows_of([3]), first_row=np.array([0, 3]))


def edit(name, place, value):
    def apply(arrays):
        arrays[name] = arrays[name].copy()
        arrays[name][place] = value

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: a.pop("lse"), "the arrays are atom_shift, atoms, gold, ids"),
        (edit("num_kept", 0, 0), "num_kept 0 of 7 classes at row 0 is impossible"),
        (edit("num_kept", 1, 5), "num_kept 5 of 7 classes at row 1 is impossible"),
        (edit("num_classes", 1, 3), "num_kept 4 of 3 classes at row 1 is impossible"),
        (edit("logprobs", (0, 1), np.nan), "logprobs has a hole, or values where no row is"),
        (edit("logprobs", (2, 0), 0.0), "logprobs has a hole, or values where no row is"),
        (edit("logprobs", (0, 1), -np.inf), "logprobs has a hole"),
        (edit("ids", (0, 1), 7), "ids has a class outside 0 to V - 1"),
        (edit("lse", 0, np.nan), "lse or gold is not finite"),
        (edit("gold", 0, np.inf), "lse or gold is not finite"),
        (edit("moments", (0, 1), np.nan), "moments is not finite"),
        (lambda a: a.update(lse=a["lse"].astype(np.float64)), r"lse is float64 \[3\], which no block holds"),
        (lambda a: a.update(ids=a["ids"][:, :3]), "ids and logprobs differ in shape"),
        (lambda a: a.update(atoms=a["atoms"][..., :1]), "atoms or moments do not come in pairs"),
    ],
)
def test_arrays_that_cannot_be_rows_are_damage(damage, message):
    arrays = encode(rows_of([2]), num_rows=3)
    damage(arrays)
    with pytest.raises(CacheDamaged, match=message):
        decode(arrays)


def test_rows_that_are_not_there_are_damage():
    arrays = encode(rows_of([2]), num_rows=3)
    with pytest.raises(CacheDamaged, match="2 rows are there, 3 belong there"):
        decode(arrays, row_ptr=np.array([0, 3]))


def test_taking_rows_of_a_decoded_block_equals_decoding_some_of_it():
    arrays = encode(rows_of([2, 1, 3]))
    whole = decode(arrays, row_ptr=np.array([0, 2, 3, 6]))
    part = decode({name: array[3:6] for name, array in arrays.items()}, row_ptr=np.array([0, 3]))
    same(take(whole, np.array([2])), part)
