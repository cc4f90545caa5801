"""Time and memory of `kdcache compare` on a study of the paper's size: `python -m tools.bench_compare`.

39 cases (13 datasets x 3 students that share test sets), the 13 candidates of a greedy search and hard labels, 3 seeds,
2,000 test examples, F1 of 3 classes and accuracy. Run folders are synthetic and written by kdcache's own writer;
the command runs in a process of its own, with 10,000 resamples, and writes its whole report. Prints bar and figure,
exits 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdcache.core.configuration import Configuration
from kdcache.core.design import ALPHAS, HARD
from kdcache.core.results import RunResult, uids_digest, write_run
from kdcache.core.types import Evaluation
from kdcache.metrics import evaluate
from kdcache.metrics.classification import accuracy_statistics, class_statistics

# I examples

SECONDS, MEBIBYTES = 30.0, 2048.0
CLASSES = 3
TEMPERATURE = 4.0
TEACHERS = {"t_hs": "aaaaaaaa", "t_ll": "bbbbbbbb"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Of the study."""

    datasets: int = 13
    students: int = 3
    seeds: int = 3
    examples: int = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one command took."""

    seconds: float
    mebibytes: float


def configurations() -> tuple[Configuration, ...]:
    """Hard labels, the four cells of a greedy search that takes t_ll and CE, and its nine alphas."""
    best = Configuration(teacher="t_ll", loss="ce", tau_t=TEMPERATURE)
    cells = (
        Configuration(teacher="t_hs", loss="ce", tau_t=TEMPERATURE),
        Configuration(teacher="t_hs", loss="mse", tau_t=TEMPERATURE),
        best,
        Configuration(teacher="t_ll", loss="ce", tau_t=TEMPERATURE, tau_s=1.0),
    )
    weighed = (Configuration(teacher="t_ll", loss="ce", tau_t=TEMPERATURE, alpha=alpha) for alpha in ALPHAS)
    return (HARD, *cells, *weighed)


def build(root: Path, size: Size) -> int:
    """Write the runs under `root`; how many."""
    count = 0
    for dataset in range(size.datasets):
        for student in range(size.students):
            for number, configuration in enumerate(configurations()):
                for seed in range(size.seeds):
                    folder = root / f"d{dataset}-s{student}" / f"c{number}-{seed}"
                    folder.mkdir(parents=True)
                    _write(folder, configuration, (dataset, student, number, seed), size.examples)
                    count += 1
    return count


def _write(folder: Path, configuration: Configuration, place: tuple[int, int, int, int], examples: int) -> None:
    dataset, student, _, seed = place
    accuracy = 0.75 + 0.02 * student + 0.01 * (configuration.teacher == "t_ll") - 0.01 * (configuration.loss == "mse")
    splits = tuple(_evaluation(split, accuracy, place, examples) for split in ("validation", "test"))
    hard = configuration.alpha == 0
    result = RunResult(
        key=f"{folder.parent.name}-{folder.name}",
        dataset=f"dataset {dataset}",
        dataset_digest=f"{dataset:08x}",
        student=f"student {student}",
        seed=seed,
        configuration=configuration,
        teacher_digest="" if hard else TEACHERS[str(configuration.teacher)],
        cache_signature="" if hard else f"cache|{dataset}",
        exactness="" if hard else "exact",
        metric="f1_macro",
        scores={split.split: split.scores for split in splits},
        test_digest={split.split: uids_digest(split.uids) for split in splits},
        selected={"step": 1.0},
        counters={"teacher_forwards": 0},
        seconds={"train": 1.0},
    )
    write_run(folder, result, splits)


def _evaluation(split: str, accuracy: float, place: tuple[int, int, int, int], examples: int) -> Evaluation:
    """All runs of a dataset find the same examples hard; a run adds noise of its own."""
    shared = np.random.default_rng([place[0], len(split)])
    labels_I, difficulty_I = shared.integers(CLASSES, size=examples), shared.random(examples)
    own = np.random.default_rng([*place, len(split)])
    right_I = difficulty_I + own.normal(0, 0.1, examples) < accuracy
    predicted_I = np.where(right_I, labels_I, (labels_I + own.integers(1, CLASSES, examples)) % CLASSES)
    statistics = {
        "classes": class_statistics(predicted_I, labels_I, CLASSES),
        "accuracy": accuracy_statistics(predicted_I, labels_I),
    }
    return Evaluation(
        split=split,
        uids=tuple(f"{split}-{place[0]}-{i}" for i in range(examples)),
        scores=evaluate(statistics, ["f1_macro", "accuracy"]),
        statistics=statistics,
    )


def measure(runs: Path, out: Path, *, resamples: int) -> Figures:
    """Run `kdcache compare` on all runs in a process of its own: wall seconds and peak resident memory.

    Raises:
        RuntimeError: the command failed; its output is in the message.
    """
    command = [sys.executable, "-m", "kdcache", "compare", *(str(p) for p in sorted(runs.iterdir()))]
    log = out.with_suffix(".log")
    start = time.perf_counter()
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*command, "--out", str(out), "--resamples", str(resamples)], stdout=sink, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode != 0:
        raise RuntimeError(f"kdcache compare exited {process.returncode}: {log.read_text()[-2000:]}")
    return Figures(seconds=seconds, mebibytes=usage.ru_maxrss / 1024)


def verdict(figures: Figures) -> tuple[str, bool]:
    """Bar and figure as text, and whether both bars are met."""
    lines, met = [], True
    for name, figure, bar, unit in (
        ("time", figures.seconds, SECONDS, "s"),
        ("peak memory", figures.mebibytes, MEBIBYTES, "MiB"),
    ):
        met &= figure < bar
        lines.append(f"{name:12s} {figure:8.1f} {unit}   bar {bar:.0f} {unit}   {'met' if figure < bar else 'MISSED'}")
    return "\n".join(lines), met


def main() -> int:
    """Build, measure, print; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--keep", type=Path, help="folder for runs and report; runs that are there are used again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root: Path = options.keep or Path(temporary)
        if not (root / "runs").is_dir():
            print(f"{build(root / 'runs', Size())} runs written", flush=True)
        figures = measure(root / "runs", root / "report", resamples=options.resamples)
        text, met = verdict(figures)
        print(f"{text}\non {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
