"""`kdcache train-student`: train one student on one configuration, streamed from a cache. No teacher is ever loaded."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from kdcache.cache.loader import Loader
from kdcache.core.config import digest
from kdcache.core.results import RunResult, write_json, write_run
from kdcache.core.types import Evaluation
from kdcache.losses.objective import Objective
from kdcache.losses.packed import Teacher
from kdcache.student import fidelity
from kdcache.student.keeping import Held
from kdcache.student.other_tokens import OtherTokens, OtherTokenSteps
from kdcache.student.plan import Plan, StudentConfig, finished
from kdcache.student.shared import Inputs, Shared
from kdcache.training import checkpoint, evaluate, models
from kdcache.training.engine import Engine
from kdcache.training.forward import ReadRows
from kdcache.training.log import RunLog, scores_text
from kdcache.training.loop import fit
from kdcache.training.plain import PlainEngine
from kdcache.training.run import Prepared, RunFile, make_folder, pad_token_id
from kdcache.training.settings import effective, engine_settings
from kdcache.training.start import start
from kdcache.training.steppers import Kept, stepper
from kdcache.training.stepping import Stepper
from kdcache.training.steps import CachedSteps, Steps
from kdcache.training.world import World, barrier


def run(
    file: RunFile, config: StudentConfig, *, device: str = "auto", shared: Shared | None = None, progress: bool = True
) -> tuple[RunResult, Path]:
    """Train, keep the best checkpoint by validation, score it, write the run folder.

    A run that finished with the same settings is returned as it is. An unfinished one is started again.

    Args:
        file: the study.
        config: what to train.
        device: `auto`, `cpu`, `cuda`.
        shared: what earlier trainings of this study have read in this process.
        progress: show a progress line.

    Returns:
        The result and its folder.

    Raises:
        KDCacheError: bad settings; a cache that does not fit; a loss that is not finite.
    """
    shared = shared or Shared(file)
    planned = shared.plan(config)
    done = finished(planned.folder, planned.key)
    if done is not None:
        return done, planned.folder
    started = time.monotonic()
    inputs = shared.inputs(planned)
    world = start(device)
    engine_settings(planned.config, world)  # refuses what no engine can do, before anything is written
    folder = planned.folder
    if world.rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(folder)
        write_json(folder / "config.json", config)
    barrier(world)
    label = f"train-student {planned.name} {config.configuration.label()} seed {config.seed}" if progress else ""
    with RunLog(folder if world.rank == 0 else None, label=label) as log:
        log.write("start", key=planned.key, exactness=str(planned.verdict), teacher_forwards=0)
        prepared = time.monotonic() - started
        selected, counters, step = _train(shared, planned, inputs, world, log)
        seconds = {"prepare": round(prepared, 2), "train": log.elapsed}
        log.write("end", **counters)
    ran = {"training": effective(planned.config.training, world), "step": step}
    result = _result(file, planned, selected, counters, seconds, ran)
    if world.rank == 0:
        write_run(folder, result, selected.evaluations)
    barrier(world)
    return result, folder


@dataclass(frozen=True, slots=True, kw_only=True)
class _Selected:
    """The checkpoint that is kept.

    Attributes:
        evaluations: on validation, then on the test split if there is one.
        at: its step and epoch.
        fidelity: see `fidelity.means`.
    """

    evaluations: tuple[Evaluation, ...] = ()
    at: Mapping[str, float] = field(default_factory=dict)
    fidelity: Mapping[str, float] = field(default_factory=dict)


def _train(
    shared: Shared, planned: Plan, inputs: Inputs, world: World, log: RunLog
) -> tuple[_Selected, dict[str, int], dict[str, Any]]:
    """The training itself: the checkpoint, counters, and what ran its steps."""
    config, data, tokenizer = planned.config, inputs.data, inputs.tokenizer
    pad = pad_token_id(tokenizer)
    source, auto_class, head = shared.file.models.student(planned.name), data.task.auto_class, data.task.model_kwargs()
    model = shared.keeper.student(source, auto_class, seed=config.seed, head=head)
    setup = evaluate.Setup(
        task=data.task, tokenizer=tokenizer, pad_token_id=pad, batch_size=config.eval_batch_size, world=world
    )
    tables = shared.tables.setdefault(planned.cache.root, {})
    steps = _steps(planned, inputs.others, world, pad, tables)
    form = digest([source, auto_class, head])
    with shared.keeper.engine(model, config, world, student=form) as held:
        stepping = _stepper(planned, held, setup, log)
        stepping.measures = shared.measure
        best, num_steps = _fit(planned, stepping, steps, setup, data, log)
        rows, ran = stepping.rows(data.task), stepping.record()
        if rows is not None:  # the engine goes on to the selected checkpoint, and its graphs with it
            best = replace(best, evaluations=best.evaluations + _test(planned, data, setup, held.engine, rows))
    if rows is None:
        best = replace(best, evaluations=best.evaluations + _test(planned, data, setup))
    counters = {"teacher_forwards": 0, "steps": num_steps, "items": len(planned.cache.plan.indices("train"))}
    if inputs.others is not None:
        counters["rows_dropped"] = inputs.others.num_dropped
    return best, counters, ran


def _fit(
    planned: Plan, stepping: Stepper, steps: Steps, setup: evaluate.Setup, data: Prepared, log: RunLog
) -> tuple[_Selected, int]:
    """Train; the best checkpoint by validation, which is saved, and the number of steps."""
    config, world, engine = planned.config, setup.world, stepping.engine
    torch.manual_seed(config.seed * 1009 + world.rank)  # dropout differs between ranks
    theirs = fidelity.teacher_rows(planned.cache, planned.configuration.teachers, data.items["validation"])
    best = _Selected()
    num_steps = 0
    for point in fit(stepping, steps, config=config, log=log):
        num_steps = point.step
        engine.train(False)
        compare, rows = None if theirs is None else theirs.beside, stepping.rows(data.task)
        readings = evaluate.predict(engine, data.items["validation"], setup, compare=compare, rows=rows)
        validation = evaluate.score(data.items["validation"], readings, task=data.task, split="validation")
        scores = evaluate.plain_scores(validation)
        log.write("evaluation", step=point.step, epoch=point.epoch, **scores)
        if not best.evaluations or _improves(validation, best.evaluations[0]):
            at = {"step": point.step, "epoch": round(point.epoch, 4)}
            best = _Selected(evaluations=(validation,), at=at, fidelity=fidelity.means(readings))
            state = engine.state_dict()
            if world.rank == 0:
                folder = planned.folder / "selected"
                checkpoint.save(folder, model=engine.module, state=state, tokenizer=setup.tokenizer)
    return best, num_steps


def _stepper(planned: Plan, held: Held, setup: evaluate.Setup, log: RunLog) -> Stepper:
    """What runs the steps, with the graphs that earlier trainings on the same loss and rows left."""
    configuration = planned.configuration
    objective = Objective.of(configuration, tail=planned.verdict.tail)
    name = (planned.cache.root, configuration.teachers, configuration.teacher_weight, objective)
    return stepper(
        held.engine,
        objective,
        rows=setup.task,
        pad_token_id=setup.pad_token_id,
        config=planned.config,
        log=log,
        kept=Kept(graphs=held.graphs, name=name),
    )


def _steps(planned: Plan, others: OtherTokens | None, world: World, pad: int, tables: dict[str, Teacher]) -> Steps:
    """This rank's steps, streamed from the cache."""
    # The canonical teachers: a mixture of a teacher with itself, or with weight 0, reads one.
    configuration = planned.configuration
    loader = Loader(
        planned.cache,
        split="train",
        teachers=configuration.teachers,
        batch_size=planned.config.batch_size,
        micro_batch_size=planned.config.micro(world.size),
        seed=planned.config.seed,
        rank=world.rank,
        world_size=world.size,
        with_rows=bool(configuration.teachers),
        prefetch=0,  # the loop's own thread reads ahead
    )
    cached = CachedSteps(
        loader=loader,
        teachers=configuration.teachers,
        teacher_weight=configuration.teacher_weight,
        pad_token_id=pad,
        tables=tables,
    )
    return cached if others is None else OtherTokenSteps(cached=cached, others=others)


