"""What `tools/bench_fidelity.py` must show: each limit beside the figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SPARSE = (
    ("top-64, curve, uniform tail", "ce:1:1", 0.018),
    ("top-64, curve, uniform tail", "ce:2:1", 0.06),
    ("top-64, curve, uniform tail", "ce:4:1", 0.025),
    ("top-64, curve, bucket tail", "ce:2:tied", 0.11),
)
HIDDEN = (("hidden, float16", 0.001), ("hidden, int8", 0.015))
TAIL = 6e-4
BYTES = (("fast", "lz4", 235), ("compact", "lz4", 175), ("compact", "zstd", 165))
BYTES_SIZE = 64
COMPACT_RATIO = 1.05
WITHIN = ((114, 0.022), (64, 0.042))
"""Bytes a row, error at (1,1) of the best codec and k within them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A figure and its limit."""

    what: str
    found: float
    limit: float

    @property
    def met(self) -> bool:
        """Whether the figure is within the limit; NaN is not."""
        return self.found <= self.limit

    def __str__(self) -> str:
        return f"{'PASS' if self.met else 'MISS'}  {self.found:<10.4g} <= {self.limit:<8g} {self.what}"


def bars(found: Mapping[str, Any]) -> list[Bar]:
    """Every bar; `found` is what the benchmark writes as JSON. Gradient errors are those of the first student."""
    errors = next(iter(found["students"].values()))["errors"]
    judged = [
        Bar(what=f"{line} at {column}", found=errors[line][column], limit=limit) for line, column, limit in SPARSE
    ]
    for line, limit in HIDDEN:
        judged += [Bar(what=f"{line} at {column}", found=error, limit=limit) for column, error in errors[line].items()]
    judged += [Bar(what=f"tail mass at k = {k}", found=error, limit=TAIL) for k, error in found["tail"].items()]
    points = {(p["top_k"], p["codec"], p["compressor"]): p for p in found["curve"]}
    for codec, compressor, limit in BYTES:
        point = points[BYTES_SIZE, codec, compressor]
        what = f"bytes a row, k = {BYTES_SIZE}, {codec} {compressor}"
        judged.append(Bar(what=what, found=point["bytes_per_row"], limit=limit))
    fast, compact = (points[BYTES_SIZE, codec, "lz4"]["errors"] for codec in ("fast", "compact"))
    for column, error in fast.items():
        what = f"error of compact over that of fast, k = {BYTES_SIZE}, {column}"
        judged.append(Bar(what=what, found=compact[column] / error, limit=COMPACT_RATIO))
    for most, limit in WITHIN:
        inside = [point for point in found["curve"] if point["bytes_per_row"] <= most]
        best = min(inside, key=lambda point: float(point["errors"]["ce:1:1"]), default=None)
        name = "nothing" if best is None else f"k = {best['top_k']} {best['codec']} {best['compressor']}"
        error = float("nan") if best is None else best["errors"]["ce:1:1"]
        judged.append(Bar(what=f"error at ce:1:1 within {most} bytes: {name}", found=error, limit=limit))
    return judged
