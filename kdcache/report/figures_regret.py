"""Regret of every fixed configuration over cases: a distribution function, or points where cases are few."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from kdcache.report.answers import RegretRow
from kdcache.report.figures_deciles import FEW_CASES
from kdcache.report.plots import COLOURS, SERIES, STYLE, Bar, clip, forest, legend_above, legend_height, panels

CURVES = 4
"""Fixed or tuned configurations that are drawn, those of least mean regret."""
POINTS = 10
"""The same where cases are few."""
LEGEND_CHARACTERS = 62
RULES = ("search, by validation", "random candidate")


def shown(rows: Sequence[RegretRow]) -> tuple[RegretRow, ...]:
    """The configurations of least mean regret among those known in the most cases, and two rules beside them."""
    if not rows:
        return ()
    most = max(row.cases for row in rows)
    own = [row for row in rows if row.cases == most]
    limit = POINTS if most <= FEW_CASES else CURVES
    best = [row for row in own if row.kind != "rule"][:limit]
    return (*best, *(row for name in RULES for row in own if row.label == name))


def regret_figure(rows: Sequence[RegretRow]) -> Figure | None:
    """None without any row."""
    own = shown(rows)
    if not own:
        return None
    if own[0].cases <= FEW_CASES:
        return forest([_points(row) for row in own], "test score under the best of its case, % (left is better)")
    with rc_context(STYLE):
        figure, (axes,) = panels(1, 1, 2.4, top=legend_height(len(own)))
        for row, (colour, dash, _) in zip(own, SERIES, strict=False):
            regrets = np.sort(row.regrets)
            parts = np.arange(1, len(regrets) + 1) / len(regrets)
            axes.plot(
                np.concatenate([regrets[:1], regrets]),
                np.concatenate([[0.0], parts]),
                drawstyle="steps-post",
                color=COLOURS[colour],
                linestyle=dash,
                linewidth=1.8,
                label=clip(f"{row.label} (mean {row.mean:.2f} %, worst {row.worst:.2f} %)", LEGEND_CHARACTERS),
            )
        axes.axvline(0, color=COLOURS["muted"], linewidth=1, zorder=0)
        axes.set_ylim(0, 1.02)
        axes.set_ylabel("part of the cases")
        axes.set_xlabel("regret at most, %")
        axes.grid(axis="x", color=COLOURS["rule"], linewidth=0.6)
        legend_above(axes)
    return figure


def _points(row: RegretRow) -> Bar:
    several = row.cases > 1
    return Bar(
        label=row.label,
        value=row.mean,
        ticks=row.regrets if several else (),
        note=f"mean {row.mean:.2f} %, worst {row.worst:.2f} %" if several else f"{row.mean:.2f} %",
        filled=row.kind != "rule",
    )
