"""What a search leaves beside its run folders: of each student a journal, and what was found for its record."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdcache.core.config import plain
from kdcache.core.design import WORST, Best
from kdcache.core.errors import RunError
from kdcache.core.results import writing
from kdcache.student.search.driver import Job, Report
from kdcache.student.search.program import Found
from kdcache.training.run import make_folder


class Journal:
    """Writes `<out>/search/<student>.jsonl`.

    Args:
        out: folder of the study.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = make_folder(out / "search")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While no other search of this study runs; the lock ends with the process.

        Raises:
            RunError: another one runs.
        """
        with (self.folder / "lock").open("w", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(f"another search runs in {self.out}; wait for it, or choose another --out") from None
            yield

    def started(self, job: Job) -> None:
        """A training began."""
        self._append(job, {"event": "started"})

    def ended(self, report: Report) -> None:
        """A training ended."""
        if report.value is None:
            self._append(report.job, {"event": "failed", "error": report.error, "seconds": round(report.seconds, 2)})
        else:
            self._append(report.job, {"event": "finished", "score": report.value, "seconds": round(report.seconds, 2)})

    def _append(self, job: Job, event: dict[str, Any]) -> None:
        path = self.folder / f"{job.config.student}.jsonl"
        line = {"time": round(time.time(), 2), **event, "run": job.folder.name, "label": job.label}
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def found_text(found: Found, folders: Mapping[str, Path]) -> dict[str, Any]:
    """What a student's search found, for people and scripts.

    Args:
        found: by its program.
        folders: label of a job -> its run folder.
    """
    outcome = found.outcome
    return {
        "best": _best(outcome.best),
        "hard": _best(outcome.hard) if outcome.hard else None,
        "pairs": [
            {
                "choice": pair.choice,
                "default": _best(pair.default),
                "alternative": _best(pair.alternative),
                "sign": pair.sign,
            }
            for pair in outcome.pairs
        ],
        "candidates": [_best(best) for best in outcome.candidates],
        "completed": [_best(best) for best in found.completed],
        "runs": {label: str(folder) for label, folder in folders.items()},
    }


def _best(best: Best) -> dict[str, Any]:
    """A tuned cell; JSON has no infinity, so the score of a training that failed is null."""
    return {
        "configuration": plain(best.trial.configuration),
        "label": best.trial.configuration.label(),
        "learning_rate": best.trial.learning_rate,
        "score": best.value if best.value > WORST else None,
        "trials": len(best.trials),
    }
