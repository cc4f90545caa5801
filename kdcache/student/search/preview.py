"""`kdcache search --dry-run`: what would be trained, how often, how long. Nothing is trained or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcache.student.search.driver import Report
from kdcache.student.search.estimate import Bounds, bounds
from kdcache.student.search.jobs import Bench
from kdcache.student.search.placing import Places
from kdcache.student.search.program import Request, program
from kdcache.student.search.settings import SearchConfig
from kdcache.student.search.table import span


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Trainings of one student.

    Attributes:
        student: its name.
        all: fewest and most.
        left: of these, fewest and most that have not finished.
        seconds: of those that have finished, one each.
    """

    student: str
    all: Bounds
    left: Bounds
    seconds: tuple[float, ...]

    def __str__(self) -> str:
        text = f"{self.student}: {_range(self.all)} trainings"
        if self.left != self.all:
            text += f", {_range(self.left)} of them to do"
        return text


def _known(config: SearchConfig, seeds: Sequence[int], student: str, bench: Bench) -> tuple[Report, ...] | None:
    """The trainings of a search that has ended already, else null."""
    running = program(config, seeds)
    found: dict[Path, Report] = {}
    batch = next(running)
    while True:
        values = {}
        for request in batch:
            report = bench.finished(bench.job(student, request))
            if report is None or report.value is None:
                return None
            found[report.job.folder], values[request] = report, report.value
        try:
            batch = running.send(values)
        except StopIteration:
            return tuple(found.values())


def cost(config: SearchConfig, seeds: Sequence[int], student: str, bench: Bench) -> Cost:
    """Count a student's trainings; equal ones, e.g. of t_hs and t_ll where they are one checkpoint, once."""
    known = _known(config, seeds, student, bench)
    if known is not None:
        ends = (len(known), len(known))
        return Cost(student=student, all=ends, left=(0, 0), seconds=tuple(report.seconds for report in known))
    folders: dict[Request, Path] = {}
    finished: dict[Path, Report | None] = {}

    def runs(requests: Sequence[Request]) -> set[Path]:
        for request in requests:
            if request not in folders:
                job = bench.job(student, request)
                folders[request] = job.folder
                finished[job.folder] = bench.finished(job)
        return {folders[request] for request in requests}

    every = bounds(config, seeds, lambda asked: len(runs(asked)))
    left = bounds(config, seeds, lambda asked: sum(finished[run] is None for run in runs(asked)))
    seconds = tuple(report.seconds for report in finished.values() if report is not None)
    return Cost(student=student, all=every, left=left, seconds=seconds)


def hours(costs: Sequence[Cost], *, places: Places) -> str:
    """The time that is left, from finished trainings; a student without any takes the mean of the others.

    Trainings that share a GPU may cost each other nothing or all that sharing could win: the longer time is that of one
    training a GPU.

    Args:
        costs: of each student.
        places: where the trainings will run.
    """
    known = [second for cost in costs for second in cost.seconds]
    least, most = (sum(cost.left[end] for cost in costs) for end in (0, 1))
    total = f"to do: {_range((least, most))} trainings"
    if not most:
        return "to do: nothing"
    if not known:
        return f"{total}; how long they take is not known before the first has finished"
    ends = []
    for end, at_once in ((0, places.slots), (1, places.alone)):
        means = [sum(c.seconds or known) / len(c.seconds or known) for c in costs]
        ends.append(sum(mean * c.left[end] for mean, c in zip(means, costs, strict=True)) / at_once)
    low, high = (span(seconds) for seconds in ends)
    times = low if low == high else f"{low} to {high}"
    return f"{total}, {times} with --jobs {places.slots}{_sharing(places)}, from {len(known)} that have finished"


def _sharing(places: Places) -> str:
    """What a time leaves open about GPUs that trainings share."""
    if places.undecided:
        return " (less if --jobs-per-gpu auto takes more)"
    shared = places.slots > places.alone
    return f" on {places.alone} GPU{'s' * (places.alone > 1)} (the most if sharing wins nothing)" if shared else ""


def _range(ends: Bounds) -> str:
    return f"{ends[0]}" if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
