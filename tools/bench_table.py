"""The table that a benchmark prints as it goes: what, its figure, its limit, and whether that was kept."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field


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
