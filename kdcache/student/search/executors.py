"""Where trials run: in this process, or in workers of their own. Each takes a training and gives its score.

A worker is a fresh interpreter that lives as long as the search: what trials share (`student.shared`) is loaded once in
each. On a CPU the cores are divided among workers; where there are GPUs each worker has one.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from multiprocessing.queues import SimpleQueue
from typing import Protocol

import torch

from kdcache.core.errors import KDCacheError, LaunchError, TrainingError
from kdcache.core.results import RunResult
from kdcache.student import distill
from kdcache.student.plan import StudentConfig
from kdcache.student.shared import Shared
from kdcache.training.run import RunFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A training that ended: with a result, or with the line that says why not."""

    number: int
    result: RunResult | None
    error: str = ""


class Executor(Protocol):
    """Takes numbered trainings, gives them back as they end."""

    def submit(self, number: int, config: StudentConfig) -> None:
        """Queue a training."""

    def wait(self) -> Done:
        """The next training that ends; blocks."""

    def close(self) -> None:
        """Stop; what runs is ended."""


class Here:
    """One after the other in this process."""

    def __init__(self, file: RunFile, device: str) -> None:
        self._file, self._device = file, device
        self._queue: deque[tuple[int, StudentConfig]] = deque()
        self._shared = Shared()

    def submit(self, number: int, config: StudentConfig) -> None:
        """Queue a training."""
        self._queue.append((number, config))

    def wait(self) -> Done:
        """Do the next one."""
        number, config = self._queue.popleft()
        return train(number, self._file, config, self._device, self._shared, progress=True)

    def close(self) -> None:
        """Forget what is queued."""
        self._queue.clear()


class Workers:
    """Several at once on this machine."""

    def __init__(self, file: RunFile, device: str, jobs: int) -> None:
        gpus = 0 if device == "cpu" else torch.cuda.device_count()
        check(jobs, gpus=gpus)
        context = multiprocessing.get_context("spawn")
        places = context.SimpleQueue()
        for place in range(jobs):
            places.put(str(place))
        threads = max(1, len(os.sched_getaffinity(0)) // jobs)
        self._pool = ProcessPoolExecutor(
            jobs, mp_context=context, initializer=_begin, initargs=(places, threads, gpus > 0)
        )
        self._file, self._device = file, device
        self._running: dict[Future[Done], int] = {}

    def submit(self, number: int, config: StudentConfig) -> None:
        """Queue a training."""
        try:
            future = self._pool.submit(_train_there, number, self._file, config, self._device)
        except BrokenProcessPool as error:
            future = Future()
            future.set_exception(error)
        self._running[future] = number

    def wait(self) -> Done:
        """The next one that ends.

        A worker that dies (killed, out of memory) ends its pool, and the trainings beside it: they are run again by
        the same command.
        """
        ended, _ = wait(self._running, return_when=FIRST_COMPLETED)
        future = next(iter(ended))
        number = self._running.pop(future)
        try:
            return future.result()
        except BrokenProcessPool:
            return Done(
                number=number,
                result=None,
                error="a worker process died (out of memory, or killed); run the same command again, with fewer --jobs",
            )

    def close(self) -> None:
        """End the workers."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def check(jobs: int, *, gpus: int) -> None:
    """Refuse numbers of workers that cannot be had.

    Raises:
        LaunchError: fewer than 1, or more than GPUs.
    """
    if jobs < 1:
        raise LaunchError(f"--jobs {jobs}: give at least 1")
    if gpus and jobs > gpus:
        raise LaunchError(f"--jobs {jobs}: this machine shows {gpus} CUDA devices, one for each trial; give {gpus}")


_shared: Shared | None = None
"""A worker's own, made when it begins."""


def _begin(places: SimpleQueue[str], threads: int, gpu: bool) -> None:
    global _shared  # a worker process has one, for all trials
    _shared = Shared()
    if gpu:
        os.environ["LOCAL_RANK"] = places.get()  # the engine's GPU; CUDA_VISIBLE_DEVICES is read before this
    else:
        torch.set_num_threads(threads)


def _end_with_parent() -> None:
    """A killed search takes its workers along: one that went on would write where the next search trains."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _train_there(number: int, file: RunFile, config: StudentConfig, device: str) -> Done:
    return train(number, file, config, device, _shared or Shared())


def train(
    number: int, file: RunFile, config: StudentConfig, device: str, shared: Shared, *, progress: bool = False
) -> Done:
    """Do a training; an error becomes its line."""
    try:
        result, _ = distill.run(file, config, device=device, shared=shared, progress=progress)
    except KDCacheError as error:
        return Done(number=number, result=None, error=str(error))
    except (RuntimeError, MemoryError) as error:  # torch's out of memory is a RuntimeError
        lines = str(error).splitlines() or [type(error).__name__]
        return Done(number=number, result=None, error=str(TrainingError(f"{type(error).__name__}: {lines[0]}")))
    return Done(number=number, result=result)
