"""A student's whole search, and several answered side by side, on tables of scores instead of trainings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdcache.core.configuration import Configuration
from kdcache.core.design import LAZY, Trial
from kdcache.core.errors import ConfigError, TrainingError
from kdcache.core.results import RunResult
from kdcache.core.types import Score
from kdcache.student.plan import StudentConfig
from kdcache.student.search.control import STABLE, Batches, Found, whole
from kdcache.student.search.drive import Driver, Event, value
from kdcache.student.search.executors import Done
from kdcache.student.search.run import reachable
from kdcache.student.search.settings import SearchConfig, Unit

SMALL = SearchConfig(temperatures=(1.0, 4.0), second_stage=False, alphas=(0.5,))


def play(search: Batches, scores: Mapping[Trial, float] | None = None) -> tuple[Found, list[Unit]]:
    """Answer a search; the result and every training in the order asked for."""
    asked: list[Unit] = []
    batch = next(search)
    while True:
        asked += batch
        try:
            batch = search.send({unit: (scores or {}).get(unit.trial, 0.5) for unit in batch})
        except StopIteration as end:
            return end.value, asked


def small(**settings: Any) -> tuple[Found, list[Unit]]:
    config = replace(SMALL, **settings)
    return play(whole("s", config, config.space(1e-3)))


def test_no_training_is_asked_for_twice_whatever_completes_the_search() -> None:
    found, asked = small(complete=("lazy", "stable", "random"), seeds=(0, 1, 2), replicate="all")
    assert len(asked) == len(set(asked))
    assert set(asked) == set(found.units)


def test_lazy_adds_the_one_cell_that_a_search_which_stays_at_the_default_lacks() -> None:
    _, plain = small()
    _, with_lazy = small(complete=("lazy",))
    assert {u.trial.configuration for u in with_lazy} - {u.trial.configuration for u in plain} == {
        Configuration(loss="mse", teacher="t_ll").canonical()
    }
    assert {cell.canonical() for cell in LAZY} <= {unit.trial.configuration for unit in with_lazy}


def test_stable_adds_its_cell_at_every_temperature() -> None:
    _, asked = small(complete=("stable",))
    there = {unit.trial.configuration for unit in asked}
    assert {replace(STABLE, tau_t=tau).canonical() for tau in (1.0, 4.0)} <= there


def test_the_first_seed_searches_and_the_others_repeat_what_is_reported() -> None:
    found, asked = small(seeds=(3, 7))
    first = [unit for unit in asked if unit.seed == 3]
    others = [unit.trial for unit in asked if unit.seed == 7]
    assert len(others) < len(first)
    assert found.outcome.best.trial in others
    assert found.outcome.hard is not None
    assert found.outcome.hard.trial in others
    assert {best.trial for best in found.outcome.candidates if best.cell.alpha == 1} <= set(others)


def test_all_is_repeated_where_all_is_asked_for() -> None:
    _, asked = small(seeds=(0, 1), replicate="all")
    assert [u.trial for u in asked if u.seed == 0] == [u.trial for u in asked if u.seed == 1]


def test_a_training_takes_its_settings_from_the_block_and_the_trial() -> None:
    base = StudentConfig(epochs=5, learning_rate=1e-3, tau_t=8.0)
    trial = Trial(configuration=Configuration(loss="mse", teacher="t_ll", tau_t=2, tau_s=1), learning_rate=2e-3)
    config = Unit(student="s", trial=trial, seed=4).config(base)
    assert (config.student, config.seed, config.epochs, config.learning_rate) == ("s", 4, 5, 2e-3)
    assert (config.loss, config.teacher, config.tau_t, config.tau_s) == ("mse", "t_ll", 2, 1)
    assert Unit.of("s", trial.configuration).config(base).learning_rate == 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": ()}, r"seeds = \[\]; allowed: different numbers >= 0, at least one"),
        ({"seeds": (1, 1)}, r"seeds = \[1, 1\]; allowed"),
        ({"complete": ("lasy",)}, r"complete = 'lasy'; allowed: lazy, stable, random"),
        ({"design": "grid"}, r"design = 'grid'; allowed: greedy, factorial"),
        ({"temperatures": (4.0, 1.0)}, r"temperatures = \[4, 1\]; allowed: rising numbers > 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchConfig(**settings)


class Table:
    """An executor that knows every score; trainings end last in, first out."""

    def __init__(self, fails: str = "", score: float = 0.5) -> None:
        self.queue: list[tuple[int, StudentConfig]] = []
        self.trained: list[StudentConfig] = []
        self.fails, self.score = fails, score

    def submit(self, number: int, config: StudentConfig) -> None:
        self.queue.append((number, config))

    def wait(self) -> Done:
        number, config = self.queue.pop()
        if self.fails and config.loss == self.fails:
            return Done(number=number, result=None, error="the loss is nan at step 3; lower the learning rate")
        self.trained.append(config)
        return Done(number=number, result=result(config, self.score))

    def close(self) -> None:
        self.queue.clear()


def result(config: StudentConfig, score: float, *, higher: bool = True) -> RunResult:
    scores = {"f1": Score(name="f1", value=score, higher_is_better=higher, signature="f1|n=1|v1")}
    return RunResult(
        key="k",
        dataset="d",
        dataset_digest="x",
        student=config.student,
        seed=config.seed,
        configuration=config.configuration,
        metric="f1",
        scores={"validation": scores},
        test_digest={},
        selected={},
        counters={},
        seconds={},
    )


def place(config: StudentConfig) -> Any:
    """A plan's folder and key: t_hs and t_ll are one checkpoint here, so their trainings share a folder."""
    same = replace(config, teacher=None if config.alpha == 0 else "t")
    return SimpleNamespace(
        config=config, key="k", folder=Path("/nowhere") / f"{same.configuration} {same.student} {same.seed}"
    )


