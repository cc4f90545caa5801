"""A CUDA graph: what a function asked of the device, recorded once and asked again in one launch."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from kdcache.losses.facts import Facts
from kdcache.training.sending import Layout

Replay = Callable[[], None]


LOSSES = 8
"""Losses whose graphs are kept of one engine; the oldest goes first."""
LARGEST = 48
"""Graphs of one training, at most."""
UNFIT = (RuntimeError, ValueError, TypeError, AttributeError)
"""What CUDA, torch and models raise where they cannot be recorded; eager steps go on."""

Key = tuple[Layout, Facts]
"""A shape: where its tensors lie, and what is known of its rows."""


class Recorder(Protocol):
    """Records functions that read and write the same memory each time."""

    def scope(self) -> AbstractContextManager[None]:
        """In which everything runs that is recorded, or shares memory with it."""

    def record(self, function: Callable[[], None]) -> Replay:
        """What repeats a function; it must have run before, and recording does not run it.

        Raises:
            RuntimeError: the function waits for the device, or does what a graph cannot hold.
        """

    def seconds(self) -> float:
        """The time when all that was asked of the device is done."""

    def release(self) -> None:
        """Give back the memory of all recordings, which are not replayed any more."""


class CudaRecorder:
    """Records CUDA graphs, on a stream of its own; they share their memory, for they run one after the other.

    Args:
        device: of CUDA.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Of high priority, for those are streams of their own: PyTorch gives out 32 of the others in turn, and what is
        # copied on the same one would be recorded.
        self._stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._empty = True

    @contextmanager
    def scope(self) -> Iterator[None]:
        """The recorder's stream: it waits for what was asked before, and what is asked later waits for it."""
        before = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(before)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            before.wait_stream(self._stream)

    def record(self, function: Callable[[], None]) -> Replay:
        """A graph of a function.

        Raises:
            RuntimeError: CUDA refuses; the function has not run, and eager work goes on as before.
        """
        if self._empty:
            torch.cuda.empty_cache()  # what eager steps held is where the graphs' memory comes from
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        collecting = gc.isenabled()
        gc.disable()  # whatever it would free may end the recording
        ended = False
        try:
            # Other threads go on: they page-lock memory and start copies, which a recording of all threads forbids.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                function()
            except BaseException:
                with suppress(RuntimeError):
                    graph.capture_end()
                    ended = True
                raise
            graph.capture_end()
            ended = True
        except BaseException:
            self._recover(ended=ended)
            raise
        finally:
            if collecting:
                gc.enable()
        self._empty = False
        replay: Replay = graph.replay
        return replay

    def seconds(self) -> float:
        """The time when the device is done."""
        torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def release(self) -> None:
        """Give back what no graph holds any more."""
        gc.collect()
        torch.cuda.empty_cache()
        self._pool = torch.cuda.graph_pool_handle()
        self._empty = True

    def _recover(self, *, ended: bool) -> None:
        """Undo what a recording that broke off leaves: the allocator's pool, and a generator that thinks it records.

        Args:
            ended: whether the graph knows that it ended; else it will not let go of its pool itself.
        """
        index = torch.cuda.current_device() if self._device.index is None else self._device.index
        if not ended:
            for undo in (torch._C._cuda_endAllocateToPool, torch._C._cuda_releasePool):
                with suppress(RuntimeError):
                    undo(index, self._pool)
        generator = torch.cuda.default_generators[index]
        generator.graphsafe_set_state(generator.clone_state())
        self._pool = torch.cuda.graph_pool_handle()
        torch.cuda.synchronize(self._device)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A graph, and what must live as long: a graph knows addresses, and holds none of the memory there.

    Attributes:
        buffer: that it reads a batch from.
        replay: repeats it.
        reads: what else it reads beside the model, e.g. a teacher's tables.
        left: the tensors that it leaves its results in.
    """

    buffer: Tensor
    replay: Replay
    reads: object = None
    left: list[Tensor] = field(default_factory=list)


@dataclass(slots=True)
class Graphs:
    """The graphs over one model's memory, of any number of trainings of it.

    Attributes:
        recorder: made them.
        steps: loss -> shape -> forward, loss and backward.
        rows: shape -> forward alone, in evaluation.
        met: shapes that came in an evaluation.
        share: where steps add up their losses, float32 [4]; null before the first training.
        worth: whether graphs were found to be worth it; null: not known yet.
        why: they were not.
    """

    recorder: Recorder
    steps: dict[Hashable, dict[Key, Recorded]] = field(default_factory=dict)
    rows: dict[Key, Recorded] = field(default_factory=dict)
    met: set[Key] = field(default_factory=set)
    share: Tensor | None = None
    worth: bool | None = None
    why: str = "no shape came three times"

    def of(self, name: Hashable) -> dict[Key, Recorded]:
        """The graphs of a loss, to which a training adds its own.

        Args:
            name: of the loss and of whatever else it reads.
        """
        mine = self.steps.pop(name, {})
        while len(self.steps) >= LOSSES:
            self.steps.pop(next(iter(self.steps))).clear()
        self.steps[name] = mine  # the newest comes last
        return mine

    def record(self, function: Callable[[], None], what: str) -> Replay | None:
        """What repeats a function; null where it cannot be recorded, and then `why` says so.

        The error itself is gone when this returns, and with it what its traceback held of the recording.

        Args:
            function: see `Recorder.record`.
            what: it is, for people.
        """
        try:
            return self.recorder.record(function)
        except UNFIT as error:
            self.why = f"{what} cannot be recorded: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return None

    def drop(self, why: str) -> None:
        """Give all of them up."""
        self.worth, self.why = False, why
        for recorded in self.steps.values():  # steppers hold them too
            recorded.clear()
        self.steps.clear()
        self.rows.clear()
        self.recorder.release()
