"""A metric over each language and its mean, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from kdcache.metrics import evaluate, evaluate_by_language
from kdcache.metrics.classification import class_statistics


def test_f1_by_language_is_that_of_its_examples_and_the_mean_counts_each_language_once():
    labels, predictions = np.array([1, 1, 0, 1, 1]), np.array([1, 0, 1, 1, 1])
    statistics = {"classes": class_statistics(predictions, labels, 2)}
    scores = evaluate_by_language(statistics, "f1_binary", ["de", "de", "de", "en", "sw"], {"split": "test"})
    assert list(scores) == ["f1_binary@de", "f1_binary@en", "f1_binary@sw", "f1_binary@mean"]
    # German: one hit, one false, one missed
    assert [score.value for score in scores.values()] == pytest.approx([0.5, 1, 1, 2.5 / 3])
    pooled = evaluate(statistics, ["f1_binary"])["f1_binary"].value
    assert pooled == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert scores["f1_binary@de"].signature == "f1:binary(positive=1)|n=3|split=test|language=de|v1"
    assert scores["f1_binary@mean"].signature == "f1:binary(positive=1)|n=5|split=test|mean_over_languages=3|v1"
    assert {name: score.name for name, score in scores.items()} == {name: name for name in scores}


def test_the_direction_is_the_metrics_own():
    statistics = {"nll": np.array([[1.0, 1.0], [3.0, 1.0]])}
    scores = evaluate_by_language(statistics, "nll", ["de", "en"])
    assert [score.value for score in scores.values()] == [1, 3, 2]
    assert not any(score.higher_is_better for score in scores.values())


@pytest.mark.parametrize("languages", [[], ["de", "de"]])
def test_one_language_or_none_has_no_scores_of_its_own(languages: list[str]):
    assert evaluate_by_language({"nll": np.ones((2, 2))}, "nll", languages) == {}
