"""The report as plain text for a terminal."""

from __future__ import annotations

from io import StringIO

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from kdcache.report.study import Study
from kdcache.report.tables import ORACLE, PICKED, WORST, Table, case_table, teachers_table
from kdcache.report.words import effect_sentence, missing_effects, overview, remarks, seed_warning, verdict

WIDTH = 110
SHORT = {
    PICKED: "picked",
    ORACLE: "oracle",
    WORST: "worst",
    "over hard labels, %": "over hard\nlabels, %",
    "over the worst, %": "over the\nworst, %",
    "test ± sd over seeds": "test ± sd\nover seeds",
}
"""Column heads and marks that are long on a terminal."""
LEGEND = "picked: best validation score. oracle: best test score, which nobody can choose by. [ ]: 95 % interval."


def render(study: Study, *, width: int = WIDTH) -> str:
    """Summary, tables and remarks, at most `width` characters a line, without colour codes."""
    text = StringIO()
    console = Console(file=text, width=width, color_system=None, force_terminal=False, highlight=False)
    _say(console, overview(study))
    for table in study.cases:
        console.print()
        _draw(console, case_table(table, brief=True))
        _say(console, LEGEND)
        _say(console, " ".join(verdict(table)))
    console.print()
    told = [*map(effect_sentence, study.effects), *missing_effects(study)]
    if told:
        _say(console, "What each choice did")
    for sentence in told:
        console.print(Padding(Text(f"- {sentence}"), (0, 0, 0, 2)))
    teachers = teachers_table(study)
    if teachers is not None:
        console.print()
        _draw(console, teachers)
    console.print()
    for remark in remarks(study):
        _say(console, remark)
    warning = seed_warning(study)
    if warning is not None:
        console.print()
        _say(console, warning)
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def _say(console: Console, sentence: str) -> None:
    console.print(Text(sentence))


def _draw(console: Console, table: Table) -> None:
    grid = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in table.columns:
        head = Text(SHORT.get(name, name))
        grid.add_column(head, justify="right" if name in table.numeric else "left", overflow="fold", vertical="top")
    if table.marks:
        grid.add_column("")
    for i, row in enumerate(table.rows):
        cells = [*row, ", ".join(SHORT[mark] for mark in table.marks[i])] if table.marks else [*row]
        grid.add_row(*map(Text, cells))
    _say(console, table.title)
    console.print(grid)
