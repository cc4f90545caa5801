"""DeepSpeed's configuration, a user's own JSON in it, and what ranks tell each other."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import pytest
import torch
from torch.multiprocessing import ProcessRaisedException

from kdcache.core.errors import ConfigError
from kdcache.core.leaving import leave
from kdcache.training import zero
from kdcache.training.deepspeed_config import OWN_KEYS, deepspeed_config, read_user_json
from kdcache.training.engine import EngineSettings, decay_groups
from kdcache.training.start import start
from kdcache.training.world import World, barrier, gather_objects
from tests.ranks import run_ranks
from tests.training import small

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "deepspeed"


def settings(**changes: Any) -> EngineSettings:
    values = {
        "kind": "deepspeed",
        "micro_batch_size": 4,
        "accumulation": 3,
        "zero_stage": 1,
        "bf16": False,
        "max_grad_norm": 1.0,
        "weight_decay": 0.1,
        "user": {},
    }
    return EngineSettings(**{**values, **changes})


def write(folder: Path, tree: object) -> Path:
    path = folder / "deepspeed.json"
    path.write_text(json.dumps(tree))
    return path


def test_the_batch_of_the_configuration_is_micro_batch_times_accumulation_times_ranks():
    config = deepspeed_config(settings(), world_size=2, cpu=False)
    assert config["train_batch_size"] == 4 * 3 * 2
    assert config["train_micro_batch_size_per_gpu"] == 4
    assert config["gradient_accumulation_steps"] == 3
    assert config["gradient_clipping"] == 1.0
    assert config["bf16"] == {"enabled": False}
    assert config["zero_optimization"] == {"stage": 1}


def test_buckets_are_small_on_a_cpu_unless_the_user_says_otherwise(tmp_path: Path):
    user = read_user_json(write(tmp_path, {"zero_optimization": {"reduce_bucket_size": 7}}))
    assert deepspeed_config(settings(user=user), world_size=1, cpu=True)["zero_optimization"] == {
        "stage": 1,
        "reduce_bucket_size": 7,
        "allgather_bucket_size": 1_000_000,
    }


def test_keys_of_the_user_are_merged_and_the_rest_stays(tmp_path: Path):
    tree = {"zero_optimization": {"stage": 2, "overlap_comm": True}, "wall_clock_breakdown": True}
    user = read_user_json(write(tmp_path, tree))
    config = deepspeed_config(settings(zero_stage=0, user=user), world_size=1, cpu=False)
    assert config["zero_optimization"] == {"stage": 2, "overlap_comm": True}
    assert config["wall_clock_breakdown"] is True
    assert config["train_batch_size"] == 12
    assert user == tree, "merging must not change what was read"


def test_no_file_is_no_settings():
    assert read_user_json(None) == {}


@pytest.mark.parametrize("key", OWN_KEYS)
def test_a_key_that_kdcache_decides_is_refused_by_name(tmp_path: Path, key: str):
    with pytest.raises(ConfigError, match=rf"deepspeed\.json sets {key}, which kdcache decides .*; remove it there$"):
        read_user_json(write(tmp_path, {key: 1}))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([1], r"deepspeed\.json must hold a JSON object of DeepSpeed settings"),
        ({"zero_optimization": 2}, r"deepspeed\.json: zero_optimization must be an object, e\.g\. \{\"stage\": 2\}"),
    ],
)
def test_json_of_the_wrong_shape_is_refused(tmp_path: Path, tree: object, message: str):
    with pytest.raises(ConfigError, match=message):
        read_user_json(write(tmp_path, tree))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"cannot read the DeepSpeed configuration .*missing\.json: .*No such file"):
        read_user_json(tmp_path / "missing.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigError, match=r"cannot read the DeepSpeed configuration .*broken\.json: Expecting"):
        read_user_json(tmp_path / "broken.json")


def test_two_zero_stages_are_refused():
    with pytest.raises(ConfigError, match=r"zero_stage = 1, but the DeepSpeed JSON sets stage 3; give one of them"):
        deepspeed_config(settings(user={"zero_optimization": {"stage": 3}}), world_size=1, cpu=False)


@pytest.mark.slow
def test_the_json_that_kdcache_ships_and_stage_3_by_json_train_two_ranks_like_none(tmp_path: Path):
    stage_3 = write(tmp_path, {"zero_optimization": {"stage": 3}})
    items = small.build_items(12)
    wanted = run_ranks(small.train_by_hand, small.settings_of(), items, size=1)[0]
    for path in (CONFIGS / "zero2.json", stage_3):
        for got in run_ranks(small.train_in_memory, small.settings_of(deepspeed=path), items, size=2):
            for name, value in wanted.weights.items():
                np.testing.assert_allclose(got.weights[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_biases_and_norms_do_not_decay_and_frozen_weights_are_left_out():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2), torch.nn.Linear(2, 2, bias=False))
    model[2].weight.requires_grad = False
    decayed, free = decay_groups(model, 0.1)
    assert [(group["weight_decay"], [tuple(p.shape) for p in group["params"]]) for group in (decayed, free)] == [
        (0.1, [(2, 3)]),
        (0.0, [(2,), (2,), (2,)]),
    ]


def talk(world: World) -> tuple[int, list[Any]]:
    barrier(world)
    return world.size, gather_objects({"rank": world.rank}, world)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_rank_hears_all_in_rank_order(size: int):
    assert run_ranks(talk, size=size) == [(size, [{"rank": rank} for rank in range(size)])] * size


def fail_on_the_last(world: World) -> None:
    if world.rank == world.size - 1:
        raise ValueError(f"rank {world.rank} has enough")
    barrier(world)


def test_the_exception_of_one_rank_ends_all_and_is_shown():
    with pytest.raises(ProcessRaisedException, match=r"ValueError: rank 1 has enough"):
        run_ranks(fail_on_the_last, size=2)


def test_a_group_that_is_another_s_stays_when_a_process_leaves(tmp_path: Path):
    leave(0)  # what an earlier test of this process joined
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    zero.join(start("cpu"))
    leave(0)
    assert torch.distributed.is_initialized()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_a_process_may_join_again_after_it_has_left():
    leave(0)
    for _ in range(2):
        world = start("cpu")
        zero.join(world)
        assert torch.distributed.is_initialized()
        trained = small.train_in_memory(world, small.settings_of(epochs=1, engine="deepspeed"), small.build_items(6))
        assert len(trained.losses) == 1
        leave(0)
        assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("size", "device", "failed", "tried"),
    [(2, "cpu", False, True), (1, "cuda", True, True), (2, "cuda", True, False), (2, "cpu", True, False)],
)
def test_nobody_waits_for_a_group_that_others_keep(
    size: int, device: str, failed: bool, tried: bool, monkeypatch: pytest.MonkeyPatch
):
    """The wait is what NCCL does where a peer is gone."""
    zero.join(start("cpu"))
    asked, gone = threading.Event(), threading.Event()
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(deepspeed.comm, "destroy_process_group", lambda: (asked.set(), gone.wait()))
    monkeypatch.setattr(zero, "LEAVE_SECONDS", 0.1)
    world = World(rank=0, size=size, device=torch.device(device))
    try:
        assert zero._leave(world, None, failed) is False
        assert asked.is_set() == tried
    finally:
        gone.set()


def test_a_group_that_cannot_be_destroyed_is_no_second_error(monkeypatch: pytest.MonkeyPatch):
    def broken() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    zero.join(start("cpu"))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(deepspeed.comm, "destroy_process_group", broken)
    assert zero._leave(World(rank=0, size=1, device=torch.device("cuda")), None, False) is False
