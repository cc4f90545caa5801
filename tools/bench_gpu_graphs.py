"""What a recorded step costs, and the trial of several students' graphs in one process; see `tools/bench_gpu_steps.py`.

Nothing here is judged. On a CPU, which has no graphs, a recorder reruns what it should have recorded: the code runs,
and its figures mean nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice

import torch

from kdcache.training import evaluate
from kdcache.training.recording import CudaRecorder, Graphs, Recorder, Replay
from kdcache.training.stepping import Ready, Stepper
from tools.bench_step import KD, Bench
from tools.bench_table import Table

RATE = 2e-5
PASSES = 8
"""Over the same batches: three eager steps, each shape twice eager, and its recording."""


class Rerunning:
    """The recorder of a device without graphs: it runs a function again.

    Its clock runs ever slower, so that whatever is timed later is found to be faster, and graphs worth it.
    """

    def __init__(self) -> None:
        self._now, self._lap = 0.0, 1.0

    def scope(self) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()

    def record(self, function: Callable[[], None]) -> Replay:
        """The function; one without gradients runs once, since what it makes is read afterwards."""
        if not torch.is_grad_enabled():
            function()
        return function

    def seconds(self) -> float:
        """Later than the last time, by half as much."""
        self._now += self._lap
        self._lap /= 2
        return self._now

    def release(self) -> None:
        """Nothing."""


class Timed:
    """A recorder that counts its recordings, and the seconds that they take.

    Args:
        recorder: does it.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.taken: list[float] = []

    def scope(self) -> AbstractContextManager[None]:
        """The recorder's."""
        return self._recorder.scope()

    def record(self, function: Callable[[], None]) -> Replay:
        """Record, and note the time."""
        began = time.perf_counter()
        replay = self._recorder.record(function)
        self.taken.append(time.perf_counter() - began)
        return replay

    def seconds(self) -> float:
        """The recorder's."""
        return self._recorder.seconds()

    def release(self) -> None:
        """The recorder's."""
        self._recorder.release()

    @property
    def told(self) -> str:
        """What it did, in words."""
        if not self.taken:
            return "no graph"
        typical, longest = statistics.median(self.taken), max(self.taken)
        return f"{len(self.taken)} recordings, {sum(self.taken):.2f} s; median {typical:.3f} s, longest {longest:.3f} s"


def recorder(device: str) -> Timed:
    """A recorder for a device."""
    return Timed(CudaRecorder(torch.device(device)) if device == "cuda" else Rerunning())


def always(device: str) -> str:
    """The setting `graph` that keeps graphs whatever they gain; without CUDA it is refused, and the clock does it."""
    return "always" if device == "cuda" else "auto"


def clock(device: str) -> float:
    """The time when a device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A student whose steps are recorded.

    Attributes:
        stepping: runs them.
        readies: the steps, with their batches on the device.
        stream: where it is told to run, so that students do not wait for each other; null on a CPU.
        recorder: recorded them.
        graphs: holds them.
    """

    stepping: Stepper
    readies: tuple[Ready, ...]
    stream: torch.cuda.Stream | None
    recorder: Timed
    graphs: Graphs

    @classmethod
    def of(cls, bench: Bench, *, batches: int, graph: bool = True) -> Student:
        """A student that learned from a few batches, over and over, until all of their shapes were recorded."""
        device = bench.device
        timed = recorder(device)
        graphs = Graphs(timed)
        setting = always(device) if graph else "never"
        running = bench.begin(KD, graphs=graphs if graph else None, graph=setting)
        stepping = running.stepping
        stepping.engine.train(True)
        readies = tuple(stepping.feed.ready(step) for step in islice(running.steps.epoch(0), batches))
        stream = torch.cuda.Stream() if device == "cuda" else None  # type: ignore[no-untyped-call]
        student = cls(stepping=stepping, readies=readies, stream=stream, recorder=timed, graphs=graphs)
        clock(device)  # the weights are there, for its own stream as well
        for _ in range(PASSES):
            student.learn(readies)
        clock(device)
        return student

    def learn(self, readies: Sequence[Ready]) -> None:
        """Run steps; the host does not wait for them."""
        with nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            for ready in readies:
                self.stepping.step(ready, RATE)

    def close(self) -> None:
        """Give back its memory."""
        self.graphs.drop("measured")
        self.stepping.engine.close()


def host_time(bench: Bench, name: str, table: Table, *, batches: int, repeats: int) -> None:
    """How long the host is busy with a step, and how long the step takes: as graphs and eager."""
    for graph in (True, False):
        student = Student.of(bench, batches=batches, graph=graph)
        host, whole = [], []
        for ready in student.readies * repeats:
            began = clock(bench.device)
            student.learn([ready])
            host.append(time.perf_counter() - began)
            whole.append(clock(bench.device) - began)
        kind = "replayed as a graph" if graph else "eager"
        table.add(f"{name}: host time of a step, {kind}", statistics.median(host) * 1e3, None, " ms")
        table.add(f"{name}: wall time of the same", statistics.median(whole) * 1e3, None, " ms")
        if graph:
            table.say(f"{name}: recorded for {batches} batches", student.recorder.told)
        student.close()


def evaluation(bench: Bench, name: str, table: Table, *, batches: int, repeats: int) -> None:
    """A whole evaluation, its readings included, by graphs over the same eager."""
    student = Student.of(bench, batches=batches)
    engine, items = student.stepping.engine, bench.case.items
    engine.train(False)
    setup = evaluate.Setup(task=bench.task, tokenizer=None, pad_token_id=0, batch_size=64, world=bench.world)
    rows = student.stepping.rows(bench.task)

    def graphs() -> None:
        evaluate.predict(engine, items, setup, rows=rows)

    def eager() -> None:
        evaluate.predict(engine, items, setup)

    found: dict[Callable[[], None], list[float]] = {eager: [], graphs: []}
    for _ in range(repeats + 3):  # shapes are met, recorded and replayed
        for function, taken in found.items():
            began = clock(bench.device)
            function()
            taken.append(clock(bench.device) - began)
    ratio = statistics.median(one / own for one, own in list(zip(found[graphs], found[eager], strict=True))[3:])
    seconds = statistics.median(found[eager][3:])
    table.add(f"{name}: evaluation of {len(items):,} items by graphs over eager ({seconds:.3f} s)", ratio, None)
    student.close()


def several(bench: Bench, name: str, table: Table, *, counts: Sequence[int], batches: int, repeats: int) -> None:
    """The trial: the graphs of several students, each on a stream of its own, over one student after the other."""
    students: list[Student] = []
    for count in counts:
        while len(students) < count:
            students.append(Student.of(bench, batches=batches))

        def one_by_one() -> None:
            for student in students:
                student.learn(student.readies)
                clock(bench.device)

        def together() -> None:
            for number in range(batches):
                for student in students:
                    student.learn(student.readies[number : number + 1])

        ratios = []
        for _ in range(repeats + 1):
            began = clock(bench.device)
            one_by_one()
            middle = clock(bench.device)
            together()
            ratios.append((middle - began) / (clock(bench.device) - middle))
        what = f"{name}: {count} students, graphs on streams of their own, throughput over one after the other"
        table.add(what, statistics.median(ratios[1:]), None, " x")
    for student in students:
        student.close()
