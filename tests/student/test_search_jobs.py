"""Trainings of a search: what is read once, what is given back, processes that die, what is shown."""

from __future__ import annotations

import gc
import io
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from kdcache.cache.reader import Cache
from kdcache.core.configuration import Configuration
from kdcache.core.design import Trial
from kdcache.core.errors import LaunchError
from kdcache.student import distill, shared
from kdcache.student.plan import StudentConfig
from kdcache.student.search import device_memory, ray_executor
from kdcache.student.search.device_memory import DeviceMemory
from kdcache.student.search.driver import Job, Report, names
from kdcache.student.search.jobs import InProcess, Recipe
from kdcache.student.search.packing import Probe
from kdcache.student.search.placing import Machine, place
from kdcache.student.search.program import Request
from kdcache.student.search.table import Table
from kdcache.student.search.workers import Workers
from kdcache.training.run import load_run
from tests.ends import wait_until


@pytest.fixture
def recipe(study: Path, tmp_path: Path) -> Recipe:
    """Two steps a training, over the tiny study's cache."""
    file = load_run(study / "run.yaml", out=tmp_path)
    base = replace(file.block("student", StudentConfig), epochs=1, batch_size=32, cache=study / "out/cache")
    return Recipe(file=file, base=base, device="cpu", cache_bytes=10**8, keep_checkpoints=True)


def request(seed: int, **settings: object) -> Request:
    return Request(trial=Trial(configuration=Configuration(**settings).canonical()), seed=seed)  # type: ignore[arg-type]


def ignore(job: Job) -> None:
    """Nobody wants to know."""


def test_twenty_trainings_read_once_and_leave_nothing_behind(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    for owner, name in ((shared, "prepare"), (shared.models, "load_tokenizer"), (shared, "open_cache")):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, _n=name, _r=real, **kw: (read.append(_n), _r(*args, **kw))[1])
    executor = InProcess(recipe.bench(), ignore)
    alive, reports = [], []
    for seed in range(20):
        executor.submit(executor._bench.job("half", request(seed, tau_t=4.0)))
        reports.append(executor.wait())
        alive.append(sum(issubclass(type(thing), torch.nn.Module) for thing in gc.get_objects()))
    assert all(report.value is not None for report in reports)
    assert sorted(read) == ["load_tokenizer", "open_cache", "prepare"]
    assert len(set(alive)) == 1
    assert not [thing for thing in gc.get_objects() if type(thing).__name__ == "DeepSpeedEngine"]


def test_a_cache_keeps_as_many_decoded_bytes_as_it_is_told(study: Path) -> None:
    small, large = (Cache.open(study / "out/cache", cache_bytes=size) for size in (1, 10**8))
    for cache in (small, large):
        cache.items(cache.plan.indices("train"))
        cache.rows("t_hs", cache.plan.indices("train"))
    assert 0 < small._blocks.num_bytes < large._blocks.num_bytes <= 10**8


def test_a_learning_rate_of_the_search_stands_in_the_label_and_the_settings(recipe: Recipe) -> None:
    bench = recipe.bench()
    asked = replace(request(3, teacher="t_ll"), trial=Trial(configuration=Configuration(), learning_rate=0.25))
    job = bench.job("half", asked)
    assert job.label == "half ce t_hs tau 1/1 lr 0.25 seed 3"
    assert job.config.learning_rate == 0.25
    assert bench.config("half", request(3)).learning_rate == recipe.base.learning_rate


@pytest.fixture
def two(recipe: Recipe) -> Iterator[Workers]:
    """Two processes."""
    places = place(2, None, machine=Machine(cores=2), device="cpu")
    longer = replace(recipe, base=replace(recipe.base, epochs=200))
    executor = Workers(longer, places=places, started=ignore, say=print)
    yield executor
    executor.close()


