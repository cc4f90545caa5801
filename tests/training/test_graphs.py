"""Steps as graphs, by recorders without CUDA: the same losses, recorded where that pays, else eager."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdcache.core.errors import KDCacheError
from kdcache.losses.facts import Facts
from kdcache.losses.objective import Objective
from kdcache.training import graphs as module
from kdcache.training.graphs import WARM_UP, GraphStepper
from kdcache.training.recording import LOSSES, Graphs, Recorded
from kdcache.training.sending import Layout
from kdcache.training.shapes import Grid, grid_of
from kdcache.training.steps import CachedSteps, Steps
from tests.training import cases
from tests.training.cases import HARD, KD, Lengths
from tests.training.recorders import Padded, Ran, Replay, Rerun, eager, graphs, train

pytestmark = pytest.mark.usefixtures("_plain")

COUNT = 40
FACTS = Facts(width=2, ragged=False, unlabelled=True, fillers=True, has_tail=False)


def steps_of(family: str, folder: Path, store: str, **sizes: Any) -> CachedSteps:
    return cases.build(family, count=COUNT).steps(folder, store, **sizes)


def trained(family: str, steps: Steps, recorder: Rerun | None, *, always: bool = True, **settings: Any) -> Ran:
    """A training by graphs; eager, over unpadded batches, without a recorder."""
    make = eager if recorder is None else graphs(recorder, always=always)
    return train(cases.build(family), steps, objective_of(steps), make, **settings)


def objective_of(steps: Steps) -> Objective:
    return KD if getattr(steps, "teachers", ()) else HARD


def padded(family: str, steps: Steps, **settings: Any) -> Ran:
    """The same operations, eager."""
    case = cases.build(family)
    grid = grid_of(case.model)
    make = lambda engine, loss, feed, log: Padded(engine, loss, feed, grid)  # noqa: E731
    return train(case, steps, objective_of(steps), make, **settings)


MIXED = [
    ("bert", "none", None),
    ("bert", "fast", None),
    ("bert", "none", 2),
    ("bert", "hidden", 3),
    ("roberta", "fast", None),
    ("llama", "fast", 2),
    ("llama", "hidden", None),
    ("xlm-r", "compact", None),
    ("mbart", "compact", 2),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "store", "micro"), MIXED)
def test_graphs_give_the_losses_of_eager_steps(family: str, store: str, micro: int | None, tmp_path: Path):
    """Each step is overwritten after it ran: a replay that read anything but its own buffer would not give them."""
    steps, recorder = steps_of(family, tmp_path, store, micro_batch_size=micro), Rerun()
    got = trained(family, steps, recorder, micro_batch_size=micro)
    wanted = trained(family, steps, None, micro_batch_size=micro)
    assert recorder.replayed > recorder.recorded > 2
    assert recorder.recorded == got.record["graphs"] + 1
    torch.testing.assert_close(got.losses, wanted.losses, rtol=1e-6, atol=1e-6)
    same = padded(family, steps, micro_batch_size=micro)
    assert torch.equal(got.losses, same.losses)
    assert all(torch.equal(got.weights[name], weight) for name, weight in same.weights.items())


class Forgotten(Rerun):
    """Lets go of what was recorded, as CUDA does: a graph holds no memory but its own."""

    def record(self, function: Callable[[], None]) -> Replay:
        """Nothing that could be run again."""
        super().record(function)
        return Replay(self, lambda: None)


def test_a_graph_that_is_kept_keeps_what_it_reads(tmp_path: Path):
    """The teacher's head goes with the training, but for the graphs that the next one repeats."""
    steps = steps_of("bert", tmp_path, "hidden")
    got = trained("bert", steps, Forgotten(), always=True)
    assert isinstance(got.stepper, GraphStepper)
    kept = got.stepper.graphs.steps
    (shared,) = steps._teacher("t_hs")._on_device.values()
    assert shared.head is not None
    tables = weakref.ref(shared.head.weight_VD)
    del steps, got, shared
    gc.collect()
    assert tables() is not None
    for recorded in kept.values():
        recorded.clear()
    gc.collect()
    assert tables() is None


