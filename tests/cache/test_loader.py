"""Steps: the same at any world size, entered anywhere, read ahead by a thread that stops."""

import dataclasses
import threading

import numpy as np
import pytest

from kdcache.cache.codec import unpack
from kdcache.cache.loader import Loader
from kdcache.cache.reader import Cache
from kdcache.core.errors import CacheDamaged, CacheError, CacheMismatch, ConfigError


def loader(cache, **changes):
    settings = {"split": "train", "teachers": ("t_hs",), "batch_size": 4, "micro_batch_size": 2, "seed": 1}
    return Loader(cache, **{**settings, **changes})


def uids(steps):
    """The items of each step, without fillers, over any number of ranks."""
    return [
        sorted(
            item.uid for rank in ranks for m in rank.micros for item, w in zip(m.items, m.weights_I, strict=True) if w
        )
        for ranks in zip(*steps, strict=True)
    ]


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("kdcache-loader")]


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_any_world_size_sees_the_same_items_in_the_same_step(sealed, world_size):
    cache = Cache.open(sealed)
    alone = uids([list(loader(cache).steps(0))])
    ranks = [list(loader(cache, rank=r, world_size=world_size).steps(0)) for r in range(world_size)]
    assert uids(ranks) == alone
    assert sorted(uid for step in alone for uid in step) == sorted(f"train{i}" for i in range(11))
    assert len({len(step.micros) for rank in ranks for step in rank}) == 1


@pytest.mark.parametrize("prefetch", [0, 1, 9])
def test_a_step_can_be_entered_without_those_before_it(sealed, prefetch):
    cache = Cache.open(sealed)
    whole = list(loader(cache).steps(2))
    for start in range(4):
        rest = list(loader(cache, prefetch=prefetch).steps(2, start))
        assert [(s.epoch, s.index) for s in rest] == [(2, i) for i in range(start, 3)]
        assert uids([rest]) == uids([whole[start:]])


def test_epochs_and_seeds_differ_and_repeat(sealed):
    cache = Cache.open(sealed)
    first = uids([list(loader(cache).steps(0))])
    assert first == uids([list(loader(cache).steps(0))])
    assert first != uids([list(loader(cache).steps(1))])
    assert first != uids([list(loader(cache, seed=2).steps(0))])


def test_counts_are_those_of_the_whole_step_and_fillers_weigh_nothing(make_toy, tmp_path):
    make_toy(num_rows=3).dump(tmp_path / "c")
    cache = Cache.open(tmp_path / "c")
    for rank in (0, 1):
        steps = list(loader(cache, rank=rank, world_size=2, micro_batch_size=3).steps(0))
        assert sorted(s.num_items for s in steps) == [3, 4, 4]
        for step in steps:
            assert step.num_rows == 3 * step.num_items
            assert step.num_labels == 2 * step.num_items  # every third row has none
            assert {len(micro.items) for micro in step.micros} == {3}
    weights = [
        float(m.weights_I.sum()) for r in (0, 1) for s in loader(cache, rank=r, world_size=2).steps(0) for m in s.micros
    ]
    assert sum(weights) == 11


def test_rows_are_those_of_the_micro_batch_s_items_for_each_teacher(sealed):
    cache = Cache.open(sealed)
    where = {uid: i for i, uid in enumerate(cache.plan.uid)}
    for step in loader(cache, teachers=("t_hs", "t_ll")).steps(0):
        for micro in step.micros:
            chosen = np.array([where[item.uid] for item in micro.items])
            for name in ("t_hs", "t_ll"):
                np.testing.assert_array_equal(unpack(micro.rows[name]).logprobs, cache.rows(name, chosen).logprobs)


def test_hard_labels_need_no_rows(sealed):
    cache = Cache.open(sealed)
    for changes in ({"teachers": (), "with_rows": False}, {"teachers": ()}, {"with_rows": False}):
        steps = list(loader(cache, **changes).steps(0))
        assert all(micro.rows == {} for step in steps for micro in step.micros)
        assert sum(step.num_labels for step in steps) == 11


def test_the_number_of_steps_is_known_in_advance(sealed):
    assert loader(Cache.open(sealed)).num_steps == len(list(loader(Cache.open(sealed)).steps(0))) == 3


