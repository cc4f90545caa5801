"""Commands in processes of their own: what they print, and how soon after it they end."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

HANGING = 600.0
"""Seconds after which a test takes what it waits for to hang. No test expects less: a loaded machine is slow."""
END_SECONDS = 5.0
"""A command has ended this long after its last line of output at the latest; this is promised, not a guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code; negative for a signal.
        lines: what it and its processes printed, on stdout and stderr.
        seconds: from the last line, or the signal after it, to the end of all processes that print there.
    """

    code: int
    lines: tuple[str, ...]
    seconds: float


def wait_until(happened: Callable[[], bool], *, hanging: float = HANGING) -> None:
    """Look until something has happened."""
    limit = time.monotonic() + hanging
    while not happened():
        assert time.monotonic() < limit, f"nothing in {hanging:g} s"
        time.sleep(0.005)


class Command:
    """A command that runs.

    Args:
        arguments: its command line.
        more: environment beside this process's.
        hanging: seconds after which it is killed.
    """

    def __init__(self, *arguments: str, more: Mapping[str, str] | None = None, hanging: float = HANGING) -> None:
        self._hanging = hanging
        self._lines: list[str] = []
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # else a suite in the background ignores it
        try:
            self.process = subprocess.Popen(
                arguments,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, **(more or {})},
            )
        finally:
            signal.signal(signal.SIGINT, before)
        self._last = time.monotonic()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._last = time.monotonic()
            self._lines.append(line.rstrip("\n"))

    def says(self, line: str) -> None:
        """Wait for a line."""
        wait_until(lambda: line in self._lines or not self._reader.is_alive(), hanging=self._hanging)
        assert line in self._lines, self._lines

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the command alone."""
        self._last = time.monotonic()
        self.process.send_signal(number)

    def end(self) -> Ended:
        """Wait for the end."""
        self._reader.join(self._hanging)
        if self._reader.is_alive():
            self.process.kill()
        code = self.process.wait(self._hanging)
        seconds = time.monotonic() - self._last
        if not self._reader.is_alive() and self.process.stdout is not None:
            self.process.stdout.close()
        return Ended(code=code, lines=tuple(self._lines), seconds=seconds)
