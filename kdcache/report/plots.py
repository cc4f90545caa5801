"""The two kinds of figure: gain of every configuration of a case, and what each choice did. SVG and PNG bytes.

Drawn without pyplot, so no global state and no display. The same data always gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdcache.report.choices import Effect
from kdcache.report.gain import CaseTable, Gain
from kdcache.report.words import effect_title, signed, unit

COLOURS = {"ink": "#22262b", "muted": "#6a737d", "rule": "#d5d9de", "accent": "#1f6f8b", "faint": "#9cc3d1"}
"""Name -> colour on paper; the HTML report replaces each by the CSS variable of that name."""

STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the reader's own font
    "svg.hashsalt": "kdcache",
    "font.size": 10,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.edgecolor": COLOURS["rule"],
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "ytick.major.size": 0,
}
WIDTH = 7.0
"""Inches; 100 px each in the report."""
ROW_HEIGHT = 0.30
DPI = 150


def gain_figure(table: CaseTable) -> Figure | None:
    """Forest plot: gain and 95 % interval of every configuration over hard labels, or over the worst without them.

    The order is that of the table, best validation score at the top; the filled point is validation's pick.
    None if no configuration has a gain.
    """
    over_hard = any(row.over_hard is not None for row in table.rows)
    points: list[tuple[str, Gain, bool]] = []
    for i, row in enumerate(table.rows):
        gain = row.over_hard if over_hard else row.over_worst
        if gain is not None:
            points.append((row.label, gain, i == table.picked))
    if not points:
        return None
    with rc_context(STYLE):
        figure, axes = _canvas(len(points))
        for y, (_, gain, picked) in enumerate(points):
            _interval(axes, y, gain.low, gain.high)
            face = COLOURS["accent"] if picked else "none"
            axes.plot(
                gain.percent,
                y,
                "o",
                color=COLOURS["accent"],
                markerfacecolor=face,
                markersize=7,
                clip_on=False,
                zorder=3,
            )
            axes.text(1.02, y, f"{signed(gain.percent)} %", transform=axes.get_yaxis_transform(), va="center")
        labels = [label for label, _, _ in points]
        baseline = "hard labels" if over_hard else f"the worst configuration ({table.rows[table.worst].label})"
        _finish(axes, labels, f"gain in test {table.metric} over {baseline}, %")
    return figure


def effects_figure(effects: Sequence[Effect]) -> Figure | None:
    """Mean paired difference and 95 % interval of every choice, a faint tick for each pair; None without any.

    Effects of one metric only: their unit is the axis.
    """
    if not effects:
        return None
    name, factor = unit(effects[0].metric)
    with rc_context(STYLE):
        figure, axes = _canvas(len(effects))
        for y, effect in enumerate(effects):
            axes.plot(
                [d * factor for d in effect.differences],
                [y] * len(effect.differences),
                "|",
                color=COLOURS["faint"],
                markersize=12,
                zorder=1,
            )
            ends = [None if v is None else v * factor for v in (effect.low, effect.high)]
            _interval(axes, y, *ends)
            axes.plot(effect.mean * factor, y, "o", color=COLOURS["accent"], markersize=7, zorder=3)
            axes.text(1.02, y, signed(effect.mean * factor), transform=axes.get_yaxis_transform(), va="center")
        labels = [effect_title(effect) for effect in effects]
        _finish(axes, labels, f"difference in test {effects[0].metric}, {name}; right of 0 the first is better")
    return figure


def _canvas(num_rows: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, 0.75 + ROW_HEIGHT * num_rows), layout="constrained")
    return figure, figure.subplots()


def _interval(axes: Axes, y: float, low: float | None, high: float | None) -> None:
    if low is not None and high is not None:
        axes.plot([low, high], [y, y], color=COLOURS["accent"], linewidth=2, solid_capstyle="round", zorder=2)


def _finish(axes: Axes, labels: Sequence[str], caption: str) -> None:
    axes.axvline(0, color=COLOURS["muted"], linewidth=1, zorder=0)
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel(caption, parse_math=False)
    axes.grid(axis="x", color=COLOURS["rule"], linewidth=0.6)
    axes.set_axisbelow(True)


def as_svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes for the same data."""
    return _save(figure, "svg")


def as_png(figure: Figure) -> bytes:
    """The figure as PNG on white."""
    return _save(figure, "png")


def _save(figure: Figure, kind: str) -> bytes:
    buffer = BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type") if kind == "svg" else ("Software",))
    with rc_context(STYLE):
        figure.savefig(buffer, format=kind, dpi=DPI, transparent=kind == "svg", metadata=nothing)
    return buffer.getvalue()
