"""Plain PyTorch against DeepSpeed: one gradient, one curve, the same weights; and which of them trains."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdcache.core.config import digest, plain
from kdcache.core.errors import ConfigError
from kdcache.training.fusing import Loss
from kdcache.training.log import RunLog
from kdcache.training.loop import fit
from kdcache.training.plain import PlainEngine
from kdcache.training.settings import HOW, TrainingConfig, content, effective, engine_settings
from kdcache.training.start import build
from kdcache.training.stepping import Feed, Micro, Stepper
from kdcache.training.steps import MemorySteps
from kdcache.training.world import World
from tests.ranks import run_ranks
from tests.training import cases, small
from tests.training.cases import HARD, KD, Case

pytestmark = pytest.mark.usefixtures("_plain")

CPU = World(rank=0, size=1, device=torch.device("cpu"))
BF16_LOSS, BF16_MEAN, BF16_GRADIENT = 0.02, 0.005, 0.05
"""bfloat16 rounds a number by up to 1/512 of it. A logit is behind some ten products of such numbers: with errors that
add up like a random walk it is off by 3/512, and so is a loss of 0.7 nats, or less. Over 30 steps the trainings part
further, by as much again and more, but their means stay near. A gradient goes the same way twice."""


class Noting(Stepper):
    """Notes the gradient of the first step, before it is clipped, and the losses of all."""

    gradient: Mapping[str, np.ndarray] = {}

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.losses: list[float] = []

    def step(self, ready: Any, rate: float) -> torch.Tensor:
        """Run a step."""
        share = super().step(ready, rate)
        self.losses.append(float(share[0]))
        return share

    def _run(self, micro: Micro, step: Any) -> None:
        super()._run(micro, step)
        if not self.losses:
            named = self.engine.module.named_parameters()
            self.gradient = {name: p.grad.float().numpy().copy() for name, p in named if p.grad is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What a training left: the gradient of its first step, a loss a step, the weights."""

    gradient: Mapping[str, np.ndarray]
    losses: list[float]
    weights: dict[str, np.ndarray]


def learn(world: World, folder: Path | None, settings: Mapping[str, Any]) -> Learnt:
    """30 steps of the tiny BERT with hard labels, or from the cache in a folder of a tiny Llama with a teacher."""
    config = TrainingConfig(**{"batch_size": 6, "epochs": 3, "learning_rate": 0.005, **settings})
    if folder is None:
        case = Case(model=small.build_bert(), task=small.TASK, items=tuple(small.build_items(60)), pad_token_id=0)
        steps: Any = MemorySteps(
            items=case.items,
            batch_size=6,
            micro_batch_size=config.micro(1),
            seed=0,
            rank=0,
            world_size=1,
            pad_token_id=0,
        )
    else:
        case = cases.build("llama", count=60)
        steps = case.steps(folder, "fast", batch_size=6, micro_batch_size=config.micro(1))
    engine = build(case.model, engine_settings(config, world), world)
    loss = Loss(engine, HARD if folder is None else KD, case.task, "auto", RunLog(None))
    stepper = Noting(engine, loss, Feed(world.device, 0))
    for _ in fit(stepper, steps, config=config, log=RunLog(None)):
        pass
    weights = {name: value.float().numpy() for name, value in engine.state_dict().items()}
    return Learnt(gradient=stepper.gradient, losses=stepper.losses, weights=weights)


def learn_by_all(world: World, folder: Path | None, settings: Mapping[str, Any]) -> dict[str, Learnt]:
    """The same training by each engine, in one process."""
    found = {}
    for engine in ("plain", "deepspeed"):
        cache = None if folder is None else folder / engine
        found[engine] = learn(world, cache, {**settings, "engine": engine})
    return found


@functools.cache
def both(**settings: Any) -> dict[str, Learnt]:
    """Trainings with hard labels."""
    return run_ranks(learn_by_all, None, settings, size=1)[0]


