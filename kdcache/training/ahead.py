"""An iterator that a thread runs ahead of its reader."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")


def ahead(
    source: Iterator[S],
    work: Callable[[S], T],
    *,
    depth: int = 1,
    room: float = float("inf"),
    size: Callable[[T], float] = lambda element: 0.0,
) -> Generator[T, None, None]:
    """`map(work, source)`, where a thread makes the next elements while one is used.

    The thread makes elements until `depth` of them wait, and begins again when one is left: what it needs in the
    processor's caches is then read once for several elements, which makes each two to three times cheaper.

    What the source or the work raises is raised where the element is asked for. Closing the iterator ends the thread,
    and closes the source, before it returns.

    Args:
        source: consumed by the thread alone.
        work: called by the thread.
        depth: elements that wait, at most.
        room: no more are made once those that wait have this size.
        size: of an element.

    Example:
        >>> list(ahead(iter([1, 2, 3]), lambda n: n * n))
        [1, 4, 9]
    """
    line: _Line[T] = _Line(depth, room)
    thread = threading.Thread(target=_run, args=(source, work, line, size), name="kdcache-ahead", daemon=True)
    thread.start()
    try:
        while (found := line.take()) is not None:
            yield found[0]
    finally:
        line.stop()
        thread.join()


class _Line(Generic[T]):
    """Elements on their way from one thread to another.

    Args:
        depth: how many wait, at most.
        room: their size, at most, but for the last one.
    """

    def __init__(self, depth: int, room: float) -> None:
        self._depth, self._room = depth, room
        self._waiting: deque[tuple[T, float]] = deque()
        self._held = 0.0
        self._end: tuple[BaseException | None] | None = None
        self._stopped = False
        self._changed = threading.Condition()

    def put(self, element: T, size: float) -> bool:
        """Add an element; waits where there is no room. False where nobody reads any more."""
        with self._changed:
            self._waiting.append((element, size))
            self._held += size
            self._changed.notify_all()
            if len(self._waiting) >= self._depth or self._held >= self._room:
                self._changed.wait_for(lambda: self._stopped or len(self._waiting) <= min(1, self._depth - 1))
            return not self._stopped

    def end(self, error: BaseException | None) -> None:
        """There are no more; the reader gets the error after what waits."""
        with self._changed:
            self._end = (error,)
            self._changed.notify_all()

    def take(self) -> tuple[T] | None:
        """The next element, which is waited for; null at the end.

        Raises:
            BaseException: what the other thread met.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._end is not None)
            if self._waiting:
                element, size = self._waiting.popleft()
                self._held -= size
                if len(self._waiting) <= min(1, self._depth - 1):
                    self._changed.notify_all()
                return (element,)
            error = None if self._end is None else self._end[0]
        if error is not None:
            raise error
        return None

    def stop(self) -> None:
        """Nobody reads any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


def _run(source: Iterator[S], work: Callable[[S], T], line: _Line[T], size: Callable[[T], float]) -> None:
    error: BaseException | None = None
    try:
        for element in source:
            made = work(element)
            if not line.put(made, size(made)):
                break
    except BaseException as found:  # noqa: BLE001  raised again by the reader
        error = found
    if isinstance(source, Generator):
        source.close()
    line.end(error)
