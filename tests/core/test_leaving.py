"""A process leaves what it joined once, before it ends, and never waits for what it cannot leave."""

from __future__ import annotations

import sys

import pytest

from kdcache.core.leaving import leave, on_leave
from tests.ends import END_SECONDS, Command, Ended


def ended(*statements: str) -> Ended:
    """A Python process that prints what it is told when it leaves."""
    head = "import atexit, sys\nfrom kdcache.core.leaving import leave, on_leave\n"
    return Command(sys.executable, "-c", head + "\n".join(statements)).end()


def test_each_way_is_taken_once_the_latest_first() -> None:
    taken: list[tuple[str, bool]] = []
    for name in ("first", "second"):
        on_leave(lambda failed, name=name: taken.append((name, failed)) is None)
    leave(0)
    leave(0)
    assert taken == [("second", False), ("first", False)]
    on_leave(lambda failed: taken.append(("third", failed)) is None)
    leave(4)
    assert taken[2:] == [("third", True)], "a code that is not 0 is a failure"


def test_a_process_that_does_not_leave_itself_leaves_when_python_exits() -> None:
    found = ended("on_leave(lambda failed: print('left', failed) is None)", "sys.exit(3)")
    assert (found.code, found.lines) == (3, ("left False",))


@pytest.mark.parametrize("code", [0, 8])
def test_where_it_cannot_be_left_the_process_ends_at_once_with_its_code_and_its_output(code: int) -> None:
    found = ended(
        "atexit.register(print, 'Python has exited')",
        "on_leave(lambda failed: False)",
        "print('written')",
        f"leave({code})",
        "print('went on')",
    )
    assert (found.code, found.lines) == (code, ("written",))


def test_python_s_exit_does_not_wait_for_it_either() -> None:
    found = ended("on_leave(lambda failed: False)", "print('written')")
    assert (found.code, found.lines) == (1, ("written",))
    assert found.seconds < END_SECONDS
