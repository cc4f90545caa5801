"""What a teacher's store keeps of a row: what settings make, codecs follow, a cache records and the rule judges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from kdcache.core.errors import CacheError
from kdcache.core.types import NUM_ATOMS

Store = Literal["topk", "hidden"]
Compressor = Literal["lz4", "zstd"]
DENSE = "dense"
SPARSE_CODECS = ("fast", "compact")
"""Of store topk, for rows that keep some of their classes."""
STORES: dict[str, tuple[str, ...]] = {
    "topk": (*SPARSE_CODECS, DENSE),
    "hidden": ("float16", "bfloat16", "int8", "float32"),
}
"""Store -> its codecs; the first is what `auto` means."""
COMPRESSORS = get_args(Compressor)
COMPRESSOR: Compressor = "lz4"
"""Where nothing else is said."""
TOP_K = 64
"""Classes that store topk keeps where nothing else is said."""
LARGEST_CLASSES = 2**31 - 1
HIDDEN_NEEDS = "hidden_size of at least 1 and top_k 0"


def is_dense(*, top_k: int, num_classes: int) -> bool:
    """Whether rows of store topk keep all their classes: at least as many are kept as the largest row has."""
    return top_k >= num_classes


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFormat:
    """What is kept of a row, and how. `RowFormat.of` fills in what is not said.

    Attributes:
        store: `topk` or `hidden`.
        codec: how the values of a row are stored, one of `STORES[store]`; given as another of store topk, it becomes
            `dense` where top_k >= num_classes, and only there.
        compressor: `lz4` or `zstd`, of the arrays' chunks.
        top_k: classes kept of a row, at most; 0 for `hidden`.
        top_p: 1, or the mass up to which a row's classes are kept.
        num_classes: V, the largest of any row.
        hidden_size: D of `hidden`, else 0.
        num_atoms: atoms of the tail curve; of no meaning to rows without a tail.

    Raises:
        CacheError: a value that is not possible, or that contradicts another.
    """

    store: str
    codec: str
    compressor: str
    top_k: int
    top_p: float
    num_classes: int
    hidden_size: int
    num_atoms: int

    def __post_init__(self) -> None:
        if self.store not in STORES:
            raise CacheError(f"store is {self.store!r}; allowed: {', '.join(STORES)}")
        keeps_all = self.store == "topk" and is_dense(top_k=self.top_k, num_classes=self.num_classes)
        if keeps_all and self.codec in STORES["topk"]:
            object.__setattr__(self, "codec", DENSE)
        _check(self)

    @classmethod
    def of(
        cls,
        *,
        num_classes: int,
        store: str = "topk",
        codec: str = "auto",
        compressor: str = COMPRESSOR,
        top_k: int | None = None,
        top_p: float = 1.0,
        hidden_size: int = 0,
        num_atoms: int | None = None,
    ) -> RowFormat:
        """A format from what is said of it.

        Args:
            num_classes: the largest V of any row.
            store: `topk` or `hidden`.
            codec: of the store; `auto` is its first.
            compressor: of the chunks.
            top_k: classes kept; default: `TOP_K`, and 0 for `hidden`.
            top_p: mass kept.
            hidden_size: D, which `hidden` needs.
            num_atoms: of the tail curve; default: `NUM_ATOMS` where rows have a tail, else 0.

        Raises:
            CacheError: a value that is not possible, or that contradicts another.

        Example:
            >>> RowFormat.of(num_classes=50_000).label, RowFormat.of(num_classes=2).label
            ('top-64 fast', 'dense')
            >>> RowFormat.of(num_classes=50_000, store="hidden", hidden_size=8).label
            'hidden float16'
        """
        if codec == "auto" and store in STORES:
            codec = STORES[store][0]
        if top_k is None:
            top_k = TOP_K if store == "topk" else 0
        if num_atoms is None:
            tail = codec in SPARSE_CODECS and not is_dense(top_k=top_k, num_classes=num_classes)
            num_atoms = NUM_ATOMS if tail else 0
        return cls(
            store=store,
            codec=codec,
            compressor=compressor,
            top_k=top_k,
            top_p=top_p,
            num_classes=num_classes,
            hidden_size=hidden_size,
            num_atoms=num_atoms,
        )

    @property
    def is_dense(self) -> bool:
        """Whether all classes of a row are kept, as log-probabilities."""
        return self.codec == DENSE

    @property
    def label(self) -> str:
        """As tables and sentences call it: `top-64 fast`, `dense`, `hidden int8`."""
        if self.is_dense:
            return DENSE
        if self.store == "hidden":
            return f"hidden {self.codec}"
        return f"top-{self.top_k} {self.codec}" + (f" top_p {self.top_p:g}" if self.top_p < 1 else "")

    @property
    def word(self) -> str:
        """What is kept of a row, as signatures say it: `topk64`, `topk64p0.98`, `hidden-int8`."""
        if self.store == "hidden":
            return f"hidden-{self.codec}"
        return f"topk{self.top_k}" + (f"p{self.top_p:g}" if self.top_p < 1 else "")

    @property
    def content(self) -> tuple[str, str, int, float]:
        """What decides the values of a row, for the key of a training: not how many bytes they take."""
        return (self.store, self.codec, self.top_k, self.top_p)


def _check(row_format: RowFormat) -> None:
    """Refuse what contradicts itself."""
    f, codecs = row_format, STORES[row_format.store]
    if f.codec not in codecs:
        raise CacheError(f"codec is {f.codec!r}; allowed with store {f.store}: {', '.join(codecs)}")
    if f.compressor not in COMPRESSORS:
        raise CacheError(f"compressor is {f.compressor!r}; allowed: {', '.join(COMPRESSORS)}")
    if not 1 <= f.num_classes <= LARGEST_CLASSES:
        raise CacheError(f"num_classes is {f.num_classes}; allowed: 1 to 2^31 - 1")
    if not 0 < f.top_p <= 1:
        raise CacheError(f"top_p is {f.top_p:g}; allowed: above 0, at most 1")
    if f.store == "hidden":
        for name, found, wrong in (
            ("hidden_size", f.hidden_size, f.hidden_size < 1),
            ("top_k", f.top_k, f.top_k != 0),
        ):
            if wrong:
                raise CacheError(f"{name} is {found}; store hidden needs {HIDDEN_NEEDS}")
        return
    if f.top_k < 1:
        raise CacheError(f"top_k is {f.top_k}; it must be at least 1")
    if f.hidden_size:
        raise CacheError(f"hidden_size is {f.hidden_size}; set it to 0 for store topk")
    if f.is_dense and not is_dense(top_k=f.top_k, num_classes=f.num_classes):
        raise CacheError(
            f"codec is 'dense' with top_k {f.top_k} of {f.num_classes} classes; "
            f"dense keeps all classes: raise top_k, or choose codec fast or compact"
        )
