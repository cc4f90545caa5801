"""Opening and reading: every fault has a name, and nothing is ever filled with zeros."""

import contextlib
import dataclasses
import json
import shutil

import numpy as np
import pytest

from kdcache.cache.blocks import ByteLRU
from kdcache.cache.codec import take, unpack
from kdcache.cache.plan import make_plan
from kdcache.cache.reader import Cache
from kdcache.core.errors import CacheDamaged, CacheError, CacheFormatError, CacheIncomplete, KDCacheError

from .conftest import build_hidden, build_item, build_rows, build_teacher


def files_of(root):
    return sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())


def sealed_files(root):
    return [path for path in files_of(root) if path.parts[0] in ("items", "teachers", "kdcache.json", "plan.parquet")]


def read_all(root):
    cache = Cache.open(root)
    everything = np.arange(cache.plan.num_items)
    items = [item.uid for item in cache.items(everything)]
    return items, [cache.rows(name, everything).logprobs.tobytes() for name in cache.teachers]


@pytest.mark.parametrize(("num_rows", "num_classes", "top_k"), [(1, 3, 64), (2, 9, 4), (20, 40, 8), (3, 9, 9)])
def test_items_and_rows_come_back_in_the_order_asked_for(make_toy, tmp_path, num_rows, num_classes, top_k):
    toy = make_toy(num_rows=num_rows, num_classes=num_classes)
    toy.dump(tmp_path / "c", top_k=top_k)
    cache = Cache.open(str(tmp_path / "c"))
    indices = np.array([14, 0, 7, 7, 3, 12])
    assert [item.uid for item in cache.items(indices)] == [toy.flat[i].uid for i in indices]
    for item, index in zip(cache.items(indices), indices, strict=True):
        np.testing.assert_array_equal(item.inputs["input_ids"], toy.flat[index].inputs["input_ids"])
    found = cache.rows("t_hs", indices)
    for place, index in enumerate(indices):
        block = toy.plan.blocks[toy.plan.block[index]]
        written = build_rows(toy.flat[block.start : block.stop], top_k=top_k, seed=block.start)
        one, other = take(found, np.array([place])), take(written, np.array([index - block.start]))
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.logprobs, other.logprobs)
        np.testing.assert_array_equal(one.gold, other.gold)
        np.testing.assert_allclose(one.atoms, other.atoms, atol=1e-3)


def test_a_small_memory_gives_the_same_rows(sealed):
    cache = Cache.open(sealed)
    everything = np.arange(15)
    whole = cache.rows("t_hs", everything)
    small = dataclasses.replace(cache, _blocks=ByteLRU(budget=1))
    again = small.rows("t_hs", everything)
    np.testing.assert_array_equal(whole.logprobs, again.logprobs)
    assert small._blocks.num_bytes < cache._blocks.num_bytes / 2


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["delete", "empty", "cut", "grow", "link"])
def test_every_file_that_is_missing_or_of_another_size_is_named_at_open(sealed, fault):
    for name in sealed_files(sealed):
        path = sealed / name
        content = path.read_bytes()
        path.unlink()
        if fault == "link":
            (sealed.parent / "copy").write_bytes(content)
            path.symlink_to(sealed.parent / "copy")
        elif fault != "delete":
            path.write_bytes({"empty": b"", "cut": content[:-1], "grow": content + b"\0"}[fault])
        with pytest.raises((CacheDamaged, CacheFormatError)) as caught:
            Cache.open(sealed)
        assert path.name in str(caught.value)
        path.unlink(missing_ok=True)
        path.write_bytes(content)
    Cache.open(sealed)


@pytest.mark.slow
def test_no_flipped_bit_is_silent(sealed):
    reference = read_all(sealed)
    random = np.random.default_rng(0)
    names = [path for path in files_of(sealed) if path.parts[0] != "commits"]
    messages, silent = [], 0
    for name in names:
        path = sealed / name
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[random.integers(len(content))] ^= 1 << int(random.integers(8))
        path.write_bytes(flipped)
        try:
            silent += read_all(sealed) != reference
        except KDCacheError as error:
            messages.append(str(error))
        path.write_bytes(content)
    assert silent == 0
    assert len(messages) > 0.9 * len(names)
    assert not any("\n" in message for message in messages)


def block_folder(root, number, part="teachers/t_hs"):
    return next((root / part).glob(f"{number:05d}.*"))


def test_a_flipped_bit_in_a_shard_names_block_array_and_chunk(sealed):
    path = block_folder(sealed, 1) / "logprobs" / "c.0.0"
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheDamaged, match="block 00001 of teacher t_hs: array logprobs, chunk 0 fails its checksum"):
        Cache.open(sealed).rows("t_hs", np.arange(15))


