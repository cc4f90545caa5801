"""Entities of tag sequences, scored as conlleval does: seqeval's default. Pure.

Tags are `O`, `B-TYPE` and `I-TYPE`. A sequence that breaks the rules (a model's may) is read leniently: an entity
begins at a `B-`, and at an `I-` after `O` or after another type.
"""

# I sentences  S statistics  ... any leading dimensions (resamples)

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kdcache.core.errors import DataError
from kdcache.metrics.classification import divide

OUTSIDE = "O"
"""The tag of a word outside every entity."""


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """The entities of one sentence: (type, first word, last word).

    References:
        Tjong Kim Sang and De Meulder 2003, the shared task's scorer conlleval.

    Example:
        >>> sorted(entities(["B-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-ORG"]))
        [('LOC', 3, 3), ('LOC', 4, 4), ('ORG', 5, 5), ('PER', 0, 1)]
    """
    found: set[tuple[str, int, int]] = set()
    begin, kind = 0, ""
    for i, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, new = tag.partition("-")
        if kind and (prefix != "I" or new != kind):
            found.add((kind, begin, i - 1))
            kind = ""
        if not kind and prefix != OUTSIDE:
            begin, kind = i, new
    return found


def entity_statistics(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """(correct, predicted, true) entities of every sentence; correct ones agree in type, first and last word.

    Args:
        predicted: tags of each sentence.
        gold: tags of the same words.

    Returns:
        float64 [I, 3], for `precision`, `recall` and `f1`.

    Raises:
        DataError: a sentence with more tags on one side.

    Example:
        >>> entity_statistics([["B-PER", "O"]], [["B-PER", "B-LOC"]]).tolist()
        [[1.0, 1.0, 2.0]]
    """
    rows = []
    for i, (ours, theirs) in enumerate(zip(predicted, gold, strict=True)):
        if len(ours) != len(theirs):
            raise DataError(f"sentence {i} has {len(theirs)} words, but {len(ours)} predicted tags; give one a word")
        found, true = entities(ours), entities(theirs)
        rows.append((len(found & true), len(found), len(true)))
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def precision(statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """`correct / predicted` from summed `entity_statistics` [..., 3], micro-averaged; 0 where nothing was predicted."""
    return divide(statistics[..., 0], statistics[..., 1], empty=0.0)


def recall(statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """`correct / true` from summed `entity_statistics` [..., 3], micro-averaged; 0 where there is no entity."""
    return divide(statistics[..., 0], statistics[..., 2], empty=0.0)


def f1(statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """`2 correct / (predicted + true)` from summed `entity_statistics` [..., 3]; 0 where that is 0 / 0.

    Example:
        >>> float(f1(np.array([1.0, 1.0, 3.0])))
        0.5
    """
    return divide(2 * statistics[..., 0], statistics[..., 1] + statistics[..., 2], empty=0.0)
