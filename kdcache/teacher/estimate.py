"""What a dump will cost, before it is paid for: rows, bytes, FLOPs, hours. Pure arithmetic and its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdcache.core.row_format import RowFormat
from kdcache.teacher.roundtrip import dump_settings, raw_bytes

COMPRESSED = {
    ("fast", "lz4"): 0.77,
    ("fast", "zstd"): 0.70,
    ("compact", "lz4"): 0.72,
    ("compact", "zstd"): 0.66,
}
"""Stored over raw bytes, where no sample can be measured: a language model of 49,152 classes, k = 8 to 128
(docs/losses.md). Everything else is taken to compress by nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreBytes:
    """Size of one store.

    Attributes:
        label: of the format.
        compressor: of its chunks.
        settings: what to write into `dump:`.
        chosen: whether it is what the settings say.
        raw: bytes of a row as arrays.
        stored: bytes of a row on disk.
        total: bytes on disk of one teacher, with its head for hidden stores.
        measured: on a sample of the user's rows, else estimated from `COMPRESSED`.
    """

    label: str
    compressor: str
    settings: str
    chosen: bool
    raw: int
    stored: float
    total: int
    measured: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A dump's cost.

    Attributes:
        dataset: its name.
        splits: of the dump.
        teachers: names of the checkpoints, equal weights once.
        num_items: items.
        num_rows: rows.
        num_tokens: tokens, without padding; of an encoder-decoder, source and target.
        num_target_tokens: those of them that the decoder reads; 0 without an encoder-decoder.
        num_classes: the largest V of any row.
        num_blocks: of the plan.
        parameters: of one teacher.
        flops: of all teachers, see `flops`.
        tokens_per_second: of one teacher; null where the speed is unknown.
        speed: where that comes from.
        logits_bytes: float32 logits of one teacher, all classes: what no cache would hold.
        stores: sizes, the chosen one first.
        notes: what else to know.
    """

    dataset: str
    splits: tuple[str, ...]
    teachers: tuple[str, ...]
    num_items: int
    num_rows: int
    num_tokens: int
    num_target_tokens: int
    num_classes: int
    num_blocks: int
    parameters: int
    flops: float
    tokens_per_second: float | None
    speed: str
    logits_bytes: int
    stores: tuple[StoreBytes, ...]
    notes: tuple[str, ...] = ()

    @property
    def hours(self) -> float | None:
        """Of all teachers, on one device."""
        if self.tokens_per_second is None:
            return None
        return self.num_tokens * len(self.teachers) / self.tokens_per_second / 3600


def store_bytes(row_format: RowFormat, *, num_rows: int, measured: float | None, chosen: bool) -> StoreBytes:
    """Size of a store over `num_rows` rows.

    Args:
        row_format: what it keeps.
        num_rows: of one teacher.
        measured: bytes of a row on disk in a sample, or null.
        chosen: whether the settings say so.

    Example:
        >>> hidden = RowFormat.of(store="hidden", num_classes=1000, hidden_size=64)
        >>> size = store_bytes(hidden, num_rows=10, measured=None, chosen=True)
        >>> size.raw, size.total
        (140, 257400)
    """
    raw = raw_bytes(row_format)
    ratio = COMPRESSED.get((row_format.codec, row_format.compressor), 1.0)
    stored = raw * ratio if measured is None else measured
    head = 4 * row_format.num_classes * row_format.hidden_size
    return StoreBytes(
        label=row_format.label,
        compressor=row_format.compressor,
        settings=dump_settings(row_format),
        chosen=chosen,
        raw=raw,
        stored=round(stored, 1),
        total=round(stored * num_rows) + head,
        measured=measured is not None,
    )


def flops(*, work: Sequence[tuple[int, int]], teachers: int) -> float:
    """2 x parameters x tokens for each teacher: a forward pass, embeddings and attention counted like the rest.

    Args:
        work: parameters, and tokens that pass through them: one pair, or of an encoder-decoder the encoder's over the
            source and everything else over the target.
        teachers: how many run.

    Example:
        >>> flops(work=[(1_000_000, 500)], teachers=2)
        2000000000.0
        >>> flops(work=[(1_000_000, 500), (2_000_000, 100)], teachers=1)
        1400000000.0
    """
    return 2.0 * teachers * sum(parameters * tokens for parameters, tokens in work)


def bytes_text(count: float) -> str:
    """Bytes for people.

    Example:
        >>> bytes_text(999), bytes_text(12_345), bytes_text(3.2e12)
        ('999 B', '12.3 kB', '3.2 TB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if count < 1000 or unit == "PB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"


def hours_text(hours: float | None) -> str:
    """A duration for people.

    Example:
        >>> hours_text(None), hours_text(0.01), hours_text(0.5), hours_text(30)
        ('unknown', '36 s', '30 min', '30.0 h')
    """
    if hours is None:
        return "unknown"
    if hours < 1 / 30:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 1 else f"{hours:,.1f} h"


def cells(stores: Sequence[StoreBytes]) -> list[tuple[str, ...]]:
    """The table of stores as text."""
    return [
        (
            ("> " if s.chosen else "  ") + s.label,
            s.compressor,
            f"{s.raw:,}",
            f"{s.stored:,.1f}",
            bytes_text(s.total),
            "measured" if s.measured else "estimated",
        )
        for s in stores
    ]


COLUMNS = ("store", "compressor", "raw B/row", "stored B/row", "a teacher", "")


def lines(estimate: Estimate) -> list[str]:
    """What stands above the table."""
    e, count = estimate, len(estimate.teachers)
    size = f"{e.num_rows:,} rows of up to {e.num_classes:,} classes"
    target, compute = "", "parameters x tokens"
    if e.num_target_tokens:
        target = f" ({e.num_tokens - e.num_target_tokens:,} source, {e.num_target_tokens:,} target)"
        compute = "(encoder's parameters x source tokens + all others x target tokens)"
    return [
        "dry run: nothing is written",
        f"data      {e.dataset} {', '.join(e.splits)}: {e.num_items:,} items, {e.num_tokens:,} tokens{target}, {size}, "
        f"{e.num_blocks:,} blocks",
        f"teachers  {', '.join(e.teachers)}: {e.parameters:,} parameters each",
        f"compute   {e.flops:.3g} FLOPs: {count} x 2 x {compute}",
        f"time      {hours_text(e.hours)} on one device ({e.speed})",
        f"bytes     of one teacher; all its logits in float32 would be {bytes_text(e.logits_bytes)}",
    ]
