"""Trainings on many machines: each a Ray task with the CPUs or the GPU it needs; the study is on shared storage."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from kdcache.core.errors import LaunchError
from kdcache.student.search.driver import Job, Report
from kdcache.student.search.jobs import Bench, Recipe

LOOK = 1.0
"""Seconds between two looks at which tasks have begun."""


class RayTasks:
    """The executor of a Ray cluster: the one that RAY_ADDRESS or this machine names, else one of this machine alone.

    Args:
        recipe: how a task makes its bench.
        cpus: cores of a training.
        started: told of each job whose task has begun.

    Raises:
        LaunchError: no Ray here, or no cluster that answers.
    """

    def __init__(self, recipe: Recipe, *, cpus: int, started: Callable[[Job], None]) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
        except ModuleNotFoundError:
            raise LaunchError("--executor ray needs Ray: pip install 'kdcache[ray]', here and on each node") from None
        self._ours = not self._ray.is_initialized()
        try:
            self._ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise LaunchError(f"no Ray cluster: {' '.join(str(error).split())}; check RAY_ADDRESS") from None
        resources = self._ray.cluster_resources()
        gpus = int(resources.get("GPU", 0)) if recipe.device != "cpu" else 0
        self.slots = gpus or max(1, int(resources.get("CPU", 1)) // cpus)
        # A task that failed is reported, never repeated in silence.
        self._task = self._ray.remote(num_cpus=cpus, num_gpus=1 if gpus else 0, max_retries=0)(_train)
        self._recipe = self._ray.put((pickle.dumps(recipe), str(Path.cwd())))
        self._begun = self._ray.remote(num_cpus=0, max_restarts=-1)(Begun).remote()
        self._running: dict[Any, Job] = {}
        self._started = started
        self._said: set[Path] = set()

    def submit(self, job: Job) -> None:
        """Queue a job; Ray starts it where there is room."""
        self._running[self._task.remote(self._recipe, job, self._begun)] = job

    def wait(self) -> Report:
        """The next report; a task whose process or machine died is the failure of its job."""
        ended: list[Any] = []
        while not ended:
            ended = self._ray.wait(list(self._running), num_returns=1, timeout=LOOK)[0]
            self._hear()
        done = ended[0]
        job = self._running.pop(done)
        self._say(job)  # it began, whether or not that was heard
        try:
            report: Report = self._ray.get(done)
        except self._ray.exceptions.RayError as error:
            text = " ".join(str(error).split())
            report = Report(job=job, value=None, error=f"its Ray task ended: {text[-300:]}")
        return report

    def _hear(self) -> None:
        """Say which tasks have begun; where nobody can tell, that is said when they end."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            for job in self._ray.get(self._begun.take.remote(), timeout=LOOK):
                self._say(job)

    def _say(self, job: Job) -> None:
        if job.folder not in self._said:
            self._said.add(job.folder)
            self._started(job)

    def close(self) -> None:
        """Cancel what still runs, and leave the cluster."""
        for task in self._running:
            self._ray.cancel(task, force=True)
        if self._ours:
            self._ray.shutdown()


class Begun:
    """An actor that hears of tasks when they begin: Ray starts them when it has room."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []

    def note(self, job: Job) -> None:
        """A task began."""
        self._jobs.append(job)

    def take(self) -> list[Job]:
        """What began since the last call."""
        jobs, self._jobs = self._jobs, []
        return jobs


def _train(recipe: tuple[bytes, str], job: Job, begun: Any) -> Report:
    """A task. Its process serves many and keeps what they share."""
    begun.note.remote(job)
    return _bench(*recipe).train(job)


@lru_cache(maxsize=1)
def _bench(recipe: bytes, folder: str) -> Bench:
    """The bench of this process; relative paths start where the search was started."""
    os.chdir(folder)
    found: Recipe = pickle.loads(recipe)
    return found.bench()
