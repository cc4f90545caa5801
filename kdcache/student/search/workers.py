"""Trainings side by side on one machine: processes that stay, each with its share of the cores or a GPU of its own."""

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

import torch

from kdcache.core.errors import LaunchError
from kdcache.student.search.driver import Job, Report
from kdcache.student.search.jobs import Recipe

JOIN_SECONDS = 10.0


def check(jobs: int, *, device: str, executor: str = "local") -> None:
    """Refuse what cannot run side by side.

    Raises:
        LaunchError: no job, more jobs than GPUs, or this process is one of several already.
    """
    if jobs < 1:
        raise LaunchError(f"--jobs {jobs}: give at least 1")
    if jobs > 1 and executor != "local":
        raise LaunchError("--jobs is for --executor local; Ray runs as many as search.cpus_per_trial leaves room for")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise LaunchError("a search is one process and starts others with --jobs; run it without a launcher")
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    if jobs > 1 and 0 < gpus < jobs:
        raise LaunchError(
            f"--jobs {jobs}: this machine shows {gpus} CUDA devices, and each training takes one; "
            f"use --jobs {gpus}, or --device cpu"
        )


def environment(slot: int, *, jobs: int, device: str, now: Mapping[str, str]) -> dict[str, str]:
    """What a worker's environment has beside the parent's; pure but for the number of cores.

    Args:
        slot: the worker's number, from 0.
        jobs: how many there are.
        device: `auto`, `cpu`, `cuda`.
        now: the parent's environment.

    Example:
        >>> environment(1, jobs=2, device="cuda", now={"CUDA_VISIBLE_DEVICES": "4,6", "OMP_NUM_THREADS": "3"})
        {'CUDA_VISIBLE_DEVICES': '6', 'OMP_NUM_THREADS': '3'}
    """
    found: dict[str, str] = {}
    if device != "cpu" and (device == "cuda" or torch.cuda.is_available()):
        listed = now.get("CUDA_VISIBLE_DEVICES", "")
        found["CUDA_VISIBLE_DEVICES"] = listed.split(",")[slot] if listed else str(slot)
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    return {**found, "OMP_NUM_THREADS": now.get("OMP_NUM_THREADS") or str(threads)}


@dataclass(slots=True)
class _Worker:
    """A process, our end of its pipe, and what it trains."""

    process: SpawnProcess
    connection: Connection
    job: Job | None = None


class Workers:
    """The executor of several processes.

    Args:
        recipe: how a worker makes its bench.
        jobs: how many processes, started when there is work for them.
        started: told of each job that begins.
    """

    def __init__(self, recipe: Recipe, *, jobs: int, started: Callable[[Job], None]) -> None:
        self.slots = jobs
        self._recipe, self._started = recipe, started
        self._context: SpawnContext = multiprocessing.get_context("spawn")
        self._workers: list[_Worker | None] = [None] * jobs
        self._queue: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Queue a job; it begins at once where a process is free."""
        self._queue.append(job)
        self._assign()

    def wait(self) -> Report:
        """The next report. A process that died is the failure of its job; another one takes its place."""
        busy = {worker.connection: slot for slot, worker in enumerate(self._workers) if worker and worker.job}
        ready = wait(list(busy))[0]
        slot = busy[ready]  # type: ignore[index]  # of what was waited for
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
        self._assign()
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

    def _assign(self) -> None:
        for slot in range(self.slots):
            if not self._queue:
                return
            worker = self._workers[slot] or self._start(slot)
            if worker.job is None:
                try:
                    worker.connection.send(self._queue[0])
                except OSError:  # it died while it waited, killed or out of memory: another one takes its place
                    worker.connection.close()
                    worker.process.join()
                    worker = self._start(slot)
                    worker.connection.send(self._queue[0])
                worker.job = self._queue.popleft()
                self._started(worker.job)

    def _start(self, slot: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(self._recipe, theirs), name=f"kdcache-search-{slot}")
        settings = environment(slot, jobs=self.slots, device=self._recipe.device, now=os.environ)
        with _set(settings):  # before the process imports torch
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
