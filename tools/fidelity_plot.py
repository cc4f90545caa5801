"""The figure of bytes a row against gradient error, for docs/losses.md; in the style of the report's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from kdcache.report.plots import COLOURS, STYLE, as_svg

PANELS = (("ce:1:1", "(1,1)"), ("ce:2:1", "(2,1)"), ("ce:2:tied", "(2,2)"))
LINES = (("fast", "lz4", "muted", "s"), ("compact", "lz4", "faint", "o"), ("compact", "zstd", "accent", "o"))
"""Codec, compressor, colour, marker."""
HIDDEN = ("hidden, int8", "hidden, float16")
LABELLED = (16, 64, 256)
WIDTH, HEIGHT = 7.0, 3.1


def draw(found: Mapping[str, Any]) -> bytes:
    """SVG bytes; `found` is what the benchmark writes as JSON."""
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        panels = figure.subplots(1, len(PANELS), sharey=True)
        for axes, (column, title) in zip(panels, PANELS, strict=True):
            _panel(axes, found["curve"], column)
            axes.set_title(title, loc="left", fontsize=10)
            axes.set_xlabel("bytes a row")
        panels[0].set_ylabel("relative gradient error")
        panels[0].legend(frameon=False, fontsize=8, loc="lower left")
        return as_svg(figure)


def _panel(axes: Axes, points: list[dict[str, Any]], column: str) -> None:
    for codec, compressor, colour, marker in LINES:
        line = [p for p in points if (p["codec"], p["compressor"]) == (codec, compressor)]
        axes.plot(
            [p["bytes_per_row"] for p in line],
            [p["errors"][column] for p in line],
            color=COLOURS[colour],
            marker=marker,
            markersize=3,
            linewidth=1.2,
            label=f"{codec}, {compressor}",
        )
    for point in points:
        if (point["codec"], point["compressor"]) == ("compact", "zstd") and point["top_k"] in LABELLED:
            place = (point["bytes_per_row"], point["errors"][column])
            axes.annotate(f"{point['top_k']}", place, textcoords="offset points", xytext=(-3, -11), fontsize=8)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_formatter(plain)
    axes.yaxis.set_major_formatter(plain)
    axes.grid(color=COLOURS["rule"], linewidth=0.6)
    axes.set_axisbelow(True)
