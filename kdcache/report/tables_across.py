"""Tables over all cases as text cells: cases, deciles, rewards, stable, regret, comparisons, the paper's numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kdcache.report.answers import CaseResult, Deciles, Reward, Stable, Votes
from kdcache.report.evidence import AcrossCases, Calibration, FactorialEffect, Fidelity, PairedComparison
from kdcache.report.findings import Findings, Published, TwoRuns
from kdcache.report.tables import Table
from kdcache.report.two_runs import p_text
from kdcache.report.words import pair_label, range_text, score_text, signed, unit

NONE = "–"
REGRET_ROWS = 12
PAIRED_ROWS = 60
"""Rows before a table goes on in its CSV file."""


def tables(found: Findings) -> tuple[Table, ...]:
    """Those over all cases that have a row; the paired comparisons and what is case by case come from others here."""
    made = (
        deciles_table([*found.figure1, *found.figure2]),
        rewards_table(found.rewards),
        stable_table(found.stable),
        regret_table(found),
        across_table(found.across),
        factorial_table(found.factorial),
    )
    return tuple(table for table in made if table is not None)


def _table(title: str, rows: Sequence[dict[str, str]], text: set[str], note: str = "") -> Table | None:
    """Rows as column -> cell; None without rows; all columns but `text` are numeric."""
    if not rows:
        return None
    columns = tuple(rows[0])
    return Table(
        title=title,
        columns=columns,
        rows=tuple(tuple(row[column] for column in columns) for row in rows),
        numeric=frozenset(columns) - text,
        note=note,
    )


def _known(value: float | None, show: Callable[[float], str] = signed) -> str:
    return NONE if value is None else show(value)


def _plain(value: float) -> str:
    return f"{value:.2f}"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def cases_table(cases: Sequence[CaseResult]) -> Table | None:
    """One row a case: what validation picks, the references beside it, and noise between seeds."""
    rows = [
        {
            "case": case.name,
            "validation picks": case.candidates[case.best].label,
            "test": score_text(case.candidates[case.best].test),
            "over hard labels, %": _known(case.gain_over_hard),
            "best by test": score_text(case.candidates[case.oracle_best].test),
            "worst by test": score_text(case.candidates[case.oracle_worst].test),
            "random": score_text(case.random),
            "lazy": _known(case.lazy, score_text),
            "stable": _known(case.stable, score_text),
            "hard": _known(case.hard, score_text),
            "seed sd, %": _known(case.noise_sd, _plain),
            "metric": case.metric,
        }
        for case in cases
    ]
    return _table("Cases", rows, {"case", "validation picks", "metric"})


def deciles_table(curves: Sequence[Deciles]) -> Table | None:
    """Median, D9 and maximum of each curve beside seed noise."""
    rows = [
        {
            "curve": curve.name,
            "picked by": curve.by,
            **{name: signed(curve.values[k]) for name, k in (("D0", 0), ("D5", 5), ("D9", 9), ("D10", 10))},
            "noise, D5": NONE if curve.null is None else range_text(curve.null.low[5], curve.null.high[5]),
            "noise, D10": NONE if curve.null is None else range_text(curve.null.low[10], curve.null.high[10]),
            "cases": f"{len(curve.gains)}",
        }
        for curve in curves
    ]
    return _table("Deciles of gains over cases, %", rows, {"curve", "picked by"})


def rewards_table(rewards: Sequence[Reward]) -> Table | None:
    """Table 3 of the study, with the sign test and the effort on either side."""

    def told(votes: Votes | None) -> str:
        return NONE if votes is None else f"{votes.reward:+d}".replace("-", "\N{MINUS SIGN}") if votes.reward else "0"

    rows = [
        {
            "choice": r.choice,
            "default": r.default,
            "alternative": r.alternative,
            "R": told(r.tuned),
            "won": f"{r.tuned.plus}",
            "lost": f"{r.tuned.minus}",
            "tied": f"{r.tuned.ties}",
            "sign test p": _known(r.tuned.p, lambda p: f"{p:.2g}"),
            "R at equal tau": told(r.matched),
            "trainings a side": f"{r.trials_default:.3g} : {r.trials_alternative:.3g}",
        }
        for r in rewards
    ]
    return _table(
        "Rewards: cases in which the alternative won on validation", rows, {"choice", "default", "alternative"}
    )


def stable_table(found: Sequence[Stable]) -> Table | None:
    """The stable configuration under each rule, and its regret."""
    rows = [
        {
            "chosen": s.rule,
            "tau": "per case" if s.tau == "per case" else f"one: {s.temperature:g}" if s.temperature else "one for all",
            "configuration": s.label if len(s.cells) == 1 else f"{s.label} and {len(s.cells) - 1} more",
            "at least as good as best": _share(s.share),
            "mean regret, %": _plain(s.regret_mean),
            "worst regret, %": _plain(s.regret_worst),
            "worst case": s.worst_case,
            "cases": f"{s.cases}",
        }
        for s in found
    ]
    return _table("Stable configuration", rows, {"chosen", "tau", "configuration", "worst case"})


def regret_table(found: Findings, *, most: int = REGRET_ROWS) -> Table | None:
    """Regret of fixed configurations, tuned ones and rules: known in the most cases first, then least mean."""
    rows = [
        {
            "always take": row.label,
            "mean regret, %": _plain(row.mean),
            "worst, %": _plain(row.worst),
            "worst case": row.worst_case,
            "cases": f"{row.cases} of {row.of}",
        }
        for row in found.regret
    ]
    note = f"{len(rows) - most:,} more rows are in regret.csv." if len(rows) > most else ""
    return _table(
        "Regret: per cent of the test score under the best by test", rows[:most], {"always take", "worst case"}, note
    )


def paired_table(paired: Sequence[PairedComparison], *, most: int = PAIRED_ROWS) -> Table | None:
    """Declared comparisons within cases."""
    own = [c for c in paired if c.holm_p is not None]
    rows = [{"case": c.case, "comparison": f"{c.b} against {c.a}", **_comparison(c)} for c in own[:most]]
    rest = len(paired) - len(rows)
    note = f"{rest:,} more comparisons are in pairs.csv." if rest else ""
    return _table("Declared comparisons within cases", rows, {"case", "comparison", "interval holds"}, note)


def _comparison(c: PairedComparison) -> dict[str, str]:
    name, factor = unit(c.metric)
    low, high = (None if v is None else v * factor for v in (c.low, c.high))
    return {
        f"difference, {name}": signed(c.difference * factor),
        "95 % interval": range_text(low, high),
        "p": _known(c.p, lambda p: p_text(p).removeprefix("p = ").removeprefix("p ")),
        "Holm p": _known(c.holm_p, lambda p: f"{p:.2g}"),
        "P(improvement)": _known(c.probability, _plain),
        "detectable": _known(c.detectable, lambda d: f"{d * factor:.2f}"),
        "seeds": f"{len(c.seeds)}",
        "interval holds": c.covers,
    }


def two_runs_table(two: TwoRuns) -> Table:
    """The figures of two runs, one a line."""
    told = _comparison(two.comparison)
    del told["Holm p"]
    lines = [
        ("a", two.a),
        ("b", two.b),
        ("compared on", f"{two.comparison.case}, test {two.comparison.metric}"),
        *told.items(),
    ]
    lines += [("gain over a, %", signed(two.comparison.gain))] if two.comparison.gain is not None else []
    lines += [("how", two.comparison.method)]
    return Table(title="b against a", columns=("", "value"), rows=tuple(lines), numeric=frozenset())


def across_table(across: Sequence[AcrossCases]) -> Table | None:
    """Comparisons over all cases."""
    rows = [
        {
            "comparison": pair_label(a.a, a.b),
            "mean gain, %": signed(a.mean),
            "95 % interval": NONE if a.low is None else range_text(a.low, a.high),
            "Wilcoxon p": _known(a.wilcoxon_p, lambda p: f"{p:.2g}"),
            "P(worse)": _known(a.worse, _plain),
            "P(equal)": _known(a.equal, _plain),
            "P(better)": _known(a.better, _plain),
            "cases": f"{len(a.gains)}",
            "datasets": f"{a.datasets}",
        }
        for a in across
    ]
    rope = f"Equal: gains within {across[0].rope:g} %. Intervals and tests are over datasets." if across else ""
    return _table("Comparisons over all cases", rows, {"comparison"}, rope)


def factorial_table(effects: Sequence[FactorialEffect]) -> Table | None:
    """Main effects and interactions of the full grid."""
    rows = [
        {
            "effect": e.name,
            "mean, %": signed(e.mean),
            "95 % interval": NONE if e.low is None else range_text(e.low, e.high),
            "cases": f"{len(e.cases)}",
        }
        for e in effects
    ]
    return _table("Factorial effects, per cent of the grid's mean", rows, {"effect"})


def calibration_table(found: Sequence[Calibration]) -> Table | None:
    """Calibration of students on the test; of teachers there is a table of their own."""
    rows = [
        {
            "case": c.case,
            "configuration": c.label,
            "score": _known(c.score, score_text),
            "NLL": _known(c.nll, score_text),
            "Brier": _known(c.brier, score_text),
            "ECE": _known(c.ece, score_text),
            "temperature": _known(c.temperature, _plain),
        }
        for c in found
        if c.kind == "student" and any(v is not None for v in (c.nll, c.brier, c.ece, c.temperature))
    ]
    return _table("Calibration of students on the test", rows, {"case", "configuration"})


def fidelity_table(found: Sequence[Fidelity]) -> Table | None:
    """How closely students follow their teachers."""
    rows = [
        {
            "case": f.case,
            "configuration": f.label,
            "agreement": _known(f.agreement, lambda v: f"{100 * v:.1f} %"),
            "KL, nats": _known(f.kl, score_text),
        }
        for f in found
    ]
    return _table("Students and their teachers on validation", rows, {"case", "configuration"})


def published_table(found: Published) -> Table | None:
    """The paper's numbers beside ours; footnotes are named by number."""
    rows = [
        {
            "quantity": row.quantity,
            "paper": row.paper,
            "ours, oracle": row.oracle or NONE,
            "ours, honest": row.honest or NONE,
            "seed noise alone": NONE if row.null_low is None else range_text(row.null_low, row.null_high),
            "verdict": row.verdict,
            "notes": ", ".join(map(str, row.footnotes)),
        }
        for row in found.rows
    ]
    return _table(f"The paper ({found.cases} cases) and these runs", rows, {"quantity", "verdict", "notes"})


def missing_table(found: Findings) -> Table | None:
    """Trainings that a result needs and that are not there."""
    rows = [
        {
            "case": m.case,
            "wanted for": m.wanted_by,
            "configurations": "; ".join(m.configurations),
            "seeds": ", ".join(map(str, m.seeds)),
        }
        for m in found.missing
    ]
    return _table("Missing trainings", rows, {"case", "wanted for", "configurations", "seeds"})


def excluded_table(found: Findings) -> Table | None:
    """Runs that were left out, and why."""
    rows = [{"run": e.folder, "why": e.reason} for e in found.excluded]
    return _table("Runs that were left out", rows, {"run", "why"})
