"""The alarm that tells shifted or reordered rows from their labels, and a head from another teacher's.

Shape suffixes: R rows  K kept (padded)  D hidden size  V classes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache.cache.codec import unpack
from kdcache.cache.codecs.base import Arrays
from kdcache.cache.codecs.compact import STEP
from kdcache.cache.codecs.floats import from_bfloat16, from_float16
from kdcache.cache.layout import TeacherIdentity
from kdcache.core.errors import CacheDamaged, CacheMismatch
from kdcache.core.row_format import RowFormat
from kdcache.core.types import IGNORE, HiddenRows, PackedRows, Rows, SparseRows

_LOGIT_ERROR = {"float32": 2.0**-18, "float16": 2.0**-9, "bfloat16": 2.0**-7}
"""What a teacher's own logits may be off, relative to their size: four times half a unit in the last place or more."""
_ALIGNED_ROWS = 32
"""Rows whose dot products are taken at a time: their vectors stay in the processor's cache."""
_VECTOR_ERROR = {"float32": 2.0**-22, "float16": 2.0**-11, "bfloat16": 2.0**-8, "int8": 2.0**-6}
"""Relative error of a stored hidden vector."""
_GIVEN_ERROR = {"float32": 0.0, "float16": 2.0**-11, "uint16": 2.0**-8}
"""The same of a vector as it is given: a device may have rounded it to what the codec stores; uint16 is bfloat16."""


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
    logprobs_RK = rows.logprobs.astype(np.float32, copy=False)
    hit_RK = rows.ids == labels[:, None]
    if not (rows.num_kept == rows.ids.shape[1]).all():
        hit_RK &= rows.kept
        logprobs_RK = np.where(rows.kept, logprobs_RK, np.inf)
    stored_R = np.full(rows.num_rows, np.nan)
    hit_R = np.flatnonzero(hit_RK.any(axis=1))
    if len(hit_R):
        stored_R[hit_R] = logprobs_RK[hit_R, hit_RK[hit_R].argmax(axis=1)]
    smallest_R = logprobs_RK.min(axis=1, initial=np.inf)
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
        exact: the rows have not been through the codec yet; narrow vectors have the slack of their type.
        what: names the rows in the message.

    Raises:
        CacheMismatch: they do not fit.
    """
    labels, labelled_R = _labels(rows, labels_R, what)
    inside_R = labelled_R & (labels >= 0) & (labels < rows.num_classes)
    stored_R, slack_R = np.full(rows.num_rows, np.nan), np.full(rows.num_rows, 2e-3)
    gold_R = rows.gold.astype(np.float64)
    error = max(_GIVEN_ERROR[rows.hidden.dtype.name], 0.0 if exact else _VECTOR_ERROR[identity.row_format.codec])
    for start in range(0, rows.num_rows, _ALIGNED_ROWS):
        where = start + np.flatnonzero(inside_R[start : start + _ALIGNED_ROWS])
        hidden_RD, weight_RD = _floats(rows.hidden[where]), _floats(head["weight"][labels[where]])
        logit_R = _finish((weight_RD * hidden_RD).sum(axis=1), head, labels[where])  # numpy adds in pairs
        stored_R[where] = logit_R - rows.lse[where]
        size_R = np.maximum(np.abs(logit_R), np.abs(rows.lse[where]))
        slack_R[where] += _LOGIT_ERROR.get(identity.dtype, 2.0**-7) * size_R
        off = np.flatnonzero(~(np.abs(stored_R[where] - gold_R[where]) <= slack_R[where]))
        if error and len(off):  # norms cost as much as all before
            norms_R = np.linalg.norm(weight_RD[off], axis=1) * np.linalg.norm(hidden_RD[off], axis=1)
            slack_R[where[off]] += _vector_slack(head, identity.row_format, error) * norms_R
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
        hidden_D, num_classes = _floats(rows.hidden[r]), int(rows.num_classes[r])
        chunks = [np.arange(start, min(start + 8192, num_classes)) for start in range(0, num_classes, 8192)]
        logits_V = np.concatenate([_finish(_floats(head["weight"][c]) @ hidden_D, head, c) for c in chunks])
        top = float(logits_V.max())
        found = top + float(np.log(np.exp(logits_V - top).sum()))
        norm = float(np.linalg.norm(_floats(head["weight"][int(logits_V.argmax())])) * np.linalg.norm(hidden_D))
        slack = 2e-3 + _LOGIT_ERROR.get(identity.dtype, 2.0**-7) * max(abs(top), abs(found))
        slack += _vector_slack(head, identity.row_format, _VECTOR_ERROR[identity.row_format.codec]) * norm
        if abs(found - float(rows.lse[r])) > slack:
            raise CacheDamaged(
                f"{what}: row {r} has a logsumexp of {float(rows.lse[r]):.4f}, but {found:.4f} through the head that "
                f"is stored; the head is not the teacher's, or the vectors are not what entered it"
            )


def _vector_slack(head: Arrays, row_format: RowFormat, error: float) -> float:
    scale = abs(float(head["scale"][0])) if "scale" in head else 1.0
    return 8 * error * scale / math.sqrt(row_format.hidden_size)


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
    if values.dtype == np.float16:
        return from_float16(values)
    return from_bfloat16(values) if values.dtype == np.uint16 else values.astype(np.float32, copy=False)


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
