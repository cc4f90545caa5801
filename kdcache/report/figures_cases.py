"""Figures of single cases and of single choices: gain of every configuration, what each choice did."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from kdcache.report.choices import Effect
from kdcache.report.gain import CaseTable, Gain
from kdcache.report.plots import Bar, forest
from kdcache.report.words import effect_title, signed, unit


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
    bars = [
        Bar(label=label, value=g.percent, low=g.low, high=g.high, note=f"{signed(g.percent)} %", filled=picked)
        for label, g, picked in points
    ]
    baseline = "hard labels" if over_hard else f"the worst ({table.rows[table.worst].label})"
    return forest(bars, f"gain in test {table.metric} over {baseline}, %")


def effects_figure(effects: Sequence[Effect]) -> Figure | None:
    """Mean paired difference and 95 % interval of every choice, a faint tick for each pair; None without any.

    Effects of one metric only: their unit is the axis.
    """
    if not effects:
        return None
    name, factor = unit(effects[0].metric)
    bars = [
        Bar(
            label=effect_title(effect),
            value=effect.mean * factor,
            low=None if effect.low is None else effect.low * factor,
            high=None if effect.high is None else effect.high * factor,
            ticks=tuple(d * factor for d in effect.differences),
            note=signed(effect.mean * factor),
        )
        for effect in effects
    ]
    return forest(bars, f"difference in test {effects[0].metric}, {name} (right of 0: the first is better)")
