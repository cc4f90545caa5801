"""Trials as Ray tasks, on many machines that share the study's folder. Needs the extra `ray`.

Each task has one GPU where the cluster has any, else one core. The run folders are the same as without Ray.
"""

from __future__ import annotations

import os
from typing import Any

import ray

from kdcache.core.errors import LaunchError
from kdcache.student.plan import StudentConfig
from kdcache.student.search.executors import Done, train
from kdcache.student.shared import Shared
from kdcache.training.run import RunFile

_shared = Shared()
"""Of a Ray worker, which does several tasks one after the other."""


class OnRay:
    """Trainings on a Ray cluster: the one at RAY_ADDRESS, else this machine.

    Args:
        file: the study, in a folder that every machine sees.
        device: `auto`, `cpu`, `cuda`.

    Raises:
        LaunchError: no cluster at RAY_ADDRESS.
    """

    def __init__(self, file: RunFile, device: str) -> None:
        try:
            ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
        except (ConnectionError, ValueError) as error:
            raise LaunchError(
                f"no Ray cluster at RAY_ADDRESS = {os.environ.get('RAY_ADDRESS')!r} ({error}); start one with "
                f"`ray start --head`, or unset it to use this machine"
            ) from None
        resources: Any = ray.cluster_resources
        gpus = 0 if device == "cpu" else min(1, int(resources().get("GPU", 0)))
        self._task: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_train)
        self._file, self._device = file, device
        self._running: dict[Any, int] = {}

    def submit(self, number: int, config: StudentConfig) -> None:
        """Queue a training."""
        self._running[self._task.remote(number, self._file, config, self._device)] = number

    def wait(self) -> Done:
        """The next training that ends; blocks."""
        (ended, *_), _ = ray.wait(list(self._running), num_returns=1)
        number = self._running.pop(ended)
        try:
            done: Done = ray.get(ended)
        except ray.exceptions.RayError as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            return Done(number=number, result=None, error=f"a Ray task died: {first}; run the same command again")
        return done

    def close(self) -> None:
        """End the tasks and leave the cluster."""
        for task in self._running:
            ray.cancel(task, force=True)
        ray.shutdown()


def _train(number: int, file: RunFile, config: StudentConfig, device: str) -> Done:
    return train(number, file, config, device, _shared)
