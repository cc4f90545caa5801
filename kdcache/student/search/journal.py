"""What a search leaves beside its run folders: `search.json`, and of each student a journal and its outcome."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdcache.core.config import plain
from kdcache.core.design import Best
from kdcache.core.errors import RunError
from kdcache.core.results import write_json, writing
from kdcache.student.search.driver import Job, Report
from kdcache.student.search.program import Found
from kdcache.student.search.settings import SearchConfig
from kdcache.training.run import make_folder
from kdcache.version import __version__

FORMAT = 1


class Journal:
    """Writes `<out>/search.json`, `<out>/search/<student>.jsonl` and `<out>/search/<student>.json`.

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

    def settings(
        self, config: SearchConfig, *, students: Sequence[str], seeds: Sequence[int], teachers: Mapping[str, str]
    ) -> None:
        """Say what is searched, so that `compare` can replay the searches from the run folders.

        Args:
            config: the block `search:`.
            students: whose searches.
            seeds: the first one searches.
            teachers: name -> the name that its checkpoint's runs are under.
        """
        tree = {
            "format": FORMAT,
            "code": __version__,
            "design": config.design,
            "space": config.space(),
            "students": students,
            "seeds": seeds,
            "teachers": teachers,
            "settings": config,
        }
        write_json(self.out / "search.json", tree)

    def started(self, job: Job) -> None:
        """A training began."""
        self._append(job, {"event": "started"})

    def ended(self, report: Report) -> None:
        """A training ended."""
        if report.value is None:
            self._append(report.job, {"event": "failed", "error": report.error, "seconds": round(report.seconds, 2)})
        else:
            self._append(report.job, {"event": "finished", "score": report.value, "seconds": round(report.seconds, 2)})

    def outcome(self, student: str, found: Found, *, seeds: Sequence[int], folders: Mapping[str, Path]) -> None:
        """Write what a student's search found, for people and scripts.

        Args:
            student: its name.
            found: by its program.
            seeds: the first one searched.
            folders: label of a job -> its run folder.
        """
        outcome = found.outcome
        tree = {
            "format": FORMAT,
            "code": __version__,
            "student": student,
            "seeds": seeds,
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
        write_json(self.folder / f"{student}.json", tree)

    def _append(self, job: Job, event: dict[str, Any]) -> None:
        path = self.folder / f"{job.config.student}.jsonl"
        line = {"time": round(time.time(), 2), **event, "run": job.folder.name, "label": job.label}
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _best(best: Best) -> dict[str, Any]:
    """A tuned cell; JSON has no infinity, so the score of a training that failed is null."""
    return {
        "configuration": plain(best.trial.configuration),
        "label": best.trial.configuration.label(),
        "learning_rate": best.trial.learning_rate,
        "score": best.value if best.value > float("-inf") else None,
        "trials": len(best.trials),
    }
