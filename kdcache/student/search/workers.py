"""Trainings side by side on one machine: processes that stay, each on a GPU or with its share of the cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess

from kdcache.core.errors import LaunchError
from kdcache.student.search.driver import Job, Report
from kdcache.student.search.jobs import Recipe
from kdcache.student.search.packing import pack
from kdcache.student.search.placing import Places, environment

JOIN_SECONDS = 10.0


@dataclass(slots=True)
class _Worker:
    """A process, our end of its pipe, and what it trains.

    Attributes:
        process: it.
        connection: our end.
        job: what it trains; null: it waits.
        shared: whether other trainings ran on its device while this one did.
        alone: whether its device was kept free of others for this job.
    """

    process: SpawnProcess
    connection: Connection
    job: Job | None = None
    shared: bool = False
    alone: bool = False


class Workers:
    """The executor of several processes, on GPUs in turn or on the CPU.

    A training that ran out of its device's memory while others were on that device is trained once more, alone there.
    Where `places` are undecided, the first training that measured itself decides how many there are.

    Args:
        recipe: how a worker makes its bench.
        places: how many processes, and where; each is started when there is work for it.
        started: told of each job that begins.
        say: prints a line.
    """

    def __init__(
        self, recipe: Recipe, *, places: Places, started: Callable[[Job], None], say: Callable[[str], object]
    ) -> None:
        self._recipe, self._places, self._started, self._say = recipe, places, started, say
        self._context: SpawnContext = multiprocessing.get_context("spawn")
        self._workers: list[_Worker | None] = [None] * places.slots
        self._queue: deque[Job] = deque()
        self._alone: deque[tuple[int, Job]] = deque()
        """Jobs that wait for the whole device of a slot; no other job begins there before they have run."""
        self._said = False

    @property
    def slots(self) -> int:
        """Jobs that run side by side; more from when `--jobs-per-gpu auto` has decided."""
        return self._places.slots

    def submit(self, job: Job) -> None:
        """Queue a job; it begins at once where a process is free."""
        self._queue.append(job)
        self._assign()

    def wait(self) -> Report:
        """The next report. A process that died is the failure of its job; another one takes its place."""
        while True:
            busy = {worker.connection: slot for slot, worker in enumerate(self._workers) if worker and worker.job}
            slot = busy[wait(list(busy))[0]]  # type: ignore[index]  # of what was waited for
            report, shared = self._receive(slot)
            self._decide(report)
            again = report.out_of_memory and shared
            if again:
                self._repeat(slot, report.job)
            self._assign()
            if not again:
                return report

    def close(self) -> None:
        """End all processes; what still trains is cut off, and trained again by the next search."""
        for worker in filter(None, self._workers):
            worker.connection.close()  # an idle one ends by itself
            if worker.job is not None:
                worker.process.terminate()
        for worker in filter(None, self._workers):
            worker.process.join(JOIN_SECONDS)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
        self._workers = [None] * self.slots

    def _receive(self, slot: int) -> tuple[Report, bool]:
        """What a worker reports, and whether it shared its device."""
        worker = self._workers[slot]
        if worker is None or worker.job is None:
            raise LaunchError("a worker without a job reported")
        job, worker.job = worker.job, None
        try:
            report: Report = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            worker.connection.close()
            worker.process.join()
            self._workers[slot] = None
            code = worker.process.exitcode
            report = Report(job=job, value=None, error=f"its process {worker.process.pid} ended with {_ending(code)}")
        return report, worker.shared

    def _decide(self, report: Report) -> None:
        """Make room for as many trainings a GPU as the first one that measured itself allows, and say so."""
        if not self._places.undecided or report.value is None or (report.probe is None and self._said):
            return
        packing = pack(report.probe, cores=self._places.cores_per_gpu)
        if report.probe is not None:
            self._places = self._places.decided(packing.jobs)
            self._workers += [None] * (self.slots - len(self._workers))
        self._said = True
        self._say(
            f"--jobs-per-gpu auto, after {report.job.label}: "
            f"{packing.jobs} on each GPU, {self.slots} at once, since {packing.why}"
        )

    def _repeat(self, slot: int, job: Job) -> None:
        """Have a job run once more, when nothing else runs on the device of its slot."""
        self._alone.append((slot, job))
        place = "GPU" if self._places.machine.gpus else "machine"
        self._say(
            f"{job.label} ran out of memory while other trainings shared its {place}; it is trained once more, "
            f"alone there. Fewer at once (--jobs{'-per-gpu' if place == 'GPU' else ''}) would spare that"
        )

    def _assign(self) -> None:
        """Give waiting jobs to free slots: first those that need a device to themselves."""
        for slot, job in list(self._alone):
            if not self._on(self._places.device(slot)):
                self._alone.remove((slot, job))
                self._send(slot, job, alone=True)
        while self._queue and (free := self._free()) is not None:
            self._send(free, self._queue.popleft())

    def _free(self) -> int | None:
        """The slot for the next job: on the device with the fewest, and there a process that has read its data."""
        held = {self._places.device(slot) for slot, _ in self._alone}
        found = []
        for slot, worker in enumerate(self._workers):
            device = self._places.device(slot)
            there = self._on(device)
            if (worker is None or worker.job is None) and device not in held and not any(w.alone for w in there):
                found.append((len(there), worker is None, slot))
        return min(found)[2] if found else None

    def _on(self, device: int) -> list[_Worker]:
        """The workers that train on a device."""
        at = self._places.device
        return [w for slot, w in enumerate(self._workers) if at(slot) == device and w is not None and w.job is not None]

    def _send(self, slot: int, job: Job, *, alone: bool = False) -> None:
        """Give a job to the worker of a slot, which waits or has yet to be started."""
        if alone:
            self._clear(slot)
        worker = self._workers[slot] or self._start(slot)
        try:
            worker.connection.send(job)
        except OSError:  # it died while it waited, killed or out of memory: another one takes its place
            worker.connection.close()
            worker.process.join()
            worker = self._start(slot)
            worker.connection.send(job)
        beside = self._on(self._places.device(slot))
        for other in beside:
            other.shared = True
        worker.job, worker.shared, worker.alone = job, bool(beside) or bool(self._idle(slot)), alone
        if not alone:  # else it began before, and has not ended yet
            self._started(job)

    def _idle(self, slot: int) -> list[int]:
        """Other slots of a GPU whose processes wait: they hold memory of it, a context and perhaps an engine."""
        device, gpus = self._places.device(slot), self._places.machine.gpus
        others = [n for n, w in enumerate(self._workers) if n != slot and w is not None and w.job is None]
        return [n for n in others if gpus and self._places.device(n) == device]

    def _clear(self, slot: int) -> None:
        """End the processes that wait on a slot's GPU; others take their place when there is work again."""
        for n in self._idle(slot):
            worker = self._workers[n]
            if worker is not None:
                worker.connection.close()
                worker.process.join(JOIN_SECONDS)
                self._workers[n] = None

    def _start(self, slot: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(self._recipe, theirs), name=f"kdcache-search-{slot}")
        with _set(environment(slot, places=self._places, now=os.environ)):  # before the process imports torch
            process.start()
        theirs.close()  # so that its death is the end of the pipe
        worker = _Worker(process=process, connection=ours)
        self._workers[slot] = worker
        return worker


@contextmanager
def _set(settings: Mapping[str, str]) -> Iterator[None]:
    """This process's environment changed for a moment: a child inherits it."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(recipe: Recipe, connection: Connection) -> None:
    """A worker: train what comes, until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    bench = recipe.bench()
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(bench.train(job))


def _end_with_parent() -> None:
    """A parent that was killed leaves no training behind that its restart would run beside."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return name + (", as a machine without memory does" if name == "SIGKILL" else "")
    return f"exit code {code}"
