"""What every row must satisfy, and the alarm that tells shifted or reordered rows from their labels.

Shape suffixes: R rows  E entries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache.cache.codec import unpack
from kdcache.cache.codecs.base import Arrays
from kdcache.cache.codecs.compact import STEP
from kdcache.cache.codecs.floats import from_bfloat16
from kdcache.cache.layout import TeacherIdentity
from kdcache.core.errors import CacheDamaged, CacheMismatch
from kdcache.core.row_format import RowFormat
from kdcache.core.types import IGNORE, HiddenRows, PackedRows, Rows, SparseRows

MASS_SLACK = 1e-2
"""How far the probabilities of a row may be from 1 in all: float16 log-probabilities and a quantised tail."""
COMPACT_MASS_SLACK = 2e-2
"""The same for codec `compact`, whose log-probabilities are within 1/64."""
_LOG_SLACK = 1e-3
_LOGIT_ERROR = {"float32": 2.0**-18, "float16": 2.0**-9, "bfloat16": 2.0**-7}
"""What a teacher's own logits may be off, relative to their size: four times half a unit in the last place or more."""
_VECTOR_ERROR = {"float32": 2.0**-22, "float16": 2.0**-11, "bfloat16": 2.0**-8, "int8": 2.0**-6}
"""Relative error of a stored hidden vector."""


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
    gold = ("have a gold log-probability above 0 or infinite", np.flatnonzero(_bad_gold_R(rows)))
    if isinstance(rows, HiddenRows):
        finite_R = np.isfinite(rows.hidden).all(axis=1) & np.isfinite(rows.lse)
        _report((("have a hidden vector or logsumexp that is not finite", np.flatnonzero(~finite_R)), gold), rows, what)
        return
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
        gold,
        (f"have a mass further than {mass_slack} from 1", np.flatnonzero(~(np.abs(total_R - 1) <= mass_slack))),
    )
    _report(checks, rows, what)


def _report(checks: Sequence[tuple[str, NDArray[np.int64]]], rows: Rows, what: str) -> None:
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


def _bad_gold_R(rows: Rows) -> NDArray[np.bool_]:
    bad: NDArray[np.bool_] = ~np.isnan(rows.gold) & ~((rows.gold <= _LOG_SLACK) & (rows.gold > -np.inf))
    return bad


def alarm(
    packed: PackedRows,
    labels_R: NDArray[np.int32],
    *,
    identity: TeacherIdentity,
    head: Arrays | None,
    what: str = "the rows",
) -> None:
    """The alarm on rows as they come from a cache, with the slack of their codec; see `alignment`, `hidden_alignment`.

    Raises:
        CacheMismatch: rows and labels do not fit.
    """
    rows = unpack(packed)
    if isinstance(rows, HiddenRows):
        hidden_alignment(rows, labels_R, head=head or {}, identity=identity, what=what)
        return
    extra_R: NDArray[np.float64] = np.zeros(rows.num_rows)
    if packed.codec == "compact":
        extra_R = np.ldexp(STEP / 2, packed.arrays["gap_shift"].astype(np.int32))
    alignment(rows, labels_R, extra_R=extra_R, what=what)


def alignment(
    rows: SparseRows,
    labels_R: NDArray[np.int32],
    *,
    extra_R: NDArray[np.float64] | None = None,
    what: str = "the rows",
) -> None:
    """The alarm on shifted, reordered or padded rows: labels and rows must tell the same story.

    If a row's label is among its ids, the log-probability stored there is the gold one; if not, gold is at most the
    smallest one kept. A row without a label has no gold log-probability.

    Args:
        rows: of some items, in order.
        labels_R: labels of the same items, int32 [R], `IGNORE` for none.
        extra_R: nats of slack beside one unit in the last place of float16, what every codec of a sparse row rounds to.
        what: names the rows in the message.

    Raises:
        CacheMismatch: they do not fit, with the first such row and what it usually means.
    """
    labels, labelled_R = _labels(rows, labels_R, what)
    row_E = np.repeat(np.arange(rows.num_rows), np.diff(rows.entry_ptr))
    stored_R = np.full(rows.num_rows, np.nan)
    smallest_R = np.minimum.reduceat(np.append(rows.logprobs, np.float32(np.inf)), rows.entry_ptr[:-1])
    hit_E = rows.ids == labels[row_E]
    stored_R[row_E[hit_E]] = rows.logprobs[hit_E]
    gold_R = rows.gold.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        unit_R = np.spacing(np.abs(gold_R).astype(np.float16)).astype(np.float64)
    slack_R = np.maximum(unit_R, 1e-6) + (0.0 if extra_R is None else extra_R)
    with np.errstate(invalid="ignore"):
        fits_R = np.where(np.isnan(stored_R), gold_R <= smallest_R + slack_R, np.abs(stored_R - gold_R) <= slack_R)
    fits_R = np.where(labelled_R, fits_R & (labels < rows.num_classes), np.isnan(gold_R))
    _refuse(rows, labels, fits_R, stored_R, what)


