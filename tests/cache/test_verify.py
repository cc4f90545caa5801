"""Verifying a cache, also one whose records fit its damage."""

import dataclasses
import json

import numpy as np
import pytest

from kdcache.cache.catalog import manifest_path, newest_manifest
from kdcache.cache.codec import encode
from kdcache.cache.items import items_to_parquet
from kdcache.cache.reader import Cache
from kdcache.cache.records import Manifest, tree_digest
from kdcache.cache.shards import to_files
from kdcache.cache.store import FileRecord
from kdcache.cache.tables import to_bytes
from kdcache.cache.verify import verify
from kdcache.core.errors import CacheFormatError

from .conftest import build_rows, identity_of


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_cache_has_no_damage(sealed, deep):
    assert verify(sealed, deep=deep) == ()


def swap(root, one, other):
    first, second = (root / one).read_bytes(), (root / other).read_bytes()
    assert len(first) == len(second)
    (root / one).write_bytes(second)
    (root / other).write_bytes(first)


def test_two_valid_shards_that_changed_places_are_both_named(sealed):
    blocks = newest_manifest(sealed).blocks
    swap(sealed, *(f"{blocks[name]['00000'].folder}/logprobs/c.0.0" for name in ("t_hs", "t_ll")))
    for deep in (False, True):
        damages = verify(sealed, deep=deep)
        assert {(d.part, d.block) for d in damages} == {("t_hs", "00000"), ("t_ll", "00000")}
    assert damages[0].message.endswith("logprobs/c.0.0 does not have the sha256 it was committed with")


def test_a_damaged_identity_belongs_to_no_block(sealed):
    path = sealed / "teachers" / "t_hs" / "teacher.json"
    path.write_text(path.read_text().replace("0.9", "0.8"))
    assert [(d.part, d.block) for d in verify(sealed)] == [("cache", "")]


def forge(root, part, block, files):
    """Replace a block and make every record fit, as whoever wrote a wrong cache would have."""
    manifest = newest_manifest(root)
    record = manifest.blocks[part][block]
    for name, content in files.items():
        (root / record.folder / name).write_bytes(content)
    forged = dataclasses.replace(record, files={name: FileRecord.of(content) for name, content in files.items()})
    blocks = {**manifest.blocks, part: {**manifest.blocks[part], block: forged}}
    path = root / manifest_path(manifest.number)
    path.write_bytes(dataclasses.replace(manifest, blocks=blocks).to_json())
    tree = json.loads(path.read_bytes())
    assert tree["digest"] == tree_digest({k: v for k, v in tree.items() if k not in ("digest", "number")})
    Manifest.from_tree(tree, where="x")


def forge_rows(toy, root, rows):
    block = toy.plan.blocks[0]
    arrays = encode(
        rows, identity_of(rows).row_format, {}, num_rows=block.num_rows, first_row=toy.plan.first_row[: block.stop]
    )
    attributes = {"teacher": "t_hs", "block": block.name}
    forge(root, "t_hs", block.name, to_files(arrays, chunk_rows=toy.plan.chunk_rows, attributes=attributes))


@pytest.fixture
def sparse(make_toy, tmp_path):
    toy = make_toy(num_classes=9)
    toy.dump(tmp_path / "sparse", top_k=4, num_classes=20)
    block = toy.plan.blocks[0]
    return toy, tmp_path / "sparse", build_rows(toy.flat[: block.stop], top_k=4, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: {"ids": np.where(np.arange(24).reshape(6, 4) == 1, r.ids[:, :1], r.ids)},
            "1 of 6 rows keep a class twice (row 0)",
        ),
        (lambda r: {"logprobs": r.logprobs - 1}, "6 of 6 rows have a mass further than 0.01 from 1"),
        (lambda r: {"gold": np.roll(r.gold, 1)}, "do not fit their labels in"),
        (lambda r: {"num_classes": r.num_classes + 1}, "row 0 has 10 classes, its item says 9"),
    ],
)
def test_rows_that_are_committed_but_wrong_are_found_by_deep_verification_only(sparse, change, message):
    toy, root, rows = sparse
    forge_rows(toy, root, dataclasses.replace(rows, **change(rows)))
    assert verify(root) == ()
    (damage,) = verify(root, deep=True)
    assert (damage.part, damage.block) == ("t_hs", "00000")
    assert message in damage.message


def test_tokens_that_are_not_the_plan_s_are_found(toy, sealed):
    block = toy.plan.blocks[0]
    items = toy.flat[: block.stop]
    tokens = {**items[2].inputs, "input_ids": items[2].inputs["input_ids"][::-1].copy()}
    items = [*items[:2], dataclasses.replace(items[2], inputs=tokens), *items[3:]]
    forge(sealed, "items", block.name, {"items.parquet": items_to_parquet(items)})
    (damage,) = verify(sealed, deep=True)
    assert (damage.part, damage.message) == ("items", "item 'train2' does not have the tokens of the plan")


def test_a_block_of_items_that_cannot_be_read_is_reported_once(sealed):
    folder = newest_manifest(sealed).blocks["items"]["00001"].folder
    path = sealed / folder / "items.parquet"
    path.write_bytes(b"\0" * path.stat().st_size)
    damages = verify(sealed, deep=True)
    assert [(d.part, d.block) for d in damages] == [("items", "00001")] * 2
    assert "items.parquet cannot be read" in damages[1].message


def test_what_is_no_cache_cannot_be_verified(tmp_path):
    with pytest.raises(CacheFormatError):
        verify(tmp_path)


def test_verification_reads_any_number_of_teachers(sealed):
    assert tuple(Cache.open(sealed).teachers) == ("t_hs", "t_ll")
    assert verify(sealed, deep=True) == ()


@pytest.mark.parametrize("codec", ["float32", "float16", "bfloat16", "int8"])
def test_a_hidden_cache_is_sound_and_a_head_of_another_teacher_is_found(make_toy, tmp_path, codec):
    toy = make_toy(num_classes=50)
    head = toy.dump_hidden(tmp_path / "c", codec=codec)
    assert verify(tmp_path / "c", deep=True) == ()
    path = tmp_path / "c" / "teachers" / "t_hs" / "head.safetensors"
    path.write_bytes(to_bytes({**head, "weight": head["weight"][:, ::-1]}))
    (damage,) = verify(tmp_path / "c")
    assert (damage.part, damage.block) == ("cache", "")
    assert damage.message.endswith("head.safetensors does not have the sha256 it was committed with")
    manifest = newest_manifest(tmp_path / "c")
    forged = {**manifest.files, "teachers/t_hs/head.safetensors": FileRecord.of(path.read_bytes())}
    (tmp_path / "c" / manifest_path(1)).write_bytes(dataclasses.replace(manifest, files=forged).to_json())
    assert {d.part for d in verify(tmp_path / "c", deep=True)} == {"t_hs"}


@pytest.mark.parametrize("compressor", ["lz4", "zstd"])
@pytest.mark.parametrize("codec", ["fast", "compact"])
def test_a_sparse_cache_of_each_codec_is_sound(make_toy, tmp_path, codec, compressor):
    make_toy(num_classes=50).dump(tmp_path / "c", top_k=8, codec=codec, compressor=compressor)
    assert verify(tmp_path / "c", deep=True) == ()
