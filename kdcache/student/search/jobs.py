"""A request on this study's cache: which job it is, what it is refused for before anything trains, and its training."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace

import torch

from kdcache.core.configuration import Configuration
from kdcache.core.errors import ConfigError, IncompatibleTargets, KDCacheError
from kdcache.core.results import RunResult
from kdcache.student import distill
from kdcache.student.plan import Plan, StudentConfig, finished
from kdcache.student.search import device_memory
from kdcache.student.search.driver import Job, Report
from kdcache.student.search.packing import Probe
from kdcache.student.search.program import Request
from kdcache.student.shared import Shared
from kdcache.training.run import RunFile

SCALE = Configuration().kd_scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where jobs are made and done.

    Attributes:
        shared: the study.
        base: how each configuration is trained: the block `student:`.
        device: `auto`, `cpu`, `cuda`.
        keep_checkpoints: whether a run's weights stay once it is scored.
    """

    shared: Shared
    base: StudentConfig
    device: str = "auto"
    keep_checkpoints: bool = True

    def job(self, student: str, request: Request) -> Job:
        """The training that a request is.

        Raises:
            KDCacheError: the cache does not allow it.
        """
        config = self.config(student, request)
        label = f"{student} {config.configuration.label()}"
        if request.trial.learning_rate:
            label += f" lr {request.trial.learning_rate:g}"
        return Job(config=config, folder=self.shared.plan(config).folder, label=f"{label} seed {request.seed}")

    def config(self, student: str, request: Request) -> StudentConfig:
        """A request's settings: the block's, with the trial's configuration and learning rate."""
        trial = request.trial
        configuration = {f.name: getattr(trial.configuration, f.name) for f in fields(Configuration)}
        rate = trial.learning_rate or self.base.learning_rate
        return replace(self.base, student=student, seed=request.seed, learning_rate=rate, **configuration)

    def finished(self, job: Job) -> Report | None:
        """The report of a job that ended well in an earlier search or by train-student."""
        planned = self.shared.plan(job.config)
        result = finished(planned.folder, planned.key)
        return _report(job, result, before=True) if result is not None else None

    def aliases(self) -> dict[str, str]:
        """Teacher's name -> the first name of its checkpoint: t_hs and t_ll may be one."""
        cache = self.shared.cache(self.base)
        return {alias: identity.name for identity in cache.teachers.values() for alias in identity.names}

    def train(self, job: Job) -> Report:
        """Train a job. What fails as a training can (a loss that is not finite, memory) is reported, not raised."""
        began = time.monotonic()
        device_memory.restart()
        try:
            result, folder = distill.run(
                self.shared.file, job.config, device=self.device, shared=self.shared, progress=False
            )
        except (KDCacheError, RuntimeError, MemoryError, OSError) as error:
            text = " ".join(str(error).split()) or type(error).__name__
            kind = "" if isinstance(error, KDCacheError) else f"{type(error).__name__}: "
            seconds, full = time.monotonic() - began, out_of_memory(error)
            return Report(job=job, value=None, error=f"{kind}{text}", seconds=seconds, out_of_memory=full)
        finally:
            self._release()
        if not self.keep_checkpoints:
            shutil.rmtree(folder / "selected", ignore_errors=True)
        taken = device_memory.read()
        probe = Probe.of(result.extra.get("step"), total_bytes=taken.total_bytes, peak_bytes=taken.peak_bytes)
        return replace(_report(job, result), probe=probe)

    def _release(self) -> None:
        """Give back what the training held: models are in reference cycles."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether a device had no memory left: PyTorch's own error, or one of CUDA's libraries that says so.

    Example:
        >>> out_of_memory(RuntimeError("CUDA error: out of memory")), out_of_memory(MemoryError("out of memory"))
        (True, False)
    """
    return isinstance(error, RuntimeError) and (
        isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower()
    )


def _report(job: Job, result: RunResult, *, before: bool = False) -> Report:
    score = result.scores["validation"][result.metric]
    return Report(
        job=job,
        value=score.value if score.higher_is_better else -score.value,
        seconds=sum(result.seconds.values()),
        prepare=result.seconds.get("prepare", 0.0),
        before=before,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How any process makes its bench; it can be sent to one.

    Attributes:
        file: the study.
        base: the block `student:`.
        device: `auto`, `cpu`, `cuda`.
        cache_bytes: decoded blocks to keep.
        keep_checkpoints: see `Bench`.
        measure: see `Shared`.
    """

    file: RunFile
    base: StudentConfig
    device: str
    cache_bytes: int
    keep_checkpoints: bool
    measure: bool = False

    def bench(self) -> Bench:
        """A bench of its own, with nothing read yet."""
        shared = Shared(self.file, cache_bytes=self.cache_bytes, several=True, measure=self.measure)
        return Bench(shared=shared, base=self.base, device=self.device, keep_checkpoints=self.keep_checkpoints)


class InProcess:
    """The executor of one process: a queue, worked off when it is waited for."""

    slots = 1

    def __init__(self, bench: Bench, started: Callable[[Job], None]) -> None:
        self._bench, self._started = bench, started
        self._queue: list[Job] = []

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self._queue.append(job)

    def wait(self) -> Report:
        """Train the first of the queue."""
        job = self._queue.pop(0)
        self._started(job)
        return self._bench.train(job)

    def close(self) -> None:
        """Nothing runs between two calls."""


def check_base(base: StudentConfig) -> None:
    """Refuse a setting of `student:` that a search would ignore.

    Raises:
        ConfigError: a scale other than the study's.
    """
    if base.kd_scale != SCALE:
        raise ConfigError(f"student.kd_scale = {base.kd_scale}: a search compares at {SCALE}; remove the setting")


def check_all(bench: Bench, students: Iterable[str], requests: Iterable[Request]) -> dict[tuple[str, Request], Plan]:
    """Plan whatever a search may ask for, so that what the cache refuses is known before anything trains.

    Raises:
        IncompatibleTargets: naming every refused configuration.
        KDCacheError: no cache, no such student or teacher.
    """
    plans: dict[tuple[str, Request], Plan] = {}
    refused: dict[str, str] = {}
    asked = list(requests)
    for student in students:
        for request in asked:
            try:
                plans[student, request] = bench.shared.plan(bench.config(student, request))
            except IncompatibleTargets as error:
                refused[request.trial.configuration.label()] = str(error)
    if refused:
        first = next(iter(refused.values()))
        raise IncompatibleTargets(
            f"{len(refused)} configurations of this search cannot be trained from the cache: {', '.join(refused)}. "
            f"The first: {first}; or leave them out (search.order, search.temperatures, search.alphas, search.hard)"
        )
    return plans
