"""Tables of the teacher's commands for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 120


def draw(columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)) -> str:
    """A table as plain text without colour codes; numbers on the right.

    Args:
        columns: heads.
        rows: cells.
        left: columns that are words.

    Example:
        >>> print(draw(("store", "B"), [("dense", "8")]))
        store  B
        ────────
        dense  8
    """
    text = StringIO()
    console = Console(file=text, width=WIDTH, color_system=None, force_terminal=False, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for i, name in enumerate(columns):
        table.add_column(Text(name), justify="left" if i in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
