"""One distillation configuration, and which configurations are the same training run.

The choices of the study (docs/losses.md): teacher checkpoint (or a mixture of two), loss, temperatures, weight of the
hard labels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from kdcache.core.errors import ConfigError

Loss = Literal["ce", "mse", "reverse_kl", "jsd"]
KDScale = Literal["tau_s^2", "tau_t^2", "none"]
TAU_DIGITS = 6
MIXED = "+"
"""Joins the names of the two teachers of a mixture: `t_hs+t_ll`."""
DEFAULT_BETA = 0.5
DEFAULT_WEIGHT = 0.5


@dataclass(frozen=True, kw_only=True)  # no slots: settings classes inherit from several
class Configuration:
    """What a student is trained on. `Configuration(alpha=0)` is hard labels only, the baseline."""

    teacher: str | None = "t_hs"
    """Name of a teacher in the cache, or `t_hs+t_ll` for a mixture of two; null only with alpha = 0."""
    loss: Loss = "ce"
    """Distance between teacher and student: `ce` cross-entropy (it trains as the KL divergence does), `mse` squared
    error of the logits, `reverse_kl` KL of the student to the teacher, `jsd` generalised Jensen-Shannon divergence."""
    tau_t: float = 1.0
    """Temperature that divides the teacher's logits, > 0."""
    tau_s: float | Literal["tied"] = "tied"
    """Temperature that divides the student's logits: a number > 0, or `tied` for tau_t's value."""
    alpha: float = 1.0
    """Weight of the distillation loss in [0, 1]; 1 - alpha is the hard labels' weight."""
    kd_scale: KDScale = "tau_s^2"
    """Factor on the distillation loss and its gradient."""
    jsd_beta: float = DEFAULT_BETA
    """The teacher's share of the mixture that `jsd` compares with, inside (0, 1); no effect on other losses."""
    teacher_weight: float = DEFAULT_WEIGHT
    """Weight of the first teacher of a mixture in [0, 1]; no effect with one teacher."""

    def __post_init__(self) -> None:
        tau_s = self.tau_t if self.tau_s == "tied" else self.tau_s
        for name, tau in (("tau_t", self.tau_t), ("tau_s", tau_s)):
            if not 0 < tau < float("inf"):
                raise ConfigError(f"{name} = {tau} is not a temperature; it must be > 0 (or `tied` for tau_s)")
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"alpha = {self.alpha} is outside [0, 1]; 0 is hard labels only, 1 the teacher only")
        if self.alpha > 0 and self.teacher is None:
            raise ConfigError(f"alpha = {self.alpha} needs a teacher; name one of the cache's, e.g. t_hs")
        if not 0 < self.jsd_beta < 1:
            raise ConfigError(
                f"jsd_beta = {self.jsd_beta} must lie inside (0, 1); at 0 use loss: ce, at 1 loss: reverse_kl"
            )
        if not 0 <= self.teacher_weight <= 1:
            raise ConfigError(f"teacher_weight = {self.teacher_weight} is outside [0, 1]; 1 is the first teacher alone")
        if self.alpha > 0 and (len(self.teachers) > 2 or not all(self.teachers)):
            raise ConfigError(f"teacher = {self.teacher!r} is neither a name nor two names joined by +, e.g. t_hs+t_ll")
        if self.alpha > 0 and len(self.teachers) == 2 and self.loss != "ce":
            raise ConfigError(
                f"loss = {self.loss} of the mixture {self.teacher} is not defined; use loss: ce, or one teacher"
            )

    @property
    def teachers(self) -> tuple[str, ...]:
        """The names in `teacher`: none, one, or the two of a mixture."""
        return () if self.teacher is None else tuple(self.teacher.split(MIXED))

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
        same number is one; `jsd_beta` and `teacher_weight` only count where they are used; a mixture is ordered by
        name, and is one teacher where the other has weight 0 or is the same.

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
        teacher, weight = _ordered(self.teachers, round(float(self.teacher_weight), TAU_DIGITS))
        return replace(
            self,
            teacher=teacher,
            tau_t=tau_t,
            tau_s=tau_s,
            kd_scale=scale,
            alpha=round(float(self.alpha), TAU_DIGITS),
            jsd_beta=round(float(self.jsd_beta), TAU_DIGITS) if self.loss == "jsd" else DEFAULT_BETA,
            teacher_weight=weight,
        )

    def content(self) -> dict[str, Any]:
        """Field -> value, of the fields that count: what a digest of the configuration is made of."""
        unused = {"jsd_beta": self.loss != "jsd", "teacher_weight": len(self.teachers) < 2}
        return {f.name: getattr(self, f.name) for f in fields(Configuration) if not unused.get(f.name, False)}

    def label(self, *, teacher: str | None = None) -> str:
        """Short name for tables, e.g. `ce t_ll tau 4/1` or `hard labels`; `teacher` may stand for the teacher's own.

        Example:
            >>> Configuration(teacher="t_ll", tau_t=4, tau_s=1, alpha=0.5).label()
            'ce t_ll tau 4/1 alpha 0.5'
        """
        if self.alpha == 0:
            return "hard labels"
        parts = [self.loss_label(), teacher or self.teacher_label(), f"tau {self.tau_t:g}/{self.student_temperature:g}"]
        if self.alpha != 1:
            parts.append(f"alpha {self.alpha:g}")
        if self.kd_scale != "tau_s^2" and self.scale != 1:
            parts.append(f"scale {self.kd_scale}")
        return " ".join(parts)

    def loss_label(self) -> str:
        """The loss for tables, with its parameter: `ce`, `jsd 0.5`."""
        return f"jsd {self.jsd_beta:g}" if self.loss == "jsd" else self.loss

    def teacher_label(self) -> str:
        """The teacher for tables: its name, or the weights of a mixture: `0.3 t_hs + 0.7 t_ll`."""
        if len(self.teachers) < 2:
            return str(self.teacher)
        first, second = self.teachers
        return f"{self.teacher_weight:g} {first} + {1 - self.teacher_weight:g} {second}"


def _ordered(names: tuple[str, ...], weight: float) -> tuple[str, float]:
    """The teacher of a canonical configuration and its weight."""
    if len(names) == 1 or names[0] == names[1] or weight == 1:
        return names[0], DEFAULT_WEIGHT
    first, second = names
    if weight == 0:
        return second, DEFAULT_WEIGHT
    if first > second:
        first, second, weight = second, first, round(1 - weight, TAU_DIGITS)
    return f"{first}{MIXED}{second}", weight
