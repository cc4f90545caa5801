"""Responses to temperature and to alpha: a case with a point for each seed, or all cases over their mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from kdcache.report.evidence import Response
from kdcache.report.plots import COLOURS, SERIES, STYLE, clip, legend_above, legend_height, panels

OVER = {"tau_t": "temperature tau_t (log scale)", "alpha": "alpha"}
PANELS = 6
"""Cells in the figure of all cases."""


def case_figure(responses: Sequence[Response]) -> Figure | None:
    """Curves of one case over tau_t, or over alpha: means of the test score, a small point for each seed."""
    own = list(responses[: len(SERIES)])
    if not own:
        return None
    with rc_context(STYLE):
        hard = own[0].hard
        lines = len(own) + (hard is not None)
        figure, (axes,) = panels(1, 1, 2.2, top=legend_height(lines))
        for response, (colour, dash, marker) in zip(own, SERIES, strict=False):
            xs = [point.x for point in response.points]
            axes.plot(
                xs,
                [point.test for point in response.points],
                color=COLOURS[colour],
                linestyle=dash,
                marker=marker,
                markersize=5,
                linewidth=1.6,
                label=clip(response.label),
            )
            for point in response.points:
                if len(point.tests) > 1:
                    axes.plot(
                        [point.x] * len(point.tests),
                        point.tests,
                        marker,
                        color=COLOURS[colour],
                        markersize=2.6,
                        alpha=0.6,
                    )
        if hard is not None:
            axes.axhline(hard, color=COLOURS["muted"], linewidth=1.2, linestyle=(0, (1, 2)), label="hard labels")
        _scale(axes, own)
        axes.set_ylabel(f"test {own[0].metric}", parse_math=False)
        legend_above(axes)
    return figure


def all_cases_figure(responses: Sequence[Response]) -> Figure | None:
    """Panels by cell: the test score of each case in per cent over the mean of its curve, and the mean over cases."""
    labels = list(dict.fromkeys(response.label for response in responses))
    counts = {label: sum(r.label == label for r in responses) for label in labels}
    kept = sorted(labels, key=lambda label: (-counts[label], labels.index(label)))[:PANELS]
    if not kept:
        return None
    columns = min(2, len(kept))
    with rc_context(STYLE):
        figure, drawn = panels(-(-len(kept) // columns), columns, 1.6, top=0.36)
        for axes, label in zip(drawn, kept, strict=False):
            own = [response for response in responses if response.label == label]
            _relative(axes, own)
            _scale(axes, own)
            axes.set_title(clip(f"{label} ({counts[label]} cases)", 36), loc="left", fontsize=9, parse_math=False)
        for axes in drawn[len(kept) :]:
            axes.set_visible(False)
        for axes in drawn[::columns]:
            axes.set_ylabel("over the mean, %")
    return figure


def _relative(axes: Axes, responses: Sequence[Response]) -> None:
    means: dict[float, list[float]] = {}
    for response in responses:
        scores = np.array([point.test for point in response.points])
        middle = float(scores.mean())
        if middle == 0:
            continue
        relative = 100.0 * (scores / middle - 1)
        xs = [point.x for point in response.points]
        axes.plot(xs, relative, color=COLOURS["faint"], linewidth=0.8, zorder=1)
        for x, value in zip(xs, relative, strict=True):
            means.setdefault(x, []).append(float(value))
    full = sorted(x for x, values in means.items() if len(values) == max(map(len, means.values())))
    axes.plot(
        full, [np.mean(means[x]) for x in full], "-o", color=COLOURS["accent"], markersize=4, linewidth=2, zorder=2
    )


def _scale(axes: Axes, responses: Sequence[Response]) -> None:
    """Ticks at the values that were trained; temperatures on a log scale."""
    xs = sorted({point.x for response in responses for point in response.points})
    if responses[0].over == "tau_t":
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_locator(NullLocator())
    shown = xs if len(xs) <= 8 else xs[:: -(-len(xs) // 8)]
    axes.set_xticks(shown, [f"{x:g}" for x in shown])
    axes.set_xlabel(OVER[responses[0].over])
