"""Hand-made cases from the published rules: SQuAD 1.1 (Rajpurkar et al. 2016) and MLQA (Lewis et al. 2020)."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from kdcache.core.errors import DataError
from kdcache.metrics.squad import answer_statistics, exact, f1, normalize_mlqa, normalize_squad, token_f1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The Cat", "cat"),
        ("an  apple\t\n a day", "apple day"),
        ("U.S.A.", "usa"),
        ("theory of anarchy", "theory of anarchy"),
        ("«the» end", "« » end"),  # only ASCII punctuation goes; an article inside other marks still does
        ("rock-'n'-roll", "rocknroll"),
        ("a", ""),
        ("$5,000.50", "500050"),
        ("Ä the Ö", "ä ö"),
    ],
)
def test_squad_lowers_and_drops_punctuation_articles_and_spaces(text: str, wanted: str):
    assert normalize_squad(text) == wanted


@pytest.mark.parametrize(
    ("language", "text", "wanted"),
    [
        ("en", "The “Cat”!", "cat"),
        ("es", "Los gatos y una casa", "gatos y casa"),
        ("de", "Dem Hund das Haus, eines", "hund haus"),
        ("de", "Derby", "derby"),
        ("vi", "những con mèo của tôi", "con mèo tôi"),
        ("hi", "भारत।", "भारत"),
        ("ar", "الكتاب", "كتاب"),
        ("zh", "北京，2008年 the", "北 京 2008 年 the"),
    ],
)
def test_mlqa_knows_the_articles_of_a_language_and_unicode_punctuation(language: str, text: str, wanted: str):
    assert normalize_mlqa(text, language) == wanted


def test_mlqa_refuses_a_language_without_rules():
    with pytest.raises(DataError) as error:
        normalize_mlqa("x", "fi")
    assert str(error.value) == (
        "MLQA's normalisation has no rules for the language 'fi'; known: en, es, hi, vi, de, ar, zh; "
        "set normalize: squad"
    )


@pytest.mark.parametrize(
    ("prediction", "gold", "wanted"),
    [
        ("new york", "new york", 1),
        ("new york city", "york", 0.5),  # precision 1/3, recall 1
        ("york york", "york", 2 / 3),  # multisets: precision 1/2, recall 1
        ("york", "paris", 0),
        ("", "york", 0),
        ("", "", 0),  # the rule of SQuAD 1.1: nothing is shared
    ],
)
def test_f1_counts_shared_words_as_multisets(prediction: str, gold: str, wanted: float):
    assert token_f1(prediction, gold) == pytest.approx(wanted)


def test_each_measure_is_the_maximum_over_the_golds():
    statistics = answer_statistics(
        ["The big cat", "dog"], [["cat", "big cat.", "a cat sat"], ["cow"]], [normalize_squad] * 2
    )
    assert statistics.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert float(exact(statistics.sum(axis=0))) == float(f1(statistics.sum(axis=0))) == 0.5
    assert np.isnan(exact(np.zeros(3)))
    german = answer_statistics(["Der Bund"], [["Bund"]], [partial(normalize_mlqa, language="de")])
    assert german.tolist() == [[1, 1, 1]]
    assert answer_statistics(["Der Bund"], [["Bund"]], [normalize_squad])[0].tolist() == pytest.approx([0, 2 / 3, 1])


def test_an_example_without_golds_is_refused():
    with pytest.raises(DataError, match=r"^example 0 has no gold answer to compare with; score answerable "):
        answer_statistics(["x"], [[]], [normalize_squad])