def test_an_error_in_the_thread_reaches_the_caller_and_the_thread_ends(sealed):
    path = next((sealed / "teachers" / "t_hs").glob("00001.*")) / "gold" / "c.0"
    content = bytearray(path.read_bytes())
    content[18] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheDamaged, match="block 00001 of teacher t_hs: array gold, chunk 0"):
        list(loader(Cache.open(sealed)).steps(0))
    assert loader_threads() == []


def test_closing_early_stops_the_thread(sealed):
    steps = loader(Cache.open(sealed), batch_size=1, prefetch=2).steps(0)
    next(steps)
    assert len(loader_threads()) == 1
    steps.close()
    assert loader_threads() == []


def test_no_more_steps_are_read_ahead_than_asked_for(sealed, monkeypatch):
    read = []
    real = Loader._read
    monkeypatch.setattr(
        Loader, "_read", lambda self, place, *a, **k: (read.append(place), real(self, place, *a, **k))[1]
    )
    steps = loader(Cache.open(sealed), batch_size=1, prefetch=2).steps(0)
    next(steps)
    steps.close()
    assert 1 <= len(read) <= 3


def test_rows_of_other_items_stop_the_run_at_the_first_step(sealed, monkeypatch):
    real = Cache.packed
    monkeypatch.setattr(Cache, "packed", lambda self, name, chosen: real(self, name, np.roll(chosen, 1)))
    with pytest.raises(CacheMismatch, match=r"rows of teacher t_hs in .* do not fit their labels"):
        list(loader(Cache.open(sealed), batch_size=11, micro_batch_size=11).steps(0))


@pytest.mark.parametrize("codec", ["float32", "float16", "bfloat16", "int8"])
def test_hidden_rows_pass_the_alarm_and_shifted_ones_do_not(make_toy, tmp_path, monkeypatch, codec):
    make_toy(num_classes=50).dump_hidden(tmp_path / "c", codec=codec)
    cache = Cache.open(tmp_path / "c")
    (micro,) = next(iter(loader(cache, batch_size=11, micro_batch_size=11).steps(0))).micros
    assert (micro.rows["t_hs"].store, micro.rows["t_hs"].codec) == ("hidden", codec)
    real = Cache.packed
    monkeypatch.setattr(Cache, "packed", lambda self, name, chosen: real(self, name, np.roll(chosen, 1)))
    with pytest.raises(CacheMismatch, match=r"rows of teacher t_hs in .* do not fit their labels"):
        list(loader(cache, batch_size=11, micro_batch_size=11).steps(0))


@pytest.mark.parametrize("compressor", ["lz4", "zstd"])
def test_compact_rows_pass_the_alarm_and_share_one_table(make_toy, tmp_path, compressor):
    make_toy(num_classes=50).dump(tmp_path / "c", top_k=8, codec="compact", compressor=compressor)
    steps = list(loader(Cache.open(tmp_path / "c")).steps(0))
    assert len({id(micro.rows["t_hs"].shared) for step in steps for micro in step.micros}) == 1


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"batch_size": 0}, ConfigError, "batch_size = 0; it must be at least 1"),
        ({"prefetch": -1}, ConfigError, "prefetch = -1; it must be at least 0"),
        ({"rank": 2, "world_size": 2}, ConfigError, "rank = 2 of world_size 2; it must be below it"),
        ({"seed": None}, ConfigError, "shuffling needs a seed from 0 to"),
        ({"split": "dev"}, CacheError, "has no split 'dev'; it has train, test"),
        ({"teachers": ("bert",)}, CacheError, "has no teacher 'bert'; it has t_hs, t_ll"),
    ],
)
def test_impossible_settings_are_refused_at_once(sealed, changes, kind, message):
    with pytest.raises(kind, match=message):
        loader(Cache.open(sealed), **changes)


def test_a_start_beyond_the_epoch_is_refused_before_iterating(sealed):
    with pytest.raises(ConfigError, match="step 4 of epoch 0: the epoch has 3 steps"):
        loader(Cache.open(sealed)).steps(0, 4)


def test_a_loader_is_a_value(sealed):
    one = loader(Cache.open(sealed))
    assert dataclasses.replace(one, rank=0) == one
