"""Blocks from disk, and the memory that keeps them."""

import threading

import numpy as np
import pytest

from kdcache.cache.blocks import ByteLRU, load_arrays, load_items
from kdcache.cache.catalog import read_commits, read_teacher
from kdcache.cache.codec import encode
from kdcache.cache.items import items_to_parquet
from kdcache.cache.records import CommitRecord
from kdcache.cache.shards import to_files
from kdcache.cache.store import FileRecord
from kdcache.core.errors import CacheDamaged, CacheFormatError

from .conftest import build_rows, identity_of


def test_the_least_recently_used_value_goes_first():
    lru, loaded = ByteLRU(budget=10), []

    def get(key, size=4):
        return lru.get(key, lambda: (loaded.append(key) or key.upper(), size))

    assert [get("a"), get("b"), get("a"), get("c"), get("a"), get("b")] == ["A", "B", "A", "C", "A", "B"]
    assert loaded == ["a", "b", "c", "b"]
    assert lru.num_bytes == 8


def test_a_value_over_the_budget_is_kept_alone():
    lru = ByteLRU(budget=10)
    lru.get("a", lambda: (1, 4))
    assert lru.get("big", lambda: (2, 99)) == 2
    assert lru.num_bytes == 99


def test_threads_that_load_the_same_value_count_it_once():
    lru, barrier = ByteLRU(budget=100), threading.Barrier(4)

    def load():
        barrier.wait()
        return "x", 7

    threads = [threading.Thread(target=lru.get, args=("a", load)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lru.num_bytes == 7


def record_of(root, part, files):
    """Write files and the record that fits them, as a hostile writer could."""
    for name, content in files.items():
        (root / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "x" / name).write_bytes(content)
    records = {name: FileRecord.of(content) for name, content in files.items()}
    return CommitRecord(part=part, block="00000", folder="x", files=records, num_items=6, num_rows=6, forwards=0)


def test_items_that_are_not_the_plan_s_are_damage_even_with_a_fitting_record(toy, tmp_path):
    block = toy.plan.blocks[0]
    items = toy.flat[: block.stop]
    assert load_items(
        tmp_path, toy.plan, block, record_of(tmp_path, "items", {"items.parquet": items_to_parquet(items)})
    )
    for content, message in (
        ({"other.parquet": b""}, r"block 00000 of items: items\.parquet is missing"),
        ({"items.parquet": items_to_parquet(items[::-1])}, "the items are not those of the plan"),
    ):
        with pytest.raises(CacheDamaged, match=message):
            load_items(tmp_path, toy.plan, block, record_of(tmp_path, "items", content))


def test_items_of_other_lengths_are_damage(toy, make_toy, tmp_path):
    other = make_toy(num_rows=2)
    content = {"items.parquet": items_to_parquet(other.flat[: toy.plan.blocks[0].stop])}
    with pytest.raises(CacheDamaged, match="the lengths of positions are not those of the plan"):
        load_items(tmp_path, toy.plan, toy.plan.blocks[0], record_of(tmp_path, "items", content))


def test_rows_that_are_not_where_the_plan_has_them_are_damage(make_toy, tmp_path):
    toy = make_toy(num_rows=9, num_classes=5, block_tokens=9)
    block = toy.plan.blocks[0]
    rows = build_rows(toy.flat[: block.stop], top_k=2)
    identity = identity_of(rows)
    shifted = encode(
        rows, identity.row_format, {}, num_rows=block.num_rows, first_row=toy.plan.first_row[: block.stop] + 1
    )
    record = record_of(tmp_path, "t", to_files(shifted, chunk_rows=128, attributes={}))
    with pytest.raises(
        CacheDamaged, match="block 00000 of teacher t: num_classes has 18 rows that are not where the plan has"
    ):
        load_arrays(tmp_path, toy.plan, block, record, identity=identity, shared={})
    short = encode(rows, identity.row_format, {})
    record = record_of(tmp_path, "t", to_files(short, chunk_rows=9, attributes={}))
    plan = make_toy(train=3, num_rows=5, num_classes=5, block_tokens=99).plan
    with pytest.raises(CacheDamaged, match="the block has 18 rows, the plan 15"):
        load_arrays(tmp_path, plan, plan.blocks[0], record, identity=identity, shared={})


def test_a_codec_outside_the_whitelist_names_the_block(toy, tmp_path):
    block = toy.plan.blocks[0]
    rows = build_rows(toy.flat[: block.stop])
    files = to_files(encode(rows, identity_of(rows).row_format, {}), chunk_rows=9, attributes={})
    files["lse/zarr.json"] = files["lse/zarr.json"].replace(b"blosc", b"pickle")
    record = record_of(tmp_path, "t", files)
    with pytest.raises(CacheFormatError, match="block 00000 of teacher t: array lse is coded by bytes, pickle, crc32c"):
        load_arrays(tmp_path, toy.plan, block, record, identity=identity_of(rows), shared={})


def test_a_file_that_shrank_since_opening_is_damage(sealed, toy):
    record = read_commits(sealed, "t_hs", toy.plan)["00000"]
    (sealed / record.folder / "lse" / "c.0").write_bytes(b"")
    with pytest.raises(CacheDamaged, match=r"c\.0 has 0 bytes instead of"):
        load_arrays(sealed, toy.plan, toy.plan.blocks[0], record, identity=read_teacher(sealed, "t_hs"), shared={})


def test_reading_leaves_arrays_as_they_were_encoded(sealed, toy):
    block = toy.plan.blocks[1]
    record, identity = read_commits(sealed, "t_hs", toy.plan)[block.name], read_teacher(sealed, "t_hs")
    arrays = load_arrays(sealed, toy.plan, block, record, identity=identity, shared={})
    written = encode(build_rows(toy.flat[block.start : block.stop], seed=block.start), identity.row_format, {})
    for name, array in written.items():
        np.testing.assert_array_equal(arrays[name], array)