def test_valid_shards_that_changed_places_are_noticed(make_toy, tmp_path):
    toy = make_toy(train=8, test=8)
    toy.dump(tmp_path / "c", teachers=("t_hs", "t_ll"))
    one, other = (block_folder(tmp_path / "c", 0, f"teachers/{name}") / "lse" / "c.0" for name in ("t_hs", "t_ll"))
    assert one.stat().st_size == other.stat().st_size
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    with pytest.raises(CacheDamaged, match=r"block 00000 of teacher t_hs: lse/c\.0 is not the file that was committed"):
        Cache.open(tmp_path / "c").rows("t_hs", np.arange(3))


def test_a_swapped_items_file_is_noticed(sealed):
    path = block_folder(sealed, 0, "items") / "items.parquet"
    content = bytearray(path.read_bytes())
    content[70] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheDamaged, match=r"block 00000 of items: items\.parquet"):
        Cache.open(sealed).items(np.array([0]))


def test_a_linked_block_folder_is_refused(sealed):
    folder = block_folder(sealed, 0)
    folder.rename(sealed.parent / "elsewhere")
    folder.symlink_to(sealed.parent / "elsewhere")
    with pytest.raises(CacheDamaged, match="is a symbolic link; a cache holds none"):
        Cache.open(sealed)


def newest(root):
    path = root / "manifests" / "000001.json"
    return path, json.loads(path.read_bytes())


def test_half_a_manifest_is_refused_and_a_temporary_one_ignored(sealed):
    path, _ = newest(sealed)
    (sealed / "manifests" / ".tmp-aa").write_bytes(b"{")
    Cache.open(sealed)
    content = path.read_bytes()
    (sealed / "manifests" / "000002.json").write_bytes(content[: len(content) // 2])
    with pytest.raises(CacheDamaged, match=r"000002\.json is not valid JSON"):
        Cache.open(sealed)


def test_a_manifest_of_another_cache_is_never_mixed_in(make_toy, sealed, tmp_path):
    make_toy().dump(tmp_path / "other", teachers=("t_hs", "t_ll"))
    shutil.copy(tmp_path / "other" / "manifests" / "000001.json", sealed / "manifests" / "000002.json")
    with pytest.raises(CacheDamaged, match="has a manifest of another cache: uuid '"):
        Cache.open(sealed)


def reseal(root, edit):
    """Write an edited manifest with a digest that fits, as an attacker could."""
    from kdcache.cache.records import tree_digest

    path, tree = newest(root)
    edit(tree)
    unnumbered = {k: v for k, v in tree.items() if k not in ("digest", "number")}
    tree["digest"] = tree_digest(unnumbered)
    path.write_text(json.dumps(tree))


@pytest.mark.parametrize(
    "folder", ["../outside/00000.x", "/etc", "teachers/t_hs/../../x", "C:\\x", "teachers/t_hs/a\0b"]
)
def test_a_manifest_that_leaves_the_cache_is_refused_before_any_open(sealed, folder):
    reseal(sealed, lambda tree: tree["blocks"]["t_hs"]["00000"].update(folder=folder))
    with pytest.raises(CacheFormatError, match="is no path inside a cache; nothing was opened"):
        Cache.open(sealed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.update(format="x"), "is not a kdcache manifest"),
        (lambda t: t.update(blocks=[]), "where an object belongs"),
        (lambda t: t["blocks"].pop("items"), "lists no items"),
        (lambda t: t["blocks"]["t_hs"].pop("00001"), "the manifest has 2 blocks of t_hs, the plan 3"),
        (lambda t: t["blocks"]["t_hs"]["00001"].update(block="00000"), "is the record of block '00000' of 't_hs'"),
        (
            lambda t: t["blocks"]["t_hs"]["00001"].update(folder=t["blocks"]["t_ll"]["00001"]["folder"]),
            "which is not one of block 00001 of t_hs",
        ),
        (lambda t: t["blocks"]["t_hs"]["00001"].update(num_rows=-1), "num_rows must be a whole number >= 0"),
        (lambda t: t["files"]["plan.parquet"].update(sha256="00"), "is not the plan that was sealed"),
        (lambda t: t["files"]["kdcache.json"].update(size="1"), "size must be a whole number"),
    ],
)
def test_a_manifest_that_contradicts_the_cache_is_refused(sealed, edit, message):
    reseal(sealed, edit)
    with pytest.raises(CacheDamaged) as caught:
        Cache.open(sealed)
    assert message in str(caught.value)


def test_a_manifest_with_another_digest_is_refused(sealed):
    path, tree = newest(sealed)
    path.write_text(json.dumps({**tree, "uuid": "0"}))
    with pytest.raises(CacheDamaged, match="its content has"):
        Cache.open(sealed)


def test_foreign_files_in_a_cache_are_never_opened(sealed):
    (block_folder(sealed, 0) / "payload.pkl").write_bytes(b"\x80\x04cos\nsystem\n")
    (sealed / "items" / "x.pt").write_bytes(b"PK")
    assert len(read_all(sealed)[0]) == 15