def hidden_alignment(
    rows: HiddenRows,
    labels_R: NDArray[np.int32],
    *,
    head: Arrays,
    identity: TeacherIdentity,
    exact: bool = False,
    what: str = "the rows",
) -> None:
    """The alarm for store `hidden`: one dot product with the head's row of the label, minus lse, is the gold one.

        slack = 2e-3 + e_teacher max(|logit|, |lse|) + 8 e_codec |w_y| |h| scale / sqrt(D)

    The last term is eight times what a vector error of random direction gives.

    Args:
        rows: of some items, in order.
        labels_R: labels of the same items, int32 [R], `IGNORE` for none.
        head: of their teacher.
        identity: says what the teacher ran in, and the codec.
        exact: the rows have not been through the codec yet.
        what: names the rows in the message.

    Raises:
        CacheMismatch: they do not fit.
    """
    labels, labelled_R = _labels(rows, labels_R, what)
    inside_R = labelled_R & (labels >= 0) & (labels < rows.num_classes)
    stored_R, slack_R = np.full(rows.num_rows, np.nan), np.full(rows.num_rows, 2e-3)
    where = np.flatnonzero(inside_R)
    if len(where):
        hidden_RD = rows.hidden[where].astype(np.float64)
        weight_RD = _floats(head["weight"][labels[where]]).astype(np.float64)
        logit_R = _finish((weight_RD * hidden_RD).sum(axis=1), head, labels[where])
        stored_R[where] = logit_R - rows.lse[where]
        size_R = np.maximum(np.abs(logit_R), np.abs(rows.lse[where]))
        slack_R[where] += _LOGIT_ERROR.get(identity.dtype, 2.0**-7) * size_R
        if not exact:
            norms_R = np.linalg.norm(weight_RD, axis=1) * np.linalg.norm(hidden_RD, axis=1)
            slack_R[where] += _vector_slack(head, identity.row_format) * norms_R
    gold_R = rows.gold.astype(np.float64)
    with np.errstate(invalid="ignore"):
        fits_R = np.where(labelled_R, inside_R & (np.abs(stored_R - gold_R) <= slack_R), np.isnan(gold_R))
    _refuse(rows, labels, fits_R, stored_R, what)


def head_agrees(
    rows: HiddenRows, head: Arrays, *, identity: TeacherIdentity, num_checked: int = 4, what: str = "the rows"
) -> None:
    """Some rows through the whole head have the logsumexp that is stored: the head is theirs.

    Raises:
        CacheDamaged: a row that has not.
    """
    for r in np.unique(np.linspace(0, max(rows.num_rows - 1, 0), num_checked).astype(np.int64)).tolist():
        hidden_D, num_classes = rows.hidden[r].astype(np.float32), int(rows.num_classes[r])
        chunks = [np.arange(start, min(start + 8192, num_classes)) for start in range(0, num_classes, 8192)]
        logits_V = np.concatenate([_finish(_floats(head["weight"][c]) @ hidden_D, head, c) for c in chunks])
        top = float(logits_V.max())
        found = top + float(np.log(np.exp(logits_V - top).sum()))
        norm = float(np.linalg.norm(_floats(head["weight"][int(logits_V.argmax())])) * np.linalg.norm(hidden_D))
        slack = 2e-3 + _LOGIT_ERROR.get(identity.dtype, 2.0**-7) * max(abs(top), abs(found))
        if abs(found - float(rows.lse[r])) > slack + _vector_slack(head, identity.row_format) * norm:
            raise CacheDamaged(
                f"{what}: row {r} has a logsumexp of {float(rows.lse[r]):.4f}, but {found:.4f} through the head that "
                f"is stored; the head is not the teacher's, or the vectors are not what entered it"
            )


def _vector_slack(head: Arrays, row_format: RowFormat) -> float:
    scale = abs(float(head["scale"][0])) if "scale" in head else 1.0
    return 8 * _VECTOR_ERROR[row_format.codec] * scale / math.sqrt(row_format.hidden_size)


def _finish(products_V: NDArray[Any], head: Arrays, classes_V: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logits from dot products with some rows of the head: bias, scale, soft cap."""
    logits_V = products_V.astype(np.float64)
    if "bias" in head:
        logits_V = logits_V + _floats(head["bias"][classes_V])
    if "scale" in head:
        logits_V = logits_V * float(head["scale"][0])
    if "soft_cap" in head:
        cap = float(head["soft_cap"][0])
        logits_V = cap * np.tanh(logits_V / cap)
    return logits_V


def _floats(values: NDArray[Any]) -> NDArray[np.float32]:
    return from_bfloat16(values) if values.dtype == np.uint16 else values.astype(np.float32)


def _labels(rows: Rows, labels_R: NDArray[np.int32], what: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    if len(labels_R) != rows.num_rows:
        raise CacheMismatch(
            f"{what}: {rows.num_rows} rows, but {len(labels_R)} labels; every position that is not padding has one row"
        )
    labels = labels_R.astype(np.int64)
    return labels, labels != IGNORE


def _refuse(
    rows: Rows, labels: NDArray[np.int64], fits_R: NDArray[np.bool_], stored_R: NDArray[np.float64], what: str
) -> None:
    if fits_R.all():
        return
    r = int(np.flatnonzero(~fits_R)[0])
    there = "is not kept" if np.isnan(stored_R[r]) else f"has {stored_R[r]:.4f}"
    raise CacheMismatch(
        f"{what} do not fit their labels in {int((~fits_R).sum())} of {rows.num_rows} rows: label {labels[r]} of "
        f"row {r} {there}, but its gold log-probability is {float(rows.gold[r]):.4f}. The rows are shifted (by one, "
        f"often), reordered, or padding was counted; dump the teacher again over these items"
    )