def _test(
    planned: Plan, data: Prepared, setup: evaluate.Setup, engine: Engine | None = None, rows: ReadRows | None = None
) -> tuple[Evaluation, ...]:
    """The selected checkpoint on the test split, as it is reported; nothing without one.

    Read from its folder into a model of its own, or into an engine whose forward passes are graphs.
    """
    if "test" not in data.items:
        return ()
    world, items = setup.world, data.items["test"]
    barrier(world)  # rank 0 has written the checkpoint
    settings = engine_settings(planned.config, world)
    plain = settings.kind == "plain"  # it keeps float32 weights, and computes in 16 bits beside them
    folder = planned.folder / "selected"
    bf16 = settings.bf16 and not plain
    place = world.device if rows is None else torch.device("cpu")
    model = models.load_selected(folder, data.task.auto_class, device=place, bf16=bf16)
    tested: evaluate.Model
    if isinstance(engine, PlainEngine):
        engine.load(model)
        engine.train(False)
        tested = engine
    else:
        tested = evaluate.Loaded(module=model, compute=torch.bfloat16 if settings.bf16 and plain else None)
    readings = evaluate.predict(tested, items, setup, final=True, rows=rows)
    return (evaluate.score(items, readings, task=data.task, split="test", final=True),)


def _improves(new: Evaluation, old: Evaluation) -> bool:
    """A better score; at a tie the lower NLL."""
    sign = 1 if new.primary.higher_is_better else -1
    return (sign * new.primary.value, -new.scores["nll"].value) > (sign * old.primary.value, -old.scores["nll"].value)


