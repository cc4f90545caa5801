"""What a user may ask of `compare` beside the runs. Nothing here computes."""

from __future__ import annotations

from dataclasses import dataclass

from kdcache.core.errors import ConfigError

HARD, WORST = "hard", "worst"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Settings of a comparison.

    Attributes:
        baseline: what configurations are compared with: `hard` (hard labels; the worst where there are none), `worst`
            (by validation), or the label of a configuration.
        family: labels of the configurations that are declared before the look at the results; Holm's correction is
            over them and the baseline. Empty: the winners by validation, Hinton's, the stable configuration, each
            against the baseline, and the two sides of each choice.
        rope: region of practical equivalence, per cent: gains inside +-rope count as equal.
        noise_sd: standard deviation between seeds in per cent of the score, for null bands without replicated seeds.
        against_published: whether the paper's numbers are set beside ours.
        strict: refuse where a run would be left out.

    Raises:
        ConfigError: a negative `rope`, or a `noise_sd` that is not above 0.
    """

    baseline: str = HARD
    family: tuple[str, ...] = ()
    rope: float = 0.5
    noise_sd: float | None = None
    against_published: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rope < float("inf"):
            raise ConfigError(f"rope = {self.rope} is no region of practical equivalence; give per cent >= 0")
        if self.noise_sd is not None and not 0 < self.noise_sd < float("inf"):
            raise ConfigError(f"noise_sd = {self.noise_sd} is no standard deviation; give per cent > 0")
