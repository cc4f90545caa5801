"""What one training of a student hands on to the next in one process: its first weights, its memory and its graphs."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kdcache.core.config import digest
from kdcache.student import skip_layers
from kdcache.training.engine import Engine, EngineSettings
from kdcache.training.models import StudentSource
from kdcache.training.plain import PlainEngine
from kdcache.training.recording import Graphs
from kdcache.training.settings import TrainingConfig, engine_settings
from kdcache.training.start import build
from kdcache.training.steppers import graphs_of
from kdcache.training.world import World

LARGEST_BYTES = 1 << 30
"""Weights that are kept for the next training on the CPU; those of larger students are read again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An engine, and what was recorded of it.

    Attributes:
        student: what its model was made from.
        settings: of the engine.
        engine: with the model.
        graphs: of its steps and evaluations; null: there are none.
    """

    student: Hashable
    settings: EngineSettings
    engine: Engine
    graphs: Graphs | None

    def close(self) -> None:
        """Free all of it."""
        self.engine.close()
        if self.graphs is not None:
            self.graphs.drop("its training has ended")


class Keeper:
    """Keeps what the next training of the same student need not make again; one student at a time.

    Graphs belong to the memory that they were recorded over, so an engine whose steps are graphs stays, and the next
    training's weights are put where the last one's were.

    Args:
        several: whether several trainings are to come; else nothing is kept.
    """

    def __init__(self, *, several: bool) -> None:
        self._several = several
        self._first: tuple[str, Any] | None = None
        self._held: Held | None = None

    def student(self, source: StudentSource, auto_class: str, *, seed: int, head: dict[str, Any]) -> Any:
        """A new student; see `skip_layers.build`.

        Args:
            source: the pretrained checkpoint and the layers to keep.
            auto_class: class with the task's head.
            seed: of the fresh head.
            head: `num_labels`, ... for the configuration.
        """
        key = digest([source, auto_class, seed, head])
        if self._first is not None and self._first[0] == key:
            return copy.deepcopy(self._first[1])
        self._first = None
        model = skip_layers.build(source, auto_class, seed=seed, **head)
        if self._several and sum(p.numel() * p.element_size() for p in model.parameters()) <= LARGEST_BYTES:
            self._first = (key, copy.deepcopy(model))
        return model

    @contextmanager
    def engine(self, model: Any, config: TrainingConfig, world: World, *, student: Hashable) -> Iterator[Held]:
        """An engine with a model, which may be the last training's with new weights; closed, or kept, at the end.

        Args:
            model: new, on the CPU.
            config: of the training.
            world: its processes.
            student: what the model was made from; equal ones have the same form.
        """
        settings = engine_settings(config, world)
        held, self._held = self._held, None
        same = held is not None and held.student == student and held.settings == settings and config.graph != "never"
        if held is not None and not same:
            held.close()
            held = None
        if held is not None and isinstance(held.engine, PlainEngine):
            held.engine.restart(model)
        else:
            engine = build(model, settings, world)
            held = Held(student=student, settings=settings, engine=engine, graphs=graphs_of(engine, config))
        kept = False
        try:
            yield held
            kept = self._several and held.graphs is not None and bool(held.graphs.worth)
        finally:
            if kept:
                self._held = held
            else:
                held.close()
