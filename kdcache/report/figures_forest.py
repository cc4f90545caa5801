"""Forest plots of comparisons: within cases, over cases, and of factorial effects."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from kdcache.report.evidence import AcrossCases, FactorialEffect, PairedComparison
from kdcache.report.plots import Bar, forest
from kdcache.report.two_runs import p_text
from kdcache.report.words import pair_label, signed, unit

ROWS = 16
"""Comparisons in one figure."""


def declared(paired: Sequence[PairedComparison]) -> tuple[PairedComparison, ...]:
    """The declared comparisons, each once, those of smallest adjusted p if there are many."""
    own = [c for c in paired if c.holm_p is not None]
    if len(own) <= ROWS:
        return tuple(own)
    kept = sorted(own, key=lambda c: (c.holm_p or 0.0, c.p or 0.0, -abs(c.difference)))[:ROWS]
    return tuple(sorted(kept, key=lambda c: own.index(c)))


def paired_figure(paired: Sequence[PairedComparison], *, cases: bool) -> Figure | None:
    """Difference, interval, p and Holm's p of comparisons of one metric; `cases`: name the case of each."""
    if not paired:
        return None
    name, factor = unit(paired[0].metric)
    bars = [_paired(comparison, factor, cases=cases) for comparison in paired]
    return forest(bars, f"difference in test {paired[0].metric}, {name} (right of 0: the first is better)")


def _paired(found: PairedComparison, factor: float, *, cases: bool) -> Bar:
    label = f"{found.b} against {found.a}"
    notes = [] if found.p is None else [p_text(found.p)]
    notes += [] if found.holm_p is None else [f"Holm {found.holm_p:.2g}"]
    return Bar(
        label=f"{found.case}:\n{label}" if cases else label,
        value=found.difference * factor,
        low=None if found.low is None else found.low * factor,
        high=None if found.high is None else found.high * factor,
        note=", ".join(notes),
    )


def across_figure(across: Sequence[AcrossCases]) -> Figure | None:
    """Mean gain over cases, its interval over datasets, a tick for each case, and P(worse / equal / better)."""
    if not across:
        return None
    bars = []
    for found in across:
        known = found.worse is not None and found.equal is not None and found.better is not None
        note = f"{found.worse:.2f} / {found.equal:.2f} / {found.better:.2f}" if known else f"{signed(found.mean)} %"
        bars.append(
            Bar(
                label=pair_label(found.a, found.b),
                value=found.mean,
                low=found.low,
                high=found.high,
                ticks=found.gains,
                note=note,
            )
        )
    return forest(bars, "gain in test score, % (right of 0: the first is better)")


def factorial_figure(effects: Sequence[FactorialEffect]) -> Figure | None:
    """Main effects and interactions, a tick for each case; None without any."""
    if not effects:
        return None
    bars = [
        Bar(label=e.name, value=e.mean, low=e.low, high=e.high, ticks=e.effects, note=f"{signed(e.mean)} %")
        for e in effects
    ]
    return forest(bars, "effect, % of the grid's mean (right of 0: the alternative is better)")