def drive(executor: Table, students: tuple[str, ...] = ("a", "b")) -> tuple[dict[str, Found], list[Event]]:
    events: list[Event] = []
    driver = Driver(executor=executor, base=StudentConfig(), place=place, tell=events.append)
    searches = {name: whole(name, SMALL, SMALL.space(1e-3)) for name in students}
    return driver.run(searches), events


def test_students_are_searched_side_by_side_and_what_shares_a_folder_trains_once() -> None:
    executor = Table()
    found, events = drive(executor)
    assert set(found) == {"a", "b"}
    folders = [place(config).folder for config in executor.trained]
    assert len(folders) == len(set(folders))
    assert all(c.teacher != "t_ll" for c in executor.trained)  # t_hs came first, and is the same checkpoint
    assert sum(e.result is None for e in events) == sum(e.result is not None for e in events) == len(folders)


def test_a_failed_training_is_named_and_what_ran_beside_it_is_kept() -> None:
    executor = Table(fails="mse")
    with pytest.raises(
        TrainingError, match=r"a trial failed, . mse t_hs tau 1/1 seed 0: the loss is nan.* goes on from"
    ):
        drive(executor)
    assert executor.trained
    assert not executor.queue


def test_a_score_that_is_better_when_lower_counts_negative_and_nan_is_refused() -> None:
    config = StudentConfig()
    assert value(result(config, 2.0, higher=False)) == -2.0
    with pytest.raises(TrainingError, match=r"the validation f1 of ce t_hs tau 1/1 is nan"):
        value(result(config, float("nan")))


def test_the_cells_that_may_be_reached_are_those_of_the_choices_and_of_what_completes() -> None:
    assert reachable(replace(SMALL, order=("teacher",))) == (Configuration(), Configuration(teacher="t_ll"))
    assert len(reachable(SMALL)) == 8
    assert len(reachable(replace(SMALL, order=(), design="factorial"))) == 8
    some = reachable(replace(SMALL, order=(), complete=("lazy", "stable")))
    assert set(some) == {*LAZY, STABLE}
