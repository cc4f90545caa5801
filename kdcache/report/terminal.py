"""The report as plain text for a terminal: the summary, what fits, and where the rest is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import StringIO

from rich import box
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from kdcache.report.gallery import FEW
from kdcache.report.study import Study
from kdcache.report.summary import closing, summary
from kdcache.report.tables import ORACLE, PICKED, WORST, Table, case_table, teachers_table
from kdcache.report.tables_across import (
    across_table,
    deciles_table,
    published_table,
    regret_table,
    rewards_table,
    stable_table,
    two_runs_table,
)
from kdcache.report.words import effect_sentence, missing_effects, overview, remarks, seed_warning, verdict

WIDTH = 110
SHORT = {
    PICKED: "picked",
    ORACLE: "oracle",
    WORST: "worst",
    "over hard labels, %": "over hard\nlabels, %",
    "over the worst, %": "over the\nworst, %",
    "test ± sd over seeds": "test ± sd\nover seeds",
    "at least as good as best": "at least as\ngood as best",
    "trainings a side": "trainings\na side",
    "R at equal tau": "R at equal\ntau",
    "mean regret, %": "mean\nregret, %",
    "worst regret, %": "worst\nregret, %",
    "95 % interval": "95 %\ninterval",
}
"""Column heads and marks that are long on a terminal."""
LEAST = {"verdict": 30, "comparison": 24}
"""Columns of text that numbers in full must leave so much room."""
GAP = 2
"""Characters between two columns."""
LEGEND = "picked: best validation score. oracle: best test score, which nobody can choose by. [ ]: 95 % interval."
REGRET_ROWS = 8
LISTED = 6
"""Remarks of one kind that are listed."""


def render(study: Study, *, width: int = WIDTH) -> str:
    """Summary, tables and remarks, at most `width` characters a line, without colour codes."""
    text = StringIO()
    console = Console(file=text, width=width, color_system=None, force_terminal=False, highlight=False)
    _say(console, overview(study))
    for sentence in summary(study) if len(study.cases) > 1 or study.findings.two_runs else ():
        _item(console, sentence)
    if study.findings.two_runs is not None:
        _draw(console, two_runs_table(study.findings.two_runs))
    else:
        _tables(console, study)
    if study.findings.published is not None:
        _tabulate(console, [published_table(study.findings.published)])
        for number, footnote in enumerate(study.findings.published.footnotes, start=1):
            _say(console, f"{number}. {footnote}")
    _ending(console, study)
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def _tables(console: Console, study: Study) -> None:
    """Every case where they are few, and what is over all cases where there are several."""
    found, several = study.findings, len(study.cases) > 1
    if len(study.cases) <= FEW:
        for table in study.cases:
            console.print()
            _draw(console, case_table(table, brief=True))
            _say(console, LEGEND)
            _say(console, " ".join(verdict(table)))
    if several:
        _tabulate(
            console,
            [
                deciles_table(found.figure1),
                rewards_table(found.rewards),
                stable_table(found.stable),
                regret_table(found, most=REGRET_ROWS),
                across_table(found.across),
            ],
        )
    told = [*map(effect_sentence, study.effects), *missing_effects(study)]
    if told and len(study.cases) <= FEW:
        console.print()
        _say(console, "What each choice did")
        for sentence in told:
            _item(console, sentence)
    if len(study.cases) <= FEW:
        _tabulate(console, [teachers_table(study)])


def _ending(console: Console, study: Study) -> None:
    """Remarks, what is missing, the warning of few seeds."""
    console.print()
    notes = list(closing(study)) if study.findings.two_runs is None else []
    for said in (notes, remarks(study)):
        for remark in said[:LISTED]:
            _say(console, remark)
        if len(said) > LISTED:
            _say(console, f"{len(said) - LISTED} more remarks are in the report.")
    if len(study.cases) > FEW:
        _say(console, "Cases, configurations and comparisons: cases.csv, results.csv and pairs.csv beside the report.")
    warning = seed_warning(study)
    if warning is not None:
        console.print()
        _say(console, warning)


def _say(console: Console, sentence: str) -> None:
    console.print(Text(sentence))


def _item(console: Console, sentence: str) -> None:
    console.print(Padding(Text(f"- {sentence}"), (0, 0, 0, 2)))


def _tabulate(console: Console, tables: Iterable[Table | None]) -> None:
    for table in tables:
        if table is not None:
            console.print()
            _draw(console, table)


def _draw(console: Console, table: Table) -> None:
    names, rows = [*table.columns], [[*row] for row in table.rows]
    if table.marks:
        names.append("")
        rows = [[*row, ", ".join(SHORT[mark] for mark in marks)] for row, marks in zip(rows, table.marks, strict=True)]
    heads = [SHORT.get(name, name) for name in names]
    whole = [
        _longest(cells) if name in table.numeric else LEAST.get(name, 0)
        for name, *cells in zip(names, *rows, strict=True)
    ]
    grid = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name, head, width in zip(names, heads, column_widths([heads, *rows], whole, console.width), strict=True):
        justify: JustifyMethod = "right" if name in table.numeric else "left"
        grid.add_column(Text(head), justify=justify, overflow="fold", vertical="top", width=width)
    for row in rows:
        grid.add_row(*map(Text, row))
    _say(console, table.title)
    console.print(grid)
    if table.note:
        _say(console, table.note)


def column_widths(rows: Sequence[Sequence[str]], whole: Sequence[int], room: int) -> list[int]:
    """Characters of each column, so that all fit, texts wrap between words, and the highest rows become low.

    Args:
        rows: cells, those of the head first.
        whole: of each column, so many characters that do not wrap, unless words would not fit then.
        room: characters of a line.

    Example:
        >>> column_widths([["n", "verdict"], ["-1 to 1", "seed noise alone"]], [7, 0], 19)
        [7, 10]
    """
    columns = list(zip(*rows, strict=True))
    natural = [max(1, *(_longest(text.split("\n")) for text in column)) for column in columns]
    words = [max(1, *(_longest(text.split()) for text in column)) for column in columns]
    uncut = [max(word, min(most, full)) for word, most, full in zip(words, whole, natural, strict=True)]
    room = max(room - GAP * (len(columns) - 1), len(columns))
    widths = uncut if sum(uncut) <= room else words
    while sum(widths) > room:  # not even the words fit: the longest are cut
        widths[widths.index(max(widths))] -= 1
    while sum(widths) < min(room, sum(natural)):
        highest = max(range(len(widths)), key=lambda i: natural[i] / widths[i])
        widths[highest] += 1
    return widths


def _longest(texts: Sequence[str]) -> int:
    return max(map(cell_len, texts), default=0)
