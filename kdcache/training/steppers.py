"""Which stepper a training takes."""

from __future__ import annotations

from kdcache.losses.objective import Objective
from kdcache.training.batch import RowReader
from kdcache.training.engine import Engine
from kdcache.training.fusing import Loss
from kdcache.training.graphs import GraphStepper
from kdcache.training.log import RunLog
from kdcache.training.plain import PlainEngine
from kdcache.training.recording import CudaRecorder
from kdcache.training.settings import TrainingConfig
from kdcache.training.stepping import Feed, Stepper


def stepper(
    engine: Engine,
    objective: Objective,
    *,
    rows: RowReader,
    pad_token_id: int,
    config: TrainingConfig,
    log: RunLog,
) -> Stepper:
    """What runs the steps of a training: CUDA graphs for the plain engine on CUDA, unless told otherwise.

    Args:
        engine: the model.
        objective: the loss.
        rows: reads rows from the model's outputs.
        pad_token_id: fills batches.
        config: of the training.
        log: told what runs.
    """
    loss, feed = Loss(engine, objective, rows, config.fused, log), Feed(engine.world.device, pad_token_id)
    if isinstance(engine, PlainEngine) and engine.world.device.type == "cuda" and config.graph != "never":
        recorder = CudaRecorder(engine.world.device)
        return GraphStepper(engine, loss, feed, recorder, log, always=config.graph == "always")
    return Stepper(engine, loss, feed)