def test_what_is_no_cache_says_so(tmp_path):
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(
            CacheFormatError, match=r"is not a kdcache cache: it has no kdcache\.json; give the folder a du"
        ):
            Cache.open(path)
    with pytest.raises(CacheError, match="s3://bucket/x is a URL; this version reads caches in local folders"):
        Cache.open("s3://bucket/x")


def test_a_cache_of_a_later_major_says_which_version_reads_it(sealed):
    path = sealed / "kdcache.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "major": 3, "created_by": "kdcache 7.0"}))
    with pytest.raises(
        CacheFormatError, match=r"is format 3\.0, written by kdcache 7\.0; .* read it with kdcache 7\.0"
    ):
        Cache.open(sealed)


def test_an_unfinished_dump_says_how_far_it_came_and_can_be_looked_into(toy, tmp_path):
    writer = toy.writer(tmp_path / "c")
    block = toy.plan.blocks[0]
    writer.write_items(block, toy.flat[: block.stop])
    with pytest.raises(CacheIncomplete) as caught:
        Cache.open(tmp_path / "c")
    assert str(caught.value).endswith(
        "is not finished: 1 of 3 blocks of items; run the same command again: it continues"
    )
    cache = Cache.open(tmp_path / "c", allow_incomplete=True)
    assert not cache.sealed
    assert cache.items(np.array([0]))[0].uid == "train0"
    with pytest.raises(CacheIncomplete, match="lacks block 00002 of items"):
        cache.items(np.array([14]))


def test_wrong_names_and_indices_list_what_there_is(sealed):
    cache = Cache.open(sealed)
    with pytest.raises(CacheError, match="has no teacher 'bert'; it has t_hs, t_ll"):
        cache.rows("bert", np.array([0]))
    with pytest.raises(CacheError, match=r"item indices must lie in range\(15\), not 15..15"):
        cache.items(np.array([15]))
    with pytest.raises(CacheError, match="rows of no items were asked for"):
        cache.rows("t_hs", np.array([], dtype=np.int64))
    assert cache.items(np.array([], dtype=np.int64)) == []
    with pytest.raises(CacheError, match="has no split 'dev'; it has train, test"):
        cache.signature("dev", "t_hs")


