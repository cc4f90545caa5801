"""What all rows of a teacher share, as safetensors beside its identity: a codec's tables and the output head.

`codec.safetensors`: `id_table` int32 [V] of codec compact; `mean` float32 [D] and `rotation_seed` int64 [1] of int8.
`head.safetensors` of store hidden: `weight` [V, D] and `bias` [V] (optional), float32, float16, or uint16 for the bits
of bfloat16; `scale` and `soft_cap` float32 [1], optional: logits = cap(scale * (W h + b)), cap(x) = c tanh(x / c).

Shape suffixes: V classes  D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from kdcache.cache.codec import codec_of
from kdcache.cache.codecs.base import Arrays
from kdcache.cache.layout import TeacherIdentity
from kdcache.core.errors import CacheError
from kdcache.core.types import IGNORE, Item, SparseRows

NO_TABLES: Arrays = MappingProxyType({})
TABLES, HEAD = "codec.safetensors", "head.safetensors"
_HEAD_TYPES = ("float32", "float16", "uint16")


def id_table(items: Iterable[Item], *, num_classes: int, rows: SparseRows | None = None) -> NDArray[np.int32]:
    """Classes by falling frequency in the labels of some items (where none: in its `input_ids`) and in rows.

    Frequent classes get small numbers, which compress. Ties stand in class order, so equal items give equal tables; a
    token beyond the classes is not counted.

    Args:
        items: of the cache, all of them or a fixed part.
        num_classes: V.
        rows: of the teacher, of a first block: what it keeps says more than what was written (docs/format.md has the
            figures). Another first block gives another table, which is as good: the one published first is used.

    Returns:
        A permutation of range(V), int32 [V].

    Example:
        >>> item = Item(uid="a", inputs={"input_ids": np.array([3, 1, 3, 9], np.int32)}, positions_R=np.zeros(1),
        ...             labels_R=np.array([-100]), classes_R=np.array([4]))
        >>> id_table([item], num_classes=4).tolist()
        [3, 1, 0, 2]
    """
    counts_V = np.zeros(num_classes, dtype=np.int64)
    for item in items:
        found = item.labels_R[item.labels_R != IGNORE]
        if len(found) == 0:
            found = item.inputs["input_ids"]
        counts_V += np.bincount(found[(found >= 0) & (found < num_classes)], minlength=num_classes)
    if rows is not None:
        counts_V += np.bincount(rows.ids[rows.kept], minlength=num_classes)
    return np.argsort(-counts_V, kind="stable").astype(np.int32)


def needs(identity: TeacherIdentity) -> tuple[str, ...]:
    """Names of the files that a teacher has beside its identity."""
    tables = (TABLES,) if codec_of(identity.row_format).tables else ()
    return (*tables, HEAD) if identity.row_format.store == "hidden" else tables


def to_bytes(arrays: Arrays) -> bytes:
    """The bytes of a safetensors file; equal arrays give equal bytes."""
    return save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)})


def from_bytes(content: bytes, identity: TeacherIdentity, file: str) -> dict[str, NDArray[Any]]:
    """The arrays of `codec.safetensors` or `head.safetensors`.

    Raises:
        CacheError: not such a file, or arrays that do not fit the teacher.
    """
    try:
        arrays: dict[str, NDArray[Any]] = load(content)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CacheError(f"{file} of teacher {identity.name} is no safetensors file: {str(error)[:200]}") from None
    check(arrays, identity, file)
    return arrays


def check(arrays: Arrays, identity: TeacherIdentity, file: str) -> None:
    """Refuse tables or a head that do not fit a teacher.

    Raises:
        CacheError: an array is missing, unexpected, of another type or shape, or has impossible values.
    """
    row_format = identity.row_format
    size, width = row_format.num_classes, row_format.hidden_size
    optional: Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]] = {}
    if file == HEAD:
        expected: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {"weight": (_HEAD_TYPES, (size, width))}
        optional = {"bias": (_HEAD_TYPES, (size,)), "scale": (("float32",), (1,)), "soft_cap": (("float32",), (1,))}
    else:
        known = {
            "id_table": (("int32",), (size,)),
            "mean": (("float32",), (width,)),
            "rotation_seed": (("int64",), (1,)),
        }
        expected = {name: known[name] for name in codec_of(row_format).tables}
    what = f"{file} of teacher {identity.name} (store {row_format.store}, codec {row_format.codec})"
    for name in sorted({*expected, *arrays}):
        if name not in arrays or name not in {**expected, **optional}:
            raise CacheError(
                f"{what} {'lacks' if name not in arrays else 'has no'} {name!r}; it holds {', '.join(expected)}"
            )
        types, shape = {**expected, **optional}[name]
        if arrays[name].dtype.name not in types or arrays[name].shape != shape:
            raise CacheError(
                f"{what}: {name} is {arrays[name].dtype.name} {list(arrays[name].shape)}; "
                f"expected: {' or '.join(types)} {list(shape)}"
            )
    _check_values(arrays, what)


def check_given(given: Arrays, identity: TeacherIdentity, file: str) -> None:
    """`check`, for what a caller gives or leaves out.

    Raises:
        CacheError: also where a file is needed and not given, or given and not needed.
    """
    what = f"teacher {identity.name}, store {identity.row_format.store}, codec {identity.row_format.codec}"
    if file not in needs(identity):
        if not given:
            return
        raise CacheError(f"{what} has no {file}, but {', '.join(sorted(given))} came with it; leave them out")
    if not given:
        argument = "head" if file == HEAD else "shared"
        raise CacheError(f"{what} needs {file}, which is not there yet; give add_teacher(..., {argument}=...)")
    check(given, identity, file)


def _check_values(arrays: Arrays, what: str) -> None:
    if "id_table" in arrays:
        table_V = arrays["id_table"]
        inside = table_V[(table_V >= 0) & (table_V < len(table_V))]
        if len(inside) < len(table_V) or (np.bincount(inside, minlength=len(table_V)) != 1).any():
            raise CacheError(f"{what}: id_table does not name every class once")
    if "rotation_seed" in arrays and int(arrays["rotation_seed"][0]) < 0:
        raise CacheError(f"{what}: rotation_seed is {int(arrays['rotation_seed'][0])}; it must be at least 0")
    for name in ("mean", "scale", "soft_cap"):
        if name in arrays and not np.isfinite(arrays[name]).all():
            raise CacheError(f"{what}: {name} is not finite")
