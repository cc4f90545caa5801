"""What holds for every codec: round trips, holes, layout."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.cache.check import hidden_alignment
from kdcache.cache.codec import check_arrays, encode, pack, unpack
from kdcache.cache.codecs import CODECS
from kdcache.cache.codecs.floats import to_bfloat16
from kdcache.cache.invariants import invariants
from kdcache.cache.ragged import concatenate, take
from kdcache.core.errors import CacheDamaged, CacheError, CacheMismatch
from kdcache.core.row_format import STORES

from ..conftest import build_head, build_hidden, build_item, build_rows, build_teacher, identity_of, tables_of

ALL = sorted(CODECS)


def case(store, codec, sizes, *, num_classes=30, top_k=6, seed=0):
    """Rows, their teacher, and its tables."""
    items = [build_item(f"i{n}", num_rows=size, num_classes=num_classes) for n, size in enumerate(sizes)]
    if store == "hidden":
        rows = build_hidden(items, build_head(num_classes=num_classes, hidden_size=12), seed=seed)
        identity = build_teacher(store=store, codec=codec, top_k=0, hidden_size=12, num_classes=num_classes)
    else:
        top_k = num_classes if codec == "dense" else min(top_k, num_classes - 1)
        rows = build_rows(items, top_k=top_k, seed=seed)
        identity = build_teacher(codec=codec, top_k=top_k, num_classes=num_classes)
    return rows, identity, tables_of(identity)


def test_the_registry_has_the_codecs_of_the_layout():
    assert set(CODECS) == {(store, codec) for store, codecs in STORES.items() for codec in codecs}


@pytest.mark.parametrize(("store", "codec"), ALL)
@settings(max_examples=15)
@given(sizes=st.lists(st.integers(0, 3), min_size=1, max_size=4), gap=st.integers(0, 2), seed=st.integers(0, 9))
def test_unpacking_gives_back_what_was_packed_within_the_codec_s_error(store, codec, sizes, gap, seed):
    rows, identity, tables = case(store, codec, sizes, seed=seed)
    packed = pack(rows, identity.row_format, tables)
    found = unpack(packed)
    np.testing.assert_allclose(found.lse, rows.lse, rtol=2**-14 if codec in ("fast", "compact") else 0)
    for name in ("row_ptr", "num_classes", "gold"):
        np.testing.assert_array_equal(getattr(found, name), getattr(rows, name), err_msg=name)
    if store == "topk":
        np.testing.assert_array_equal(found.num_kept, rows.num_kept)
        np.testing.assert_array_equal(found.ids[found.kept], rows.ids[rows.kept])
        assert (found.ids[~found.kept] == 0).all()
        assert np.isneginf(found.logprobs[~found.kept]).all()
        np.testing.assert_allclose(found.moments, rows.moments, rtol=2**-11)
        slack = 1 / 64 + 1e-6 if codec == "compact" else 0
        np.testing.assert_allclose(found.logprobs[found.kept], rows.logprobs[rows.kept], rtol=0, atol=slack)
    else:
        slack = {"float32": 0, "float16": 2**-11, "bfloat16": 2**-8, "int8": 0.03}[codec]
        np.testing.assert_allclose(found.hidden, rows.hidden, rtol=slack, atol=4 * slack)
    first_row = np.cumsum([0, *(size + gap for size in sizes[:-1])])
    total = max(sum(sizes) + gap * len(sizes), 1)
    check_arrays(
        encode(rows, identity.row_format, tables, num_rows=total, first_row=first_row), identity.row_format, tables
    )


@pytest.mark.parametrize(("store", "codec"), ALL)
def test_packing_what_was_unpacked_gives_the_same_bytes(store, codec):
    rows, identity, tables = case(store, codec, [2, 3])
    once = pack(rows, identity.row_format, tables)
    again = pack(unpack(once), identity.row_format, tables)
    for name, array in once.arrays.items():
        if codec != "int8":  # a second rotation rounds
            assert array.tobytes() == again.arrays[name].tobytes(), name
    assert sorted(once.arrays) == sorted(again.arrays)


@pytest.mark.parametrize(("store", "codec"), ALL)
def test_taking_and_joining_packed_rows_equals_unpacking_some_of_them(store, codec):
    rows, identity, tables = case(store, codec, [2, 1, 3])
    packed = pack(rows, identity.row_format, tables)
    order = np.array([2, 0, 2])
    picked, joined = (
        unpack(take(packed, order)),
        unpack(concatenate([take(packed, order[:1]), take(packed, order[1:])])),
    )
    expected = take(unpack(packed), order)
    for field in dataclasses.fields(expected):
        for found in (picked, joined):
            np.testing.assert_allclose(
                getattr(found, field.name), getattr(expected, field.name), rtol=1e-6, err_msg=field.name
            )


@pytest.mark.parametrize(("store", "codec"), ALL)
def test_every_array_of_a_padding_row_is_filled_and_a_hole_is_damage(store, codec):
    rows, identity, tables = case(store, codec, [3])
    arrays = encode(rows, identity.row_format, tables, num_rows=4)
    for name, array in arrays.items():
        fill = np.full_like(array[3], np.nan if array.dtype.kind == "f" else 0)
        if array.dtype.kind != "f":
            fill[...] = -128 if array.dtype == np.int8 else np.iinfo(array.dtype).max
        np.testing.assert_array_equal(array[3], fill, err_msg=name)
    unseen = {"gold", "atom_shift", "gap_shift"}  # gold may lack; a shift of 255 is out of range
    for name, array in arrays.items():
        for row, other in ((1, 3), (3, 1)):  # a row lost, a row where none is
            broken = {**arrays, name: array.copy()}
            broken[name][row] = array[other]
            if name in unseen and row == 3:
                continue
            if name == "gold":
                continue
            with pytest.raises(CacheDamaged):
                check_arrays(broken, identity.row_format, tables)


@pytest.mark.parametrize(("store", "codec"), ALL)
def test_arrays_of_another_type_shape_or_name_are_damage(store, codec):
    rows, identity, tables = case(store, codec, [3])
    arrays = encode(rows, identity.row_format, tables)
    for name, array in arrays.items():
        with pytest.raises(CacheDamaged, match="the arrays are "):
            check_arrays({**arrays, name + "x": array}, identity.row_format, tables)
        with pytest.raises(CacheDamaged, match=rf"{name} is float64 \[3"):
            check_arrays({**arrays, name: array.astype(np.float64)}, identity.row_format, tables)
        if name != "num_classes":
            with pytest.raises(CacheDamaged, match=f"{name} is .* expected: "):
                check_arrays({**arrays, name: array[:2]}, identity.row_format, tables)


def as_bytes(arrays):
    return {name: (array.dtype, array.tobytes()) for name, array in arrays.items()}


def some_kept(rows, kept):
    """Rows cut to some of their entries, as `top_p` does."""
    kept_RK = np.arange(rows.ids.shape[1]) < kept[:, None]
    ids, logprobs = np.where(kept_RK, rows.ids, 0), np.where(kept_RK, rows.logprobs, np.float32(-np.inf))
    return dataclasses.replace(rows, num_kept=kept, ids=ids, logprobs=logprobs)


@pytest.mark.parametrize("kept", [[4, 4, 4], [4, 1, 2]])
@pytest.mark.parametrize("id_type", [np.uint16, np.int32, np.int64])
@pytest.mark.parametrize("codec", ["fast", "compact", "dense"])
def test_narrow_types_of_a_device_give_the_same_bytes(codec, id_type, kept):
    items = [build_item("a", num_classes=4 if codec == "dense" else 50, num_rows=3)]
    items = [dataclasses.replace(items[0], classes_R=np.array(kept, np.int32))] if codec == "dense" else items
    wide = build_rows(items, top_k=4)
    if codec != "dense":
        wide = some_kept(wide, np.array(kept))
    identity = identity_of(wide, codec=codec)
    tables = tables_of(identity)
    narrow = dataclasses.replace(
        wide,
        ids=wide.ids.astype(id_type),
        num_kept=wide.num_kept.astype(np.int32),
        # these log-probabilities are float16 numbers; those of dense rows are not
        logprobs=wide.logprobs if codec == "dense" else wide.logprobs.astype(np.float16),
    )
    invariants(narrow, mass_slack=1.0)
    wanted, found = (encode(rows, identity.row_format, tables) for rows in (wide, narrow))
    assert as_bytes(found) == as_bytes(wanted)


@pytest.mark.parametrize("codec", ["float16", "bfloat16", "int8", "float32"])
@pytest.mark.parametrize("given_type", ["float16", "bfloat16"])
def test_narrow_hidden_vectors_of_a_device_give_the_same_bytes(codec, given_type):
    head = build_head(num_classes=30, hidden_size=12)
    items = [build_item("a", num_classes=30, num_rows=5)]
    rows = build_hidden(items, head)
    hidden = rows.hidden.astype(np.float16) if given_type == "float16" else to_bfloat16(rows.hidden)
    narrow = dataclasses.replace(rows, hidden=hidden)
    wide = dataclasses.replace(rows, hidden=narrow.vectors.astype(np.float32))
    identity = build_teacher(store="hidden", codec=codec, hidden_size=12, num_classes=30)
    tables = tables_of(identity)
    wanted, found = (encode(these, identity.row_format, tables) for these in (wide, narrow))
    assert as_bytes(found) == as_bytes(wanted)
    invariants(narrow)
    hidden_alignment(narrow, items[0].labels_R, head=head, identity=identity, exact=True)
    with pytest.raises(CacheMismatch):
        hidden_alignment(narrow, np.roll(items[0].labels_R, 1), head=head, identity=identity, exact=True)
    broken = hidden.copy()
    broken[3, 2] = np.inf if given_type == "float16" else 0x7F80
    broken_rows = dataclasses.replace(rows, hidden=broken)
    with pytest.raises(CacheDamaged, match=r"1 of 5 rows have a hidden vector .* that is not finite \(row 3\)"):
        invariants(broken_rows)
    with pytest.raises(CacheError, match="row 3 has a hidden vector that is not finite"):
        encode(broken_rows, identity.row_format, tables)


@settings(max_examples=25)
@given(data=st.data(), codec=st.sampled_from(["fast", "compact"]), num_classes=st.sampled_from([9, 70_000]))
def test_ragged_rows_as_top_p_keeps_them_come_back(data, codec, num_classes):
    items = [build_item("a", num_classes=num_classes, num_rows=3)]
    wide = build_rows(items, top_k=8)
    kept = np.array(data.draw(st.lists(st.integers(1, 8), min_size=3, max_size=3)))
    rows = some_kept(wide, kept)
    identity = identity_of(rows, codec=codec, top_k=8, top_p=0.9)
    tables = tables_of(identity)
    arrays = encode(rows, identity.row_format, tables, num_rows=5)
    check_arrays(arrays, identity.row_format, tables)
    found = unpack(pack(rows, identity.row_format, tables))
    assert found.num_kept.tolist() == kept.tolist()
    assert found.ids.tolist() == rows.ids[:, : kept.max()].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["fast", "compact"])
@pytest.mark.parametrize(
    ("num_classes", "high"),
    [
        (65_536, None),
        (65_537, "uint8"),
        (131_072, "uint8"),
        (131_073, "uint8"),
        (152_064, "uint8"),
        (2**24 + 1, "uint16"),
    ],
)
def test_ids_beyond_17_bits_come_back(codec, num_classes, high):
    # One tool packs ids in 17 bits: vocabularies above 131,072 wrap around.
    rows = build_rows([build_item("a", num_classes=9)], top_k=3)
    ids = np.array([[num_classes - 1, 0, num_classes // 2]])
    rows = dataclasses.replace(rows, ids=ids, num_classes=np.array([num_classes], np.int32))
    identity = identity_of(rows, codec=codec)
    tables = tables_of(identity)
    arrays = encode(rows, identity.row_format, tables, num_rows=2)
    check_arrays(arrays, identity.row_format, tables)
    assert (arrays["ids_high"].dtype.name if "ids_high" in arrays else None) == high
    assert unpack(pack(rows, identity.row_format, tables)).ids.tolist() == ids.tolist()


def test_the_largest_vocabulary_has_ids_up_to_31_bits():
    rows = build_rows([build_item("a", num_classes=9)], top_k=2)
    largest = 2**31 - 1
    rows = dataclasses.replace(rows, ids=np.array([[largest - 1, 65_535]]), num_classes=np.array([largest], np.int32))
    identity = identity_of(rows)
    assert unpack(pack(rows, identity.row_format, {})).ids.tolist() == [[largest - 1, 65_535]]


@pytest.mark.parametrize("codec", ["fast", "compact"])
def test_entries_that_are_not_kept_are_filled_and_never_uninitialised(codec):
    # One tool writes whatever memory held where fewer than k classes came back.
    rows = build_rows([build_item("a", num_classes=2), build_item("b", num_classes=9)], top_k=4)
    identity = identity_of(rows, codec=codec)
    tables = tables_of(identity)
    arrays = encode(rows, identity.row_format, tables)
    assert arrays["num_kept"].tolist() == [2, 4]
    assert arrays["ids"][0, 2:].tolist() == [65_535, 65_535]
    for value in (0, 1, 8):
        broken = {**arrays, "ids": arrays["ids"].copy()}
        broken["ids"][0, 3] = value
        with pytest.raises(CacheDamaged, match="ids has a class outside 0 to V - 1, or values where no row is"):
            check_arrays(broken, identity.row_format, tables)
    assert unpack(pack(rows, identity.row_format, tables)).ids.tolist() == rows.ids.tolist()