def test_a_read_only_cache_can_be_read_by_permission(sealed):
    for path in [sealed, *sealed.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    found = read_all(sealed)[0]
    for path in [sealed, *sealed.rglob("*")]:
        path.chmod(0o755)
    assert len(found) == 15


def test_spaces_and_unicode_in_the_path_are_fine(toy, tmp_path):
    toy.dump(tmp_path / "ein schöner Ort")
    assert len(read_all(tmp_path / "ein schöner Ort")[0]) == 15


def test_an_alias_gives_the_rows_of_the_same_weights(toy, tmp_path):
    writer = toy.dump(tmp_path / "c", teachers=())
    writer.add_teacher(build_teacher(aliases=("t_ll",)))
    for block in writer.pending("t_hs"):
        writer.write_rows("t_hs", block, build_rows(toy.flat[block.start : block.stop]))
    writer.seal()
    cache = Cache.open(tmp_path / "c")
    assert cache.teacher("t_ll") == cache.teacher("t_hs")
    first = np.array([0])
    assert cache.rows("t_ll", first).lse == cache.rows("t_hs", first).lse
    assert cache.signature("train", "t_ll") == cache.signature("train", "t_hs")
    with pytest.raises(CacheError, match="has no teacher 'x'; it has t_hs, t_ll"):
        cache.teacher("x")


STORES = [("fast", "lz4"), ("fast", "zstd"), ("compact", "lz4"), ("compact", "zstd")]


@pytest.mark.parametrize(("codec", "compressor"), STORES)
def test_packed_rows_come_in_the_order_asked_for_and_unpack_to_the_rows(make_toy, tmp_path, codec, compressor):
    toy = make_toy(num_rows=2, num_classes=40)
    toy.dump(tmp_path / "c", top_k=8, codec=codec, compressor=compressor)
    cache = Cache.open(tmp_path / "c")
    indices = np.array([14, 0, 7, 7, 3, 12])
    packed, rows = cache.packed("t_hs", indices), cache.rows("t_hs", indices)
    assert (packed.store, packed.codec, packed.num_rows) == ("topk", codec, 12)
    assert packed.shared is cache.packed("t_hs", indices[:1]).shared is cache.shared("t_hs")
    assert cache.head("t_hs") is None
    np.testing.assert_array_equal(unpack(packed).ids, rows.ids)
    for place, index in enumerate(indices):
        one = cache.rows("t_hs", np.array([index]))
        np.testing.assert_array_equal(one.logprobs, take(rows, np.array([place])).logprobs)


@pytest.mark.parametrize("codec", ["dense", "fast", "compact"])
def test_blocks_of_different_widths_are_joined_with_fill(make_toy, tmp_path, codec):
    toy = make_toy(num_classes=9)
    narrow = toy.plan.blocks[0].stop
    items = [*(build_item(item.uid, num_tokens=item.num_tokens) for item in toy.flat[:narrow]), *toy.flat[narrow:]]
    split = {"train": items[:11], "test": items[11:]}
    toy = dataclasses.replace(toy, items=split, plan=make_plan(split, block_tokens=30, chunk_rows=4096))
    toy.dump(tmp_path / "c", top_k=9 if codec == "dense" else 5, codec=codec)
    cache = Cache.open(tmp_path / "c")
    rows = cache.rows("t_hs", np.array([0, 14, 1]))
    assert rows.num_kept.tolist() == ([3, 9, 3] if codec == "dense" else [3, 5, 3])
    packed = cache.packed("t_hs", np.array([0, 14, 1]))
    name = "logprobs" if codec == "dense" else "ids"
    fill = np.isnan(packed.arrays[name]) if codec == "dense" else packed.arrays[name] == 65535
    assert fill.sum(axis=1).tolist() == ([6, 0, 6] if codec == "dense" else [2, 0, 2])


@pytest.mark.parametrize("codec", ["float32", "float16", "bfloat16", "int8"])
def test_hidden_rows_and_their_head_come_back(make_toy, tmp_path, codec):
    toy = make_toy(num_classes=50)
    head = toy.dump_hidden(tmp_path / "c", codec=codec)
    cache = Cache.open(tmp_path / "c")
    assert {name: array.tobytes() for name, array in cache.head("t_hs").items()} == {
        name: array.tobytes() for name, array in head.items()
    }
    assert cache.head("t_hs") is cache.head("t_hs")
    assert sorted(cache.shared("t_hs")) == (["mean", "rotation_seed"] if codec == "int8" else [])
    indices = np.array([12, 3, 3])
    rows = cache.rows("t_hs", indices)
    slack = {"float32": 0, "float16": 2e-3, "bfloat16": 2e-2, "int8": 0.05}[codec]
    for place, index in enumerate(indices):
        block = toy.plan.blocks[toy.plan.block[index]]
        written = build_hidden(toy.flat[block.start : block.stop], head, seed=block.start)
        np.testing.assert_allclose(rows.hidden[place], written.hidden[index - block.start], atol=slack)
        assert rows.lse[place] == written.lse[index - block.start]


@pytest.mark.parametrize("file", ["codec.safetensors", "head.safetensors"])
def test_a_table_or_head_that_was_exchanged_is_named_at_open_or_first_read(make_toy, tmp_path, file):
    make_toy(num_classes=50).dump_hidden(tmp_path / "c", codec="int8")
    path = tmp_path / "c" / "teachers" / "t_hs" / file
    content = path.read_bytes()
    path.write_bytes(content[:-4] + b"\x01\x02\x03\x04")
    cache = Cache.open(tmp_path / "c")
    with pytest.raises(CacheDamaged, match=r"is not the file that was sealed; restore it, or dump this teacher again"):
        cache.head("t_hs") if file == "head.safetensors" else cache.packed("t_hs", np.array([0]))
    path.write_bytes(content + b"\0")
    with pytest.raises(CacheDamaged, match=rf"{file} has .* bytes instead of"):
        Cache.open(tmp_path / "c")
    path.unlink()
    with pytest.raises(CacheDamaged, match=rf"{file} is missing"):
        Cache.open(tmp_path / "c")


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["compact", "int8"])
def test_no_flipped_bit_is_silent_in_any_file_of_a_coded_cache(make_toy, tmp_path, codec):
    toy = make_toy(num_classes=50, test=2)
    if codec == "int8":
        toy.dump_hidden(tmp_path / "c", codec=codec)
    else:
        toy.dump(tmp_path / "c", top_k=8, codec=codec)

    def read():
        cache = Cache.open(tmp_path / "c")
        packed = cache.packed("t_hs", np.arange(cache.plan.num_items))
        return [array.tobytes() for array in (*packed.arrays.values(), *(cache.head("t_hs") or {}).values())]

    reference, random, silent = read(), np.random.default_rng(0), 0
    for name in [p for p in files_of(tmp_path / "c") if p.parts[0] == "teachers"]:
        content = (tmp_path / "c" / name).read_bytes()
        flipped = bytearray(content)
        flipped[random.integers(len(content))] ^= 1 << int(random.integers(8))
        (tmp_path / "c" / name).write_bytes(flipped)
        with contextlib.suppress(KDCacheError):
            silent += read() != reference
        (tmp_path / "c" / name).write_bytes(content)
    assert silent == 0
