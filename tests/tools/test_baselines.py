"""The baselines that a teacher has to beat, on examples small enough to score by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdcache.core.types import IGNORE, Example, Item
from tools.baselines import copied, fixed_span, frequent_tags, majority, unigram


def examples(*fields: dict[str, object]) -> list[Example]:
    return [Example(uid=str(i), fields=f) for i, f in enumerate(fields)]


def test_the_majority_class_is_the_training_set_s_and_scored_on_the_test() -> None:
    train = examples({"label": 1}, {"label": 1}, {"label": 0})
    test = examples({"label": 1}, {"label": 0}, {"label": 0}, {"label": 0})
    f1, accuracy = majority(train, test, ("no", "yes"))
    assert (f1.metric, f1.value) == ("f1_binary", pytest.approx(2 * 1 / (2 * 1 + 3)))
    assert (accuracy.metric, accuracy.value) == ("accuracy", 0.25)


def test_three_classes_are_scored_by_macro_f1() -> None:
    train, test = examples({"label": 2}), examples({"label": 2}, {"label": 0})
    assert majority(train, test, ("a", "b", "c"))[0].value == pytest.approx((2 / 3 + 0) / 2)


def test_words_that_train_does_not_have_are_outside() -> None:
    train = examples(
        {"words": ["Rome", "is", "Rome"], "tags": ["B-LOC", "O", "B-LOC"]}, {"words": ["Rome"], "tags": ["O"]}
    )
    test = examples({"words": ["Rome", "Oslo"], "tags": ["B-LOC", "B-LOC"]})
    assert frequent_tags(train, test)[0].value == pytest.approx(2 / 3)  # 1 of 1 said, 1 of 2 true


def test_the_span_is_the_best_of_train() -> None:
    train = examples(
        {"context": "x y z w", "answers": ["z"]},
        {"context": "a b c d", "answers": ["c"]},
    )
    test = examples({"context": "k l m n", "answers": ["m"]})
    found = fixed_span(train, test)[0]
    assert (found.name, found.value) == ("words 3 to 3", 1.0)


def item(labels: list[int]) -> Item:
    rows = np.array(labels, dtype=np.int32)
    return Item(
        uid="u", inputs={"input_ids": rows}, positions_R=rows, labels_R=rows, classes_R=np.full(len(rows), 4, np.int32)
    )


def test_unigrams_are_counted_in_train_with_one_added_and_unlabelled_rows_do_not_count() -> None:
    found = unigram([item([0, 0, 1, IGNORE])], [item([0, 3, IGNORE])], 4)[0]
    assert found.value == pytest.approx(-(math.log(3 / 7) + math.log(1 / 7)) / 2)


def test_a_source_that_is_its_translation_has_bleu_1() -> None:
    same = {"source": "a b c d e", "target": "a b c d e"}
    assert copied(examples(same))[0].value == pytest.approx(1.0)
