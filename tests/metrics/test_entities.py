from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities

from kdcache.core.errors import DataError
from kdcache.metrics.entities import entities, entity_statistics, f1, precision, recall

TAGS = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-WORK-OF-ART", "I-WORK-OF-ART"])
PAIRS = st.lists(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=12), min_size=1, max_size=6)


@given(tags=st.lists(TAGS, min_size=1, max_size=20))
def test_any_sequence_has_the_entities_that_seqeval_finds(tags: list[str]):
    assert entities(tags) == set(get_entities(tags))


@given(pairs=PAIRS)
def test_scores_are_those_of_seqeval(pairs):
    predicted = [[p for p, _ in sentence] for sentence in pairs]
    gold = [[g for _, g in sentence] for sentence in pairs]
    summed = entity_statistics(predicted, gold).sum(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of 0 / 0, which is 0 there too
        wanted = [score(gold, predicted) for score in (f1_score, precision_score, recall_score)]
    assert [float(score(summed)) for score in (f1, precision, recall)] == pytest.approx(wanted)


def test_an_entity_must_agree_in_type_and_both_ends():
    gold = [["B-PER", "I-PER", "O", "B-LOC"]]
    for tags, correct in (
        (["B-PER", "I-PER", "O", "B-LOC"], 2),
        (["B-PER", "O", "O", "B-LOC"], 1),
        (["B-LOC", "I-LOC", "O", "B-LOC"], 1),
        (["B-PER", "B-PER", "O", "O"], 0),
    ):
        assert entity_statistics([tags], gold)[0, 0] == correct


def test_without_entities_every_score_is_zero():
    assert entity_statistics([], []).shape == (0, 3)
    assert [float(score(np.zeros(3))) for score in (f1, precision, recall)] == [0, 0, 0]


def test_sentences_of_other_lengths_are_refused():
    with pytest.raises(DataError, match=r"^sentence 1 has 2 words, but 1 predicted tags; give one a word$"):
        entity_statistics([["O"], ["O"]], [["O"], ["O", "O"]])
