"""Figures 1, 2 and 3 of the study: decile curves with what seed noise alone would show.

Up to ten cases are drawn as points, each at its own place between D0 and D10: deciles of so few are interpolations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdcache.report.answers import Deciles, Figure3
from kdcache.report.plots import COLOURS, SERIES, STYLE, legend_above, legend_height, panels

FEW_CASES = 10
"""So many are drawn as points."""
DECILES = tuple(range(11))
BY = {"test": "picked by test (oracle)", "validation": "picked by validation"}
HEIGHT, HEIGHT_OF_ONE = 1.75, 0.9
"""Inches of a panel, and of one that holds a single case."""


def figure1(curves: Sequence[Deciles]) -> Figure | None:
    """Best over worst and best over random, a panel for each and for who picks; None without any."""
    return _grid([(f"{curve.name}\n{BY[curve.by]}", curve) for curve in _in_order(curves)])


def figure2(curves: Sequence[Deciles]) -> Figure | None:
    """Signed curves, a panel for each choice; None without any."""
    return _grid([(curve.name, curve) for curve in curves])


def _in_order(curves: Sequence[Deciles]) -> list[Deciles]:
    """Rows by name, columns by who picks."""
    names = list(dict.fromkeys(curve.name for curve in curves))
    return sorted(curves, key=lambda curve: (names.index(curve.name), curve.by))


def _grid(titled: Sequence[tuple[str, Deciles]]) -> Figure | None:
    if not titled:
        return None
    columns = min(2, len(titled))
    rows = -(-len(titled) // columns)
    lines = max(title.count("\n") for title, _ in titled) + 1
    height = HEIGHT if max(len(curve.gains) for _, curve in titled) > 1 else HEIGHT_OF_ONE
    with rc_context(STYLE):
        figure, drawn = panels(rows, columns, height, top=0.12 + 0.19 * lines, gap=0.42 + 0.19 * lines)
        for axes, (title, curve) in zip(drawn, titled, strict=False):
            _band(axes, curve)
            _curve(axes, curve, 0, "")
            _finish(axes, title)
        for axes in drawn[len(titled) - columns : len(titled)]:
            axes.set_xlabel("decile")
        for axes in drawn[len(titled) :]:
            axes.set_visible(False)
        _share(drawn[: len(titled)], columns)
    return figure


def _share(drawn: Sequence[Axes], columns: int) -> None:
    """One scale for the panels of a row."""
    for start in range(0, len(drawn), columns):
        own = drawn[start : start + columns]
        limits = [axes.get_ylim() for axes in own]
        for axes in own:
            axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
        own[0].set_ylabel("gain, %")


def figure3(found: Figure3) -> Figure | None:
    """Stable, random and lazy over the best by validation; None if no case has one of them."""
    asked = (found.stable, found.stable_global, found.random, found.lazy)
    curves = [(i, curve) for i, curve in enumerate(asked) if curve is not None]
    if not curves:
        return None
    with rc_context(STYLE):
        figure, (axes,) = panels(1, 1, 2.4, top=legend_height(len(curves)))
        _band(axes, curves[0][1])
        for i, curve in curves:
            _curve(axes, curve, i, curve.name + _share_text(found, i))
        _finish(axes, "")
        axes.set_xlabel("decile")
        axes.set_ylabel("gain over the best, %")
        legend_above(axes)
    return figure


def _share_text(found: Figure3, index: int) -> str:
    share = (found.share, found.share_global, None, None)[index]
    return "" if share is None else f" (at least as good in {100 * share:.0f} % of cases)"


def _band(axes: Axes, curve: Deciles) -> None:
    if curve.null is not None:
        axes.fill_between(DECILES, curve.null.low, curve.null.high, color=COLOURS["rule"], alpha=0.75, linewidth=0)
        axes.plot(DECILES, curve.null.median, color=COLOURS["muted"], linewidth=1, linestyle=(0, (4, 3)))


def _curve(axes: Axes, curve: Deciles, index: int, label: str) -> None:
    colour, dash, marker = SERIES[index]
    if len(curve.gains) <= FEW_CASES:
        gains = np.sort(curve.gains)
        places = np.linspace(0, 10, len(gains)) if len(gains) > 1 else np.array([5.0])
        axes.plot(places, gains, marker, color=COLOURS[colour], markersize=5.5, label=label, clip_on=False)
        return
    axes.plot(
        DECILES,
        curve.values,
        color=COLOURS[colour],
        linestyle=dash,
        marker=marker,
        markersize=4,
        linewidth=1.8,
        label=label,
    )


def _finish(axes: Axes, title: str) -> None:
    axes.axhline(0, color=COLOURS["muted"], linewidth=1, zorder=0)
    axes.set_xlim(-0.4, 10.4)
    axes.set_xticks((0, 1, 3, 5, 7, 9, 10), ("0", "1", "3", "5", "7", "9", "10"))
    axes.set_title(title, loc="left", fontsize=9, parse_math=False)
