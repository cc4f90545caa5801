"""What a process has joined it leaves before it ends; every way out of a process passes here.

A process group that Python's exit finds still there keeps a process on a GPU alive for ever: a destructor waits for
NCCL's threads. So whoever joins one says how it is left (`on_leave`). A command leaves in `kdcache/ending.py`, when its
work is done or has failed; then it is known what the exit code must be. Every other process leaves when Python exits: a
worker of a search or of Ray, a notebook, a script. A signal that kills at once, as SIGTERM does, needs none of this:
then Python has no exit that could wait.

Nothing here knows torch, so `--help` does not load it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Callable

STUCK = 1
"""Exit code where Python's exit cannot leave what was joined; which code the process wanted is not known there."""

_ways: list[Callable[[bool], bool]] = []


def on_leave(way: Callable[[bool], bool]) -> None:
    """Have something left when this process ends.

    Args:
        way: called once, with whether the process failed; returns whether there is nothing left that Python's exit
            would wait for. It must return within seconds, whatever other processes do.
    """
    _ways.append(way)
    atexit.unregister(_at_exit)
    atexit.register(_at_exit)


def leave(code: int, *, failed: bool | None = None) -> None:
    """Leave what this process joined. Where that cannot be done, it ends here and now, without Python's exit.

    Args:
        code: the exit code that the process will have.
        failed: whether its work went wrong; default: the code is not 0.
    """
    left = True
    while _ways:
        left = _ways.pop()(code != 0 if failed is None else failed) and left
    if left:
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # nobody reads it, closed, or none
            stream.flush()
    os._exit(code)


def _at_exit() -> None:
    leave(STUCK, failed=False)
