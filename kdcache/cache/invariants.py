"""What every row must satisfy, whatever its items: that it is a distribution, as far as a codec keeps one.

Shape suffixes: R rows  K kept (padded).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kdcache.cache.codecs.base import not_finite
from kdcache.core.errors import CacheDamaged
from kdcache.core.row_format import RowFormat
from kdcache.core.types import HiddenRows, Rows, SparseRows

MASS_SLACK = 1e-2
"""How far the probabilities of a row may be from 1 in all: float16 log-probabilities and a quantised tail."""
COMPACT_MASS_SLACK = 2e-2
"""The same for codec `compact`, whose log-probabilities are within 1/64."""
_LOG_SLACK = 1e-3
Problem = tuple[str, NDArray[np.bool_]]
"""What is wrong, and with which rows, bool [R]."""


def mass_slack(row_format: RowFormat) -> float:
    """How far the probabilities of a teacher's stored rows may be from 1 in all."""
    return COMPACT_MASS_SLACK if row_format.codec == "compact" else MASS_SLACK


def invariants(rows: Rows, *, mass_slack: float = MASS_SLACK, what: str = "the rows") -> None:
    """Check that each row is a categorical distribution as a codec can hold it.

    Ids lie in [0, V) and are unique in a row; log-probabilities are finite, at most 0 and, in a row that keeps some of
    its classes, in falling order; the kept mass and the tail's, `exp(A(1))`, add up to 1 within `mass_slack`.
    A hidden vector is finite: what it stands for only the head can say (`head_agrees`).

    Args:
        rows: to be checked.
        mass_slack: see `MASS_SLACK`.
        what: names them in the message, e.g. `block 00007 of teacher t_ll`.

    Raises:
        CacheDamaged: the first rule that fails, with the rows that break it.
    """
    for problem, bad_R in _hidden(rows) if isinstance(rows, HiddenRows) else _sparse(rows, mass_slack):
        if bad_R.any():
            bad = np.flatnonzero(bad_R)
            shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
            raise CacheDamaged(f"{what}: {len(bad)} of {rows.num_rows} rows {problem} (row {shown})")


def wide(rows: SparseRows) -> SparseRows:
    """Rows with float32 log-probabilities: numpy computes with float16 one number at a time."""
    return replace(rows, logprobs=rows.logprobs.astype(np.float32, copy=False))


def _hidden(rows: HiddenRows) -> Iterator[Problem]:
    broken_R = _any(not_finite(rows.hidden)) | ~np.isfinite(rows.lse)
    yield "have a hidden vector or logsumexp that is not finite", broken_R
    yield _gold(rows)


def _sparse(rows: SparseRows, mass_slack: float) -> Iterator[Problem]:
    """The rules in turn, cheap ones on whole arrays."""
    rows = wide(rows)
    ids_RK, logprobs_RK, kept_R, width = rows.ids, rows.logprobs, rows.num_kept, rows.ids.shape[1]
    kept_RK = None if (kept_R == width).all() else rows.kept
    full_R = kept_R == rows.num_classes
    yield "keep a class outside 0 to V - 1", _any((ids_RK < 0) | (ids_RK >= rows.num_classes[:, None]), kept_RK)
    apart_RK = ids_RK if kept_RK is None else np.where(kept_RK, ids_RK, -1 - np.arange(width, dtype=np.int32))
    sorted_RK = np.sort(apart_RK, axis=1)
    yield "keep a class twice", _any(sorted_RK[:, 1:] == sorted_RK[:, :-1])
    yield "have a log-probability that is not finite", _any(not_finite(logprobs_RK), kept_RK)
    yield "have a log-probability above 0", _any(logprobs_RK > _LOG_SLACK, kept_RK)
    rising_RK = logprobs_RK[:, 1:] > logprobs_RK[:, :-1]
    yield "are not in falling order", _any(rising_RK, None if kept_RK is None else kept_RK[:, 1:]) & ~full_R
    infinite_R = _any(~np.isfinite(rows.moments))
    yield "have a logsumexp or tail moments that are not finite", infinite_R | ~np.isfinite(rows.lse)
    yield _gold(rows)
    with np.errstate(over="ignore"):
        mass_RK = np.exp(logprobs_RK) if kept_RK is None else np.where(kept_RK, np.exp(logprobs_RK), 0)
        tail_R = np.exp(rows.atoms.astype(np.float64).sum(axis=2)).sum(axis=1)
    total_R = mass_RK.sum(axis=1, dtype=np.float64) + np.where(full_R, 0.0, tail_R)
    yield f"have a mass further than {mass_slack} from 1", ~(np.abs(total_R - 1) <= mass_slack)


def _any(bad_RK: NDArray[np.bool_], kept_RK: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Which rows have one, bool [R]."""
    bad_RK = bad_RK if kept_RK is None else bad_RK & kept_RK
    return np.asarray(bad_RK.any(axis=1), dtype=bool)


def _gold(rows: Rows) -> Problem:
    bad_R = ~np.isnan(rows.gold) & ~((rows.gold <= _LOG_SLACK) & (rows.gold > -np.inf))
    return "have a gold log-probability above 0 or infinite", bad_R
