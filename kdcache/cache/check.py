"""What every row must satisfy, and the alarm that tells shifted or reordered rows from their labels.

Shape suffixes: R rows  E entries.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdcache.core.errors import CacheDamaged, CacheMismatch
from kdcache.core.types import IGNORE, SparseRows

MASS_SLACK = 1e-2
"""How far the probabilities of a row may be from 1 in all: float16 log-probabilities and a quantised tail."""
_LOG_SLACK = 1e-3


def invariants(rows: SparseRows, *, what: str = "the rows") -> None:
    """Check that each row is a categorical distribution as a codec can hold it.

    Ids lie in [0, V) and are unique in a row; log-probabilities are finite, at most 0 and, in a row that keeps some of
    its classes, in falling order; the kept mass and the tail's, `exp(A(1))`, add up to 1 within `MASS_SLACK`.

    Args:
        rows: to be checked.
        what: names them in the message, e.g. `block 00007 of teacher t_ll`.

    Raises:
        CacheDamaged: the first rule that fails, with the rows that break it.
    """
    kept_R = np.diff(rows.entry_ptr)
    row_E = np.repeat(np.arange(rows.num_rows), kept_R)
    with np.errstate(invalid="ignore", over="ignore"):
        mass_R = _sums(np.exp(rows.logprobs.astype(np.float64)), rows.entry_ptr)
        tail_R = np.exp(rows.atoms.astype(np.float64).sum(axis=2)).sum(axis=1)
    full_R = kept_R == rows.num_classes
    total_R = mass_R + np.where(full_R, 0.0, tail_R)
    falling_E = np.ones(len(row_E), dtype=bool)
    falling_E[1:] = (rows.logprobs[1:] <= rows.logprobs[:-1]) | (row_E[1:] != row_E[:-1]) | full_R[row_E[1:]]
    keys = row_E * (int(rows.num_classes.max(initial=1)) + 1) + np.clip(rows.ids, 0, rows.num_classes[row_E])
    repeated = np.ones(len(keys), dtype=bool)
    repeated[np.unique(keys, return_index=True)[1]] = False
    checks = (
        ("keep a class outside 0 to V - 1", _rows_where((rows.ids < 0) | (rows.ids >= rows.num_classes[row_E]), row_E)),
        ("keep a class twice", _rows_where(repeated, row_E)),
        ("have a log-probability that is not finite", _rows_where(~np.isfinite(rows.logprobs), row_E)),
        ("have a log-probability above 0", _rows_where(rows.logprobs > _LOG_SLACK, row_E)),
        ("are not in falling order", _rows_where(~falling_E, row_E)),
        ("have a logsumexp or tail moments that are not finite", np.flatnonzero(~_finite_R(rows))),
        ("have a gold log-probability above 0 or infinite", np.flatnonzero(_bad_gold_R(rows))),
        (f"have a mass further than {MASS_SLACK} from 1", np.flatnonzero(~(np.abs(total_R - 1) <= MASS_SLACK))),
    )
    for problem, bad in checks:
        if len(bad):
            shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
            raise CacheDamaged(f"{what}: {len(bad)} of {rows.num_rows} rows {problem} (row {shown})")


def _sums(values_E: NDArray[np.float64], ptr: NDArray[np.int64]) -> NDArray[np.float64]:
    if len(ptr) == 1:
        return np.zeros(0)
    return np.add.reduceat(np.append(values_E, 0.0), ptr[:-1]) * (np.diff(ptr) > 0)


def _rows_where(bad_E: NDArray[np.bool_], row_E: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.unique(row_E[bad_E])


def _finite_R(rows: SparseRows) -> NDArray[np.bool_]:
    finite: NDArray[np.bool_] = np.isfinite(rows.lse) & np.isfinite(rows.moments).all(axis=1)
    return finite


def _bad_gold_R(rows: SparseRows) -> NDArray[np.bool_]:
    bad: NDArray[np.bool_] = ~np.isnan(rows.gold) & ~((rows.gold <= _LOG_SLACK) & (rows.gold > -np.inf))
    return bad


def alignment(
    rows: SparseRows, labels_R: NDArray[np.int32], *, slack: float | None = None, what: str = "the rows"
) -> None:
    """The alarm on shifted, reordered or padded rows: labels and rows must tell the same story.

    If a row's label is among its ids, the log-probability stored there is the gold one; if not, gold is at most the
    smallest one kept. A row without a label has no gold log-probability.

    Args:
        rows: of some items, in order.
        labels_R: labels of the same items, int32 [R], `IGNORE` for none.
        slack: nats; by default one unit in the last place of float16, what the codec rounds to.
        what: names the rows in the message.

    Raises:
        CacheMismatch: they do not fit, with the first such row and what it usually means.
    """
    if len(labels_R) != rows.num_rows:
        raise CacheMismatch(
            f"{what}: {rows.num_rows} rows, but {len(labels_R)} labels; every position that is not padding has one row"
        )
    labels = labels_R.astype(np.int64)
    labelled_R = labels != IGNORE
    row_E = np.repeat(np.arange(rows.num_rows), np.diff(rows.entry_ptr))
    stored_R = np.full(rows.num_rows, np.nan)
    smallest_R = np.minimum.reduceat(np.append(rows.logprobs, np.float32(np.inf)), rows.entry_ptr[:-1])
    hit_E = rows.ids == labels[row_E]
    stored_R[row_E[hit_E]] = rows.logprobs[hit_E]
    gold_R = rows.gold.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        unit_R = np.spacing(np.abs(gold_R).astype(np.float16)).astype(np.float64)
    slack_R = np.maximum(unit_R, 1e-6) if slack is None else np.full(rows.num_rows, slack)
    with np.errstate(invalid="ignore"):
        fits_R = np.where(np.isnan(stored_R), gold_R <= smallest_R + slack_R, np.abs(stored_R - gold_R) <= slack_R)
    fits_R = np.where(labelled_R, fits_R & (labels < rows.num_classes), np.isnan(gold_R))
    if not fits_R.all():
        r = int(np.flatnonzero(~fits_R)[0])
        there = "is not kept" if np.isnan(stored_R[r]) else f"has {stored_R[r]:.4f}"
        raise CacheMismatch(
            f"{what} do not fit their labels in {int((~fits_R).sum())} of {rows.num_rows} rows: label {labels[r]} of "
            f"row {r} {there}, but its gold log-probability is {gold_R[r]:.4f}. The rows are shifted (by one, often), "
            f"reordered, or padding was counted; dump the teacher again over these items"
        )
