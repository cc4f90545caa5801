"""`kdcache search`: from the run file to finished runs and what they say."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal

from kdcache.core.config import plain
from kdcache.core.design import WORST, Best
from kdcache.core.errors import ConfigError, TrainingError
from kdcache.core.search_record import SearchRecord, begin_record, write_record
from kdcache.student.plan import StudentConfig
from kdcache.student.search import estimate, preview
from kdcache.student.search.driver import Driver, Executor, Job, Report, names
from kdcache.student.search.jobs import Bench, InProcess, Recipe, check_all, check_base
from kdcache.student.search.journal import Journal, found_text
from kdcache.student.search.placing import Machine, PerGpu, Places, place
from kdcache.student.search.program import Found, program
from kdcache.student.search.ray_executor import RayTasks
from kdcache.student.search.settings import SearchConfig
from kdcache.student.search.table import Table
from kdcache.student.search.workers import Workers
from kdcache.training.run import RunFile
from kdcache.training.settings import check_engine
from kdcache.version import __version__

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How a search runs.

    Attributes:
        jobs: trainings at once, over all GPUs; null: what `jobs_per_gpu` gives, else 1.
        jobs_per_gpu: trainings at once on each GPU, or `auto`; null: not asked for, and each training has its own.
        executor: `local` processes or `ray`.
        device: `auto`, `cpu`, `cuda`.
    """

    jobs: int | None = None
    jobs_per_gpu: PerGpu | None = None
    executor: Literal["local", "ray"] = "local"
    device: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A search, checked: its settings with the defaults filled in.

    Attributes:
        file: the study.
        config: what may be tried.
        students: their names.
        seeds: the first one searches.
        recipe: of a bench, for any process.
        bench: this process's.
        how: it runs.
        places: where its trainings run, on this machine.
    """

    file: RunFile
    config: SearchConfig
    students: tuple[str, ...]
    seeds: tuple[int, ...]
    recipe: Recipe
    bench: Bench
    how: How
    places: Places

    @classmethod
    def of(cls, file: RunFile, how: How) -> Search:
        """Read the blocks `search:` and `student:`, and refuse what cannot be done before anything trains.

        Raises:
            KDCacheError: bad settings, no cache, no such student or teacher, a loss that the cache does not give.
        """
        config = file.block("search", SearchConfig)
        base = file.block("student", StudentConfig)
        here = Machine.here(how.device)
        places = place(how.jobs, how.jobs_per_gpu, machine=here, device=how.device, executor=how.executor)
        check_base(base)
        check_engine(base, 1, cuda=here.gpus > 0)
        students = config.students or tuple(file.models.students)
        if not students:
            raise ConfigError("the models file names no student; a search needs at least one")
        for student in students:
            file.models.student(student)
        if "validation" not in file.dataset.splits:
            raise ConfigError(f"dataset {file.dataset.name} has no validation split; a search decides by its score")
        if "test" not in file.dataset.splits:
            raise ConfigError(f"dataset {file.dataset.name} has no test split; a search is reported by its score")
        recipe = Recipe(
            file=file,
            base=base,
            device=how.device,
            cache_bytes=config.cache_bytes,
            keep_checkpoints=config.keep_checkpoints,
            measure=how.jobs_per_gpu == "auto",
        )
        bench = recipe.bench()
        seeds = config.seeds or (base.seed,)
        for rate in config.learning_rates:
            replace(base, learning_rate=rate)  # refuses one that no training takes
        check_all(bench, students, estimate.possible(config, seeds[0]))
        return cls(
            file=file,
            config=config,
            students=students,
            seeds=seeds,
            recipe=recipe,
            bench=bench,
            how=how,
            places=places,
        )

    def record(self, student: str) -> SearchRecord:
        """What `compare` reads of a student's search, before anything was found."""
        return SearchRecord(
            code=__version__,
            student=student,
            model=self.file.models.student_digest(student),
            design=self.config.design,
            space=self.config.space(),
            seeds=self.seeds,
            teachers=self.bench.aliases(),
            training=plain(self.recipe.base.training),
            settings=plain(self.config),
        )


