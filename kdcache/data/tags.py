"""Tag schemes of named entities: everything becomes IOB2, where each entity begins with `B-`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from kdcache.core.errors import DataError

Scheme = Literal["auto", "iob1", "iob2"]


def to_iob2(sentences: Sequence[Sequence[str]], *, scheme: Scheme, places: Sequence[str]) -> list[list[str]]:
    """The tags of a split in IOB2.

    IOB1 writes `B-` only where an entity follows another of its type at once; IOB2 writes it for every entity. `auto`
    takes a split as IOB1 where entities begin with `I-`, and refuses one where entities after `O` begin in both ways.

    Args:
        sentences: tags of each sentence.
        scheme: of the split. `iob1` reads every `I-` that begins an entity as `B-`; `iob2` refuses one.
        places: names the sentences in messages.

    Raises:
        DataError: an `I-` that begins an entity in IOB2, or two schemes in one split.

    Example:
        >>> to_iob2([["I-PER", "I-PER", "B-PER", "O", "I-LOC"]], scheme="auto", places=["sentence 1"])
        [['B-PER', 'I-PER', 'B-PER', 'O', 'B-LOC']]
    """
    opened_i = _first(sentences, prefix="I")
    opened_b = _first(sentences, prefix="B")
    if scheme == "iob2" and opened_i is not None:
        s, w = opened_i
        raise DataError(
            f"word {w} of {places[s]} has the tag {sentences[s][w]!r} where an entity begins, which IOB2 writes with "
            f"B-; correct it, or set scheme: iob1"
        )
    if scheme == "auto" and opened_i is not None and opened_b is not None:
        (s, w), (t, v) = opened_i, opened_b
        raise DataError(
            f"two tag schemes are mixed: an entity begins with {sentences[s][w]!r} at word {w} of {places[s]}, and "
            f"with {sentences[t][v]!r} at word {v} of {places[t]}; correct the tags, or set scheme: iob1, which reads "
            f"each I- that begins an entity as B-"
        )
    return [[f"B{tag[1:]}" if _opens(tags, i, "I") else tag for i, tag in enumerate(tags)] for tags in sentences]


def _first(sentences: Sequence[Sequence[str]], *, prefix: str) -> tuple[int, int] | None:
    """Sentence and word of the first entity that begins with a prefix where IOB1 and IOB2 differ."""
    return next(((s, i) for s, tags in enumerate(sentences) for i in range(len(tags)) if _opens(tags, i, prefix)), None)


def _opens(tags: Sequence[str], i: int, prefix: str) -> bool:
    """Whether a tag with a prefix begins an entity that does not follow another of its type at once."""
    return tags[i].startswith(f"{prefix}-") and (i == 0 or tags[i - 1][2:] != tags[i][2:])
