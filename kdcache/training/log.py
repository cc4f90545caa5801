"""What a run tells: `log.jsonl` for machines, one progress line for people. Rank 0 only."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from kdcache.core.results import writing

PLAIN_SECONDS = 15.0
"""Seconds between two progress lines where the output is not a terminal."""


class RunLog:
    """Append-only `log.jsonl` of a run folder, and its progress line on stderr.

    Args:
        folder: where `log.jsonl` is; null writes nothing (other ranks, tests).
        label: what the progress line begins with.
        append: keep what an interrupted stage wrote.
        stream: where the progress line goes; default: stderr.
    """

    def __init__(
        self, folder: Path | None, *, label: str = "", append: bool = False, stream: TextIO | None = None
    ) -> None:
        self._file = None if folder is None else (folder / "log.jsonl").open("a" if append else "w", encoding="utf-8")
        self._label = label
        self._stream = (stream or sys.stderr) if folder is not None and label else None
        self._started = time.monotonic()
        self._shown = self._lap = self._started
        self._terminal = self._stream is not None and self._stream.isatty()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return round(time.monotonic() - self._started, 2)

    @property
    def lap(self) -> float:
        """Seconds since the last `restart`."""
        return time.monotonic() - self._lap

    def restart(self, label: str) -> None:
        """Begin another progress line."""
        self._label = label
        self._lap = self._shown = time.monotonic()

    def write(self, event: str, **values: Any) -> None:
        """Append one line: `{"event": ..., "seconds": since the start, ...}`."""
        if self._file is not None:
            line = {"event": event, "seconds": self.elapsed, **values}
            with writing(Path(self._file.name)):
                self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
                self._file.flush()

    def progress(self, done: int, total: int, **values: float) -> None:
        """Show how far it is: rewritten in place on a terminal, else a line now and then."""
        if self._stream is None:
            return
        now = time.monotonic()
        if not self._terminal and now - self._shown < PLAIN_SECONDS and done < total:
            return
        self._shown = now
        elapsed = now - self._lap
        left = elapsed / max(1, done) * (total - done)
        detail = "".join(f"  {name} {value:,.4g}" for name, value in values.items())
        text = f"{self._label}  {done}/{total}{detail}  {elapsed:.0f} s, {left:.0f} s left"
        if self._terminal:
            self._stream.write(f"\r\x1b[2K{text}" + ("\n" if done >= total else ""))
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            with writing(Path(self._file.name)):
                self._file.close()
        if kind is not None and self._terminal and self._stream is not None:
            self._stream.write("\n")


def scores_text(scores: Mapping[str, float]) -> str:
    """Scores on one line, for people; those by language in brackets behind their metric.

    Example:
        >>> scores_text({"f1_macro": 0.5, "nll": 1.0, "f1_macro@de": 0.25, "f1_macro@mean": 0.5})
        'f1_macro 0.5000 (de 0.2500, mean 0.5000)  nll 1.0000'
    """
    shown = []
    for name, value in scores.items():
        if "@" not in name:
            parts = [f"{n.partition('@')[2]} {v:.4f}" for n, v in scores.items() if n.startswith(f"{name}@")]
            shown.append(f"{name} {value:.4f}" + (f" ({', '.join(parts)})" if parts else ""))
    return "  ".join(shown)
