"""An iterator that a thread runs ahead of its reader."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")

_LOOK_SECONDS = 0.2
"""How often a thread that waits for its reader looks whether there still is one."""


class _End(Exception):
    """The source has no more elements."""


def ahead(source: Iterator[S], work: Callable[[S], T], *, depth: int = 1) -> Generator[T, None, None]:
    """`map(work, source)`, where a thread makes the next elements while one is used.

    What the source or the work raises is raised where the element is asked for. Closing the iterator ends the thread,
    and closes the source, before it returns.

    Args:
        source: consumed by the thread alone.
        work: called by the thread.
        depth: elements that wait, at most; one more is being made.

    Example:
        >>> list(ahead(iter([1, 2, 3]), lambda n: n * n))
        [1, 4, 9]
    """
    made: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=depth)
    stop = threading.Event()
    thread = threading.Thread(target=_run, args=(source, work, made, stop), name="kdcache-ahead", daemon=True)
    thread.start()
    try:
        while True:
            element, error = made.get()
            if isinstance(error, _End):
                return
            if error is not None:
                raise error
            yield element  # type: ignore[misc]  # without an error there is one
    finally:
        stop.set()
        with suppress(queue.Empty):  # a thread that waits for room need not wait any longer
            made.get_nowait()
        thread.join()


def _run(
    source: Iterator[S],
    work: Callable[[S], T],
    made: queue.Queue[tuple[T | None, BaseException | None]],
    stop: threading.Event,
) -> None:
    end: tuple[T | None, BaseException | None] = (None, _End())
    try:
        for element in source:
            if not _put(made, (work(element), None), stop):
                break
    except BaseException as error:  # noqa: BLE001  raised again by the reader
        end = (None, error)
    if isinstance(source, Generator):
        source.close()
    _put(made, end, stop)


def _put(
    made: queue.Queue[tuple[T | None, BaseException | None]],
    entry: tuple[T | None, BaseException | None],
    stop: threading.Event,
) -> bool:
    """Whether the reader has taken, or will take, the entry."""
    while not stop.is_set():
        try:
            made.put(entry, timeout=_LOOK_SECONDS)
        except queue.Full:
            continue
        return not stop.is_set()  # a reader that goes has made room, not read
    return False
