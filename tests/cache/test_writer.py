"""Writing: crashes, races, refusals, sealing."""

import dataclasses
import errno
import os
import threading

import numpy as np
import pytest

from kdcache.cache import store
from kdcache.cache.blocks import load_arrays
from kdcache.cache.catalog import newest_manifest, read_commits
from kdcache.cache.codec import encode, take
from kdcache.cache.reader import Cache
from kdcache.cache.writer import CacheWriter
from kdcache.core.errors import CacheDamaged, CacheError, CacheFormatError, CacheIncomplete, CacheMismatch

from .conftest import build_head, build_hidden, build_marker, build_rows, build_teacher, tables_of


def tree_of(root):
    """Content of every array and Parquet file by part, block and name, without the random folder ids."""
    content = {}
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if path.is_file() and parts[0] in ("items", "teachers"):
            content[tuple(part.partition(".")[0] if part[:5].isdigit() else part for part in parts)] = path.read_bytes()
    return content


def write_all(toy, root, *, stop=None, name="t_hs"):
    """Do pending work like a dump that may die after `stop` commits."""
    writer = toy.writer(root)
    done = 0
    for block in writer.pending_items():
        if done == stop:
            return writer
        writer.write_items(block, toy.flat[block.start : block.stop])
        done += 1
    writer.add_teacher(build_teacher(name))
    for block in writer.pending(name):
        if done == stop:
            return writer
        writer.write_rows(name, block, build_rows(toy.flat[block.start : block.stop], seed=block.start))
        done += 1
    return writer


@pytest.mark.slow
@pytest.mark.parametrize("stop", range(1, 8))
def test_a_dump_killed_after_any_commit_continues_to_the_same_bytes(toy, tmp_path, stop):
    write_all(toy, tmp_path / "whole").seal()
    write_all(toy, tmp_path / "killed", stop=stop)
    with pytest.raises(CacheIncomplete):
        Cache.open(tmp_path / "killed")
    (tmp_path / "killed" / "items" / "00000.dead").mkdir()  # an unfinished block
    (tmp_path / "killed" / "items" / "00000.dead" / "items.parquet").write_bytes(b"half")
    (tmp_path / "killed" / "commits" / "items" / ".tmp-00").write_bytes(b"half")
    write_all(toy, tmp_path / "killed").seal()
    orphan = ("items", "00000", "items.parquet")
    whole, killed = tree_of(tmp_path / "whole"), tree_of(tmp_path / "killed")
    for content in (whole, killed):
        content.pop(orphan)
    assert whole == killed
    Cache.open(tmp_path / "killed").rows("t_hs", np.arange(15))


def test_of_two_writers_on_one_block_one_wins_and_the_other_leaves_nothing(toy, tmp_path):
    writers = [toy.writer(tmp_path / "cache") for _ in range(4)]
    block, barrier = toy.plan.blocks[0], threading.Barrier(4)
    failures = []

    def write(writer):
        barrier.wait()
        try:
            writer.write_items(block, toy.flat[block.start : block.stop])
        except CacheError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    record = read_commits(tmp_path / "cache", "items", toy.plan)[block.name]
    assert [f"items/{path.name}" for path in (tmp_path / "cache" / "items").iterdir()] == [record.folder]


def test_a_block_that_is_committed_is_not_written_again(toy, tmp_path):
    writer = write_all(toy, tmp_path / "cache")
    before = tree_of(tmp_path / "cache")
    writer.write_items(toy.plan.blocks[0], toy.flat[: toy.plan.blocks[0].stop])
    assert tree_of(tmp_path / "cache") == before
    assert writer.pending_items() == writer.pending("t_hs") == []


