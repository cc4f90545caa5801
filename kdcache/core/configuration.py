"""One distillation configuration, and which configurations are the same training run.

The choices of the study (docs/losses.md): teacher checkpoint, loss, temperatures, weight of the hard labels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from kdcache.core.errors import ConfigError

Loss = Literal["ce", "mse"]
KDScale = Literal["tau_s^2", "tau_t^2", "none"]
TAU_DIGITS = 6


@dataclass(frozen=True, kw_only=True)  # no slots: settings classes inherit from several
class Configuration:
    """What a student is trained on. `Configuration(alpha=0)` is hard labels only, the baseline."""

    teacher: str | None = "t_hs"
    """Name of a teacher in the cache, or null with alpha = 0."""
    loss: Loss = "ce"
    """Distance between teacher and student: cross-entropy or squared error of the logits."""
    tau_t: float = 1.0
    """Temperature that divides the teacher's logits, > 0."""
    tau_s: float | Literal["tied"] = "tied"
    """Temperature that divides the student's logits: a number > 0, or `tied` for tau_t's value."""
    alpha: float = 1.0
    """Weight of the distillation loss in [0, 1]; 1 - alpha is the hard labels' weight."""
    kd_scale: KDScale = "tau_s^2"
    """Factor on the distillation loss and its gradient."""

    def __post_init__(self) -> None:
        tau_s = self.tau_t if self.tau_s == "tied" else self.tau_s
        for name, tau in (("tau_t", self.tau_t), ("tau_s", tau_s)):
            if not 0 < tau < float("inf"):
                raise ConfigError(f"{name} = {tau} is not a temperature; it must be > 0 (or `tied` for tau_s)")
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"alpha = {self.alpha} is outside [0, 1]; 0 is hard labels only, 1 the teacher only")
        if self.alpha > 0 and self.teacher is None:
            raise ConfigError(f"alpha = {self.alpha} needs a teacher; name one of the cache's, e.g. t_hs")

    @property
    def student_temperature(self) -> float:
        """tau_s as a number."""
        return self.tau_t if self.tau_s == "tied" else self.tau_s

    @property
    def scale(self) -> float:
        """`kd_scale` as a number."""
        return {"tau_s^2": self.student_temperature**2, "tau_t^2": self.tau_t**2, "none": 1.0}[self.kd_scale]

    def canonical(self) -> Configuration:
        """The representative of all configurations that give the same gradient at every step.

        alpha = 0 drops the rest; tied MSE scaled by tau^2 is logit MSE at temperature 1; a `kd_scale` that comes to the
        same number is one.

        Example:
            >>> tied = Configuration(loss="mse", tau_t=4, tau_s="tied").canonical()
            >>> tied.tau_t, tied.tau_s, tied.kd_scale
            (1.0, 1.0, 'none')
        """
        if self.alpha == 0:
            return Configuration(teacher=None, alpha=0.0, tau_s=1.0, kd_scale="none")
        tau_t, tau_s = round(float(self.tau_t), TAU_DIGITS), round(float(self.student_temperature), TAU_DIGITS)
        scale = self.kd_scale
        if self.loss == "mse" and tau_t == tau_s and scale != "none":
            tau_t = tau_s = 1.0
        if {"tau_s^2": tau_s, "tau_t^2": tau_t, "none": 1.0}[scale] == 1.0:
            scale = "none"
        elif tau_t == tau_s:
            scale = "tau_s^2"
        return replace(self, tau_t=tau_t, tau_s=tau_s, kd_scale=scale, alpha=round(float(self.alpha), TAU_DIGITS))

    def label(self) -> str:
        """Short name for tables, e.g. `ce t_ll tau 4/1` or `hard labels`.

        Example:
            >>> Configuration(teacher="t_ll", tau_t=4, tau_s=1, alpha=0.5).label()
            'ce t_ll tau 4/1 alpha 0.5'
        """
        if self.alpha == 0:
            return "hard labels"
        parts = [self.loss, str(self.teacher), f"tau {self.tau_t:g}/{self.student_temperature:g}"]
        if self.alpha != 1:
            parts.append(f"alpha {self.alpha:g}")
        if self.kd_scale != "tau_s^2" and self.scale != 1:
            parts.append(f"scale {self.kd_scale}")
        return " ".join(parts)