def _result(
    file: RunFile,
    planned: Plan,
    selected: _Selected,
    counters: Mapping[str, int],
    seconds: Mapping[str, float],
    ran: Mapping[str, Any],
) -> RunResult:
    config, evaluations = planned.config, selected.evaluations
    teachers = {
        name: {**identity.score, "digest": identity.weight_digest} for name, identity in planned.cache.teachers.items()
    }
    return RunResult(
        key=planned.key,
        dataset=file.dataset.name,
        dataset_digest=planned.cache.marker.dataset_digest,
        student=planned.name,
        seed=config.seed,
        configuration=config.configuration,
        teacher_digest=planned.teacher_digest,
        cache_signature=" + ".join(planned.cache.signature("train", name) for name in planned.configuration.teachers),
        exactness=str(planned.verdict) if config.alpha > 0 else "",
        metric=evaluations[0].primary.name,
        scores={e.split: e.scores for e in evaluations},
        test_digest={e.split: evaluate.digest(e) for e in evaluations},
        selected=selected.at,
        counters=counters,
        seconds=seconds,
        extra={
            "teachers": teachers,
            "fidelity": selected.fidelity,
            **ran,
            "model": file.models.student_digest(planned.name),
            "torch": torch.__version__,
        },
    )


def summary(result: RunResult, folder: Path) -> str:
    """What the command prints at its end."""
    lines = [f"{result.student}, {result.configuration.label()}, seed {result.seed}"]
    for split, scores in result.scores.items():
        lines.append(f"  {split:<10} {scores_text({name: score.value for name, score in scores.items()})}")
    if result.exactness:
        lines.append(f"  loss from the cache: {result.exactness}; teacher forward passes: 0")
    if "rows_dropped" in result.counters:
        lines.append(
            f"  its tokenizer is not the teacher's: rows were matched by example or word, "
            f"{result.counters['rows_dropped']:,} dropped that one of them lost to truncation"
        )
    step = result.extra.get("step", {})
    if step.get("graphs"):
        lines.append(f"  steps ran as {step['graphs']} CUDA graphs, one for each shape")
    elif step.get("why"):
        lines.append(f"  steps ran eagerly: {step['why']}")
    lines += [f"  run folder: {folder}", f"next: {shlex.join(['kdcache', 'compare', str(folder.parent)])}"]
    return "\n".join(lines)
