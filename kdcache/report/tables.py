"""The tables of the report as text cells, for the terminal, the HTML report and the CSV files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kdcache.report.gain import CaseTable, Gain, Row
from kdcache.report.study import Study
from kdcache.report.words import range_text, score_text, signed, unit

PICKED, ORACLE, WORST = "validation picks", "test picks (oracle)", "worst"
KNOWN = ("score", "nll", "ece", "brier", "temperature", "entropy")
"""Columns of the teacher table in this order; any others come after by name."""
DIGEST_LENGTH = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A title, column heads and rows of text; `numeric` columns are right-aligned."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str]
    marks: tuple[tuple[str, ...], ...] = ()
    """Of each row: `PICKED`, `ORACLE`, ... (empty: no marks)."""
    note: str = ""
    """What stands under it, e.g. that it goes on in a CSV file."""


def case_table(table: CaseTable, *, brief: bool = False) -> Table:
    """One row a configuration, best validation first; `brief` drops what the label says and one interval."""
    test = "test" if all(row.test_sd is None for row in table.rows) else "test ± sd over seeds"
    over = ("over hard labels, %", "over the worst, %")
    exactness = any(row.exactness for row in table.rows)
    heads = ["configuration", "validation", test, *over, "seeds"]
    heads += [] if brief else ["teacher", "loss", "tau_t / tau_s", "alpha", *(["exactness"] if exactness else [])]
    rows = []
    for i, row in enumerate(table.rows):
        hard = "baseline" if i == table.hard else _gain(row.over_hard, row)
        worst = "baseline" if i == table.worst else _gain(row.over_worst, row, brief=brief and table.hard is not None)
        cells = [row.label, score_text(row.validation), _test(row), hard, worst, ", ".join(map(str, row.seeds))]
        cells += [] if brief else [*_choices(row), *([", ".join(row.exactness) or "–"] if exactness else [])]
        rows.append(tuple(cells))
    return Table(
        title=f"{table.name}: {table.metric} on {table.num_test:,} test examples",
        columns=tuple(heads),
        rows=tuple(rows),
        numeric=frozenset({"alpha", "validation", test, *over}),
        marks=tuple(marks(table, i) for i in range(len(table.rows))),
    )


def marks(table: CaseTable, index: int) -> tuple[str, ...]:
    """What a row is: picked by validation, picked by the test, the worst. A lone row is nothing."""
    if len(table.rows) == 1:
        return ()
    named = ((table.picked, PICKED), (table.oracle, ORACLE), (table.worst, WORST))
    return tuple(name for i, name in named if i == index and not (name == WORST and table.worst == table.oracle))


def _choices(row: Row) -> list[str]:
    c = row.configuration
    if c.alpha == 0:
        return ["–", "–", "–", "0"]
    return [" = ".join(row.teachers), c.loss_label(), f"{c.tau_t:g} / {c.student_temperature:g}", f"{c.alpha:g}"]


def _test(row: Row) -> str:
    return score_text(row.test) + ("" if row.test_sd is None else f" ± {row.test_sd:.4f}")


def _gain(gain: Gain | None, row: Row, *, brief: bool = False) -> str:
    if gain is None:
        return "–"
    if brief:
        return signed(gain.percent)
    seeds = "" if gain.seeds == row.seeds else f" (seeds {', '.join(map(str, gain.seeds))})"
    span = "no interval" if gain.low is None or gain.high is None else f"{signed(gain.low)}, {signed(gain.high)}"
    return f"{signed(gain.percent)} [{span}]{seeds}"


def others_table(table: CaseTable) -> Table | None:
    """The other test scores of every configuration (calibration among them), or None if there are none."""
    names = tuple(dict.fromkeys(name for row in table.rows for name in row.others))
    if not names:
        return None
    return Table(
        title=f"{table.name}: other test scores, mean over seeds",
        columns=("configuration", *names),
        rows=tuple(
            (row.label, *(score_text(row.others[n]) if n in row.others else "–" for n in names)) for row in table.rows
        ),
        numeric=frozenset(names),
    )


def effects_table(study: Study) -> Table | None:
    """What each choice did, or None if no two runs are a pair."""
    if not study.effects:
        return None
    rows = []
    for effect in study.effects:
        name, factor = unit(effect.metric)
        low, high = (None if v is None else v * factor for v in (effect.low, effect.high))
        pairs = len(effect.differences)
        rows.append(
            (
                effect.choice,
                f"{effect.alternative} against {effect.default}",
                f"{signed(effect.mean * factor)}",
                range_text(low, high),
                f"{effect.metric}, {name}",
                f"{pairs}",
                f"{effect.better} of {pairs}",
            )
        )
    return Table(
        title="What each choice did",
        columns=("choice", "contrast", "mean difference", "95 % interval", "test score", "pairs", "better in"),
        rows=tuple(rows),
        numeric=frozenset({"mean difference", "95 % interval", "pairs", "better in"}),
    )


def teachers_table(study: Study) -> Table | None:
    """The teachers and their calibration as the runs recorded them, or None if none did."""
    if not study.teachers:
        return None
    there = {name for teacher in study.teachers for name in teacher.values}
    names = tuple(sorted(there, key=lambda name: (KNOWN.index(name) if name in KNOWN else len(KNOWN), name)))
    return Table(
        title="Teachers on validation",
        columns=("dataset", "teacher", *names, "digest"),
        rows=tuple(
            (t.dataset, t.name, *(_known(t.values, n) for n in names), t.digest[:DIGEST_LENGTH] or "–")
            for t in study.teachers
        ),
        numeric=frozenset(names),
    )


def _known(values: Mapping[str, float], name: str) -> str:
    return score_text(values[name]) if name in values else "–"
