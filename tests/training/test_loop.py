"""One loss curve, that of plain torch, whatever the ZeRO stage, the number of ranks and of micro-batches."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing import ProcessRaisedException

from kdcache.cache.loader import Loader
from kdcache.cache.reader import Cache
from kdcache.core.errors import ConfigError
from kdcache.losses.objective import Objective
from kdcache.training.loop import evaluation_steps, learning_rate
from kdcache.training.settings import TrainingConfig, engine_settings
from kdcache.training.start import build
from kdcache.training.steps import CachedSteps
from kdcache.training.world import World
from tests.cache.conftest import build_toy
from tests.ranks import run_ranks
from tests.training import small
from tests.training.small import Trained, settings_of

pytestmark = pytest.mark.slow


def trained(size: int, **settings: Any) -> Trained:
    """Rank 0's curve and weights; all ranks gather the same weights."""
    ranks = run_ranks(small.train_in_memory, settings_of(**settings), small.build_items(22), size=size)
    for name, value in ranks[0].weights.items():
        np.testing.assert_array_equal(ranks[-1].weights[name], value)
    return ranks[0]


@functools.cache
def by_hand(**settings: Any) -> Trained:
    """Plain torch; 22 items, in batches of 6 unless told: one step of each epoch is short."""
    return run_ranks(small.train_by_hand, settings_of(**settings), small.build_items(22), size=1)[0]


def assert_same(got: Trained, wanted: Trained) -> None:
    assert got.losses == pytest.approx(wanted.losses, rel=1e-4)
    assert got.weights.keys() == wanted.weights.keys()
    for name, value in wanted.weights.items():
        np.testing.assert_allclose(got.weights[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_the_curve_by_hand_has_a_step_a_batch_and_falls():
    assert len(by_hand().losses) == 8
    assert by_hand().losses[-1] < by_hand().losses[0]


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_zero_stage_gives_the_curve_by_hand_on_one_and_two_ranks(stage: int, size: int):
    assert_same(trained(size, zero_stage=stage), by_hand())


@pytest.mark.parametrize(("size", "micro"), [(1, 2), (1, 4), (2, 2)])
def test_micro_batches_give_the_curve_by_hand(size: int, micro: int):
    assert_same(trained(size, micro_batch_size=micro), by_hand())


@pytest.mark.parametrize("stage", [0, 3])
def test_two_ranks_share_a_batch_of_five_and_a_last_step_that_one_rank_has_nothing_of(stage: int):
    assert len(by_hand(batch_size=5).losses) == 10
    assert_same(trained(2, batch_size=5, zero_stage=stage), by_hand(batch_size=5))


@pytest.mark.parametrize(("norm", "stage", "size"), [(0, 0, 1), (0.05, 0, 1), (0.05, 2, 2), (0.05, 3, 2)])
def test_gradients_are_clipped_by_their_norm_over_all_ranks(norm: float, stage: int, size: int):
    free, clipped = by_hand(max_grad_norm=0), by_hand(max_grad_norm=0.05)
    assert free.losses != pytest.approx(clipped.losses, rel=1e-3), "else this test could not fail"
    assert_same(trained(size, max_grad_norm=norm, zero_stage=stage), by_hand(max_grad_norm=norm))


def train_cached(world: World, root: Path, stage: int) -> Trained:
    """Three classes from a teacher's rows, mixed with labels of which every third is missing."""
    config = settings_of(batch_size=5, zero_stage=stage)
    model = small.build_bert(num_labels=3, vocab_size=30000)
    engine = build(model, engine_settings(config, world), world)
    loader = Loader(
        Cache.open(root),
        split="train",
        teachers=("t_hs",),
        batch_size=config.batch_size,
        micro_batch_size=config.micro(world.size),
        seed=0,
        rank=world.rank,
        world_size=world.size,
    )
    steps = CachedSteps(loader=loader, teachers=("t_hs",), pad_token_id=0)
    return small.train(engine, steps, config, Objective(loss="ce", tau_t=2, tau_s=1, alpha=0.5))


def test_rows_of_a_cache_give_one_curve_on_one_and_two_ranks(tmp_path: Path):
    build_toy(train=12).dump(tmp_path / "cache")
    alone = run_ranks(train_cached, tmp_path / "cache", 0, size=1)[0]
    assert len(alone.losses) == 6
    for stage in (1, 3):
        assert_same(run_ranks(train_cached, tmp_path / "cache", stage, size=2)[0], alone)


def train_broken(world: World, what: str) -> None:
    """A model of NaN, or items without labels."""
    config, items = settings_of(), small.build_items(12)
    if what == "labels":
        for item in items:
            item.labels_R[:] = -100
    small.train_in_memory(world, config, items, poisoned=what == "weights")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("weights", r"the loss is nan at step 1 of 4 \(epoch 0, learning rate 1\.00e-02\); lower learning_rate"),
        ("labels", r"step 0 of epoch 0 has no row to learn from at alpha = 0: 0 labels, 6 rows; raise batch_size"),
    ],
)
def test_a_training_that_cannot_go_on_says_so_from_its_rank(what: str, message: str):
    with pytest.raises(ProcessRaisedException, match=rf"TrainingError: {message}"):
        run_ranks(train_broken, what, size=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, r"epochs = 0 must be at least 1"),
        ({"batch_size": -1}, r"batch_size = -1 must be at least 1"),
        ({"micro_batch_size": 0}, r"micro_batch_size = 0 must be at least 1"),
        ({"learning_rate": 2.0}, r"learning_rate = 2\.0 must lie between 0 and 1"),
        ({"warmup": 1.0}, r"warmup = 1\.0 is a share of the steps, from 0 to below 1"),
        ({"max_grad_norm": -1.0}, r"max_grad_norm and weight_decay must not be negative"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**settings)


def test_the_micro_batch_is_a_rank_s_share_rounded_up():
    assert TrainingConfig(batch_size=5).micro(2) == 3
    assert TrainingConfig(batch_size=5, micro_batch_size=1).micro(2) == 1


def test_precision_is_float32_on_a_cpu_unless_asked_for_bfloat16():
    world = World(rank=0, size=2, device=torch.device("cpu"))
    assert not engine_settings(settings_of(), world).bf16
    assert engine_settings(settings_of(precision="bfloat16"), world).bf16
    assert engine_settings(settings_of(micro_batch_size=1), world).accumulation == 3


def test_the_learning_rate_peaks_at_the_end_of_the_warm_up_and_would_reach_zero_after_the_last_step():
    rates = [learning_rate(s, total=100, peak=1.0, warmup=0.06) for s in range(101)]
    assert rates[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0])
    assert max(rates) == 1.0
    assert rates[6:] == sorted(rates[6:], reverse=True)
    assert (rates[99], rates[100]) == pytest.approx((1 / 94, 0.0))


@pytest.mark.parametrize(("num_steps", "times"), [(1, 4), (3, 4), (10, 1), (97, 5)])
def test_the_last_step_of_an_epoch_is_always_evaluated(num_steps: int, times: int):
    points = evaluation_steps(num_steps, times)
    assert max(points) == num_steps
    assert len(points) == min(num_steps, times)