def test_a_full_disk_at_any_sync_leaves_a_cache_that_continues(toy, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    write_all(toy, whole).seal()
    real, countdown = os.fsync, [0]

    def fsync(descriptor):
        countdown[0] -= 1
        if countdown[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(store.os, "fsync", fsync)
    root = tmp_path / "full"
    messages = []
    for number in range(1, 60):
        countdown[0] = 3 * number
        try:
            write_all(toy, root).seal()
            break
        except CacheError as error:
            messages.append(str(error))
    assert len(messages) > 5
    assert all(message.startswith("disk full while writing") for message in messages)
    for folder in [*(root / "items").iterdir(), *(root / "teachers" / "t_hs").glob("0*")]:
        assert any(folder.name in path.read_text() for path in (root / "commits").rglob("*.json")), folder
    assert tree_of(root) == tree_of(whole)


def test_another_dump_into_the_same_folder_names_the_field_and_both_values(toy, make_toy, tmp_path):
    toy.writer(tmp_path / "cache")
    other = dataclasses.replace(toy, marker=build_marker(tokenizer_digest="88bb"))
    with pytest.raises(CacheMismatch) as caught:
        other.writer(tmp_path / "cache")
    assert str(caught.value).endswith(
        "is another cache: its tokenizer_digest is '77aa', this dump's is '88bb'; dump into another folder"
    )
    with pytest.raises(CacheMismatch, match="has another plan than this dump: number of items 15 and 16; dump into"):
        make_toy(train=12).writer(tmp_path / "cache")
    with pytest.raises(CacheMismatch, match=r"has another plan than this dump: block of item 4 .'train4'.: 0 and 1"):
        make_toy(block_tokens=20).writer(tmp_path / "cache")


def test_a_folder_that_is_no_cache_is_not_written_into(toy, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(CacheFormatError, match="exists and is not a kdcache cache; dump into a new or empty folder"):
        toy.writer(tmp_path)
    with pytest.raises(CacheFormatError, match=r"thesis\.tex exists and is not a kdcache cache"):
        toy.writer(tmp_path / "thesis.tex")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".tmp-01").write_bytes(b"")
    assert len(toy.writer(tmp_path / "empty").pending_items()) == len(toy.plan.blocks)


def test_an_unknown_writer_feature_makes_a_cache_read_only(toy, tmp_path):
    later = dataclasses.replace(toy, marker=build_marker(writer_features=("diff",)))
    with pytest.raises(CacheFormatError, match="is read-only here: it needs the writer feature 'diff'"):
        later.writer(tmp_path / "cache")


def test_marker_and_plan_agree_on_the_chunk(toy, tmp_path):
    with pytest.raises(CacheError, match="chunk_rows is 5 in the marker and 4096 in the plan"):
        CacheWriter.open(tmp_path, build_marker(5), toy.plan, items=lambda b: [])


def test_another_teacher_under_the_same_name_shows_both_digests(toy, tmp_path):
    toy.writer(tmp_path / "cache").add_teacher(build_teacher())
    writer = toy.writer(tmp_path / "cache")
    writer.add_teacher(build_teacher(score={"f1": 0.1}))
    assert writer.teachers["t_hs"].score == {"f1": 0.9}
    with pytest.raises(CacheMismatch) as caught:
        writer.add_teacher(build_teacher(weight_digest="ffee"))
    assert "already has a teacher t_hs whose weight_digest is 'a1b2c3d4', this one's is 'ffee'" in str(caught.value)


def test_rows_of_a_teacher_that_was_not_added_are_refused(toy, tmp_path):
    writer = toy.writer(tmp_path / "cache")
    with pytest.raises(CacheError, match="teacher 't_hs' was not added to this dump; added: none"):
        writer.pending("t_hs")


def test_items_that_changed_since_the_dump_began_are_refused(toy, tmp_path):
    writer, block = toy.writer(tmp_path / "cache"), toy.plan.blocks[0]
    items = toy.flat[block.start : block.stop]
    with pytest.raises(CacheMismatch, match="block 00000 has 6 items in the plan, not 5"):
        writer.write_items(block, items[1:])
    with pytest.raises(CacheMismatch, match="is not the plan's: uid 'train1', planned 'train0'"):
        writer.write_items(block, [items[1], items[0], *items[2:]])
    tokens = {**items[0].inputs, "input_ids": items[0].inputs["input_ids"] + 1}
    with pytest.raises(
        CacheMismatch, match=r"token digest '[0-9a-f]{16}', planned '[0-9a-f]{16}'; the data or the tok"
    ):
        writer.write_items(block, [dataclasses.replace(items[0], inputs=tokens), *items[1:]])


def writer_with_teacher(toy, root, **changes):
    writer = toy.writer(root)
    writer.add_teacher(build_teacher(**changes))
    block = toy.plan.blocks[0]
    return writer, block, build_rows(toy.flat[block.start : block.stop])


def test_rows_that_do_not_belong_to_the_items_are_refused(toy, make_toy, tmp_path):
    writer, block, rows = writer_with_teacher(toy, tmp_path / "cache")
    turned = take(rows, np.roll(np.arange(block.num_items), 1))
    with pytest.raises(CacheMismatch, match="block 00000 of teacher t_hs do not fit their labels in"):
        writer.write_rows("t_hs", block, turned)
    with pytest.raises(
        CacheMismatch, match="block 00000 of teacher t_hs has 5 items with 5 rows, its items have 6 with 6"
    ):
        writer.write_rows("t_hs", block, take(rows, np.arange(5)))
    wide = build_rows(make_toy(num_classes=4).flat[block.start : block.stop])
    with pytest.raises(CacheMismatch, match="row 0 has 4 classes, its item says 3"):
        writer.write_rows("t_hs", block, wide)
    assert len(writer.pending("t_hs")) == len(toy.plan.blocks)


def test_rows_that_do_not_fit_the_store_or_are_no_distribution_are_refused(toy, tmp_path):
    writer, block, rows = writer_with_teacher(toy, tmp_path / "cache", top_k=2)
    with pytest.raises(
        CacheError, match="keeps 3 classes and 0 atoms a row, but the teacher was added with top_k 2 and 5"
    ):
        writer.write_rows("t_hs", block, rows)
    writer, block, rows = writer_with_teacher(toy, tmp_path / "other")
    with pytest.raises(CacheDamaged, match="block 00000 of teacher t_hs: 6 of 6 rows have a mass further than"):
        writer.write_rows("t_hs", block, dataclasses.replace(rows, logprobs=rows.logprobs - 1, gold=rows.gold - 1))


def test_sealing_needs_every_block_and_says_how_many_lack(toy, tmp_path):
    writer = write_all(toy, tmp_path / "cache", stop=1)
    with pytest.raises(
        CacheIncomplete, match="lacks 2 of 3 blocks of items, the first 00001; run the same command again"
    ):
        writer.seal()


def test_sealing_twice_changes_nothing_and_a_second_teacher_gives_a_new_manifest(toy, tmp_path):
    root = tmp_path / "cache"
    first = write_all(toy, root).seal()
    assert write_all(toy, root).seal() == first == newest_manifest(root)
    write_all(toy, root, name="t_ll")
    assert newest_manifest(root) == first
    assert tuple(Cache.open(root).teachers) == ("t_hs",)
    second = write_all(toy, root, name="t_ll").seal()
    assert (second.number, second.teachers) == (2, ("t_hs", "t_ll"))
    assert second.digest != first.digest
    assert sorted(path.name for path in (root / "manifests").iterdir()) == ["000001.json", "000002.json"]


def test_another_s_unfinished_teacher_does_not_hinder_sealing(toy, tmp_path):
    root = tmp_path / "cache"
    write_all(toy, root, name="t_ll", stop=4)
    assert write_all(toy, root).seal().teachers == ("t_hs",)


def test_a_file_lost_before_sealing_is_noticed(toy, tmp_path):
    writer = write_all(toy, tmp_path / "cache")
    next((tmp_path / "cache" / "teachers" / "t_hs").glob("00001.*/lse/c.0")).unlink()
    with pytest.raises(CacheDamaged, match=r"lse/c\.0 is missing; restore it, or dump this block again"):
        writer.seal()


def test_the_manifest_counts_the_forwards_of_the_dump(toy, tmp_path):
    manifest = write_all(toy, tmp_path / "cache").seal()
    assert manifest.forwards("t_hs") == manifest.totals["items"] == 15
    assert manifest.totals["rows"] == 15
    assert manifest.signatures["test/t_hs"] == "kdcache1|toy@3f2a.test|roberta-large@a1b2:t_hs|topk64|items4"


def test_items_alone_can_be_sealed_for_hard_labels(toy, tmp_path):
    writer = toy.writer(tmp_path / "cache")
    for block in writer.pending_items():
        writer.write_items(block, toy.flat[block.start : block.stop])
    assert writer.seal().teachers == ()


def test_a_name_belongs_to_one_teacher_only(toy, tmp_path):
    writer = toy.writer(tmp_path / "cache")
    writer.add_teacher(build_teacher(aliases=("t_ll",)))
    writer.add_teacher(build_teacher(aliases=("t_ll",)))
    with pytest.raises(CacheMismatch) as caught:
        toy.writer(tmp_path / "cache").add_teacher(build_teacher("t_ll", weight_digest="ff"))
    assert "the name t_ll of teacher t_ll already belongs to teacher t_hs with weights 'a1b2c3d4'" in str(caught.value)
    with pytest.raises(CacheMismatch, match=r"whose aliases is \('t_ll',\), this one's is \(\)"):
        writer.add_teacher(build_teacher())


def test_rows_wider_than_the_teacher_are_refused(toy, tmp_path):
    writer, block, rows = writer_with_teacher(toy, tmp_path / "cache", num_classes=2)
    with pytest.raises(CacheError, match="has a row of 3 classes; the teacher was added with 2"):
        writer.write_rows("t_hs", block, rows)


def hidden_teacher(codec="int8", **changes):
    return build_teacher(store="hidden", codec=codec, top_k=0, hidden_size=4, num_classes=3, **changes)


def test_tables_and_head_are_published_once_and_the_published_ones_are_used(toy, tmp_path):
    head, teacher = build_head(num_classes=3, hidden_size=4), hidden_teacher()
    first, second = toy.writer(tmp_path / "c"), toy.writer(tmp_path / "c")
    assert not first.has_tables("t_hs")
    first.add_teacher(teacher, shared=tables_of(teacher, seed=1), head=head)
    assert first.has_tables("t_hs")
    before = tree_of(tmp_path / "c")
    second.add_teacher(teacher, shared=tables_of(teacher, seed=2), head=head)  # the mean of another first batch
    toy.writer(tmp_path / "c").add_teacher(teacher)
    assert tree_of(tmp_path / "c") == before
    block = toy.plan.blocks[0]
    for writer in (second, first):
        rows = build_hidden(toy.flat[block.start : block.stop], head)
        writer.write_rows("t_hs", block, rows)
    arrays = tables_of(teacher, seed=1)
    record = read_commits(tmp_path / "c", "t_hs", toy.plan)[block.name]
    found = load_arrays(tmp_path / "c", toy.plan, block, record, identity=teacher, shared=arrays)
    written = encode(
        rows, teacher.row_format, arrays, num_rows=block.num_rows, first_row=toy.plan.first_row[: block.stop]
    )
    np.testing.assert_array_equal(found["hidden"], written["hidden"])


def test_another_head_is_refused(toy, tmp_path):
    teacher = hidden_teacher("float32")
    toy.writer(tmp_path / "c").add_teacher(teacher, head=build_head(num_classes=3, hidden_size=4))
    with pytest.raises(CacheMismatch, match=r"head\.safetensors is another head than this dump's; dump the teacher"):
        toy.writer(tmp_path / "c").add_teacher(teacher, head=build_head(num_classes=3, hidden_size=4, seed=1))


def test_tables_that_lack_or_are_too_many_are_refused_before_anything_is_written(toy, tmp_path):
    writer, head = toy.writer(tmp_path / "c"), build_head(num_classes=3, hidden_size=4)
    before = tree_of(tmp_path / "c")
    for teacher, given, message in (
        (hidden_teacher(), {"head": head}, r"needs codec\.safetensors, .*; give add_teacher\(\.\.\., shared="),
        (hidden_teacher("float32"), {}, r"needs head\.safetensors, .*; give add_teacher\(\.\.\., head="),
        (build_teacher(codec="compact"), {}, r"store topk, codec compact needs codec\.safetensors"),
        (build_teacher(), {"head": head}, r"codec fast has no head\.safetensors, but bias, weight came with it"),
        (build_teacher(), {"shared": head}, r"codec fast has no codec\.safetensors, but bias, weight came with it"),
    ):
        with pytest.raises(CacheError, match=message):
            writer.add_teacher(teacher, **given)
    assert tree_of(tmp_path / "c") == before


def test_hidden_rows_that_are_not_the_items_ring_the_alarm(toy, tmp_path):
    writer, head = toy.writer(tmp_path / "c"), build_head(num_classes=3, hidden_size=4)
    writer.add_teacher(hidden_teacher("float16"), head=head)
    block = toy.plan.blocks[0]
    rows = build_hidden(toy.flat[block.start : block.stop], head)
    # As a tool writes them that takes the rows in the order in which its threads finish.
    with pytest.raises(CacheMismatch, match="block 00000 of teacher t_hs do not fit their labels"):
        writer.write_rows("t_hs", block, dataclasses.replace(rows, hidden=rows.hidden[::-1]))
    with pytest.raises(CacheError, match=r"has hidden vectors of \[3\]; the teacher was added with hidden_size 4"):
        writer.write_rows("t_hs", block, dataclasses.replace(rows, hidden=rows.hidden[:, :3]))
    with pytest.raises(CacheError, match="is SparseRows; the teacher was added with store hidden"):
        writer.write_rows("t_hs", block, build_rows(toy.flat[block.start : block.stop]))


@pytest.mark.parametrize("codec", ["fast", "compact"])
def test_rows_in_completion_order_ring_the_alarm(make_toy, tmp_path, codec):
    toy = make_toy(num_classes=12)
    writer, teacher = toy.writer(tmp_path / "c"), build_teacher(num_classes=12, top_k=8, codec=codec)
    writer.add_teacher(teacher, shared=tables_of(teacher))
    block = toy.plan.blocks[0]
    rows = build_rows(toy.flat[block.start : block.stop], top_k=8)
    with pytest.raises(CacheMismatch, match="do not fit their labels"):
        writer.write_rows("t_hs", block, take(rows, np.array([1, 0, 2, 3, 4, 5])))
    writer.write_rows("t_hs", block, rows)
