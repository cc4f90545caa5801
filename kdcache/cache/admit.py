"""What a writer checks before it takes a block of rows: that they belong to its items, its teacher and their labels.

Shape suffixes: R rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdcache.cache.check import alignment, hidden_alignment
from kdcache.cache.codecs.base import Arrays
from kdcache.cache.invariants import invariants, wide
from kdcache.cache.layout import TeacherIdentity
from kdcache.core.errors import CacheError, CacheMismatch
from kdcache.core.row_format import RowFormat
from kdcache.core.types import HiddenRows, Item, Rows, SparseRows


def check_rows(rows: Rows, items: Sequence[Item], identity: TeacherIdentity, *, head: Arrays, what: str) -> None:
    """Refuse rows that are not those of these items, or that their teacher's store does not hold.

    Args:
        rows: of the items, in order, before they are encoded.
        items: of a block.
        identity: of the teacher.
        head: of a teacher of store `hidden`.
        what: names the rows in the message.

    Raises:
        CacheMismatch: rows and items do not belong together: counts, classes, or the alignment alarm.
        CacheError: rows that are no distributions, or wider than the teacher was added with.
    """
    expected = np.array([item.num_rows for item in items], dtype=np.int64)
    found = np.diff(rows.row_ptr)
    if len(found) != len(expected) or (found != expected).any():
        raise CacheMismatch(
            f"{what} has {len(found)} items with {int(found.sum())} rows, its items have {len(expected)} with "
            f"{int(expected.sum())}; every position that is not padding has one row"
        )
    classes_R = np.concatenate([np.zeros(0, np.int32), *(item.classes_R for item in items)])
    if (different := np.flatnonzero(classes_R != rows.num_classes)).size:
        r = int(different[0])
        raise CacheMismatch(
            f"{what}: row {r} has {int(rows.num_classes[r])} classes, its item says {int(classes_R[r])}; "
            f"rows are shifted, or a padded vocabulary was not cut"
        )
    largest = int(rows.num_classes.max(initial=0))
    if largest > (added := identity.row_format.num_classes):
        raise CacheError(f"{what} has a row of {largest} classes; the teacher was added with {added}")
    _check_widths(rows, identity.row_format, what=what)
    rows = wide(rows) if isinstance(rows, SparseRows) else rows
    invariants(rows, what=what)
    labels_R = np.concatenate([np.zeros(0, np.int32), *(item.labels_R for item in items)])
    if isinstance(rows, HiddenRows):
        hidden_alignment(rows, labels_R, head=head, identity=identity, exact=True, what=what)
    else:
        alignment(rows, labels_R, what=what)


def _check_widths(rows: Rows, row_format: RowFormat, *, what: str) -> None:
    if isinstance(rows, HiddenRows) != (row_format.store == "hidden"):
        raise CacheError(f"{what} is {type(rows).__name__}; the teacher was added with store {row_format.store}")
    if isinstance(rows, HiddenRows):
        if rows.hidden.shape[1:] != (row_format.hidden_size,):
            raise CacheError(
                f"{what} has hidden vectors of {list(rows.hidden.shape[1:])}; "
                f"the teacher was added with hidden_size {row_format.hidden_size}"
            )
        return
    kept = int(rows.num_kept.max(initial=0))
    if kept > row_format.top_k or rows.atoms.shape[1] not in (0, row_format.num_atoms):
        raise CacheError(
            f"{what} keeps {kept} classes and {rows.atoms.shape[1]} atoms a row, "
            f"but the teacher was added with top_k {row_format.top_k} and {row_format.num_atoms} atoms"
        )
