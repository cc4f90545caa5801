"""Nine real datasets end to end: teacher, dump, a student on hard labels, a distilled one; one table.

    python -m tools.run_all_tasks [NAME ...] [--data-root FOLDER]

The runs are `configs/runs/tasks/*.yaml`, their results lie under `runs/tasks/`. What is finished is not done again, so
an interrupted call is repeated. Ends non-zero if a teacher is not better than its baselines (tools/baselines.py) on
the test split.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from kdcache.core.config import plain
from kdcache.core.results import RunResult, write_json
from kdcache.data.read import read_split
from kdcache.metrics import METRICS
from kdcache.student import distill
from kdcache.student.plan import StudentConfig
from kdcache.teacher import dump, finetune
from kdcache.training import models
from kdcache.training.run import RunFile, load_run, make_folder, prepare
from tools import baselines, small_mbart
from tools.baselines import Baseline

CONFIGS = Path("configs/runs/tasks")
NAMES = (
    "mnli", "paws-x_en", "wikigold", "litbank", "turku-one", "squad", "tydiqa-goldp_en", "multi30k_de-en", "wmt16_ro-en"
)  # fmt: skip
LEDGER = "seconds.json"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run came to; scores are of the test split."""

    name: str
    metric: str
    teachers: Mapping[str, Mapping[str, float]]
    hard: float
    distilled: float
    configuration: str
    baselines: tuple[Baseline, ...]
    seconds: Mapping[str, float]
    cache_bytes: int

    @property
    def lost(self) -> list[str]:
        """Baselines that a teacher does not beat."""
        found = []
        for baseline in self.baselines:
            sign = 1 if METRICS[baseline.metric].higher_is_better else -1
            for teacher, scores in self.teachers.items():
                score = scores[baseline.metric]
                if not sign * score > sign * baseline.value:
                    said = f"{self.name}: {teacher} has a test {baseline.metric} of {score:.4f}"
                    found.append(f"{said}, not better than {baseline.value:.4f} ({baseline.name})")
        return found


def run(name: str, data_root: Path | None, device: str) -> Outcome:
    """Every stage of one dataset."""
    file = load_run(CONFIGS / f"{name}.yaml", data_root=data_root)
    timed = Timed(make_folder(file.out))
    if file.dataset.task == "translation":
        timed("model", lambda: small_mbart.make(file))
    teacher = timed("teacher", lambda: finetune.run(file, device=device))
    dumped = timed("dump", lambda: dump.run(file, device=device))
    config = file.block("student", StudentConfig)
    hard, _ = timed("hard", lambda: distill.run(file, replace(config, alpha=0.0), device=device))
    distilled, _ = timed("distilled", lambda: distill.run(file, config, device=device))
    return Outcome(
        name=name,
        metric=teacher.metric,
        teachers=teacher.test,
        hard=_test(hard),
        distilled=_test(distilled),
        configuration=config.configuration.label(),
        baselines=tuple(_baselines(file)),
        seconds=timed.seconds,
        cache_bytes=sum(path.stat().st_size for path in dumped.folder.rglob("*") if path.is_file()),
    )


class Timed:
    """Calls stages and remembers how long each took when it was really done."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEDGER
        self.seconds: dict[str, float] = json.loads(self.path.read_text()) if self.path.is_file() else {}

    def __call__(self, stage: str, work: Callable[[], T]) -> T:
        """The stage's result."""
        began = time.monotonic()
        result = work()
        if stage not in self.seconds:
            self.seconds[stage] = round(time.monotonic() - began, 1)
            write_json(self.path, self.seconds)
        return result


def _test(result: RunResult) -> float:
    return result.scores["test"][result.metric].value


def _baselines(file: RunFile) -> list[Baseline]:
    train, test = (read_split(file.dataset, split, data_root=file.data_root) for split in ("train", "test"))
    if file.dataset.task == "classification":
        return baselines.majority(train, test, file.dataset.labels)
    if file.dataset.task == "ner":
        return baselines.frequent_tags(train, test)
    if file.dataset.task == "qa":
        return baselines.fixed_span(train, test)
    tokenizer: Any = models.load_tokenizer(file.models.teacher)
    items = prepare(file, tokenizer, encode=("train", "test"), digest_of=("train",)).items
    found = baselines.unigram(items["train"], items["test"], len(tokenizer))
    return found + (baselines.copied(test) if file.dataset.name.startswith("multi30k") else [])


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown, a line a dataset."""
    head = ("run", "test metric", "baseline", "t_hs", "t_ll", "hard labels", "distilled", "configuration", "seconds",
            "cache")  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for o in outcomes:
        floor = "; ".join(
            f"{b.name}: {'' if b.metric == o.metric else b.metric + ' '}{b.value:.3f}" for b in o.baselines
        )
        others = [b.metric for b in o.baselines if b.metric != o.metric]
        teachers = []
        for role in finetune.ROLES:
            scores = o.teachers[role]
            teachers.append(" ".join([f"{scores[o.metric]:.3f}", *(f"({m} {scores[m]:.3f})" for m in others)]))
        cells = [o.name, o.metric, floor, *teachers, f"{o.hard:.3f}", f"{o.distilled:.3f}", o.configuration]
        cells += [f"{sum(o.seconds.values()):.0f}", f"{o.cache_bytes / 1e6:.1f} MB"]
        lines.append(f"| {' | '.join(cells)} |")
    total = sum(sum(o.seconds.values()) for o in outcomes)
    return "\n".join([*lines, "", f"{len(outcomes)} runs, {total / 60:.0f} min in all"])


def main() -> int:
    """Run what was asked for; 1 if a teacher lost to a baseline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--data-root", type=Path, default=os.environ.get("KDCACHE_DATA"))
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    unknown = [name for name in asked.names if name not in NAMES]
    if unknown or asked.data_root is None:
        parser.error(f"unknown: {', '.join(unknown)}" if unknown else "where are the data? give --data-root")
    outcomes = []
    for name in asked.names or NAMES:
        outcomes.append(run(name, Path(asked.data_root), asked.device))
        print(table(outcomes[-1:]), flush=True)
    print("\n" + table(outcomes))
    write_json(Path("runs/tasks/table.json"), [plain(outcome) for outcome in outcomes])
    lost = [line for outcome in outcomes for line in outcome.lost]
    print("\n".join(lost) if lost else "every teacher beats its baselines")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
