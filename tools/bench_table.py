"""The table that a benchmark prints as it goes: what, its figure, its limit, and whether that was kept."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch


def parser(description: str | None, *, seconds: float) -> argparse.ArgumentParser:
    """The options that every benchmark of a GPU has.

    Args:
        description: of the benchmark.
        seconds: by when what has no limit must have ended, unless told otherwise.
    """
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--small", action="store_true", help="Tiny sizes, on any device; only agreement is judged.")
    found.add_argument("--seconds", type=float, default=seconds, help="When what has no limit must have ended.")
    found.add_argument("--out", type=Path, help="Where caches are written; default: a temporary folder.")
    return found


def machine(*, small: bool) -> tuple[str, str] | None:
    """The device to measure and what to call it; null, after a line that says why, where there is no GPU.

    Args:
        small: whether any device will do.
    """
    if torch.cuda.is_available():
        return "cuda", f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    if small:
        return "cpu", f"CPU, torch {torch.__version__}"
    print("torch sees no CUDA device; run this on a machine with one, or give --small", file=sys.stderr)
    return None


@dataclass(slots=True)
class Table:
    """Lines as they come, and whether a limit was missed.

    Attributes:
        judged: whether limits are held against the figures.
        missed: what missed its limit, or could not be measured although it has one.
    """

    judged: bool
    missed: list[str] = field(default_factory=list)

    @staticmethod
    def begin() -> None:
        """Print the head."""
        print("| what | figure | limit | |\n|---|---|---|---|", flush=True)

    def add(
        self,
        what: str,
        value: float,
        limit: float | None,
        unit: str = "",
        *,
        always: bool = False,
        at_least: bool = False,
    ) -> None:
        """Print a line; `always` judges it at small sizes too, `at_least` makes the limit the smallest good figure."""
        judged = limit is not None and (self.judged or always)
        good = limit is None or (value >= limit if at_least else value <= limit)
        if judged and not good:
            self.missed.append(what)
        mark = "" if not judged else "ok" if good else "MISSED"
        shown = "" if limit is None else f"{'>= ' if at_least else ''}{limit:g}"
        print(f"| {what} | {value:.3g}{unit} | {shown} | {mark} |", flush=True)

    def say(self, what: str, text: str) -> None:
        """Print a line of words."""
        print(f"| {what} | {text} | | |", flush=True)

    def part(self, what: str, run: Callable[[], None], *, needed: bool = True) -> None:
        """Run a part that adds lines. One that fails is a line too, and the others go on.

        Args:
            what: the part.
            run: adds its lines.
            needed: whether its failure counts as a missed limit.
        """
        began = time.perf_counter()
        try:
            run()
        except Exception as error:  # noqa: BLE001  # whatever it is, the other figures are worth having
            traceback.print_exc(file=sys.stderr)
            self.say(what, f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            if needed:
                self.missed.append(what)
        self.say(f"all of it: {what}", f"{time.perf_counter() - began:.0f} s")

    def end(self) -> int:
        """Print what was missed; the exit code."""
        print(f"\n{len(self.missed)} limits missed" + "".join(f"\n  {what}" for what in self.missed))
        return 1 if self.missed else 0
