"""The block `search:` of a run file: what a search may try, and how often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdcache.core.design import ALPHAS, CHOICES, STAGE_1, Space
from kdcache.core.errors import ConfigError

Design = Literal["greedy", "factorial"]
Completion = Literal["lazy", "stable", "random"]
COMPLETIONS: tuple[Completion, ...] = ("lazy", "stable", "random")
GIGABYTE = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """Settings of `kdcache search`; the block `student:` says how each configuration is trained."""

    design: Design = "greedy"
    """`greedy` decides one choice after the other, `factorial` tunes all eight cells."""
    students: tuple[str, ...] = ()
    """Which of the models file's students; none named: all."""
    order: tuple[str, ...] = tuple(CHOICES)
    """Choices in the order in which they are decided; one that is left out keeps its default in a greedy search."""
    temperatures: tuple[float, ...] = STAGE_1
    """Stage 1 of the teacher's temperature, ascending."""
    second_stage: bool = True
    """Four more temperatures around stage 1's best."""
    alphas: tuple[float, ...] = ALPHAS
    """Weights of the teacher under 1, tried with the best cell."""
    hard: bool = True
    """Train the baseline on hard labels; data without labels need false, and no `alphas`."""
    learning_rates: tuple[float, ...] = ()
    """Peaks; the first is used for every temperature, the others at the best one. None: `student.learning_rate`."""
    seeds: tuple[int, ...] = ()
    """The first one searches, the others repeat what `replicate` says. None: `student.seed`."""
    replicate: Literal["reported", "all", "none"] = "reported"
    """What the further seeds repeat: `reported` is what a comparison rests on (docs/search.md)."""
    complete: tuple[Completion, ...] = ()
    """Trained after the search: `lazy` four cells at temperature 1, `stable` the cell (t_ll, CE, tau_s = 1) over all
    temperatures, `random` all eight cells."""
    on_error: Literal["stop", "skip"] = "stop"
    """After a training that fails: `stop` this student's search after its batch, or `skip` it as the worst score."""
    cache_memory_gb: float = 2.0
    """Decoded blocks of the cache that each process keeps, in 10^9 bytes."""
    cpus_per_trial: int = 1
    """Cores of a training with `--executor ray`; on one machine, `--jobs` shares them out."""
    keep_checkpoints: bool = True
    """Keep each run's weights; false deletes them once the run is scored, which `compare` does not need."""

    def __post_init__(self) -> None:
        if len(set(self.seeds)) != len(self.seeds) or min(self.seeds, default=0) < 0:
            raise ConfigError(f"seeds = {list(self.seeds)}; allowed: different whole numbers from 0 on")
        if len(set(self.students)) != len(self.students):
            raise ConfigError(f"students = {', '.join(self.students)}; name each once")
        if min(self.learning_rates, default=1) <= 0:
            raise ConfigError(f"learning_rates = {list(self.learning_rates)}; allowed: different numbers > 0")
        if self.cache_memory_gb <= 0:
            raise ConfigError(f"cache_memory_gb = {self.cache_memory_gb}; allowed: a number > 0")
        if self.cpus_per_trial < 1:
            raise ConfigError(f"cpus_per_trial = {self.cpus_per_trial} must be at least 1")
        self.space()

    def space(self) -> Space:
        """What the search may try.

        Raises:
            ConfigError: temperatures that do not rise, an alpha outside (0, 1), ...
        """
        return Space(
            order=self.order,
            temperatures=self.temperatures,
            second_stage=self.second_stage,
            alphas=self.alphas,
            learning_rates=self.learning_rates or (0.0,),
            hard=self.hard,
        )

    @property
    def cache_bytes(self) -> int:
        """`cache_memory_gb` in bytes."""
        return round(self.cache_memory_gb * GIGABYTE)
