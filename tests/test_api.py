"""The Python API: a cache in a training loop of one's own."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import kdcache
from kdcache.api import Batch, TeacherCache
from kdcache.core.errors import CacheError, CacheFormatError, ConfigError
from kdcache.core.order import epoch_order
from kdcache.core.types import SparseRows
from kdcache.losses.targets import SparseTargets

TUTORIAL = Path(__file__).resolve().parents[1] / "docs/tutorial.md"
FIRST = {0: [28, 54, 24, 15, 0, 50, 61, 11], 1: [8, 59, 49, 3, 28, 35, 13, 45]}


@pytest.fixture
def cache(study: Path) -> TeacherCache:
    return kdcache.open(study / "out/cache", teacher="t_ll")


def uids(dataset: kdcache.CacheDataset, batches: Iterator[int]) -> list[str]:
    return [dataset[index][0].uid for index in batches]


def test_a_dataset_has_the_split_in_the_caches_order(cache: TeacherCache) -> None:
    dataset = cache.dataset("train")
    assert len(dataset) == 64
    assert [dataset[i][0].uid for i in range(64)] == [f"train{i}" for i in range(64)]
    item, (rows,) = dataset[5]
    assert (rows.num_rows, item.num_rows) == (1, 1)
    again = cache.cache.rows("t_hs", cache.cache.plan.indices("train")[5:6])
    assert isinstance(again, SparseRows)
    assert rows.arrays["logprobs"].tolist() == again.logprobs.tolist()


def test_an_index_counts_from_the_end_or_is_refused(cache: TeacherCache) -> None:
    dataset = cache.dataset("validation")
    assert dataset[-1][0].uid == dataset[23][0].uid == "validation23"
    assert dataset[-24][0].uid == "validation0"
    for index in (24, -25):
        with pytest.raises(IndexError, match=rf"item {index} of a split with 24 items"):
            dataset[index]


def test_a_split_that_is_not_there_is_refused_with_those_that_are(cache: TeacherCache) -> None:
    with pytest.raises(CacheError, match=r"no split 'test'.*train.*validation"):
        cache.dataset("test")


def test_the_sampler_gives_the_frozen_order(cache: TeacherCache) -> None:
    dataset = cache.dataset("train")
    sampler = kdcache.EpochSampler(dataset, seed=0)
    for epoch in (0, 1):
        order = list(sampler)
        assert order == epoch_order(64, seed=0, epoch=epoch).tolist()
        assert order[:8] == FIRST[epoch]  # literal on purpose: a change here changes every resumed run
    assert len(sampler) == 64


def test_a_data_loader_gives_each_item_once_an_epoch_with_its_own_rows(cache: TeacherCache) -> None:
    dataset = cache.dataset("train")
    sampler = kdcache.EpochSampler(dataset, seed=0)
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=10, sampler=sampler, collate_fn=dataset.collate)
    batches: list[Batch] = list(loader)
    assert [len(batch.labels) for batch in batches] == [10, 10, 10, 10, 10, 10, 4]
    order = epoch_order(64, seed=0, epoch=0)
    for number, batch in enumerate(batches):
        items, rows = zip(*(dataset[i] for i in order[number * 10 : number * 10 + 10]), strict=True)
        assert batch.labels.tolist() == [int(item.labels_R[0]) for item in items]
        assert isinstance(batch.targets, SparseTargets)
        assert batch.targets.logprobs_RK.tolist() == [row.arrays["logprobs"][0].tolist() for (row,) in rows]
        lengths = batch.inputs["attention_mask"].sum(dim=1).tolist()
        assert lengths == [item.num_tokens for item in items]
        assert batch.positions.tolist() == [[b, 0] for b in range(len(items))]


def test_a_state_goes_on_in_mid_epoch_with_the_items_that_remain(cache: TeacherCache) -> None:
    dataset = cache.dataset("train")
    first = kdcache.EpochSampler(dataset, seed=3)
    list(first)
    running = iter(first)
    seen = list(islice(running, 20))
    state = json.loads(json.dumps(first.state_dict()))
    assert (state["epoch"], state["position"]) == (1, 20)
    second = kdcache.EpochSampler(cache.dataset("train"), seed=3)
    second.load_state_dict(state)
    remaining = list(second)
    assert remaining == list(running)
    assert sorted(seen + remaining) == list(range(64))
    assert list(second) == list(first) == epoch_order(64, seed=3, epoch=2).tolist()


def test_a_state_at_the_end_of_an_epoch_leaves_nothing_of_it(cache: TeacherCache) -> None:
    dataset = cache.dataset("train")
    first = kdcache.EpochSampler(dataset, seed=3)
    list(islice(iter(first), 64))
    second = kdcache.EpochSampler(dataset, seed=3)
    second.load_state_dict(first.state_dict())
    assert list(second) == []
    assert list(second) == epoch_order(64, seed=3, epoch=1).tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"the sampler's state has seed 1, this sampler 0; go on with the cache, split and seed"),
        ({"count": 9}, r"the sampler's state has count 9, this sampler 64"),
        ({"dataset": "0123/train"}, r"the sampler's state has dataset '0123/train', this sampler '[0-9a-f]{16}/train'"),
        ({"dataset": None}, r"the sampler's state has dataset None, this sampler '"),
        ({"position": 65}, r"has epoch 0 and position 65; the epoch is at least 0, the position from 0 to 64"),
        ({"epoch": "x"}, r"has epoch 'x' and position 0"),
    ],
)
def test_another_state_is_refused(change: dict[str, Any], message: str, cache: TeacherCache) -> None:
    sampler = kdcache.EpochSampler(cache.dataset("train"), seed=0)
    with pytest.raises(ConfigError, match=message):
        sampler.load_state_dict({**sampler.state_dict(), **change})
    assert list(sampler) == epoch_order(64, seed=0, epoch=0).tolist()


def test_another_splits_state_is_refused(cache: TeacherCache) -> None:
    state = kdcache.EpochSampler(cache.dataset("validation"), seed=0).state_dict()
    with pytest.raises(ConfigError, match=r"has dataset '[0-9a-f]{16}/validation', this sampler '[0-9a-f]{16}/train'"):
        kdcache.EpochSampler(cache.dataset("train"), seed=0).load_state_dict(state)


def test_a_sampler_needs_a_seed(cache: TeacherCache) -> None:
    with pytest.raises(ConfigError, match=r"shuffling needs a seed from 0 to 2\^63 - 1, not None"):
        kdcache.EpochSampler(cache.dataset("train"), seed=None)  # type: ignore[arg-type]


def test_a_batch_moves_with_everything_it_has(cache: TeacherCache) -> None:
    batch = next(cache.loader(split="train", batch_size=4, seed=0)).to("meta")
    assert batch.targets is not None
    tensors = [*batch.inputs.values(), batch.labels, batch.positions, batch.targets.logprobs_RK, batch.targets.ids_RK]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_a_cache_without_a_teacher_gives_items_and_labels_alone(study: Path) -> None:
    cache = kdcache.open(study / "out/cache")
    batch = next(cache.loader(split="train", batch_size=4, seed=0))
    assert batch.targets is None
    assert batch.to("cpu").targets is None
    dataset = cache.dataset("train")
    assert dataset.collate([dataset[0], dataset[1]]).targets is None
    hard = kdcache.Objective(teacher=None, alpha=0.0)
    assert cache.exactness(hard).kind == "exact"
    loss = hard(torch.zeros(4, 2), batch.targets, batch.labels).total
    assert loss.item() == pytest.approx(0.6931472)


def ids(batch: Batch) -> list[list[int]]:
    return [row[: row.index(0)] if 0 in row else row for row in batch.inputs["input_ids"].tolist()]


@pytest.mark.parametrize(("batch_size", "drop_short"), [(8, False), (11, False), (10, True)])
def test_ranks_share_every_batch_and_have_as_many(batch_size: int, drop_short: bool, cache: TeacherCache) -> None:
    common: dict[str, Any] = {"split": "train", "batch_size": batch_size, "seed": 0, "drop_short": drop_short}
    whole = list(cache.loader(**common))
    shares = [list(cache.loader(**common, rank=rank, world_size=3)) for rank in range(3)]
    assert len(whole) == 64 // batch_size + (0 if drop_short or batch_size == 8 else 1)
    for together, *parts in zip(whole, *shares, strict=True):
        assert sorted(row for part in parts for row in ids(part)) == sorted(ids(together))


@pytest.mark.parametrize(
    ("batch_size", "message"),
    [
        (10, r"batch_size = 10: the epoch's short batch has 4 items, and rank 1 of 2 none; set drop_short"),
        (1, r"batch_size = 1 leaves rank 1 of 2 without an item; a multiple of 2 gives each rank as many"),
    ],
)
def test_a_rank_that_would_have_fewer_batches_is_refused_at_once(
    batch_size: int, message: str, cache: TeacherCache
) -> None:
    for rank in (0, 1):  # the one that would wait for ever, too
        with pytest.raises(ConfigError, match=message):
            cache.loader(split="train", batch_size=batch_size, seed=0, rank=rank, world_size=2)


def test_exactness_says_what_a_cache_gives(cache: TeacherCache) -> None:
    verdict = cache.exactness(kdcache.Objective(loss="mse", tau_t=4, tau_s=4))
    assert (verdict.kind, str(verdict)) == ("exact", "exact")


def test_opening_refuses_what_is_not_there(study: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"has no teacher 'nobody'; it has t_hs, t_ll"):
        kdcache.open(study / "out/cache", teacher="nobody")
    with pytest.raises(CacheFormatError, match=r"is not a kdcache cache: it has no kdcache.json"):
        kdcache.open(tmp_path)


def test_a_public_name_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(AttributeError, match=r"module 'kdcache' has no attribute 'Cach'; it has Batch, CacheDataset"):
        kdcache.Cach  # noqa: B018


def test_the_loop_of_the_tutorial_trains(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = TUTORIAL.read_text(encoding="utf-8").split("\n## 8. Your own loop\n")[1]
    block = re.search(r"^```python\n(.*?)^```$", section, flags=re.M | re.S)
    assert block is not None
    shutil.copytree(study / "out/cache", tmp_path / "runs/reviews/cache")
    shutil.copytree(study / "base", tmp_path / "checkpoints/small")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(block[1], str(TUTORIAL), "exec"), names)
    losses = names["losses"]
    assert len(losses) == 4
    assert losses[3] < 0.9 * losses[0]
    assert "the loss from this cache is exact\nepoch 0: mean loss " in capsys.readouterr().out
    assert (tmp_path / "runs/reviews/own/model.safetensors").is_file()
