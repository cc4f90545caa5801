"""What the rows of a teacher share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.cache.tables import HEAD, TABLES, check, from_bytes, id_table, needs, to_bytes
from kdcache.core.errors import CacheError
from kdcache.core.types import IGNORE

from .conftest import build_head, build_item, build_rows, build_teacher, tables_of


def item_with(labels, tokens=()):
    item = build_item("a", num_tokens=max(len(tokens), 1), num_rows=len(labels))
    item.labels_R[:] = labels
    item.inputs["input_ids"][: len(tokens)] = tokens
    return item


def test_frequent_classes_come_first_and_ties_stand_in_class_order():
    table = id_table([item_with([4, 2, 4, IGNORE]), item_with([2, 4, 1])], num_classes=6)
    assert (table.tolist(), table.dtype) == ([4, 2, 1, 0, 3, 5], np.int32)


def test_tokens_count_only_where_an_item_has_no_label_and_never_beyond_the_classes():
    table = id_table([item_with([IGNORE], tokens=[5, 5, 99]), item_with([2], tokens=[3, 3, 3])], num_classes=6)
    assert table.tolist() == [5, 2, 0, 1, 3, 4]


def test_what_a_first_block_keeps_counts_too():
    items = [build_item(f"i{n}", num_rows=3, num_classes=50) for n in range(4)]
    rows = build_rows(items, top_k=8)
    counts = np.bincount(rows.ids.ravel(), minlength=50)
    table = id_table([], num_classes=50, rows=rows)
    assert (np.diff(counts[table]) <= 0).all()


@given(labels=st.lists(st.integers(0, 30), max_size=40), num_classes=st.integers(1, 31))
def test_a_table_is_a_permutation_and_equal_items_give_equal_tables(labels, num_classes):
    items = [item_with([label]) for label in labels]
    table = id_table(items, num_classes=num_classes)
    assert sorted(table.tolist()) == list(range(num_classes))
    np.testing.assert_array_equal(table, id_table(items[::-1], num_classes=num_classes))


def hidden(codec="int8"):
    return build_teacher(store="hidden", codec=codec, top_k=0, hidden_size=4, num_classes=9)


def test_each_codec_says_which_files_it_needs():
    assert needs(build_teacher()) == ()
    assert needs(build_teacher(codec="compact")) == (TABLES,)
    assert needs(hidden("float16")) == (HEAD,)
    assert needs(hidden()) == (TABLES, HEAD)


def test_tables_and_head_come_back_bit_by_bit_and_equal_ones_give_equal_bytes():
    head = build_head(num_classes=9, hidden_size=4) | {"soft_cap": np.array([30.0], np.float32)}
    for arrays, file in ((tables_of(hidden()), TABLES), (head, HEAD)):
        content = to_bytes(arrays)
        assert content == to_bytes(dict(reversed(arrays.items())))
        found = from_bytes(content, hidden(), file)
        assert {n: a.tobytes() for n, a in found.items()} == {n: a.tobytes() for n, a in arrays.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"mean": None},
            r"codec\.safetensors of teacher t_hs \(store hidden, codec int8\) lacks 'mean'; it",
        ),
        ({"id_table": np.zeros(9, np.int32)}, "has no 'id_table'; it holds mean, rotation_seed"),
        ({"mean": np.zeros(5, np.float32)}, r"mean is float32 \[5\]; expected: float32 \[4\]"),
        ({"mean": np.zeros(4)}, r"mean is float64 \[4\]; expected: float32 \[4\]"),
        ({"mean": np.full(4, np.nan, np.float32)}, "mean is not finite"),
        ({"rotation_seed": np.array([-1])}, "rotation_seed is -1; it must be at least 0"),
    ],
)
def test_tables_that_do_not_fit_are_refused(change, message):
    tables = {name: array for name, array in {**tables_of(hidden()), **change}.items() if array is not None}
    with pytest.raises(CacheError, match=message):
        check(tables, hidden(), TABLES)


@pytest.mark.parametrize("table", [[0, 1, 1], [0, 1, 3], [0, -1, 2]])
def test_an_id_table_that_is_no_permutation_is_refused(table):
    teacher = build_teacher(codec="compact", num_classes=3, top_k=2)
    with pytest.raises(CacheError, match="id_table does not name every class once"):
        check({"id_table": np.array(table, np.int32)}, teacher, TABLES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": np.zeros((8, 4), np.float32)}, r"weight is float32 \[8, 4\]; expected: .* \[9, 4\]"),
        ({"bias": np.zeros(9, np.float64)}, "bias is float64 "),
        ({"scale": np.array([np.inf], np.float32)}, "scale is not finite"),
        ({"norm": np.zeros(4, np.float32)}, "has no 'norm'; it holds weight"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(change, message):
    with pytest.raises(CacheError, match=message):
        check({**build_head(num_classes=9, hidden_size=4), **change}, hidden(), HEAD)


def test_bytes_that_are_no_safetensors_are_refused():
    with pytest.raises(CacheError, match=r"head\.safetensors of teacher t_hs is no safetensors file"):
        from_bytes(b"\xff" * 40, hidden(), HEAD)
