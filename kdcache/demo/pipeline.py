"""The stages of the demo, one after the other, in one process; what is finished is not done again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from kdcache.core.config import plain, shipped
from kdcache.demo import ratings
from kdcache.report import compare
from kdcache.student import distill
from kdcache.student.plan import StudentConfig
from kdcache.teacher import dump, finetune
from kdcache.training.run import RunFile, load_run

Say = Callable[[str], object]
QUICK = (
    "dataset.limit={train: 640, validation: 300, test: 400}",
    "student.epochs=2",
    "student.student=minilm-2",
)


def cells(config: StudentConfig, *, quick: bool) -> list[StudentConfig]:
    """Hard labels, then loss x teacher x student temperature; each training once.

    Equivalent configurations (say, both teachers one checkpoint) share a key and are found finished. `quick` leaves out
    the untied temperatures of MSE and the second teacher's MSE.
    """
    hard = replace(config, alpha=0.0)
    grid = [
        replace(config, loss=loss, teacher=teacher, tau_s=tau_s, alpha=1.0)
        for loss in ("ce", "mse")
        for teacher in ("t_hs", "t_ll")
        for tau_s in ("tied", 1.0)
    ]
    if quick:
        grid = [c for c in grid if c.loss == "ce" or (c.teacher == "t_hs" and c.tau_s == "tied")]
    return [hard, *grid]


def run(*, out: Path, quick: bool, source: Path | None, device: str, say: Say) -> Path:
    """The whole pipeline.

    Args:
        out: folder of everything.
        quick: fewer texts and configurations.
        source: where the ratings are; null downloads.
        device: `auto`, `cpu`, `cuda`.
        say: prints a line.

    Returns:
        Path of the report.

    Raises:
        KDCacheError: no data, no model package, another demo in `out`.
    """
    started = time.monotonic()
    out = out / "quick" if quick else out
    say("[1/5] data: movie-review snippets, each rated by 20 people; positive if the mean rating is above 0")
    sizes = ratings.prepare(out / "data", source=source)
    file = _run_file(out, quick)
    limits = file.dataset.limit
    say("      " + ", ".join(f"{name} {min(count, limits.get(name, count)):,}" for name, count in sizes.items()))
    say("[2/5] teacher: MiniLM is fine-tuned once; of its checkpoints, the highest validation score is t_hs,")
    say("      the lowest validation loss t_ll: which of them teaches better is one of the study's questions")
    say(finetune.summary(finetune.run(file, device=device), file))
    say("[3/5] dump: each checkpoint runs once over the texts; from now on no teacher is needed")
    say(dump.run(file, device=device).summary(file))
    configs = cells(file.block("student", StudentConfig), quick=quick)
    say(f"[4/5] students: {len(configs)} configurations of a {configs[0].student} student, streamed from the cache;")
    say("      it keeps some of MiniLM's layers; hard labels alone are the baseline")
    folders = _students(file, configs, device, say)
    say("[5/5] comparison: what did each choice do?")
    comparison = compare(folders, out=out / "compare")
    say(comparison.terminal())
    say(f"done in {time.monotonic() - started:.0f} s. Report: {comparison.report}")
    say(f"Go on with your own configuration: kdcache train-student {file.path} --loss ce --tau-t 2 --alpha 0.5")
    return comparison.report


def _run_file(out: Path, quick: bool) -> RunFile:
    """The shipped run file with this demo's folders, written out so that every command of the pipeline takes it."""
    overrides = QUICK if quick else ()
    shipped_file = load_run(shipped("runs/demo.yaml"), overrides=overrides, out=out, data_root=out / "data")
    data = (out / "data").resolve()  # absolute paths: a user's KDCACHE_DATA must not lead elsewhere
    files = {split: str(data / str(name)) for split, name in shipped_file.dataset.files.items()}
    dataset = {**plain(shipped_file.dataset), "files": files}
    tree = {
        "out": str(out),
        "dataset": {name: value for name, value in dataset.items() if value not in (None, {}, [])},
        "models": plain(shipped_file.models),
        **shipped_file.blocks,
    }
    path = out / "run.yaml"
    head = "# Written by kdcache demo. Every command takes it, e.g. kdcache train-student with other flags.\n"
    path.write_text(head + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return load_run(path)


def _students(file: RunFile, configs: Sequence[StudentConfig], device: str, say: Say) -> list[Path]:
    folders = []
    for number, config in enumerate(configs, start=1):
        began = time.monotonic()
        result, folder = distill.run(file, config, device=device)
        score = result.scores["test"][result.metric]
        took = f"{time.monotonic() - began:.0f} s"
        label = config.configuration.label()
        say(f"      {number}/{len(configs)} {label:<24} test {score.name} {score.value:.4f}   {took}")
        folders.append(folder)
    return list(dict.fromkeys(folders))
