"""What every figure shares: colours, panels, rows with their text above them, captions' carrier, SVG and PNG bytes.

Drawn without pyplot, so no global state and no display. The same data always gives the same bytes. Margins are fixed in
inches and names stand above their row, so that long ones fit and a figure is legible 400 pixels wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate
from textwrap import wrap
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {
    "paper": "#fdfdfc",
    "ink": "#22262b",
    "muted": "#6a737d",
    "rule": "#d5d9de",
    "accent": "#1f6f8b",
    "faint": "#9cc3d1",
    "second": "#c4570f",
    "third": "#5b2a86",
    "fourth": "#3a9a78",
}
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
    "legend.frameon": False,
}
WIDTH = 5.4
"""Inches of a figure of the report: 389 units of SVG, about one a pixel on a phone."""
DPI = 200
SERIES: tuple[tuple[str, Any, str], ...] = (
    ("accent", "-", "o"),
    ("second", "--", "s"),
    ("third", "-.", "^"),
    ("fourth", (0, (1, 1.2)), "D"),
    ("ink", (0, (5, 1, 1, 1, 1, 1)), "v"),
    ("muted", "-", "x"),
)
"""Colour, dash and marker of the first, second, ... curve: told apart without colour too."""
LABEL_CHARACTERS = 64
"""What fits in a line above a row, together with its note."""
LABEL_LINES = 3
"""Into which a longer label is wrapped."""
LINE = 0.14
"""Inches of a line above a row."""
LEFT, RIGHT = 0.72, 0.14
"""Inches beside a panel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A figure of the report with what stands above and below it.

    Attributes:
        name: of its files, and of its place in the page.
        section: title of the part of the report that it belongs to.
    """

    name: str
    section: str
    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A row of a forest plot: a point with its interval, faint ticks behind, text above and at the right."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    ticks: tuple[float, ...] = ()
    note: str = ""
    filled: bool = True


def panels(
    rows: int, columns: int, height: float, *, top: float, foot: float = 0.5, gap: float = 0.9
) -> tuple[Figure, list[Axes]]:
    """A grid of panels, row by row; inches: `height` of a panel, `top` above, `foot` below, `gap` between two rows."""
    total = rows * height + (rows - 1) * gap + top + foot
    figure = Figure(figsize=(WIDTH, total))
    between = LEFT - 0.1
    width = (WIDTH - LEFT - RIGHT - between * (columns - 1)) / columns
    found = []
    for row in range(rows):
        for column in range(columns):
            left = LEFT + column * (width + between)
            bottom = total - top - height - row * (height + gap)
            found.append(figure.add_axes((left / WIDTH, bottom / total, width / WIDTH, height / total)))
    for axes in found:
        axes.grid(axis="y", color=COLOURS["rule"], linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=9)
    return figure, found


def forest(bars: Sequence[Bar], label: str, *, zero: bool = True) -> Figure:
    """Points with intervals, one below the other, the first at the top; `label` names the axis."""
    texts = [_lines(bar) for bar in bars]
    ends = list(accumulate(0.39 + LINE * len(lines) for lines in texts))
    bottom = 0.52
    total = ends[-1] + bottom + 0.08
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, total))
        axes = figure.add_axes((0.03, bottom / total, 0.94, ends[-1] / total))
        axes.set_ylim(ends[-1], 0)  # inches from the top
        for end, bar, lines in zip(ends, bars, texts, strict=True):
            _row(axes, end - 0.16, bar, "\n".join(lines))
        if zero:
            axes.axvline(0, color=COLOURS["muted"], linewidth=1, zorder=0)
        axes.set_yticks([])
        axes.margins(x=0.04)
        axes.set_xlabel(label, parse_math=False)
        axes.grid(axis="x", color=COLOURS["rule"], linewidth=0.6)
        axes.set_axisbelow(True)
    return figure


def _lines(bar: Bar) -> list[str]:
    """A row's label in lines that fit, the last of them beside the note."""
    *above, last = bar.label.split("\n")
    rooms = [(line, LABEL_CHARACTERS) for line in above] + [(last, max(LABEL_CHARACTERS - len(bar.note), 16))]
    return [clip(part, room) for line, room in rooms for part in _wrap(line, room)]


def _wrap(text: str, room: int) -> list[str]:
    found = wrap(text, room, break_long_words=False, break_on_hyphens=False, max_lines=LABEL_LINES, placeholder=" …")
    return found or [""]


def _row(axes: Axes, y: float, bar: Bar, text: str) -> None:
    sideways = axes.get_yaxis_transform()
    head = y - 0.125
    paper = {"facecolor": COLOURS["paper"], "edgecolor": "none", "pad": 1.0, "alpha": 0.85}
    common: Any = {"transform": sideways, "va": "bottom", "parse_math": False, "bbox": paper, "zorder": 1.5}
    axes.text(0, head, text, fontsize=9, linespacing=1.1, **common)
    if bar.note:
        axes.text(1, head, bar.note, ha="right", fontsize=8.5, color=COLOURS["muted"], **common)
    if bar.ticks:
        axes.plot(bar.ticks, [y] * len(bar.ticks), "|", color=COLOURS["faint"], markersize=11, zorder=1)
    if bar.low is not None and bar.high is not None:
        axes.plot([bar.low, bar.high], [y, y], color=COLOURS["accent"], linewidth=2, solid_capstyle="round", zorder=2)
    face = COLOURS["accent"] if bar.filled else "none"
    axes.plot(bar.value, y, "o", color=COLOURS["accent"], markerfacecolor=face, markersize=6.5, clip_on=False, zorder=3)


def clip(text: str, most: int = LABEL_CHARACTERS) -> str:
    """The text, or its beginning and an ellipsis.

    Example:
        >>> clip("configuration", 7)
        'config…'
    """
    return text if len(text) <= most else text[: max(most - 1, 1)] + "…"


def legend_above(axes: Axes, *, columns: int = 1) -> None:
    """A legend over the panel, outside it; dollar signs in names are no mathematics."""
    found = axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=columns,
        fontsize=8.5,
        handlelength=2.6,
        columnspacing=1.2,
        borderaxespad=0.2,
        labelspacing=0.25,
    )
    for text in found.get_texts():
        text.set_parse_math(False)


def legend_height(lines: int) -> float:
    """Inches above a panel for a legend of so many lines."""
    return 0.14 + 0.165 * lines


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
