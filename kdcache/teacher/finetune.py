"""`kdcache train-teacher`: fine-tune, look often, keep the two checkpoints that the study compares.

t_hs has the highest validation score (tie: lower NLL, then earlier), t_ll the lowest validation NLL (tie: higher score,
then earlier). Both come from the learning rate whose run holds the best score.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from kdcache.core.config import digest, plain
from kdcache.core.errors import ConfigError
from kdcache.core.results import write_json
from kdcache.losses.objective import Objective
from kdcache.training import checkpoint, evaluate, models
from kdcache.training.engine import Engine
from kdcache.training.log import RunLog, scores_text
from kdcache.training.loop import Point, fit
from kdcache.training.run import Prepared, RunFile, make_folder, pad_token_id, prepare
from kdcache.training.settings import TrainingConfig, content, engine_settings
from kdcache.training.start import build, start
from kdcache.training.steppers import stepper
from kdcache.training.steps import MemorySteps
from kdcache.training.world import World, barrier

ROLES = ("t_hs", "t_ll")


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(TrainingConfig):
    """Settings of `kdcache train-teacher`."""

    learning_rates: tuple[float, ...] = ()
    """Peaks to try, one fine-tuning each; default: `learning_rate` alone."""
    evals_per_epoch: int = 4
    """Evaluations on validation in an epoch (the study's ckpts_per_epoch); each may become t_hs or t_ll."""
    seed: int = 42
    """Of the head's initialisation, dropout and order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecord:
    """What is known of one evaluated checkpoint, on validation."""

    learning_rate: float
    step: int
    epoch: float
    score: float
    nll: float
    ece: float
    brier: float
    temperature: float
    entropy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherResult:
    """What `train-teacher` leaves: `teacher.json`, and the folders `selected/t_hs` and `selected/t_ll`."""

    key: str
    dataset: str
    metric: str
    checkpoints: tuple[CheckpointRecord, ...]
    selected: Mapping[str, CheckpointRecord]
    weight_digest: Mapping[str, str]
    test: Mapping[str, Mapping[str, float]]
    seconds: float
    folder: str = ""
    num_truncated: int = 0
    num_dropped: int = 0
    sizes: Mapping[str, int] = field(default_factory=dict)


def better(role: str, new: CheckpointRecord, old: CheckpointRecord | None) -> bool:
    """Whether `new`, which came later, replaces `old` as the checkpoint of a role."""
    if old is None:
        return True
    if role == "t_hs":
        return (new.score, -new.nll) > (old.score, -old.nll)
    return (new.nll, -new.score) < (old.nll, -old.score)


def run(file: RunFile, *, device: str = "auto") -> TeacherResult:
    """Fine-tune the teacher, or return the result that is already there for the same settings.

    Args:
        file: with the block `teacher:`.
        device: `auto`, `cpu`, `cuda`.

    Raises:
        KDCacheError: bad settings, data, model; a loss that is not finite.
    """
    config = file.block("teacher", TeacherConfig)
    key = digest({"teacher": content(config), "dataset": file.dataset, "model": file.models.teacher})
    done = _finished(file.teacher_folder, key)
    if done is not None:
        return done
    tokenizer = models.load_tokenizer(file.models.teacher)
    splits = [s for s in ("train", "validation", "test") if s in file.dataset.splits]
    data = prepare(file, tokenizer, encode=splits, digest_of=("train", "validation"))
    world = start(device)
    folder = make_folder(file.teacher_folder)
    best: dict[str, CheckpointRecord] = {}
    records: list[CheckpointRecord] = []
    with RunLog(folder if world.rank == 0 else None, label="train-teacher") as log:
        log.write("config", **plain(config))
        for rate in config.learning_rates or (config.learning_rate,):
            tuned = replace(config, learning_rate=rate)
            found, selected = _fine_tune(file, tuned, data, tokenizer, world, log)
            records += found
            if not best or better("t_hs", selected["t_hs"], best["t_hs"]):
                best = selected
                if world.rank == 0:
                    _publish(folder, rate)
        barrier(world)
        result = TeacherResult(
            key=key,
            dataset=file.dataset.name,
            metric=data.task.metrics()[0],
            checkpoints=tuple(records),
            selected=best,
            weight_digest={role: checkpoint.weight_digest(folder / "selected" / role) for role in ROLES},
            test=_test(folder, data, tokenizer, world, config),
            seconds=log.elapsed,
            num_truncated=data.num_truncated,
            num_dropped=data.num_dropped,
            sizes={split: len(items) for split, items in data.items.items()},
        )
        if world.rank == 0:
            write_json(folder / "teacher.json", result)
    return replace(result, folder=str(folder))


def _finished(folder: Path, key: str) -> TeacherResult | None:
    """The teacher that is there already; one of other settings is never overwritten."""
    done = read_result(folder)
    if done is not None and done.key != key:
        raise ConfigError(
            f"{folder} holds a teacher trained with other settings or data; choose another --out, or delete that folder"
        )
    return done


def _fine_tune(
    file: RunFile, config: TeacherConfig, data: Prepared, tokenizer: Any, world: World, log: RunLog
) -> tuple[list[CheckpointRecord], dict[str, CheckpointRecord]]:
    """One learning rate: its checkpoints, and the best of each role, saved under `checkpoints/`."""
    torch.manual_seed(config.seed)
    model = models.load_model(file.models.teacher, data.task.auto_class, **data.task.model_kwargs())
    models.check_vocabulary(
        model.config, largest_id=models.largest_id(data.items.values()), name=file.models.teacher.path
    )
    settings = engine_settings(config, world)
    engine = build(model, settings, world)
    torch.manual_seed(config.seed * 1009 + world.rank)  # dropout differs between ranks
    pad = pad_token_id(tokenizer)
    steps = MemorySteps(
        items=data.items["train"],
        batch_size=config.batch_size,
        micro_batch_size=config.micro(world.size),
        seed=config.seed,
        rank=world.rank,
        world_size=world.size,
        pad_token_id=pad,
    )
    setup = _setup(data, tokenizer, world, config)
    records: list[CheckpointRecord] = []
    best: dict[str, CheckpointRecord] = {}
    hard = Objective(teacher=None, alpha=0.0)
    stepping = stepper(engine, hard, rows=data.task, pad_token_id=pad, config=config, log=log)
    for point in fit(stepping, steps, config=config, log=log):
        record = _evaluate(engine, data, setup, config.learning_rate, point)
        records.append(record)
        log.write("checkpoint", **asdict(record))
        won = [role for role in ROLES if better(role, record, best.get(role))]
        state = engine.state_dict() if won else {}
        for role in won:
            best[role] = record
            if world.rank == 0:
                place = file.teacher_folder / "checkpoints" / f"{config.learning_rate:g}" / role
                checkpoint.save(place, model=engine.module, state=state, tokenizer=tokenizer, bf16=settings.bf16)
    engine.close()
    return records, best


def _evaluate(engine: Engine, data: Prepared, setup: evaluate.Setup, rate: float, point: Point) -> CheckpointRecord:
    engine.train(False)
    items = data.items["validation"]
    readings = evaluate.predict(engine, items, setup, sample=True)
    scores = evaluate.plain_scores(evaluate.score(items, readings, task=data.task, split="validation"))
    return CheckpointRecord(
        learning_rate=rate,
        step=point.step,
        epoch=round(point.epoch, 4),
        score=scores[data.task.metrics()[0]],
        nll=scores["nll"],
        ece=scores["ece"],
        brier=scores["brier"],
        temperature=evaluate.temperature(readings),
        entropy=evaluate.mean_entropy(readings),
    )


def _publish(folder: Path, rate: float) -> None:
    """Move a learning rate's checkpoints to `selected/`."""
    (folder / "selected").mkdir(exist_ok=True)
    for role in ROLES:
        checkpoint.replace_folder(folder / "checkpoints" / f"{rate:g}" / role, folder / "selected" / role)


def _test(
    folder: Path, data: Prepared, tokenizer: Any, world: World, config: TeacherConfig
) -> dict[str, dict[str, float]]:
    """Test scores of the selected checkpoints, for the report; empty without a test split."""
    if "test" not in data.items:
        return {}
    setup, items = _setup(data, tokenizer, world, config), data.items["test"]
    bf16, scores = engine_settings(config, world).bf16, {}
    for role in ROLES:
        folder_of = folder / "selected" / role
        model = models.load_selected(folder_of, data.task.auto_class, device=world.device, bf16=bf16)
        readings = evaluate.predict(evaluate.Loaded(module=model), items, setup, final=True)
        scores[role] = evaluate.plain_scores(evaluate.score(items, readings, task=data.task, split="test", final=True))
    return scores


def _setup(data: Prepared, tokenizer: Any, world: World, config: TrainingConfig) -> evaluate.Setup:
    return evaluate.Setup(
        task=data.task,
        tokenizer=tokenizer,
        pad_token_id=pad_token_id(tokenizer),
        batch_size=config.eval_batch_size,
        world=world,
    )


def read_result(folder: Path) -> TeacherResult | None:
    """The finished teacher of a folder, or null.

    Raises:
        ConfigError: a `teacher.json` that kdcache did not write.
    """
    path = folder / "teacher.json"
    if not path.is_file():
        return None
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        records = tuple(CheckpointRecord(**record) for record in tree.pop("checkpoints"))
        selected = {role: CheckpointRecord(**record) for role, record in tree.pop("selected").items()}
        result = TeacherResult(**tree, checkpoints=records, selected=selected)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path} is damaged ({error}); delete {folder} and train the teacher again") from None
    return replace(result, folder=str(folder))


