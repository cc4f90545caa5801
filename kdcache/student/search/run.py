"""`kdcache search`: checks, then trains what the search asks for, then says what it found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kdcache.core.config import plain
from kdcache.core.configuration import Configuration
from kdcache.core.design import HARD, LAZY, Space, flip, grid
from kdcache.core.errors import IncompatibleTargets
from kdcache.core.results import write_json
from kdcache.student.plan import StudentConfig, plan
from kdcache.student.search.board import Board, Say
from kdcache.student.search.control import STABLE, Found, whole
from kdcache.student.search.drive import Driver
from kdcache.student.search.executors import Executor, Here, Workers, check
from kdcache.student.search.settings import SearchConfig, Unit, students
from kdcache.student.shared import Shared
from kdcache.training.run import RunFile, make_folder

FORMAT = 1
"""Of `search.json`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the command was asked for.

    Attributes:
        file: the study.
        config: its block `search:`, with the command's flags.
        base: its block `student:`.
        students: names to search for; empty: the block's.
        jobs: trials at once.
        device: `auto`, `cpu`, `cuda`.
        executor: makes where trials run; null is this machine.
    """

    file: RunFile
    config: SearchConfig
    base: StudentConfig
    students: tuple[str, ...] = ()
    jobs: int = 1
    device: str = "auto"
    executor: Callable[[Request], Executor] | None = None

    @property
    def space(self) -> Space:
        """What may be tried."""
        return self.config.space(self.base.learning_rate)

    @property
    def names(self) -> tuple[str, ...]:
        """The students to search for."""
        return students(self.file, self.config, self.students)


def _local(request: Request) -> Executor:
    if request.jobs > 1:
        return Workers(request.file, request.device, request.jobs)
    return Here(request.file, request.device)


def run(request: Request, *, say: Say) -> dict[str, Found]:
    """Search for every student; finished trials are found again, so an interrupted search goes on.

    Args:
        request: what to do.
        say: prints a line.

    Raises:
        KDCacheError: bad settings; a configuration that the cache refuses, before anything is trained; a failed trial.
    """
    names, space = request.names, request.space
    check(request.jobs, gpus=0)
    shared = Shared()
    _refuse_early(request, names, space, shared)
    write_json(make_folder(request.file.out) / "search.json", _record(request, names, space))
    executor = request.executor(request) if request.executor else _local(request)
    with Board(say=say) as board:
        driver = Driver(
            executor=executor,
            base=request.base,
            place=lambda config: plan(request.file, config, shared=shared),
            tell=board,
        )
        try:
            found = driver.run({name: whole(name, request.config, space) for name in names})
        finally:
            executor.close()
    for name in names:
        say(summary(found[name], driver.folder))
    say(f"{board.new} trained now, {board.found} were there; {board.seconds:.0f} s")
    say(f"next: kdcache compare {request.file.students_folder}")
    return found


def _refuse_early(request: Request, names: Sequence[str], space: Space, shared: Shared) -> None:
    """Every cell against the cache, before the first training.

    Raises:
        IncompatibleTargets: cells that the cache refuses, all of them named, with what would do it.
    """
    refused: dict[str, str] = {}
    taus = (space.temperatures[0], space.temperatures[-1])
    hard = [HARD] if space.hard else []
    for cell in [*hard, *(replace(cell, tau_t=tau) for cell in reachable(request.config) for tau in taus)]:
        try:
            plan(request.file, Unit.of(names[0], cell).config(request.base), shared=shared)
        except IncompatibleTargets as error:
            refused[cell.label()] = str(error)
    if refused:
        raise IncompatibleTargets(
            f"the cache refuses {len(refused)} of the search's configurations, {', '.join(refused)}: "
            f"{next(iter(refused.values()))}"
        )


def reachable(config: SearchConfig) -> tuple[Configuration, ...]:
    """Cells that a search may train: both sides of the choices in `order`, and what completes it."""
    cells = {Configuration(): None}
    for choice in config.order:
        cells.update({flip(cell, choice): None for cell in tuple(cells)})
    if config.design == "factorial" or "random" in config.complete:
        cells.update(dict.fromkeys(grid()))
    if "lazy" in config.complete:
        cells.update(dict.fromkeys(LAZY))
    if "stable" in config.complete:
        cells[STABLE] = None
    return tuple(cells)


def _record(request: Request, names: Sequence[str], space: Space) -> dict[str, object]:
    """What `compare` reads: the space and the seeds."""
    return {
        "format": FORMAT,
        "design": request.config.design,
        "space": plain(space),
        "seeds": list(request.config.seeds),
        "students": list(names),
        "complete": list(request.config.complete),
    }


def summary(found: Found, folder: Callable[[Unit], Path]) -> str:
    """A student's path, its best, the baseline; scores of validation."""
    outcome = found.outcome
    lines = [f"{found.student}: {len({folder(unit) for unit in found.units})} trainings"]
    for pair in outcome.pairs:
        kept = "alternative" if pair.sign > 0 else "default"
        lines.append(
            f"  {pair.choice:<8} {pair.default.trial.configuration.label()} {pair.default.value:.4f}  against  "
            f"{pair.alternative.trial.configuration.label()} {pair.alternative.value:.4f}: {kept}"
        )
    if outcome.hard is not None:
        lines.append(f"  hard labels {outcome.hard.value:.4f}")
    lines.append(f"  best     {outcome.best.trial.configuration.label()} {outcome.best.value:.4f}")
    return "\n".join(lines)