@pytest.mark.slow
def test_a_worker_that_is_killed_is_named_and_another_takes_its_place(two: Workers) -> None:
    bench = two._recipe.bench()
    doomed, other = bench.job("half", request(0)), bench.job("half", request(1, alpha=0.0, teacher=None))
    short = replace(other.config, epochs=1)
    later = replace(other, config=short, folder=bench.shared.plan(short).folder, label="later")
    two.submit(doomed)
    two.submit(replace(later, label="beside"))
    log = doomed.folder / "log.jsonl"
    wait_until(lambda: log.is_file() and '"step"' in log.read_text())
    victim = next(worker for worker in two._workers if worker and worker.job is doomed)
    os.kill(victim.process.pid or 0, signal.SIGKILL)
    two.submit(later)
    reports = {report.job.label: report for report in (two.wait(), two.wait(), two.wait())}
    assert reports[doomed.label].error == (
        f"its process {victim.process.pid} ended with SIGKILL, as a machine without memory does"
    )
    assert reports["beside"].value == reports["later"].value is not None
    two.submit(doomed)
    two.close()  # cuts it off
    assert not (doomed.folder / "result.json").exists()


@pytest.mark.slow
def test_a_worker_that_was_killed_while_it_waited_is_replaced_before_it_gets_work(two: Workers) -> None:
    bench = two._recipe.bench()
    job = bench.job("half", request(2, alpha=0.0, teacher=None))
    short = replace(job.config, epochs=1)
    job = replace(job, config=short, folder=bench.shared.plan(short).folder)
    two.submit(job)
    assert two.wait().value is not None
    idle = next(worker for worker in two._workers if worker)
    os.kill(idle.process.pid or 0, signal.SIGKILL)
    idle.process.join()
    again = replace(job, config=replace(short, seed=3))
    again = replace(again, folder=bench.shared.plan(again.config).folder)
    two.submit(again)
    assert two.wait().value is not None


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (torch.cuda.OutOfMemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("NCCL error: Cuda failure 2 'Out of memory'"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (MemoryError("out of memory"), False),
    ],
)
def test_a_bench_says_whether_its_device_had_no_memory_left(
    recipe: Recipe,
    error: Exception,
    short: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(distill, "run", fail)
    bench = recipe.bench()
    report = bench.train(bench.job("half", request(0)))
    assert (report.value, report.out_of_memory) == (None, short)
    assert report.error.startswith(type(error).__name__)


def test_a_report_has_a_probe_where_its_training_measured_itself_on_a_gpu(
    recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = recipe.bench()
    report = bench.train(bench.job("half", request(0)))
    assert report.probe is None  # on a CPU
    result, folder = distill.run(bench.shared.file, report.job.config, device="cpu", shared=bench.shared)
    step = {"graphs": 0, "seconds": 0.02, "busy": 0.006, "peak_bytes": 1}
    measured = replace(result, extra={**result.extra, "step": step})
    monkeypatch.setattr(distill, "run", lambda *arguments, **named: (measured, folder))
    memory = DeviceMemory(peak_bytes=7, total_bytes=100)
    monkeypatch.setattr(device_memory, "read", lambda: memory)
    probe = Probe(graphs=False, seconds=0.02, busy=0.006, peak_bytes=7, total_bytes=100)
    assert bench.train(report.job).probe == probe


def test_without_ray_the_extra_is_named(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(ray_executor.importlib, "import_module", missing)
    with pytest.raises(LaunchError, match=r"--executor ray needs Ray: pip install 'kdcache\[ray\]', here and on each"):
        ray_executor.RayTasks(recipe, cpus=1, started=ignore)


@pytest.mark.slow
def test_a_ray_task_that_dies_is_named(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray_executor, "_train", _die)
    executor = ray_executor.RayTasks(recipe, cpus=1, started=ignore)
    try:
        job = recipe.bench().job("half", request(0))
        executor.submit(job)
        report = executor.wait()
    finally:
        executor.close()
    assert (report.job, report.value) == (job, None)
    assert report.error.startswith("its Ray task ended: ")
    assert not ray.is_initialized()


@pytest.mark.slow
def test_a_ray_task_is_said_to_begin_when_it_does_and_not_when_it_is_queued(recipe: Recipe) -> None:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=1, log_to_driver=False, logging_level="ERROR")
    begun: list[Job] = []
    try:
        executor = ray_executor.RayTasks(recipe, cpus=1, started=begun.append)
        jobs = [recipe.bench().job("half", request(seed)) for seed in (0, 1)]
        for one in jobs:
            executor.submit(one)
        assert (executor.slots, begun) == (1, [])
        ended = [executor.wait().job for _ in jobs]
        assert begun == ended
        executor.close()
    finally:
        ray.shutdown()


def _die(recipe: tuple[bytes, str], job: Job, begun: object) -> Report:
    os._exit(3)


def job(student: str, label: str) -> Job:
    return Job(config=StudentConfig(student=student), folder=Path(label), label=label)


def test_a_line_is_said_for_each_training_that_ends() -> None:
    lines: list[str] = []
    with Table({"a": 4}, lines.append, slots=2, console=Console(file=io.StringIO())) as table:
        table.ended(Report(job=job("a", "a one"), value=0.5, seconds=9.0, before=True))
        assert table.left() is None
        table.started(job("a", "a two"))
        table.ended(Report(job=job("a", "a two"), value=0.25, seconds=100.0))
        table.ended(Report(job=job("a", "a three"), value=None, error="the loss is nan", seconds=20.0))
    assert lines == [
        "a one  0.5000  best 0.5000  1 of <= 4  there already",
        "a two  0.2500  best 0.5000  2 of <= 4  100 s  at most 100 s left",
        "a three  failed: the loss is nan  best 0.5000  3 of <= 4  20 s  at most 30 s left",
    ]


def test_a_terminal_gets_a_table_of_what_runs_and_what_is_best() -> None:
    stream = io.StringIO()
    lines: list[str] = []
    console = Console(file=stream, force_terminal=True, width=110)
    with Table({"a": 4, "b": 4}, lines.append, console=console) as table:
        table.started(job("a", "a ce"))
        table.started(job("b", "b mse"))
        table.ended(Report(job=job("a", "a ce"), value=0.75, seconds=60.0))
        table.ended(Report(job=job("b", "b mse"), value=None, error="out of memory"))
        table.started(job("a", "a mse"))
    assert lines == []
    plain = Console(file=io.StringIO(), width=110)
    plain.print(table.render())
    shown = plain.file.getvalue()  # type: ignore[attr-defined]
    rows = {line.split()[1]: line for line in shown.splitlines() if line.startswith("│")}
    assert "1 of <= 4" in rows["a"]
    assert "a mse" in rows["a"]
    assert "0.7500" in rows["a"]
    assert "1 of <= 4, 1 failed" in rows["b"]
    assert "at most" in shown


def test_a_line_stands_above_the_table_and_more_trainings_at_once_shorten_the_time_left() -> None:
    stream = io.StringIO()
    lines: list[str] = []
    with Table({"a": 3}, lines.append, console=Console(file=stream, force_terminal=True, width=60)) as table:
        table.started(job("a", "one"))
        table.say("--jobs-per-gpu auto, after a [ce]: " + "long " * 20)
        table.ended(Report(job=job("a", "one"), value=0.75, seconds=60.0))
        assert table.left() == 120.0
        table.slots = 4
        assert table.left() == 30.0
    shown = stream.getvalue()
    said = shown.index("--jobs-per-gpu auto, after a [ce]: " + "long " * 19)
    assert said < shown.index("0.7500")
    assert shown[:said].endswith("\x1b[2K")  # of the table that stood there
    assert lines == []
    with Table({"a": 3}, lines.append, console=Console(file=io.StringIO())) as table:
        table.say("a line")
    assert lines == ["a line"]


def test_failures_are_named_in_one_line() -> None:
    reports = [Report(job=job("a", f"a {n}"), value=None, error="out of memory") for n in (1, 2)]
    reports.append(Report(job=job("a", "a 3"), value=None, error="the loss is nan"))
    assert names(reports) == "a 1, a 2: out of memory; a 3: the loss is nan"
    assert json.dumps(names(reports)).count("\\n") == 0
