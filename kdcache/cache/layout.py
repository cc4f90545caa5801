"""What identifies a cache: its marker `kdcache.json` and its teachers. The plan of its blocks is in `plan`.

Both are immutable once published. Nothing here touches a disk.
"""

from __future__ import annotations

import uuid as uuid_module
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from kdcache.cache.jsonio import need, to_json
from kdcache.cache.plan import Block, Plan, chunk_rows_for, make_plan
from kdcache.cache.store import check_name
from kdcache.core.errors import CacheDamaged, CacheError, CacheFormatError
from kdcache.core.row_format import RowFormat
from kdcache.version import __version__

__all__ = ["MARKER", "PLAN", "Block", "Marker", "Plan", "TeacherIdentity", "chunk_rows_for", "make_plan"]

MARKER = "kdcache.json"
PLAN = "plan.parquet"
MAJOR = 1
MINOR = 0
READER_FEATURES: frozenset[str] = frozenset()
"""Reader features that this version knows; a cache that needs another is refused."""
WRITER_FEATURES: frozenset[str] = frozenset()
"""Writer features that this version knows; a cache that needs another is read-only."""
ROLES = ("t_hs", "t_ll", "user")
_UNCOMPARED = ("uuid", "created_by", "extra")


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """The immutable `kdcache.json`: what a cache is of, and who may read it.

    Attributes:
        dataset_name: e.g. `mrpc`.
        dataset_digest: hex digest of its examples.
        task: name of the task, e.g. `classification`.
        tokenizer_name: as a human knows it.
        tokenizer_digest: hex digest of what decides the tokens.
        labels: class names in class order; empty where the task has no fixed classes.
        chunk_rows: rows of a zarr chunk (see `chunk_rows_for`).
        uuid: of this cache; a new one by default.
        created_by: program and version that created it.
        major: of the format; another is refused.
        minor: of the format; a later one is read.
        reader_features: a reader must know all of them.
        writer_features: a writer must know all of them.
        extra: keys of later minors, kept.
    """

    dataset_name: str
    dataset_digest: str
    task: str
    tokenizer_name: str
    tokenizer_digest: str
    labels: tuple[str, ...]
    chunk_rows: int
    uuid: str = field(default_factory=lambda: uuid_module.uuid4().hex)
    created_by: str = f"kdcache {__version__}"
    major: int = MAJOR
    minor: int = MINOR
    reader_features: tuple[str, ...] = ()
    writer_features: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The bytes of `kdcache.json`."""
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        return to_json({**self.extra, "format": "kdcache", **known})

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any], *, where: str) -> Marker:
        """From JSON values that are not trusted; unknown keys are kept.

        Raises:
            CacheFormatError: not a kdcache marker, another major, or a reader feature that this version lacks.
            CacheDamaged: a key is missing or has another type.
        """
        if tree.get("format") != "kdcache":
            raise CacheFormatError(f"{where} is not the marker of a kdcache cache; give the folder a dump wrote")
        _check_version(tree, where=where)
        known = {f.name: f for f in fields(cls) if f.name != "extra"}
        values = {name: _checked(name, need(tree, name, where=where), f.type, where=where) for name, f in known.items()}
        extra = {name: value for name, value in tree.items() if name not in known and name != "format"}
        return cls(**values, extra=extra)

    def differences(self, other: Marker) -> dict[str, tuple[Any, Any]]:
        """Fields in which two caches of the same dump may not differ -> (this one's, the other's)."""
        names = [f.name for f in fields(self) if f.name not in _UNCOMPARED]
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in names}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherIdentity:
    """Which checkpoint a teacher's rows come from, how good it is, and what is kept of a row.

    Attributes:
        name: in the cache, e.g. `t_hs`; chosen by whoever dumps.
        source: the model's name or the checkpoint's path.
        weight_digest: hex digest of the weights.
        role: `t_hs` (highest validation score), `t_ll` (lowest validation NLL) or `user`.
        score: on the validation split: the metric, `nll`, `ece`, `brier`, `temperature`, ...
        row_format: what is kept of a row; `teacher.json` has its fields beside the others.
        aliases: other names of the same weights, e.g. `t_ll` where one checkpoint is both.
        dtype: what the teacher ran in, e.g. `float32`.
    """

    name: str
    source: str
    weight_digest: str
    row_format: RowFormat
    role: str = "user"
    score: Mapping[str, float] = field(default_factory=dict)
    dtype: str = "float32"
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.names:
            if check_name(name) == "items":
                raise CacheFormatError("a teacher cannot be called items; that folder holds the items")
        if len(set(self.names)) != len(self.names):
            raise CacheError(f"teacher {self.name} has a name twice: {', '.join(self.names)}")
        if self.role not in ROLES:
            raise CacheError(f"role of teacher {self.name} is {self.role!r}; allowed: {', '.join(ROLES)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Its name and its aliases."""
        return (self.name, *self.aliases)

    def to_tree(self) -> dict[str, Any]:
        """The values of `teacher.json`, flat."""
        own = {name: getattr(self, name) for name in _own_fields()}
        return {**own, **{name: getattr(self.row_format, name) for name in _format_fields()}}

    def to_json(self) -> bytes:
        """The bytes of `teacher.json`.

        Raises:
            CacheError: a score is NaN or infinite.
        """
        return to_json(self.to_tree())

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any], *, where: str) -> TeacherIdentity:
        """From JSON values that are not trusted; unknown keys are tolerated.

        Raises:
            CacheDamaged: a key is missing, has another type, or contradicts another.
            CacheFormatError: a name that cannot be one.
        """
        own, kept = (
            {name: _checked(name, need(tree, name, where=where), hint, where=where) for name, hint in hints.items()}
            for hints in (_own_fields(), _format_fields())
        )
        try:
            return cls(**own, row_format=RowFormat(**kept))
        except CacheFormatError:
            raise
        except CacheError as error:
            raise CacheDamaged(f"{where}: {error}") from None

    def differences(self, other: TeacherIdentity) -> dict[str, tuple[Any, Any]]:
        """Fields that make it another teacher -> (this one's, the other's).

        Source and scores are not among them: a folder may move, and scores are measured anew on every run.
        """
        mine, theirs = self.to_tree(), other.to_tree()
        names = [name for name in mine if name not in ("name", "source", "score")]
        return {name: (mine[name], theirs[name]) for name in names if mine[name] != theirs[name]}


