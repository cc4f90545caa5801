"""Exact match and F1 of answers in words, with the normalisation of SQuAD 1.1 or of MLQA. Pure.

Both compare normalised texts and take the maximum over the gold answers, measure by measure.
"""

# I examples  S statistics

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from kdcache.core.errors import DataError
from kdcache.metrics.classification import divide

_ENGLISH = re.compile(r"\b(a|an|the)\b")
ARTICLES: dict[str, re.Pattern[str] | None] = {
    "en": _ENGLISH,
    "es": re.compile(r"\b(un|una|unos|unas|el|la|los|las)\b"),
    "hi": None,
    "vi": re.compile(r"\b(của|là|cái|chiếc|những)\b"),
    "de": re.compile(r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b"),
    "ar": re.compile(r"\sال^|ال"),
    "zh": None,
}
"""MLQA: language -> what is no part of an answer; Arabic's article is a prefix."""
_HAN = re.compile(r"[\u4e00-\u9fa5]")


def normalize_squad(text: str) -> str:
    """Lower case, no ASCII punctuation, no English articles, single spaces.

    References:
        Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1.

    Example:
        >>> normalize_squad("The  U.S. 'Army'!")
        'us army'
    """
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(_ENGLISH.sub(" ", kept).split())


def normalize_mlqa(text: str, language: str) -> str:
    """Lower case, no Unicode punctuation, no articles of the language, single spaces; Chinese by character.

    Args:
        text: an answer.
        language: a key of `ARTICLES`.

    Raises:
        DataError: another language.

    References:
        Lewis et al. 2020, arXiv:1910.07475, section 4 and appendix D.

    Example:
        >>> normalize_mlqa("Der „Bund“", "de"), normalize_mlqa("北京 2008年", "zh")
        ('bund', '北 京 2008 年')
    """
    if language not in ARTICLES:
        raise DataError(
            f"MLQA's normalisation has no rules for the language {language!r}; known: {', '.join(ARTICLES)}; "
            f"set normalize: squad"
        )
    kept = "".join(c for c in text.lower() if not _is_punctuation(c))
    articles = ARTICLES[language]
    if articles is not None:
        kept = articles.sub(" ", kept)
    if language == "zh":
        kept = _HAN.sub(lambda match: f" {match[0]} ", kept)
    return " ".join(kept.split())


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def exact_match(prediction: str, gold: str) -> float:
    """1 where two normalised texts are equal, else 0."""
    return float(prediction == gold)


def token_f1(prediction: str, gold: str) -> float:
    """F1 of the words that two normalised texts share, as multisets; 0 where they share none.

    Example:
        >>> round(token_f1("new york city", "york"), 3)
        0.5
    """
    ours, theirs = prediction.split(), gold.split()
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0


def answer_statistics(
    predictions: Sequence[str], golds: Sequence[Sequence[str]], normalize: Sequence[Callable[[str], str]]
) -> NDArray[np.float64]:
    """(exact match, F1, 1) of every example, each the maximum over its gold answers.

    Args:
        predictions: one answer an example.
        golds: at least one text an example.
        normalize: of each example; it may depend on the language.

    Returns:
        float64 [I, 3], for `exact` and `f1`.

    Raises:
        DataError: an example without gold answers.

    Example:
        >>> answer_statistics(["the cat"], [["dog", "a cat!"]], [normalize_squad]).tolist()
        [[1.0, 1.0, 1.0]]
    """
    rows = []
    for i, (prediction, answers, rule) in enumerate(zip(predictions, golds, normalize, strict=True)):
        if not answers:
            raise DataError(f"example {i} has no gold answer to compare with; score answerable questions only")
        ours = rule(prediction)
        theirs = [rule(answer) for answer in answers]
        rows.append((max(exact_match(ours, t) for t in theirs), max(token_f1(ours, t) for t in theirs), 1.0))
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def exact(statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean exact match from summed `answer_statistics` [..., 3]."""
    return _mean(statistics, 0)


def f1(statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean F1 from summed `answer_statistics` [..., 3]."""
    return _mean(statistics, 1)


def _mean(statistics: NDArray[np.float64], column: int) -> NDArray[np.float64]:
    return divide(statistics[..., column], statistics[..., 2], empty=np.nan)