def summary(result: TeacherResult, file: RunFile) -> str:
    """What the command prints at its end."""
    lines = [f"teacher of {result.dataset}: {len(result.checkpoints)} checkpoints evaluated in {result.seconds:.0f} s"]
    for role, meaning in (("t_hs", "highest score"), ("t_ll", "lowest loss")):
        record = result.selected[role]
        shown = {n: v for n, v in result.test.get(role, {}).items() if n.partition("@")[0] == result.metric}
        lines.append(
            f"  {role} ({meaning}): epoch {record.epoch:g}  validation {result.metric} {record.score:.4f}  "
            f"NLL {record.nll:.4f}  ECE {record.ece:.3f}  temperature {record.temperature:.2f}"
            + (f"  test {scores_text(shown)}" if shown else "")
        )
    if result.weight_digest["t_hs"] == result.weight_digest["t_ll"]:
        lines.append("  both are the same checkpoint: it is dumped once and goes by both names")
    if result.num_truncated:
        lines.append(f"  {result.num_truncated} items were cut to max_length")
    if result.num_dropped:
        lines.append(f"  {result.num_dropped} examples were left out, most for being longer than max_length")
    lines += [f"  checkpoints: {Path(result.folder) / 'selected'}", f"next: {file.command('dump-teacher')}"]
    return "\n".join(lines)
