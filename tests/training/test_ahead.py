"""An iterator that a thread runs ahead: it gives what a plain one gives, and leaves no thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator

import pytest

from kdcache.training.ahead import ahead


def threads() -> list[threading.Thread]:
    """The threads of iterators that are still open."""
    return [thread for thread in threading.enumerate() if thread.name == "kdcache-ahead"]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    assert threads() == []
    yield
    assert threads() == []


class Source:
    """A generator that says what became of it."""

    def __init__(self, count: int, *, fails_at: int | None = None) -> None:
        self.count, self.fails_at = count, fails_at
        self.made, self.closed = 0, False
        self.thread: threading.Thread | None = None

    def __iter__(self) -> Generator[int, None, None]:
        self.thread = threading.current_thread()
        try:
            for number in range(self.count):
                if number == self.fails_at:
                    raise ValueError(f"element {number} is broken")
                self.made += 1
                yield number
        finally:
            self.closed = True


def same(number: int) -> int:
    return number


def wait_for(holds: Callable[[], bool]) -> None:
    """Wait until something holds, for ten seconds at most."""
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 30])
def test_elements_come_in_their_order(count: int, depth: int):
    source = Source(count)
    assert list(ahead(iter(source), lambda n: n * n, depth=depth)) == [n * n for n in range(count)]
    assert source.closed


def test_null_is_an_element():
    assert list(ahead(iter([1, None, 2]), lambda x: x)) == [1, None, 2]


def test_source_and_work_run_in_the_thread():
    source, ran = Source(2), []
    list(ahead(iter(source), lambda n: ran.append(threading.current_thread())))
    assert {source.thread, *ran} == {ran[0]}
    assert ran[0] is not threading.main_thread()


def test_nothing_runs_before_the_first_element_is_asked_for():
    source = Source(3)
    ahead(iter(source), same)
    assert source.thread is None


def test_an_error_of_the_source_comes_where_its_element_would():
    source, found = Source(5, fails_at=3), []
    with pytest.raises(ValueError, match=r"^element 3 is broken$"):
        found.extend(ahead(iter(source), same))
    assert source.closed
    arriving, found = ahead(iter(Source(5, fails_at=3)), same), []
    for _ in range(3):
        found.append(next(arriving))
    assert found == [0, 1, 2]
    with pytest.raises(ValueError, match=r"^element 3 is broken$"):
        next(arriving)
    assert list(arriving) == []


def test_an_error_of_the_work_comes_where_its_element_would_and_closes_the_source():
    source = Source(9)
    arriving = ahead(iter(source), lambda n: 1 // (2 - n))
    assert [next(arriving), next(arriving)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(arriving)
    assert source.closed
    assert source.made == 3


def test_an_error_that_is_no_exception_comes_too():
    def stop(number: int) -> int:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        list(ahead(iter([1]), stop))


@pytest.mark.parametrize("read", [1, 2, 3])
def test_closing_ends_the_thread_and_closes_the_source(read: int):
    source = Source(1000)
    arriving = ahead(iter(source), same)
    for _ in range(read):
        next(arriving)
    assert len(threads()) == 1
    arriving.close()
    assert source.closed
    assert source.made <= read + 2


def settled(source: Source) -> int:
    """How many elements were made, once the thread waits for its reader."""
    made = -1
    while made != source.made:
        made = source.made
        time.sleep(0.1)
    return made


def test_a_slow_reader_is_waited_for_and_the_thread_is_no_further_than_it_may_be():
    source = Source(1000)
    arriving = ahead(iter(source), same, depth=2)
    assert next(arriving) == 0
    assert settled(source) in (2, 3)  # two waited when the first was taken, or do now
    assert [next(arriving) for _ in range(3)] == [1, 2, 3]
    assert settled(source) in (5, 6)
    arriving.close()


def test_elements_are_made_in_bursts():
    """The thread begins again when one is left."""
    source = Source(1000)
    arriving = ahead(iter(source), same, depth=8)
    assert next(arriving) == 0
    made = settled(source)
    assert made in (8, 9)
    assert [next(arriving) for _ in range(made - 3)] == list(range(1, made - 2))
    assert settled(source) == made, "two are left"
    assert next(arriving) == made - 2
    assert settled(source) == made + 7
    arriving.close()


def test_large_elements_do_not_wait_in_numbers():
    source = Source(1000)
    arriving = ahead(iter(source), same, depth=100, room=25.0, size=lambda number: 10.0)
    assert next(arriving) == 0
    assert settled(source) in (3, 4), "three of 10 wait where there is room for 25"
    arriving.close()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_an_error_of_the_reader_leaves_no_thread(kind: type[BaseException]):
    source = Source(1000)
    arriving = ahead(iter(source), same)
    with pytest.raises(kind):
        read(arriving, kind)
    arriving.close()
    assert source.closed


def read(arriving: Iterator[int], kind: type[BaseException]) -> None:
    for number in arriving:
        if number == 2:
            raise kind


def test_an_interrupt_while_an_element_is_waited_for_leaves_no_thread(monkeypatch: pytest.MonkeyPatch):
    source = Source(1000)

    def interrupted(line: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kdcache.training.ahead._Line.take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(ahead(iter(source), same))
    assert source.closed