def assert_same(found: dict[str, Learnt]) -> None:
    got, wanted = found["plain"], found["deepspeed"]
    assert got.gradient.keys() == wanted.gradient.keys() == got.weights.keys() & wanted.gradient.keys()
    largest = max(np.abs(gradient).max() for gradient in wanted.gradient.values())
    assert largest > 0
    for name, gradient in wanted.gradient.items():
        np.testing.assert_allclose(got.gradient[name], gradient, rtol=0, atol=1e-6 * largest, err_msg=name)
    assert len(got.losses) == 30
    assert got.losses == pytest.approx(wanted.losses, abs=1e-5)
    for name, value in wanted.weights.items():
        np.testing.assert_allclose(got.weights[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"micro_batch_size": 2},
        {"micro_batch_size": 4},
        {"max_grad_norm": 0.0},
        {"max_grad_norm": 0.05},
        {"weight_decay": 0.0},
        {"weight_decay": 5.0},
    ],
)
def test_both_engines_give_one_gradient_one_curve_and_the_same_weights(settings: dict[str, Any]):
    assert_same(both(**settings))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"micro_batch_size": 2}])
def test_both_engines_learn_the_same_from_a_teacher(settings: dict[str, Any], tmp_path: Path):
    assert_same(run_ranks(learn_by_all, tmp_path, settings, size=1)[0])


@pytest.mark.slow
def test_clipping_and_decay_show_in_the_curve():
    """Else the comparisons above could not fail."""
    curves = [both(**settings)["plain"].losses for settings in ({}, {"max_grad_norm": 0.05}, {"weight_decay": 5.0})]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert curves[one] != pytest.approx(curves[other], abs=1e-3)


@pytest.mark.slow
def test_bfloat16_is_near_float32_and_near_deepspeeds():
    half, single = both(precision="bfloat16"), both()
    assert half["plain"].losses != pytest.approx(single["plain"].losses, abs=1e-5)
    for wanted in (single["plain"].losses, half["deepspeed"].losses):
        np.testing.assert_allclose(half["plain"].losses, wanted, rtol=0, atol=BF16_LOSS)
        assert np.mean(half["plain"].losses) == pytest.approx(np.mean(wanted), abs=BF16_MEAN)
    largest = max(np.abs(gradient).max() for gradient in single["plain"].gradient.values())
    for name, gradient in single["plain"].gradient.items():
        np.testing.assert_allclose(half["plain"].gradient[name], gradient, rtol=0, atol=BF16_GRADIENT * largest)


def test_bfloat16_is_what_products_compute_in_beside_float32_weights():
    settings = engine_settings(small.settings_of(precision="bfloat16"), CPU)
    engine = build(small.build_bert().bfloat16(), settings, CPU)
    assert engine.compute == torch.bfloat16
    assert {p.dtype for p in engine.module.parameters()} == {torch.float32}
    assert engine.forward({"input_ids": torch.tensor([[5, 6, 7]])}).logits.dtype == torch.bfloat16
    with engine.context():
        assert engine.module(torch.tensor([[5, 6, 7]])).logits.dtype == torch.bfloat16
    assert {value.dtype for value in engine.state_dict().values()} == {torch.float32}


def test_what_decays_is_what_shrinks_without_a_gradient():
    """AdamW decays by rate x decay; biases and norms stay."""
    config = small.settings_of(weight_decay=0.5)
    engine = build(small.build_bert(), engine_settings(config, CPU), CPU)
    before = {name: value.clone() for name, value in engine.state_dict().items()}
    for parameter in engine.module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    engine.step(0.1)
    for name, value in engine.state_dict().items():
        factor = 1 - 0.1 * 0.5 if value.ndim > 1 else 1.0
        torch.testing.assert_close(value, before[name] * factor, msg=name)


