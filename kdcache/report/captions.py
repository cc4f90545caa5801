"""What every caption states: cases, seeds, quantile method and metric signatures; and the sentences before them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kdcache.report.answers import QUANTILES, Deciles
from kdcache.report.figures_deciles import FEW_CASES
from kdcache.report.findings import Findings
from kdcache.report.gain import CaseTable
from kdcache.report.statistics.resample import LEVEL
from kdcache.report.study import Study
from kdcache.report.words import count, seeds_text

SIGNATURES = 2
"""Metric signatures that a caption spells out; more are under How it was computed."""
INTERVAL = f"{100 * LEVEL:g} % interval"


def facts(study: Study, names: Iterable[str] | None = None) -> str:
    """Cases, seeds, quantiles and signatures, in one line.

    Args:
        names: of the cases (`dataset, student`) that the figure is about; all by default.
    """
    asked = None if names is None else set(names)
    tables = [table for table in study.cases if asked is None or table.name in asked]
    where = tables[0].name if len(tables) == 1 else count(len(tables), "case")
    return f"{_upper(where)}; {_seeds(study, tables)}; quantiles: {QUANTILES}; {_signatures(tables)}."


def _upper(text: str) -> str:
    return f"Case: {text}" if not text[:1].isdigit() else text


def _seeds(study: Study, tables: Sequence[CaseTable]) -> str:
    numbers = [len(row.seeds) for table in tables for row in table.rows]
    seeds = sorted({seed for table in tables for row in table.rows for seed in row.seeds}) or list(study.seeds)
    if not numbers:
        return seeds_text(seeds)
    least, most = min(numbers), max(numbers)
    each = count(most, "seed") if least == most else f"{least} to {count(most, 'seed')}"
    return f"{each} for each configuration ({seeds_text(seeds)})"


def _signatures(tables: Sequence[CaseTable]) -> str:
    signatures = list(dict.fromkeys(table.signature for table in tables))
    told = ", ".join(signatures[:SIGNATURES])
    rest = len(signatures) - SIGNATURES
    return f"{told} and {rest} more, listed at the end" if rest > 0 else told


def null_text(findings: Findings, curves: Sequence[Deciles]) -> str:
    """What the grey band is, or why there is none."""
    bands = [curve.null for curve in curves if curve.null is not None]
    if not bands:
        return f"No band of seed noise: noise between seeds is {findings.noise}."
    return (
        f"Grey: 95 % of {bands[0].simulations:,} simulated studies with seed noise alone and no true difference "
        f"(dashes: their median); noise from {bands[0].source}."
    )


def deciles_text(curves: Sequence[Deciles]) -> str:
    """How to read a decile curve; with few cases, that points are cases."""
    if max(len(curve.gains) for curve in curves) <= FEW_CASES:
        return "So few cases are points, sorted from D0 (least) to D10 (most), not a curve of deciles."
    return "D_k: k tenths of the cases lie at or below it; D5 is the median, D10 the maximum."


def left_out(curves: Sequence[Deciles]) -> str:
    """Cases that a curve lacks; empty where none does."""
    most = max(len(curve.left_out) for curve in curves)
    return f" Left out, for want of a training or of a baseline above 0: up to {count(most, 'case')}." if most else ""
