"""Figures of calibration: NLL and ECE of teachers and students, reliability, and whether NLL predicts gain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdcache.report.evidence import Calibration, NllGain, Reliability
from kdcache.report.plots import COLOURS, SERIES, STYLE, WIDTH, clip, legend_above, legend_height, panels

ROWS = 14
"""Teachers and students in one figure."""
CURVES = 4
"""Reliability curves with a name; more are drawn faint."""
PITCH, FOOT = 0.42, 0.55
"""Inches of a row, and under the rows."""


def grouped(found: Sequence[Calibration]) -> list[tuple[str, str, list[Calibration]]]:
    """Kind, label, and its cases: those in the most cases first, teachers before students."""
    groups: dict[tuple[str, str], list[Calibration]] = {}
    for calibration in found:
        if calibration.nll is not None or calibration.ece is not None:
            groups.setdefault((calibration.kind, calibration.label), []).append(calibration)
    order = list(groups)
    keys = sorted(groups, key=lambda k: (k[0] != "teacher", -len(groups[k]), order.index(k)))
    return [(kind, label, groups[kind, label]) for kind, label in keys][:ROWS]


def calibration_figure(found: Sequence[Calibration]) -> Figure | None:
    """NLL and ECE: a bar to the mean over cases, a dot for each; None if nothing is known."""
    rows = grouped(found)
    if not rows:
        return None
    total = PITCH * len(rows) + FOOT + 0.08
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, total))
        boxes = ((0.03, 0.44), (0.53, 0.44))
        for (left, width), name in zip(boxes, ("nll", "ece"), strict=True):
            axes = figure.add_axes((left, FOOT / total, width, PITCH * len(rows) / total))
            _bars(axes, rows, name)
            axes.set_xlabel({"nll": "NLL, nats", "ece": "ECE"}[name])
    return figure


def _bars(axes: Axes, rows: Sequence[tuple[str, str, list[Calibration]]], name: str) -> None:
    for y, (kind, label, own) in enumerate(rows):
        known = [value for c in own if (value := getattr(c, name)) is not None]
        colour, _, marker = SERIES[0] if kind == "teacher" else SERIES[1]
        if known:
            axes.barh(y, float(np.mean(known)), height=0.26, color=COLOURS[colour], alpha=0.45, linewidth=0)
            axes.plot(known, [y] * len(known), marker, color=COLOURS[colour], markersize=4, clip_on=False)
        if name == "nll":
            number = f" ({len(own)} cases)" if len(own) > 1 else ""
            head = clip(f"{kind}: {label}{number}")
            axes.text(0, y - 0.2, head, transform=axes.get_yaxis_transform(), va="bottom", fontsize=9, parse_math=False)
    axes.set_ylim(len(rows) - 0.6, -0.75)
    axes.set_yticks([])
    axes.set_xlim(left=0)
    axes.grid(axis="x", color=COLOURS["rule"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)


def reliability_figure(found: Sequence[Reliability]) -> Figure | None:
    """Accuracy over confidence, the diagonal is perfect; None without any."""
    if not found:
        return None
    few = len(found) <= CURVES
    with rc_context(STYLE):
        figure, (axes,) = panels(1, 1, 2.7, top=legend_height(len(found) if few else 0))
        axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=1, linestyle=(0, (4, 3)))
        for i, one in enumerate(found):
            colour, dash, marker = SERIES[i] if few else ("accent", "-", "")
            axes.plot(
                one.confidence,
                one.accuracy,
                color=COLOURS[colour],
                linestyle=dash,
                marker=marker,
                markersize=4,
                linewidth=1.6 if few else 0.8,
                alpha=1.0 if few else 0.5,
                label=clip(f"{one.case}: {one.label}"),
            )
        axes.set_xlabel("mean confidence of a bin")
        axes.set_ylabel("part that is right")
        axes.set_xlim(0, 1.01)
        axes.set_ylim(0, 1.01)
        if few:
            legend_above(axes)
    return figure


def nll_gain_figure(found: NllGain | None) -> Figure | None:
    """A teacher's NLL against the gain of its best student; a line joins the teachers of one case."""
    if found is None or len(found.points) < 2:
        return None
    teachers = list(dict.fromkeys(point.teacher for point in found.points))
    with rc_context(STYLE):
        figure, (axes,) = panels(1, 1, 2.3, top=0.4)
        for case in dict.fromkeys(point.case for point in found.points):
            own = [point for point in found.points if point.case == case]
            axes.plot([p.nll for p in own], [p.gain for p in own], color=COLOURS["faint"], linewidth=1, zorder=1)
        for i, teacher in enumerate(teachers[: len(SERIES)]):
            colour, _, marker = SERIES[i]
            mine = [point for point in found.points if point.teacher == teacher]
            axes.plot(
                [p.nll for p in mine],
                [p.gain for p in mine],
                marker,
                color=COLOURS[colour],
                markersize=5.5,
                label=clip(teacher, 24),
            )
        axes.axhline(0, color=COLOURS["muted"], linewidth=1, zorder=0)
        axes.set_xlabel("NLL of the teacher on validation, nats")
        axes.set_ylabel("gain over hard labels, %")
        legend_above(axes, columns=2)
    return figure