def _own_fields() -> dict[str, Any]:
    """Fields of an identity that `teacher.json` has under their names -> their types."""
    return {f.name: f.type for f in fields(TeacherIdentity) if f.name != "row_format"}


def _format_fields() -> dict[str, Any]:
    return {f.name: f.type for f in fields(RowFormat)}


def cache_signature(marker: Marker, teachers: Sequence[TeacherIdentity], *, num_items: int) -> str:
    """One line that says what a whole cache holds, all splits and teachers; `signature` is of one split's targets."""
    sources = "+".join(f"{_source(t)}@{t.weight_digest[:4]}:{t.name}" for t in teachers) or "none"
    stores = "+".join(dict.fromkeys(t.row_format.word for t in teachers)) or "items"
    data = f"{marker.dataset_name}@{marker.dataset_digest[:4]}"
    return f"kdcache{marker.major}|{data}|{sources}|{stores}|items{num_items}"


def signature(marker: Marker, teacher: TeacherIdentity, *, split: str, num_items: int) -> str:
    """One line that says what targets are, after sacreBLEU's; goes into every result.

    Example:
        >>> marker = Marker(dataset_name="mrpc", dataset_digest="3f2a9c", task="classification", labels=("no", "yes"),
        ...                 tokenizer_name="bert", tokenizer_digest="00", chunk_rows=4096)
        >>> teacher = TeacherIdentity(name="t_ll", source="models/roberta-large", weight_digest="a1b2c3",
        ...                           row_format=RowFormat.of(num_classes=2))
        >>> signature(marker, teacher, split="train", num_items=3668)
        'kdcache1|mrpc@3f2a.train|roberta-large@a1b2:t_ll|topk64|items3668'
    """
    return (
        f"kdcache{marker.major}|{marker.dataset_name}@{marker.dataset_digest[:4]}.{split}"
        f"|{_source(teacher)}@{teacher.weight_digest[:4]}:{teacher.name}|{teacher.row_format.word}|items{num_items}"
    )


def _source(teacher: TeacherIdentity) -> str:
    return teacher.source.rstrip("/").rpartition("/")[2] or "teacher"


def _check_version(tree: Mapping[str, Any], *, where: str) -> None:
    created = str(tree.get("created_by"))[:80]
    if tree.get("major") != MAJOR:
        raise CacheFormatError(
            f"{where} is format {str(tree.get('major'))[:20]}.{str(tree.get('minor'))[:20]}, written by {created}; "
            f"kdcache {__version__} reads format {MAJOR}: read it with {created} or later"
        )
    features = tree.get("reader_features")
    unknown = sorted(set(map(str, features)) - READER_FEATURES) if isinstance(features, list) else []
    if unknown:
        raise CacheFormatError(
            f"{where} needs the reader feature {unknown[0][:80]!r}, which kdcache {__version__} lacks: "
            f"read it with {created} or later"
        )


def _checked(name: str, value: Any, hint: Any, *, where: str) -> Any:
    """A JSON value as the annotated type of a field."""
    if hint == "str" and isinstance(value, str):
        return value
    if hint == "int" and isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53:
        return value
    if hint == "float" and _is_number(value):
        return float(value)
    if hint == "tuple[str, ...]" and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if hint == "Mapping[str, float]" and isinstance(value, dict) and all(map(_is_number, value.values())):
        return {k: float(v) for k, v in value.items()}
    raise CacheDamaged(f"{where}: {name} is {str(value)[:80]!r}, not {hint}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
