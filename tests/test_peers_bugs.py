"""Bugs read in the code of others (the losses' are in losses/test_peers_bugs.py, the codecs' beside the codecs)."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdcache.cache import codec
from kdcache.cache.codec import unpack
from kdcache.cache.loader import Loader, Step
from kdcache.cache.ragged import concatenate
from kdcache.cache.reader import Cache
from kdcache.cache.shards import to_files
from kdcache.core.errors import ConfigError
from kdcache.core.order import epoch_order
from kdcache.training.batch import collate
from tests.cache.conftest import build_item, build_rows, build_toy, identity_of, tables_of


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    build_toy(train=23).dump(tmp_path / "cache")
    return Cache.open(tmp_path / "cache")


def steps(cache: Cache, *, seed: int = 0, rank: int = 0, world_size: int = 1) -> list[Step]:
    loader = Loader(
        cache,
        split="train",
        teachers=("t_hs",),
        batch_size=6,
        micro_batch_size=2,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
    return list(loader.steps(0))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_teacher_rows_follow_their_items_through_shuffling_and_ranks(cache: Cache, world_size: int) -> None:
    indices = cache.plan.indices("train")
    truth = {cache.plan.uid[i]: cache.rows("t_hs", np.array([i])) for i in indices}
    seen = 0
    for rank in range(world_size):
        for step in steps(cache, rank=rank, world_size=world_size):
            for micro in step.micros:
                rows = unpack(micro.rows["t_hs"])
                for i, item in enumerate(micro.items):
                    own = truth[item.uid]
                    mine = slice(rows.row_ptr[i], rows.row_ptr[i + 1])
                    assert rows.lse[mine].tolist() == own.lse.tolist()
                    seen += micro.weights_I[i] > 0
    assert seen == len(indices)


def test_seed_0_shuffles_like_any_other_and_no_seed_is_refused(cache: Cache) -> None:
    order = epoch_order(23, seed=0, epoch=0).tolist()
    assert sorted(order) == list(range(23)) != order
    assert order != epoch_order(23, seed=1, epoch=0).tolist()
    with pytest.raises(ConfigError, match=r"shuffling needs a seed from 0 to 2\^63 - 1, not None"):
        steps(cache, seed=None)  # type: ignore[arg-type]


def test_no_input_of_an_item_is_dropped_on_its_way_to_the_model() -> None:
    item = build_item("a", num_tokens=4)
    item = replace(item, inputs={**item.inputs, "token_type_ids": np.ones(4, np.int32)})
    batch = collate([item, item], pad_token_id=0)
    assert set(batch.inputs) == {*item.inputs, "token_type_ids", "attention_mask"}
    assert batch.inputs["token_type_ids"].tolist() == [[1] * 4] * 2


@pytest.mark.parametrize("name", ["fast", "compact"])
def test_a_reader_takes_the_codecs_settings_from_the_cache(name: str) -> None:
    items = [build_item(f"i{i}", num_rows=3, num_classes=40) for i in range(4)]
    rows = build_rows(items, top_k=6)
    identity = identity_of(rows, codec=name)
    packed = codec.pack(rows, identity.row_format, tables_of(identity))
    assert packed.codec == name
    again = unpack(packed)
    assert again.ids.tolist() == rows.ids.tolist()
    assert list(inspect.signature(unpack).parameters) == ["packed"]  # nothing to repeat by hand


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fast", "compact"])
def test_short_rows_do_not_pay_for_the_longest(tmp_path: Path, name: str) -> None:
    """Padding of ragged rows compresses away: one long row among short ones costs little more than itself."""

    def stored(keep_long: bool) -> int:
        items = [build_item(f"i{i}", num_rows=64, num_classes=5000) for i in range(16)]
        rows = build_rows(items, top_k=4)
        if keep_long:
            rows = concatenate([rows, build_rows([build_item("long", num_classes=5000)], top_k=256)])
        identity = identity_of(rows, codec=name, num_classes=5000, top_k=256)
        packed = codec.pack(rows, identity.row_format, tables_of(identity))
        files = to_files(packed.arrays, chunk_rows=1 << 20, attributes={})
        return sum(map(len, files.values()))

    assert stored(True) < 1.5 * stored(False) + 2 * 256 * 4
