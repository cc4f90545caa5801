"""A fidelity report: its table, its JSON, and what to do in words. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from kdcache.core.config import plain
from kdcache.core.configuration import Configuration
from kdcache.teacher.fidelity import Cell, StoreResult
from kdcache.teacher.roundtrip import dump_settings
from kdcache.teacher.terminal import draw

SCHEMA = 1
"""Of the JSON; a key that goes or changes its meaning raises it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """Whose gradient was measured.

    Attributes:
        name: of the models file, or `noise`.
        noise: standard deviation of the noise on the teacher's logits, nats; null for a model.
        kl: its mean KL divergence from the teacher on the sample, nats.
        agreement: share of rows where both have the same most probable class.
    """

    name: str
    noise: float | None
    kl: float
    agreement: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What stores cost and lose on a sample of the user's own data.

    Attributes:
        dataset: its name.
        teacher: name of the checkpoint.
        weight_digest: of it.
        num_items: items of the sample.
        num_rows: rows compared.
        num_classes: the largest V of any row.
        student: whose gradient.
        grid: configurations.
        stores: results, the configured store first.
        tolerance: error up to which a store is good enough.
        notes: what else to know.
    """

    dataset: str
    teacher: str
    weight_digest: str
    num_items: int
    num_rows: int
    num_classes: int
    student: Student
    grid: tuple[Configuration, ...]
    stores: tuple[StoreResult, ...]
    tolerance: float
    notes: tuple[str, ...] = ()


def short(configuration: Configuration) -> str:
    """A configuration as a column's head: loss and temperatures of teacher and student.

    Example:
        >>> short(Configuration(tau_t=4, tau_s="tied")), short(Configuration(loss="mse", tau_t=2, tau_s=1))
        ('ce 4/4', 'mse 2/1')
    """
    return f"{configuration.loss} {configuration.tau_t:g}/{configuration.student_temperature:g}"


def recommendation(report: Report) -> tuple[str, ...]:
    """What to do, in words: whether the configured store is good enough, what would be, and what is the smallest."""
    chosen, percent = report.stores[0], f"{100 * report.tolerance:g} %"
    name, cost = chosen.variant.label, f"{chosen.bytes_per_row:,.0f} bytes a row"
    if chosen.variant.is_dense:
        return (
            f"dense: exact. All {report.num_classes:,} classes of a row are kept, in {cost}: any loss at any "
            f"temperature is what it would be with the teacher in memory.",
        )
    bad = _beyond(report, chosen)
    enough = [store for store in report.stores if store.worst <= report.tolerance]
    cheapest = min(enough, key=lambda store: store.bytes_per_row, default=None)
    if not bad:
        told = [f"{name} is within {percent} for everything in your search, in {cost}: keep it."]
        if cheapest is not None and cheapest.bytes_per_row < chosen.bytes_per_row:
            told.append(f"The smallest store within {percent} for everything is {_named(cheapest)}.")
        return tuple(told)
    if len(bad) == len(report.grid):
        told = [f"{name} ({cost}) is within {percent} for nothing in your search: {_listed(bad)}."]
    else:
        told = [f"{name} ({cost}) is within {percent} for everything in your search but {_listed(bad)}."]
    if cheapest is not None:
        told.append(f"Use {_named(cheapest)}: within {_percent(cheapest.worst)} for everything.")
    else:
        best = min(report.stores, key=lambda store: store.worst)
        told.append(f"Nothing measured is within {percent} for everything; nearest is {_named(best)}.")
    return tuple(told)


def _beyond(report: Report, store: StoreResult) -> list[tuple[str, Cell]]:
    pairs = zip(report.grid, store.cells, strict=True)
    return [(short(c), cell) for c, cell in pairs if cell.error > report.tolerance]


def _listed(bad: Sequence[tuple[str, Cell]]) -> str:
    return ", ".join(f"{name} ({_percent(cell.error)})" for name, cell in bad)


def _named(store: StoreResult) -> str:
    return f"{store.variant.label} ({dump_settings(store.variant)}; {store.bytes_per_row:,.0f} bytes a row)"


def _percent(error: float) -> str:
    return f"{100 * error:.2g} %" if error < 1 else f"{100 * error:,.0f} %"


def text(report: Report) -> str:
    """What the command prints."""
    student = report.student
    who = f"student {student.name}" if student.noise is None else f"noise of {student.noise:.2f} nats on the logits"
    head = [
        f"fidelity  {report.dataset}, teacher {report.teacher}: {report.num_items:,} items, {report.num_rows:,} rows "
        f"of up to {report.num_classes:,} classes",
        f"student   {who}: mean KL {student.kl:.2f} nats, same first class on {100 * student.agreement:.0f} % of rows",
        "",
        "relative error of the gradient at loss tau_t/tau_s (~ needs allow_approximate: true); B/row of this sample",
        _table(report, "error"),
        "",
        "cosine with the exact gradient",
        _table(report, "cosine"),
        "",
    ]
    return "\n".join([*head, *report.notes, *recommendation(report)])


def _table(report: Report, what: str) -> str:
    rows = []
    for i, store in enumerate(report.stores):
        mark = "> " if i == 0 else "  "
        cells = [_cell(cell, what) for cell in store.cells]
        rows.append([mark + store.variant.label, f"{store.bytes_per_row:,.0f}", *cells])
    return draw(("store", "B/row", *(short(c) for c in report.grid)), rows)


def _cell(cell: Cell, what: str) -> str:
    if cell.kind == "exact" and cell.error < 1e-5:
        return "exact"
    value = cell.error if what == "error" else cell.cosine
    shown = f"{value:.3g}" if what == "error" else f"{value:.4f}"
    return ("~" if cell.kind == "approximate" else "") + shown


def as_json(report: Report) -> str:
    """The same for machines: `stores[i].cells[j]` belongs to `grid[j]`."""
    tree = plain(report)
    tree["schema"] = SCHEMA
    tree["grid"] = [
        {"loss": c.loss, "tau_t": c.tau_t, "tau_s": c.student_temperature, "label": short(c)} for c in report.grid
    ]
    tree["stores"] = [
        {
            "label": s.variant.label,
            "settings": dump_settings(s.variant),
            **{name: getattr(s.variant, name) for name in ("store", "codec", "compressor", "top_k", "top_p")},
            "bytes_per_row": s.bytes_per_row,
            "cells": plain(s.cells),
        }
        for s in report.stores
    ]
    tree["recommendation"] = list(recommendation(report))
    return json.dumps(tree, indent=1, allow_nan=False)
