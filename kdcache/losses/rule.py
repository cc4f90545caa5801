"""What a store can give a configuration: exactly, within a measured bound, or only approximately. Pure; no torch.

The bounds are measured on a real language model (docs/losses.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdcache.core.configuration import Configuration
from kdcache.core.errors import IncompatibleTargets
from kdcache.core.row_format import RowFormat

Tail = Literal["uniform", "bucket"]
Kind = Literal["exact", "bounded", "approximate"]
KINDS: tuple[Kind, ...] = ("exact", "bounded", "approximate")
"""From best to worst."""
EXACT_CODECS = ("float32", "float16")
"""Of hidden vectors: their error is that of the arithmetic."""
MIN_TAU_T = 0.5
"""The error of the tail curve is measured up to beta = 1/tau = 2."""
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

    kind: Kind
    tail: Tail = "uniform"
    note: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.note}" if self.note else self.kind


def judge(configuration: Configuration, row_format: RowFormat) -> Verdict:
    """Class of a configuration on a store: exact, bounded or approximate.

    Args:
        configuration: what the student is trained on.
        row_format: what the store keeps of a row.

    Example:
        >>> judge(Configuration(tau_t=4, tau_s=1), RowFormat.of(top_k=64, num_classes=50_000)).kind
        'bounded'
    """
    if configuration.alpha == 0:
        return Verdict(kind="exact")
    if row_format.store == "hidden":
        if row_format.codec in EXACT_CODECS:
            return Verdict(kind="exact")
        return Verdict(kind="bounded", note=f"hidden vectors in {row_format.codec}")
    if row_format.is_dense:
        return Verdict(kind="exact")
    tau_t, tau_s = configuration.tau_t, configuration.student_temperature
    kept = f"top {row_format.top_k} of {row_format.num_classes:,} classes"
    if configuration.loss == "mse":
        return Verdict(kind="approximate", note=f"MSE over {kept} lacks the tail's cross term")
    if configuration.loss != "ce":
        return Verdict(
            kind="approximate", tail="bucket", note=f"{configuration.loss} over {kept} takes the tail as one class"
        )
    if tau_t < MIN_TAU_T:
        return Verdict(kind="approximate", note=f"tau_t = {tau_t:g} < {MIN_TAU_T} is outside the tail curve")
    if tau_s == 1:
        return Verdict(kind="bounded", note=f"{kept}, uniform tail at tau_s = 1")
    if tau_s == tau_t and tau_t <= MAX_TIED_TAU:
        return Verdict(kind="bounded", tail="bucket", note=f"{kept}, bucket tail at tied tau = {tau_t:g}")
    return Verdict(
        kind="approximate", tail="bucket", note=f"tau_s = {tau_s:g} needs the shape of the tail beyond {kept}"
    )


def worst(*verdicts: Verdict) -> Verdict:
    """The verdict on a mixture, from those on its teachers for one configuration; without any: exact.

    Temperatures alone decide the tail, so all sparse teachers have the same one and the others have none.

    Example:
        >>> str(worst(Verdict(kind="exact"), Verdict(kind="bounded", note="hidden vectors in int8")))
        'bounded: hidden vectors in int8'
    """
    kind = KINDS[max((KINDS.index(verdict.kind) for verdict in verdicts), default=0)]
    notes = dict.fromkeys(verdict.note for verdict in verdicts if verdict.note)
    tail: Tail = "bucket" if any(verdict.tail == "bucket" for verdict in verdicts) else "uniform"
    return Verdict(kind=kind, tail=tail, note="; ".join(notes))


def require(configuration: Configuration, verdict: Verdict, *, allow_approximate: bool, cache: str) -> Verdict:
    """The verdict again, unless it is `approximate` and that was not asked for.

    Raises:
        IncompatibleTargets: with the ways out.
    """
    if verdict.kind == "approximate" and not allow_approximate:
        raise IncompatibleTargets(
            f"{configuration.label()} cannot be computed from cache {cache}: {verdict.note}. Dump with store: hidden "
            f"(or with a top_k of all classes), use cross-entropy with tau_s = 1, or set allow_approximate: true"
        )
    return verdict
