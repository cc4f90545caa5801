"""Which stepper a training takes."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from kdcache.losses.objective import Objective
from kdcache.training.batch import RowReader
from kdcache.training.engine import Engine
from kdcache.training.fusing import Loss
from kdcache.training.graphs import GraphStepper
from kdcache.training.log import RunLog
from kdcache.training.plain import PlainEngine
from kdcache.training.recording import CudaRecorder, Graphs
from kdcache.training.settings import TrainingConfig
from kdcache.training.stepping import Feed, Stepper


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Graphs that trainings of one engine share.

    Attributes:
        graphs: of the engine; null: its steps are no graphs.
        name: of a training's loss, teachers and their cache; equal names are the same function of a batch.
    """

    graphs: Graphs | None
    name: Hashable = ""


def graphs_of(engine: Engine, config: TrainingConfig) -> Graphs | None:
    """Where an engine's graphs are kept: for the plain engine on CUDA, unless told otherwise; else null.

    Args:
        engine: the model.
        config: of the training.
    """
    if isinstance(engine, PlainEngine) and engine.world.device.type == "cuda" and config.graph != "never":
        return Graphs(CudaRecorder(engine.world.device))
    return None


def stepper(
    engine: Engine,
    objective: Objective,
    *,
    rows: RowReader,
    pad_token_id: int,
    config: TrainingConfig,
    log: RunLog,
    kept: Kept | None = None,
) -> Stepper:
    """What runs the steps of a training: CUDA graphs for the plain engine on CUDA, unless told otherwise.

    Args:
        engine: the model.
        objective: the loss.
        rows: reads rows from the model's outputs.
        pad_token_id: fills batches.
        config: of the training.
        log: told what runs.
        kept: what earlier trainings of the same engine recorded, and the name of this one's loss.
    """
    loss, feed = Loss(engine, objective, rows, config.fused, log), Feed(engine.world.device, pad_token_id)
    graphs = graphs_of(engine, config) if kept is None else kept.graphs
    if isinstance(engine, PlainEngine) and graphs is not None:
        name = "" if kept is None else kept.name
        return GraphStepper(engine, loss, feed, graphs, log, name=name, always=config.graph == "always")
    why = ""
    if engine.world.device.type == "cuda":
        never = f"the setting graph is {config.graph}"
        why = "DeepSpeed's engine makes no CUDA graphs" if engine.settings.kind == "deepspeed" else never
    return Stepper(engine, loss, feed, why=why)
