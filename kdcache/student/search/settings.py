"""Settings of `kdcache search`, and the trials they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

from kdcache.core.configuration import Configuration
from kdcache.core.design import ALPHAS, CHOICES, STAGE_1, Space, Trial
from kdcache.core.errors import ConfigError
from kdcache.core.searching import DESIGNS
from kdcache.student.plan import StudentConfig
from kdcache.training.run import RunFile

COMPLETIONS = ("lazy", "stable", "random")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The block `search:` of a run file. How a trial is trained stands in the block `student:`."""

    design: Literal["greedy", "factorial"] = "greedy"
    """`greedy` decides one choice after the other; `factorial` trains all eight cells."""
    students: tuple[str, ...] = ()
    """Names in the models file; default: all."""
    order: tuple[str, ...] = tuple(CHOICES)
    """In which greedy search decides the choices."""
    temperatures: tuple[float, ...] = STAGE_1
    """Of the teacher, stage 1."""
    second_stage: bool = True
    """Four more temperatures between the neighbours of stage 1's best."""
    alphas: tuple[float, ...] = ALPHAS
    """Weights of the teacher under 1, tried with the best cell."""
    learning_rates: tuple[float, ...] = ()
    """Peaks: the first for every temperature, the others at the best one; default: the block `student:`'s alone."""
    seeds: tuple[int, ...] = (0,)
    """The first searches; the others repeat what is reported."""
    replicate: Literal["reported", "all"] = "reported"
    """What the other seeds repeat: the best of every cell, hard labels, what `complete` asks for and the best alpha;
    or everything."""
    complete: tuple[str, ...] = ()
    """What `compare` wants beside the search: `lazy` (both losses and teachers at tau 1), `stable` (cross-entropy,
    t_ll, tau_s 1 over the temperatures), `random` (all eight cells)."""

    def __post_init__(self) -> None:
        if self.design not in DESIGNS:
            raise ConfigError(f"design = {self.design!r}; allowed: {', '.join(DESIGNS)}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError(f"seeds = {list(self.seeds)}; allowed: different numbers >= 0, at least one")
        for name in self.complete:
            if name not in COMPLETIONS:
                raise ConfigError(f"complete = {name!r}; allowed: {', '.join(COMPLETIONS)}")
        self.space(1.0)

    def space(self, learning_rate: float) -> Space:
        """What may be tried; `learning_rate` is the training's own."""
        return Space(
            order=self.order,
            temperatures=self.temperatures,
            second_stage=self.second_stage,
            alphas=self.alphas,
            learning_rates=self.learning_rates or (learning_rate,),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One training: a student, a trial, a seed."""

    student: str
    trial: Trial
    seed: int

    @classmethod
    def of(cls, student: str, configuration: Configuration, *, seed: int = 0) -> Unit:
        """A configuration at the training's own learning rate."""
        return cls(student=student, trial=Trial(configuration=configuration.canonical()), seed=seed)

    def config(self, base: StudentConfig) -> StudentConfig:
        """The settings of `train-student` for it.

        Args:
            base: the block `student:`.
        """
        chosen = {f.name: getattr(self.trial.configuration, f.name) for f in fields(Configuration)}
        rate = self.trial.learning_rate or base.learning_rate
        return replace(base, **chosen, student=self.student, seed=self.seed, learning_rate=rate)

    def label(self) -> str:
        """For a line of the terminal."""
        return f"{self.student} {self.trial.configuration.label()} seed {self.seed}"


def students(file: RunFile, config: SearchConfig, asked: Sequence[str] = ()) -> tuple[str, ...]:
    """The students to search for.

    Raises:
        ConfigError: one that the models file does not have, or none at all.
    """
    names = tuple(asked) or config.students or tuple(file.models.students)
    if not names:
        raise ConfigError(f"the models of {file.path} name no student to search for; add one under students:")
    for name in names:
        file.models.student(name)
    return tuple(dict.fromkeys(names))
