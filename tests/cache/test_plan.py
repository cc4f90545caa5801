"""Which item stands in which block."""

import dataclasses

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.cache.plan import Plan, chunk_rows_for, make_plan, plan_from_parquet, plan_to_parquet, tokens_digest
from kdcache.core.errors import CacheDamaged, CacheError

from .conftest import build_item


def items(*tokens, num_rows=1, prefix="i"):
    return [build_item(f"{prefix}{n}", num_tokens=t, num_rows=num_rows) for n, t in enumerate(tokens)]


def test_blocks_close_before_the_budget_and_at_the_end_of_a_split():
    plan = make_plan({"train": items(4, 4, 4, 20, 1), "test": items(1)}, block_tokens=8, chunk_rows=4096)
    assert plan.block.tolist() == [0, 0, 1, 2, 3, 4]
    assert plan.first_row.tolist() == [0, 1, 0, 0, 0, 0]
    assert [(b.name, b.split, b.start, b.stop, b.num_rows) for b in plan.blocks] == [
        ("00000", "train", 0, 2, 2),
        ("00001", "train", 2, 3, 1),
        ("00002", "train", 3, 4, 1),
        ("00003", "train", 4, 5, 1),
        ("00004", "test", 5, 6, 1),
    ]
    assert plan.splits == ("train", "test")
    assert plan.indices("train").tolist() == [0, 1, 2, 3, 4]
    assert plan.blocks[0].items.tolist() == [0, 1]


def test_items_with_many_rows_begin_on_a_chunk():
    plan = make_plan({"train": items(20, 20, num_rows=9)}, block_tokens=100, chunk_rows=4)
    assert plan.first_row.tolist() == [0, 12]
    assert plan.blocks[0].num_rows == 24
    assert [chunk_rows_for(items(3, num_rows=n)) for n in (9, 511, 512, 1100, 9000)] == [128, 128, 256, 512, 1024]
    assert chunk_rows_for(items(20, num_rows=8)) == chunk_rows_for([]) == 4096


def test_short_items_fill_whole_chunks_once_they_need_more_than_one():
    plan = make_plan({"train": items(*[1] * 6)}, block_tokens=100, chunk_rows=4)
    assert plan.first_row.tolist() == [0, 1, 2, 3, 4, 5]
    assert plan.blocks[0].num_rows == 8


def test_the_token_digest_is_that_of_little_endian_int32():
    item = build_item("a", num_tokens=3)
    expected = xxhash.xxh3_64_intdigest(item.inputs["input_ids"].astype("<i4").tobytes())
    assert tokens_digest(item) == expected
    assert make_plan({"s": [item]}, block_tokens=9, chunk_rows=9).tokens_xxh3.tolist() == [expected]


@settings(max_examples=25)
@given(
    tokens=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    rows=st.integers(0, 12),
    budget=st.integers(1, 30),
    chunk=st.integers(1, 9),
)
def test_every_item_has_its_own_rows_and_the_plan_survives_parquet(tokens, rows, budget, chunk):
    plan = make_plan({"a": items(*tokens, num_rows=rows)}, block_tokens=budget, chunk_rows=chunk)
    for block in plan.blocks:
        taken = np.zeros(block.num_rows, int)
        for i in block.items:
            taken[plan.first_row[i] : plan.first_row[i] + plan.num_rows[i]] += 1
        assert taken.max(initial=0) <= 1
        assert taken.sum() == plan.num_rows[block.items].sum()
        assert plan.num_tokens[block.items].sum() <= budget or block.num_items == 1
        assert block.num_rows <= chunk or block.num_rows % chunk == 0
    again = plan_from_parquet(plan_to_parquet(plan), where="x")
    assert again.difference(plan) is None
    assert again.digest == plan.digest
    assert again.blocks == plan.blocks


def test_what_cannot_be_planned_is_refused():
    with pytest.raises(CacheError, match="block_tokens = 0 and chunk_rows = 1 must both be at least 1"):
        make_plan({"a": items(1)}, block_tokens=0, chunk_rows=1)
    with pytest.raises(CacheError, match="there are no items to cache"):
        make_plan({"a": []}, block_tokens=1, chunk_rows=1)
    with pytest.raises(CacheError, match="the uid 'i0' stands twice in split a"):
        make_plan({"a": items(1) * 2}, block_tokens=1, chunk_rows=1)


def test_an_unknown_split_lists_those_there_are():
    plan = make_plan({"a": items(1), "b": items(1)}, block_tokens=9, chunk_rows=9)
    with pytest.raises(CacheError, match="the cache has no split 'c'; it has a, b"):
        plan.indices("c")


def test_the_first_difference_of_two_plans_is_said_in_words():
    plan = make_plan({"a": items(1, 2)}, block_tokens=9, chunk_rows=9)
    other = make_plan({"a": items(1, 3)}, block_tokens=9, chunk_rows=9)
    assert plan.difference(other) == "num_tokens of item 1 ('i1'): 2 and 3"
    assert plan.difference(make_plan({"a": items(1)}, block_tokens=9, chunk_rows=9)) == "number of items 2 and 1"
    assert plan.difference(dataclasses.replace(plan, chunk_rows=3)) == "chunk_rows 9 and 3"


def broken(plan, **changes):
    names = ("num_tokens", "num_rows", "num_labels", "block", "first_row", "tokens_xxh3")
    columns = {name: np.array(changes.get(name, getattr(plan, name))) for name in names}
    split = changes.get("split", plan.split)
    return Plan.from_columns(uid=plan.uid, split=split, columns=columns, chunk_rows=changes.get("chunk_rows", 9))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block": [0, 0]}, "the plan is empty or its columns differ in length"),
        ({"block": [0, 2, 3]}, "the plan's blocks are not numbered 0, 1, 2"),
        ({"block": [1, 1, 1]}, "the plan's blocks are not numbered"),
        ({"num_rows": [1, -1, 1]}, "the plan has a value of num_rows outside 0 to 2\\^40"),
        ({"num_rows": [1, 2**45, 1]}, "the plan has a value of num_rows outside"),
        ({"num_labels": [2, 1, 1]}, "the plan has an item with more labels than rows"),
        ({"first_row": [0, 0, 2]}, "the plan has items whose rows overlap"),
        ({"split": ["a", "b", "b"]}, "block 0 of the plan has items of several splits"),
        ({"block": [0, 1, 2], "split": ["a", "b", "a"]}, "the plan has a split whose blocks are not adjacent"),
        ({"chunk_rows": 0}, "the plan has chunk_rows 0; allowed: 1 to 2\\^20"),
    ],
)
def test_columns_that_are_no_plan_are_damage(changes, message):
    plan = make_plan({"a": items(1, 1, 1)}, block_tokens=9, chunk_rows=9)
    with pytest.raises(CacheDamaged, match=message):
        broken(plan, **changes)


def test_a_flipped_bit_in_a_page_is_noticed():
    content = bytearray(plan_to_parquet(make_plan({"a": items(1, 2, 3)}, block_tokens=9, chunk_rows=9)))
    content[60] ^= 4
    with pytest.raises(CacheDamaged, match=r"x is not a readable plan: .*; restore it, or remove the folder of"):
        plan_from_parquet(bytes(content), where="x")