def test_graphs_of_the_last_losses_are_kept_and_the_oldest_goes_first():
    kept = Graphs(Rerun())
    first = kept.of("first")
    first[Layout.of({}), FACTS] = Recorded(buffer=torch.zeros(1), replay=lambda: None)
    for number in range(LOSSES - 1):
        kept.of(number)
    assert kept.of("first") is first, "asked for again, it is the newest"
    kept.of("another")
    assert list(kept.steps) == [*range(1, LOSSES - 1), "first", "another"]
    for number in range(LOSSES):
        kept.of(f"more {number}")
    assert not first, "a stepper may still hold it"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "mbart"])
def test_dropout_draws_the_same_numbers(family: str, tmp_path: Path):
    steps = steps_of(family, tmp_path, "fast")
    case, again, without = (cases.build(family, dropout=share) for share in (0.2, 0.2, 0.0))
    got = train(case, steps, KD, graphs(Rerun(), always=True))
    grid = grid_of(again.model)
    wanted = train(again, steps, KD, lambda engine, loss, feed, log: Padded(engine, loss, feed, grid))
    assert torch.equal(got.losses, wanted.losses)
    assert not torch.allclose(got.losses, train(without, steps, KD, eager).losses, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("always", [False, True])
def test_shapes_are_few_and_each_is_recorded_once(always: bool, tmp_path: Path):
    steps, recorder = steps_of("bert", tmp_path, "none"), Rerun()
    got = trained("bert", steps, recorder, always=always, epochs=4)
    assert len(got.seen) == 4 * COUNT / 4
    assert len(set(got.seen)) <= len({Grid().tokens(count) for count in range(1, 41)}) < len(got.seen)
    assert recorder.recorded - 1 == got.record["graphs"] == len(set(got.seen))
    assert recorder.released == []
    assert got.record["busy"] == 0.5
    assert "why" not in got.record
    held = [p.grad for p in got.stepper.engine.module.parameters()]
    assert not any(gradient.any() for gradient in held), "gradients stay where graphs add to them, and are 0"
    assert [event["event"] for event in got.events] == ["graphs"]
    assert got.events[0]["eager_seconds"] == 1.0
    assert got.events[0]["graph_seconds"] == 0.5


@pytest.mark.parametrize(
    ("lengths", "recorded"),
    [
        ((8,) * WARM_UP, 0),
        ((8,) * (WARM_UP + 2), 0),
        ((8,) * (WARM_UP + 3), 2),  # and the optimizer
        ((8,) * 9, 2),
        ((16, 24, 8, 8, 16, 8, 16), 0),
        ((16, 24, 8, 8, 16, 8, 16, 16), 2),
        ((8,) * (WARM_UP + 3) + (16,), 2),
        ((8,) * (WARM_UP + 3) + (16, 16), 3),
        ((8,) * (WARM_UP + 3) + (16, 24, 16, 24, 16), 4),
    ],
)
def test_after_the_warm_up_the_third_of_a_shape_is_recorded_and_once_that_paid_the_second(
    lengths: tuple[int, ...], recorded: int
):
    recorder = Rerun()
    got = trained("bert", Lengths(lengths=lengths), recorder, always=False, epochs=1)
    assert recorder.recorded == recorded
    assert ("why" in got.record) == (recorded == 0)
    if not recorded:
        assert got.record["why"] == "no shape came three times"
        assert got.events == []


def test_where_a_graph_gains_nothing_all_goes_on_eagerly_and_its_memory_is_given_back():
    steps, recorder = Lengths(lengths=(9,) * 12), Rerun(replay_seconds=-0.05)
    got = trained("bert", steps, recorder, always=False, epochs=1)
    why = "the device limits a step, not the host: 1000.0 ms eager, 950.0 ms as a graph"
    assert got.record["why"] == why
    assert got.record["graphs"] == 0
    assert [(event["event"], event["reason"]) for event in got.events] == [("eager", why)]
    assert (got.events[0]["eager_seconds"], got.events[0]["graph_seconds"]) == (1.0, 0.95)
    assert (recorder.recorded, recorder.replayed) == (1, 1)
    assert recorder.released == [0], "no recording is held any more when memory is given back"
    assert got.seen[: WARM_UP + 3] == [(16, 4)] * (WARM_UP + 3)
    assert got.seen[-1] == (9, 4), "batches are not padded any more"
    assert got.stepper.feed.grid is None
    assert all(p.grad is None for p in got.stepper.engine.module.parameters()), "gradients are not held any more"
    wanted = trained("bert", steps, None, epochs=1)
    torch.testing.assert_close(got.losses, wanted.losses, rtol=1e-6, atol=1e-6)


def test_a_gain_of_a_tenth_is_enough():
    got = trained("bert", Lengths(lengths=(9,) * 8), Rerun(replay_seconds=-0.11), always=False, epochs=1)
    assert got.record["graphs"] == 1


def test_graphs_that_are_asked_for_stay_whatever_they_gain():
    got = trained("bert", Lengths(lengths=(9,) * 12), Rerun(replay_seconds=3.0), always=True, epochs=1)
    assert got.record["graphs"] == 1
    assert got.record["busy"] == 4.0


@pytest.mark.slow
@pytest.mark.parametrize("micro", [None, 2])
@pytest.mark.parametrize(
    ("fails_at", "why"),
    [
        (1, "a step cannot be recorded: RuntimeError: CUDA error: operation not permitted when stream is capturing"),
        (
            2,
            "the optimizer cannot be recorded: RuntimeError: CUDA error: operation not permitted when stream is captur",
        ),
        (3, "a step cannot be recorded: RuntimeError: CUDA error: operation not permitted when stream is capturing"),
    ],
)
def test_what_cannot_be_recorded_goes_on_eagerly(fails_at: int, why: str, micro: int | None, tmp_path: Path):
    steps, recorder = steps_of("bert", tmp_path, "fast", micro_batch_size=micro), Rerun(fails_at=fails_at)
    got = trained("bert", steps, recorder, micro_batch_size=micro)
    wanted = trained("bert", steps, None, micro_batch_size=micro)
    torch.testing.assert_close(got.losses, wanted.losses, rtol=1e-6, atol=1e-6)
    assert got.record["graphs"] == 0
    assert got.record["why"].startswith(why)
    stops = [event for event in got.events if event["event"] == "eager"]
    assert [event["reason"] for event in stops] == [got.record["why"]]
    assert recorder.recorded == fails_at
    assert recorder.released == [0]


@pytest.mark.parametrize("steps_before", [2, 12])
def test_a_wrong_label_is_refused_although_a_graph_would_not_look(steps_before: int):
    steps, recorder = Lengths(lengths=(9,) * (steps_before + 1), label=2), Rerun()
    with pytest.raises(KDCacheError, match=r"label 2 of row 0 is outside its 2 classes"):
        trained("bert", steps, recorder, epochs=1)
    assert (recorder.replayed > 0) == (steps_before > WARM_UP + 2)


def test_there_are_no_more_graphs_than_the_largest_number(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "LARGEST", 2)
    steps, recorder = Lengths(lengths=(8, 8, 8, *(8, 16, 24, 32) * 4)), Rerun()
    got = trained("bert", steps, recorder, epochs=2)
    assert got.record["graphs"] == 2
    assert recorder.recorded == 3
    torch.testing.assert_close(got.losses, padded("bert", steps, epochs=2).losses, rtol=0, atol=0)


@pytest.mark.parametrize("clipped", [0.0, 0.01])
def test_an_update_as_a_graph_is_the_eager_one(clipped: float):
    """At a rate that rises and falls."""
    steps, settings = Lengths(lengths=(9,) * 15), {"epochs": 2, "warmup": 0.5, "max_grad_norm": clipped}
    got = trained("bert", steps, Rerun(), **settings)
    same = padded("bert", steps, **settings)
    assert all(torch.equal(got.weights[name], weight) for name, weight in same.weights.items())
