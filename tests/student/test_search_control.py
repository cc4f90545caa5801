"""A search's control on tables of scores: programs, the driver, what may be asked for. Nothing is trained."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from kdcache.core.configuration import Configuration
from kdcache.core.design import HARD, LAZY, WORST, Trial, grid
from kdcache.core.errors import ConfigError
from kdcache.student.plan import StudentConfig
from kdcache.student.search.driver import Driver, Job, Report
from kdcache.student.search.estimate import bounds, possible, requests, scenarios
from kdcache.student.search.program import STABLE, Found, Request, program
from kdcache.student.search.settings import SearchConfig

SMALL = SearchConfig(temperatures=(1.0, 4.0), second_stage=False, alphas=(0.5,))
Table = Mapping[Trial, float]


def trial(**settings: object) -> Trial:
    return Trial(configuration=Configuration(**settings).canonical())  # type: ignore[arg-type]


class InMemory:
    """An executor of a table: queues as the real ones do, and answers without training."""

    def __init__(self, table: Table, *, slots: int = 1, fails: Mapping[Trial, str] | None = None) -> None:
        self.table, self.slots, self.fails = table, slots, fails or {}
        self.queue: list[tuple[Job, Trial]] = []
        self.done: list[str] = []
        self.first: list[str] = []

    def submit(self, job: Job) -> None:
        configuration = job.config.configuration
        self.queue.append((job, Trial(configuration=configuration.canonical())))

    def wait(self) -> Report:
        self.first = self.first or [job.label for job, _ in self.queue]
        job, asked = self.queue.pop()  # the last first: reports come in any order
        self.done.append(job.label)
        if asked in self.fails:
            return Report(job=job, value=None, error=self.fails[asked])
        return Report(job=job, value=self.table.get(asked, 0.5))

    def close(self) -> None:
        self.queue.clear()


def resolve(student: str, request: Request) -> Job:
    configuration = request.trial.configuration
    config = StudentConfig(
        student=student,
        seed=request.seed,
        teacher=configuration.teacher,
        loss=configuration.loss,
        tau_t=configuration.tau_t,
        tau_s=configuration.tau_s,
        alpha=configuration.alpha,
        kd_scale=configuration.kd_scale,
    )
    label = f"{student} {configuration.label()} seed {request.seed}"
    return Job(config=config, folder=Path(label), label=label)


def drive(
    config: SearchConfig,
    executor: InMemory,
    *,
    students: tuple[str, ...] = ("a",),
    seeds: tuple[int, ...] = (0,),
    finished: Mapping[str, float] | None = None,
) -> tuple[Driver, dict[str, Found]]:
    def known(job: Job) -> Report | None:
        value = (finished or {}).get(job.label)
        return None if value is None else Report(job=job, value=value, before=True)

    driver = Driver(
        executor, resolve=resolve, finished=known, skip=config.on_error == "skip", heard=lambda report: None
    )
    return driver, driver.run({student: program(config, seeds) for student in students})


def test_a_search_trains_each_of_its_configurations_once() -> None:
    executor = InMemory({trial(teacher="t_ll", tau_t=4.0): 0.9})
    _, found = drive(SMALL, executor)
    assert len(executor.done) == len(set(executor.done))
    assert found["a"].outcome.best.trial == trial(teacher="t_ll", tau_t=4.0)


def test_students_are_driven_side_by_side_and_find_what_each_finds_alone() -> None:
    table = {trial(loss="mse"): 0.8, trial(teacher="t_ll"): 0.9}
    _, together = drive(SMALL, InMemory(table), students=("a", "b"))
    _, alone = drive(SMALL, InMemory(table), students=("b",))
    assert together["a"].outcome == together["b"].outcome == alone["b"].outcome
    executor = InMemory({})
    drive(SMALL, executor, students=("a", "b"))
    assert [label.split()[0] for label in executor.first] == ["a"] * 3 + ["b"] * 3


def test_a_search_that_stopped_anywhere_goes_on_and_finds_the_same() -> None:
    generator = random.Random(0)
    table = {request.trial: generator.random() for request in possible(SMALL, 0)}
    whole = InMemory(table)
    first, expected = drive(SMALL, whole)
    values = {report.job.label: report.value or 0.0 for report in first.reports.values()}
    for stop in range(len(whole.done) + 1):
        there = {label: values[label] for label in whole.done[:stop]}
        rest = InMemory(table)
        driver, found = drive(SMALL, rest, finished=there)
        assert found["a"].outcome == expected["a"].outcome
        assert sorted(rest.done) == sorted(whole.done[stop:])
        assert sum(report.before for report in driver.reports.values()) == stop


def test_two_names_of_one_run_folder_are_trained_once() -> None:
    executor = InMemory({})

    def one_checkpoint(student: str, request: Request) -> Job:
        job = resolve(student, request)
        return replace(job, folder=Path(job.label.replace("t_ll", "t_hs")))

    driver = Driver(executor, resolve=one_checkpoint, finished=lambda job: None, skip=False, heard=lambda report: None)
    found = driver.run({"a": program(SMALL, (0,))})
    assert not any("t_ll" in label for label in executor.done)
    teachers = next(pair for pair in found["a"].outcome.pairs if pair.choice == "teacher")
    assert teachers.sign == 0


def test_a_failure_stops_its_student_after_the_batch_and_no_other() -> None:
    broken = trial(tau_t=4.0)

    class OneFails(InMemory):
        def wait(self) -> Report:
            report = super().wait()
            if report.job.config.student == "a" and report.job.config.tau_t == 4.0:
                return replace(report, value=None, error="the loss is nan")
            return report

    executor = OneFails({broken: 0.9})
    driver, found = drive(SMALL, executor, students=("a", "b"))
    assert set(found) == {"b"}
    assert [report.error for report in driver.failures] == ["the loss is nan"]
    # hard labels, then Hinton's cell at both temperatures: the batch ends, nothing after it begins
    assert sum(label.startswith("a ") for label in executor.done) == 3


def test_a_failure_that_is_skipped_is_the_worst_score_and_still_named() -> None:
    executor = InMemory({trial(): 0.4}, fails={trial(tau_t=4.0): "out of memory"})
    driver, found = drive(replace(SMALL, on_error="skip"), executor)
    hinton = found["a"].outcome.candidates[0]
    assert (hinton.trial, hinton.value) == (trial(), 0.4)
    assert [report.error for report in driver.failures] == ["out of memory"]
    assert found["a"].failed == (trial(tau_t=4.0),)
    everything = {request.trial: "no" for request in possible(SMALL, 0)}
    _, nothing = drive(replace(SMALL, on_error="skip"), InMemory({}, fails=everything))
    assert nothing["a"].outcome.best.value == WORST


def test_what_failed_is_not_repeated_by_further_seeds() -> None:
    config = replace(SMALL, on_error="skip", complete=("lazy", "stable"), replicate="all")
    broken = trial(teacher="t_ll")  # of lazy's four, and the stable cell at tau 1
    for chosen in (config, replace(config, replicate="reported")):
        executor = InMemory({}, fails={broken: "out of memory"})
        _, found = drive(chosen, executor, seeds=(0, 1))
        again = [label for label in executor.done if label.endswith("seed 1")]
        assert again
        assert f"a {broken.configuration.label()} seed 0" in executor.done
        assert f"a {broken.configuration.label()} seed 1" not in again
        assert broken not in found["a"].reported


def asked(config: SearchConfig, seeds: tuple[int, ...], table: Table) -> list[Request]:
    running, found = program(config, seeds), []
    batch = next(running)
    while True:
        found += batch
        try:
            batch = running.send({request: table.get(request.trial, 0.5) for request in batch})
        except StopIteration:
            return found


def test_further_seeds_repeat_what_a_comparison_rests_on() -> None:
    config = replace(SMALL, alphas=(0.3, 0.6), complete=("lazy", "stable"))
    table = {trial(loss="mse"): 0.1, trial(tau_t=4.0): 0.7, trial(tau_t=4.0, alpha=0.6): 0.9}
    repeated = [request.trial for request in asked(config, (3, 5), table) if request.seed == 5]
    assert len(repeated) == len(set(repeated))
    lazy = {Trial(configuration=cell.canonical()) for cell in LAZY}
    stable = {Trial(configuration=replace(STABLE, tau_t=tau).canonical()) for tau in (1.0, 4.0)}
    assert {Trial(configuration=HARD.canonical()), trial(tau_t=4.0), trial(tau_t=4.0, alpha=0.6)} <= set(repeated)
    assert lazy | stable <= set(repeated)
    assert trial(tau_t=4.0, alpha=0.3) not in repeated  # neither picked nor a side of a choice


def test_all_repeats_everything_and_none_nothing() -> None:
    first = asked(SMALL, (0,), {})
    for replicate, expected in (("all", 2), ("none", 1)):
        config = replace(SMALL, replicate=replicate)  # type: ignore[arg-type]
        assert len(set(asked(config, (0, 7), {}))) == expected * len(set(first))


def test_completing_trains_what_greedy_left_out() -> None:
    reached = {r.trial.configuration for r in asked(replace(SMALL, complete=("random",)), (0,), {})}
    assert {replace(cell, tau_t=4.0).canonical() for cell in grid()} <= reached
    assert {cell.canonical() for cell in LAZY} <= {
        r.trial.configuration for r in asked(replace(SMALL, complete=("lazy",)), (0,), {})
    }


@pytest.mark.slow
@pytest.mark.parametrize("design", ["greedy", "factorial"])
@pytest.mark.parametrize("complete", [(), ("lazy", "stable"), ("random",)])
def test_no_search_asks_for_more_than_may_be_asked_for_or_counts_outside_the_bounds(
    design: str, complete: tuple[str, ...]
) -> None:
    config = replace(SMALL, second_stage=True, design=design, complete=complete)  # type: ignore[arg-type]
    allowed = {request.trial.configuration for request in possible(config, 0)}
    least, most = bounds(config, (0, 1))
    generator = random.Random(1)
    for _ in range(10):
        table = {trial: generator.random() for trial in (Trial(configuration=c) for c in allowed)}
        found = set(asked(config, (0, 1), table))
        configurations = {request.trial.configuration for request in found}
        assert {c for c in configurations if c.alpha in (0, 1)} <= allowed
        assert least <= len(found) <= most


def test_a_made_up_path_is_walked() -> None:
    config = replace(SMALL, learning_rates=(0.1, 0.2))
    walks = {tuple(r.trial.configuration.label() for r in requests(config, (0,), s)) for s in scenarios(config.space())}
    assert len(walks) >= 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": (1, 1)}, r"seeds = \[1, 1\]; allowed: different whole numbers from 0 on"),
        ({"seeds": (-1,)}, r"seeds = \[-1\]; allowed: different whole numbers"),
        ({"students": ("a", "a")}, r"students = a, a; name each once"),
        ({"learning_rates": (0.0,)}, r"learning_rates = \[0\.0\]; allowed: different numbers > 0"),
        ({"cache_memory_gb": 0.0}, r"cache_memory_gb = 0\.0; allowed: a number > 0"),
        ({"cpus_per_trial": 0}, r"cpus_per_trial = 0 must be at least 1"),
        ({"temperatures": (4.0, 1.0)}, r"temperatures = \[4, 1\]; allowed: rising numbers"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchConfig(**settings)  # type: ignore[arg-type]
