"""Settings of `kdcache dump-teacher`: what is kept of a row, and what a fidelity report asks. Nothing here runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from kdcache.core.configuration import Configuration, Loss
from kdcache.core.errors import ConfigError
from kdcache.core.row_format import COMPRESSOR, DENSE, STORES, Compressor, RowFormat, Store

STUDY_GRID = ("ce:1:1", "ce:2:1", "ce:4:1", "ce:2:tied", "ce:4:tied", "ce:8:tied", "mse:1:1", "mse:4:1")
"""The choices of the study: both losses, student temperature 1 or tied. Tied MSE is MSE at temperature 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityConfig:
    """Settings of `kdcache dump-teacher --fidelity`."""

    grid: tuple[str, ...] = STUDY_GRID
    """What students will be trained on: LOSS:TAU_T:TAU_S, where TAU_S may be `tied`."""
    student: str | None = None
    """A student of the models file; null: seeded noise on the teacher's logits."""
    seed: int = 0
    """Of the noise, or of the student's new head; and of the items chosen."""
    tolerance: float = 0.02
    """Relative gradient error up to which the recommendation calls a store good enough."""

    def __post_init__(self) -> None:
        parse_grid(self.grid)
        if not 0 < self.tolerance < 1:
            raise ConfigError(f"tolerance = {self.tolerance} is not a relative error; it must lie in (0, 1)")
        if self.seed < 0:
            raise ConfigError(f"seed = {self.seed} must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpConfig:
    """Settings of `kdcache dump-teacher`."""

    store: Store = "topk"
    """What is kept of a row: the k largest classes and the tail's shape, or the vector before the output head."""
    codec: Literal["auto", "fast", "compact", "float16", "bfloat16", "int8", "float32"] = "auto"
    """How values are stored. topk: `fast` (log-probabilities in float16; `auto`) or `compact` (one byte each).
    hidden: `float16` (`auto`), `bfloat16`, `int8` (a quarter of float32's bytes) or `float32`."""
    compressor: Compressor = COMPRESSOR
    """`zstd` takes fewer bytes and more time to read."""
    top_k: int | None = None
    """Of topk: classes kept of a row, 64 by default; at least the number of classes means dense: everything, exact."""
    top_p: float = 1.0
    """Of topk: below 1, a row keeps its most probable classes up to this mass, and at most `top_k`."""
    splits: tuple[str, ...] = ("train", "validation")
    """Splits the teacher runs over."""
    batch_size: int = 64
    """Items of a forward pass, at most."""
    batch_tokens: int = 32_768
    """Tokens of a forward pass, padding included, at most; a longer item is a batch by itself."""
    block_tokens: int = 262_144
    """Tokens of a block: what a crash can lose, and what a reader decodes at a time."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the teacher runs in. `auto` is float32 on a CPU; on CUDA bfloat16 for a checkpoint that is stored in 16 bits
    or has at least a billion parameters, else float32 (TF32 off). A dump that continues keeps what it began with."""
    fidelity: FidelityConfig = field(default_factory=FidelityConfig)
    """What `--fidelity` reports on."""

    def __post_init__(self) -> None:
        for name in ("top_k", "batch_size", "batch_tokens", "block_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} = {value} must be at least 1")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p = {self.top_p} is not a probability mass; it must lie in (0, 1]; 1 keeps top_k")
        if not self.splits:
            raise ConfigError("splits is empty; name at least one, e.g. [train, validation]")
        self._check_store()

    def _check_store(self) -> None:
        """Refuse settings that the store would ignore."""
        if self.codec != "auto" and self.codec not in STORES[self.store]:
            other = next(store for store, codecs in STORES.items() if self.codec in codecs)
            own = ", ".join(codec for codec in STORES[self.store] if codec != DENSE)
            raise ConfigError(f"codec = {self.codec} is of store: {other}; store: {self.store} has {own}")
        if self.store == "hidden" and self.top_k is not None:
            raise ConfigError(
                f"top_k = {self.top_k} means nothing to store: hidden, which keeps every class; leave it out"
            )
        if self.store == "hidden" and self.top_p < 1:
            raise ConfigError(
                f"top_p = {self.top_p} means nothing to store: hidden, which keeps every class; leave it out"
            )

    def row_format(self, *, num_classes: int, hidden_size: int = 0) -> RowFormat:
        """What is kept of rows.

        Args:
            num_classes: the largest V of any row.
            hidden_size: of what enters the output head; store hidden needs it.

        Raises:
            ConfigError: `top_p` where all classes are kept.

        Example:
            >>> [DumpConfig().row_format(num_classes=v).label for v in (50_000, 2)]
            ['top-64 fast', 'dense']
        """
        found = RowFormat.of(
            num_classes=num_classes,
            store=self.store,
            codec=self.codec,
            compressor=self.compressor,
            top_k=self.top_k,
            top_p=self.top_p,
            hidden_size=hidden_size if self.store == "hidden" else 0,
        )
        if found.is_dense and self.top_p < 1:
            raise ConfigError(
                f"top_p = {self.top_p} means nothing here: top_k = {found.top_k} keeps all {num_classes} classes of a "
                f"row; leave top_p out, or set top_k below {num_classes}"
            )
        return found


def parse_grid(texts: Sequence[str]) -> tuple[Configuration, ...]:
    """Configurations from LOSS:TAU_T:TAU_S.

    Raises:
        ConfigError: empty, another form, an unknown loss, something that is no temperature.

    Example:
        >>> [(c.loss, c.tau_t, c.student_temperature) for c in parse_grid(["ce:4:tied", "mse:2:1"])]
        [('ce', 4.0, 4.0), ('mse', 2.0, 1.0)]
    """
    losses = get_args(Loss)
    found = []
    for text in texts:
        loss, *taus = str(text).strip().split(":")
        if loss not in losses or len(taus) != 2:
            raise ConfigError(
                f"grid has {text!r}; write LOSS:TAU_T:TAU_S, e.g. ce:2:1 or ce:4:tied; losses: {', '.join(losses)}"
            )
        try:
            tau_t, tau_s = float(taus[0]), "tied" if taus[1] == "tied" else float(taus[1])
        except ValueError:
            raise ConfigError(
                f"grid has {text!r}: {taus} are not temperatures; write e.g. ce:2:1 or ce:4:tied"
            ) from None
        found.append(Configuration(teacher="any", loss=loss, tau_t=tau_t, tau_s=tau_s))  # type: ignore[arg-type]
    if not found:
        raise ConfigError("grid is empty; name at least one configuration, e.g. ce:2:1")
    return tuple(found)
