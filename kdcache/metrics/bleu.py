"""BLEU and chrF2 as sacreBLEU counts them, from sums over sentences. Pure; sacreBLEU splits the words.

Both are fractions here: sacreBLEU prints them times 100.
"""

# I sentences  N orders of n-grams  S statistics  ... any leading dimensions (resamples)

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import sacrebleu
from numpy.typing import NDArray
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from kdcache.metrics.classification import divide

ORDER = 4
"""Longest n-grams of words, of BLEU."""
CHARACTERS = 6
"""Longest n-grams of characters, of chrF."""
BETA = 2
"""How much more recall counts than precision in chrF."""
BLEU_SIGNATURE = f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
CHRF_SIGNATURE = f"nrefs:1|case:mixed|eff:yes|nc:{CHARACTERS}|nw:0|space:no|version:{sacrebleu.__version__}"
"""What sacreBLEU would say of the same scores."""

_words = Tokenizer13a()  # type: ignore[no-untyped-call]


def bleu_statistics(written: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """Lengths, matches and totals of each sentence.

    Args:
        written: detokenised sentences.
        references: one for each.

    Returns:
        float64 [I, 2 + 2 N]: words written, words of the reference, matching 1- to 4-grams, written 1- to 4-grams.

    References:
        Papineni et al. 2002, ACL; Post 2018, arXiv:1804.08771.

    Example:
        >>> bleu_statistics(["a b c"], ["a b d e"])[0].tolist()
        [3.0, 4.0, 2.0, 1.0, 0.0, 0.0, 3.0, 2.0, 1.0, 0.0]
    """
    rows = []
    for ours, theirs in zip(written, references, strict=True):
        words, reference = _words(ours.rstrip()).split(), _words(theirs.rstrip()).split()
        matches, totals = [], []
        for n in range(1, ORDER + 1):
            found, true = _ngrams(words, n), _ngrams(reference, n)
            matches.append((found & true).total())
            totals.append(found.total())
        rows.append([len(words), len(reference), *matches, *totals])
    return np.array(rows, dtype=np.float64).reshape(-1, 2 + 2 * ORDER)


def bleu(statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """BLEU from summed `bleu_statistics` [..., 2 + 2 N], smoothed as mteval's (`exp`): brevity penalty times the
    geometric mean of the precisions. 0 where nothing matches, or where no sentence has four words.

    Example:
        >>> float(bleu(np.array([4.0, 4, 4, 3, 2, 1, 4, 3, 2, 1])))
        1.0
    """
    written, reference = statistics[..., 0], statistics[..., 1]
    matches, totals = statistics[..., 2 : 2 + ORDER], statistics[..., 2 + ORDER :]
    none = (matches == 0) & (totals > 0)
    smoothed = 0.5 ** np.cumsum(none, axis=-1)  # the first order without a match counts a half, the next a quarter
    precisions = divide(np.where(none, smoothed, matches), totals, empty=0.0)
    with np.errstate(divide="ignore", over="ignore"):
        mean = np.exp(np.log(precisions).mean(axis=-1))
        brevity = np.where(written < reference, np.exp(1 - divide(reference, written, empty=np.inf)), 1.0)
    return np.where(matches.sum(axis=-1) > 0, brevity * mean, 0.0)


def chrf_statistics(written: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """Counts of character n-grams of each sentence, white space left out.

    Returns:
        float64 [I, 3 N], for n = 1 to 6: written, of the reference, matching.

    References:
        Popovic 2016, WMT.
    """
    rows = []
    for ours, theirs in zip(written, references, strict=True):
        text, reference = "".join(ours.split()), "".join(theirs.split())
        row: list[int] = []
        for n in range(1, CHARACTERS + 1):
            found, true = _ngrams(text, n), _ngrams(reference, n)
            # as sacreBLEU: what the reference is too short for does not count against the other
            row += [found.total() if true else 0, true.total(), (found & true).total()]
        rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(-1, 3 * CHARACTERS)


def chrf(statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """chrF2 from summed `chrf_statistics` [..., 3 N]: F of mean precision and recall over the orders that occur."""
    counts = statistics.reshape(*statistics.shape[:-1], CHARACTERS, 3)
    written, reference, matches = counts[..., 0], counts[..., 1], counts[..., 2]
    occurs = (written > 0) & (reference > 0)
    orders = occurs.sum(axis=-1)
    precision = divide((divide(matches, written, empty=0.0) * occurs).sum(axis=-1), orders, empty=0.0)
    recall = divide((divide(matches, reference, empty=0.0) * occurs).sum(axis=-1), orders, empty=0.0)
    return divide((1 + BETA**2) * precision * recall, BETA**2 * precision + recall, empty=0.0)


def _ngrams(symbols: Sequence[str], n: int) -> Counter[Sequence[str]]:
    whole = symbols if isinstance(symbols, str) else tuple(symbols)
    return Counter(whole[i : i + n] for i in range(len(whole) - n + 1))