def test_the_last_micro_batch_of_a_step_updates_the_weights_and_frees_the_gradient():
    config = small.settings_of(micro_batch_size=2)
    engine = build(small.build_bert(), engine_settings(config, CPU), CPU)
    before, inputs = engine.state_dict(), {"input_ids": torch.tensor([[5, 6, 7]])}
    for number in range(3):
        assert all(torch.equal(before[name], value) for name, value in engine.state_dict().items())
        engine.backward(engine.forward(inputs).logits.sum())
        engine.step(0.1)
        assert any(p.grad is not None for p in engine.module.parameters()) == (number < 2)
    assert not all(torch.equal(before[name], value) for name, value in engine.state_dict().items())


REFUSED = [
    ({"engine": "plain"}, 2, r"^engine = 'plain' cannot do 2 processes; use engine: auto$"),
    ({"engine": "plain", "zero_stage": 2}, 1, r"^engine = 'plain' cannot do zero_stage = 2; use engine: auto$"),
    (
        {"engine": "plain", "deepspeed": Path("zero.json")},
        1,
        r"^engine = 'plain' cannot do deepspeed = zero\.json; use engine: auto$",
    ),
    (
        {"compile": True, "engine": "deepspeed"},
        1,
        r"^compile = true is for the plain engine, and engine = 'deepspeed' takes DeepSpeed; set it to false$",
    ),
    ({"compile": True}, 4, r"^compile = true is for the plain engine, and 4 processes takes DeepSpeed; set it"),
    ({"graph": "always", "zero_stage": 1}, 1, r"^graph = 'always' is for the plain engine, and zero_stage = 1 takes"),
]


@pytest.mark.parametrize(("settings", "size", "message"), REFUSED)
def test_what_an_engine_cannot_do_is_refused(settings: dict[str, Any], size: int, message: str):
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**settings).kind(size)


def test_graphs_that_are_asked_for_need_cuda():
    message = r"^graph = 'always' needs a CUDA device; use graph: auto, which is eager without one$"
    with pytest.raises(ConfigError, match=message):
        engine_settings(TrainingConfig(graph="always"), CPU)


@pytest.mark.parametrize(
    ("settings", "size", "kind"),
    [
        ({}, 1, "plain"),
        ({"engine": "plain", "compile": True, "graph": "always"}, 1, "plain"),
        ({"engine": "deepspeed"}, 1, "deepspeed"),
        ({}, 2, "deepspeed"),
        ({"zero_stage": 1}, 1, "deepspeed"),
        ({"deepspeed": Path("zero.json")}, 1, "deepspeed"),
        ({"graph": "never", "engine": "deepspeed"}, 1, "deepspeed"),
    ],
)
def test_one_process_without_zero_and_without_a_json_is_plain(settings: dict[str, Any], size: int, kind: str):
    assert TrainingConfig(**settings).kind(size) == kind


def test_a_record_says_what_auto_came_to():
    found = effective(TrainingConfig(), CPU)
    assert (found["engine"], found["precision"], found["graph"], found["compile"]) == (
        "plain",
        "float32",
        "auto",
        False,
    )


def test_keys_of_runs_without_the_new_settings_stay():
    # Literal on purpose: a change here makes every finished run and teacher in the world be trained again.
    assert digest(content(TrainingConfig())) == "312a2eccd08b0fbd"
    assert content(TrainingConfig()) == {n: v for n, v in plain(TrainingConfig()).items() if n not in HOW}
    assert {"engine", "graph", "compile"} == HOW


@pytest.mark.parametrize(("name", "value"), [("engine", "deepspeed"), ("graph", "never"), ("compile", True)])
def test_a_new_setting_counts_where_it_is_set(name: str, value: Any):
    assert content(TrainingConfig(**{name: value})) == {**content(TrainingConfig()), name: value}


def test_a_plain_engine_is_whole_and_alone():
    engine = build(small.build_bert(), engine_settings(small.settings_of(), CPU), CPU)
    assert isinstance(engine, PlainEngine)
    assert not engine.sharded
    assert engine.compute is None
    values = torch.ones(2)
    assert engine.sum_over_ranks(values) is values
    engine.close()
    assert all(p.grad is None for p in engine.module.parameters())
