"""What a store can give a configuration: exactly, within a measured bound, or only approximately. Pure; no torch.

The bounds are measured on a real language model (docs/losses.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdcache.core.configuration import Configuration
from kdcache.core.errors import IncompatibleTargets

Tail = Literal["uniform", "bucket"]
MIN_TAU_T = 0.5
"""The tail curve reproduces beta = 1/tau up to 2."""
MAX_TIED_TAU = 2.0
"""Above it a tied temperature lifts the tail so far that its shape matters, which no top-k row holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a configuration's loss is computed from a store.

    Attributes:
        kind: `exact`, `bounded` or `approximate`.
        tail: how the tail's mass is spread.
        note: why, for results and tables; empty when exact.
    """

    kind: Literal["exact", "bounded", "approximate"]
    tail: Tail = "uniform"
    note: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.note}" if self.note else self.kind


def judge(configuration: Configuration, *, top_k: int, num_classes: int) -> Verdict:
    """Class of a configuration on a `topk` store.

    Args:
        configuration: what the student is trained on.
        top_k: classes kept of a row.
        num_classes: the largest V of any row; `top_k >= num_classes` is dense.

    Example:
        >>> judge(Configuration(tau_t=4, tau_s=1), top_k=64, num_classes=50000).kind
        'bounded'
    """
    if configuration.alpha == 0 or top_k >= num_classes:
        return Verdict(kind="exact")
    tau_t, tau_s = configuration.tau_t, configuration.student_temperature
    kept = f"top {top_k} of {num_classes:,} classes"
    if configuration.loss == "mse":
        return Verdict(kind="approximate", note=f"MSE over {kept} lacks the tail's cross term")
    if tau_t < MIN_TAU_T:
        return Verdict(kind="approximate", note=f"tau_t = {tau_t:g} < {MIN_TAU_T} is outside the tail curve")
    if tau_s == 1:
        return Verdict(kind="bounded", note=f"{kept}, uniform tail at tau_s = 1")
    if tau_s == tau_t and tau_t <= MAX_TIED_TAU:
        return Verdict(kind="bounded", tail="bucket", note=f"{kept}, bucket tail at tied tau = {tau_t:g}")
    return Verdict(
        kind="approximate", tail="bucket", note=f"tau_s = {tau_s:g} needs the shape of the tail beyond {kept}"
    )


def require(
    configuration: Configuration, *, top_k: int, num_classes: int, allow_approximate: bool, cache: str
) -> Verdict:
    """`judge`, refusing what is only approximate unless it was asked for.

    Raises:
        IncompatibleTargets: with three ways out.
    """
    verdict = judge(configuration, top_k=top_k, num_classes=num_classes)
    if verdict.kind == "approximate" and not allow_approximate:
        raise IncompatibleTargets(
            f"{configuration.label()} cannot be computed from cache {cache}: {verdict.note}. Dump with top_k >= "
            f"{num_classes} (dense), use cross-entropy with tau_s = 1, or set allow_approximate: true"
        )
    return verdict