def run(file: RunFile, how: How, say: Say) -> dict[str, Found]:
    """Search; what has finished is not trained again.

    Args:
        file: the study.
        how: it runs.
        say: prints a line.

    Returns:
        What was found of each student.

    Raises:
        KDCacheError: see `Search.of`.
        TrainingError: trainings failed; they are named, after all that does not depend on them has been done.
    """
    search = Search.of(file, how)
    journal = Journal(file.out)
    with journal.alone():
        records = {student: search.record(student) for student in search.students}
        for record in records.values():
            begin_record(file.out, record)
        driver, found = _drive(search, journal, say)
        for student, one in found.items():
            folders = {r.job.label: f for f, r in driver.reports.items() if r.job.config.student == student}
            outcome = found_text(one, folders)
            write_record(file.out, replace(records[student], failed=one.failed, outcome=outcome))
            say(summary(student, one))
    if driver.failures:
        raise TrainingError(
            f"{len(driver.failures)} of {len(driver.reports)} trainings failed: {names(driver.failures)}; "
            f"the same command tries them again"
        )
    say(f"runs: {file.students_folder}")
    say(f"next: {shlex.join(['kdcache', 'compare', str(file.students_folder)])}")
    return found


def _drive(search: Search, journal: Journal, say: Say) -> tuple[Driver, dict[str, Found]]:
    """Run the programs of all students, with their journal and table."""
    planned = dict.fromkeys(search.students, estimate.bounds(search.config, search.seeds)[1])

    def started(job: Job) -> None:
        journal.started(job)
        table.started(job)

    def ended(report: Report) -> None:
        if not report.before:
            journal.ended(report)
        table.slots = executor.slots
        table.ended(report)

    def told(line: str) -> None:
        table.say(line)

    with closing(_executor(search, started, told)) as executor, Table(planned, say, slots=executor.slots) as table:
        driver = Driver(
            executor,
            resolve=search.bench.job,
            finished=search.bench.finished,
            skip=search.config.on_error == "skip",
            heard=ended,
        )
        return driver, driver.run({student: program(search.config, search.seeds) for student in search.students})


def _executor(search: Search, started: Callable[[Job], None], say: Say) -> Executor:
    """Where the search's trainings run.

    Raises:
        LaunchError: what was asked for cannot be had.
    """
    if search.how.executor == "ray":
        return RayTasks(search.recipe, cpus=search.config.cpus_per_trial, started=started)
    if search.places.most == 1:
        return InProcess(search.bench, started)
    return Workers(search.recipe, places=search.places, started=started, say=say)


def summary(student: str, found: Found) -> str:
    """What a student's search found, in a few lines."""
    outcome = found.outcome
    lines = [f"{student}:"]
    for pair in outcome.pairs:
        sides = f"{_side(pair.default)} or {_side(pair.alternative)}"
        lines.append(f"  {pair.choice:<8} {sides}: {'moved' if pair.sign > 0 else 'kept'}")
    lines.append(f"  best     {_side(outcome.best)}")
    if outcome.hard is not None:
        lines.append(f"  baseline {_side(outcome.hard)}")
    return "\n".join(lines)


def _side(best: Best) -> str:
    score = f"{best.value:.4f}" if best.value > WORST else "failed"
    return f"{best.trial.configuration.label()} {score}"


def dry_run(file: RunFile, how: How, say: Say) -> None:
    """The plan of a search: cells, stages, trainings, hours. Nothing is trained or written.

    Raises:
        KDCacheError: see `Search.of`.
    """
    search = Search.of(file, how)
    config, space, bench = search.config, search.config.space(), search.bench
    lines = [f"{config.design} search of {', '.join(search.students)}; first seed {search.seeds[0]}"]
    listed = ", ".join(f"{tau:g}" for tau in space.temperatures)
    lines += [
        f"  temperatures  {listed}{', then four around the best' if space.second_stage else ''}",
        f"  rates         {', '.join(f'{rate or bench.base.learning_rate:g}' for rate in space.learning_rates)}",
        f"  choices       {', '.join(space.order)}, "
        f"then alpha of {', '.join(f'{alpha:g}' for alpha in space.alphas) or 'none'}",
        f"  then          complete {', '.join(config.complete) or 'nothing'}; "
        f"seeds {', '.join(map(str, search.seeds[1:])) or 'none'} repeat {config.replicate}",
    ]
    costs = [preview.cost(config, search.seeds, student, bench) for student in search.students]
    for line in (*lines, *(f"  {cost}" for cost in costs), preview.hours(costs, places=search.places)):
        say(line)
