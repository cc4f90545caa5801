from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import accuracy_score, f1_score

from kdcache.core.errors import DataError
from kdcache.metrics import METRICS, evaluate
from kdcache.metrics.classification import accuracy_statistics, class_statistics


def sklearn_f1(labels, predictions, average):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        return f1_score(labels, predictions, average=average, zero_division=0)


@st.composite
def answers(draw, max_classes=4):
    num_classes = draw(st.integers(2, max_classes))
    size = draw(st.integers(1, 30))
    values = st.lists(st.integers(0, num_classes - 1), min_size=size, max_size=size)
    return np.array(draw(values)), np.array(draw(values)), num_classes


def test_the_statistics_of_hand_counted_items_are_tp_fp_fn_of_each_class():
    statistics = class_statistics(np.array([1, 1, 0, 2]), np.array([1, 0, 0, 1]), 3)
    assert statistics.sum(axis=0).reshape(3, 3).tolist() == [[1, 0, 1], [1, 1, 1], [0, 1, 0]]
    assert statistics.shape == (4, 9)
    assert statistics.dtype == np.float64


@settings(max_examples=60)
@given(case=answers())
def test_macro_and_weighted_f1_and_accuracy_are_those_of_scikit_learn(case):
    labels, predictions, num_classes = case
    total = class_statistics(predictions, labels, num_classes).sum(axis=0)
    assert METRICS["f1_macro"].finish(total) == pytest.approx(sklearn_f1(labels, predictions, "macro"), abs=1e-12)
    assert METRICS["f1_weighted"].finish(total) == pytest.approx(sklearn_f1(labels, predictions, "weighted"), abs=1e-12)
    accuracy = METRICS["accuracy"].finish(accuracy_statistics(predictions, labels).sum(axis=0))
    assert accuracy == pytest.approx(accuracy_score(labels, predictions), abs=1e-12)


@settings(max_examples=40)
@given(case=answers(max_classes=2))
def test_binary_f1_is_that_of_scikit_learn_with_class_1_positive(case):
    labels, predictions, _ = case
    total = class_statistics(predictions, labels, 2).sum(axis=0)
    assert METRICS["f1_binary"].finish(total) == pytest.approx(sklearn_f1(labels, predictions, "binary"), abs=1e-12)


def test_a_class_that_does_not_occur_is_left_out_of_the_macro_average_and_one_never_predicted_is_not():
    absent = class_statistics(np.array([0, 1]), np.array([0, 1]), 3).sum(axis=0)
    assert METRICS["f1_macro"].finish(absent) == 1
    never_predicted = class_statistics(np.array([0, 1, 1]), np.array([0, 1, 2]), 3).sum(axis=0)
    assert METRICS["f1_macro"].finish(never_predicted) == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_f1_of_nothing_is_0_and_a_mean_of_nothing_is_nan():
    nothing = np.zeros(6)
    assert [float(METRICS[name].finish(nothing)) for name in ("f1_binary", "f1_macro", "f1_weighted")] == [0, 0, 0]
    assert np.isnan(METRICS["accuracy"].finish(np.zeros(2)))


def test_finishers_give_one_value_for_each_resample():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(3, size=50), rng.integers(3, size=50)
    statistics = {
        "classes": class_statistics(predictions, labels, 3),
        "accuracy": accuracy_statistics(predictions, labels),
    }
    weights = rng.multinomial(50, np.full(50, 1 / 50), size=(2, 7))
    for metric in METRICS.values():
        if metric.statistic in statistics:
            many = metric.finish(weights @ statistics[metric.statistic])
            assert many.shape == (2, 7)
            one = weights[1, 3] @ statistics[metric.statistic]
            assert many[1, 3] == metric.finish(one)


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        ([0, 1], [1, -100], "label -100 of item 1 is not a class; allowed: 0 to 1; score labelled items only"),
        ([2, 1], [1, 0], "prediction 2 of item 0 is not a class; allowed: 0 to 1; score labelled items only"),
    ],
)
def test_a_number_that_is_no_class_is_refused(predictions, labels, message):
    with pytest.raises(DataError) as error:
        class_statistics(np.array(predictions), np.array(labels), 2)
    assert str(error.value) == message


def test_evaluate_keeps_the_order_and_signs_each_score():
    statistics = {
        "classes": class_statistics(np.array([1, 0]), np.array([1, 1]), 2),
        "accuracy": accuracy_statistics(np.array([1, 0]), np.array([1, 1])),
    }
    scores = evaluate(statistics, ["f1_binary", "accuracy", "f1_macro"], {"split": "test"})
    assert list(scores) == ["f1_binary", "accuracy", "f1_macro"]
    assert scores["f1_binary"].value == pytest.approx(2 / 3)
    assert scores["accuracy"].value == 0.5
    assert scores["f1_binary"].higher_is_better
    assert scores["f1_binary"].signature == "f1:binary(positive=1)|n=2|split=test|v1"
    assert scores["f1_macro"].signature == "f1:macro(classes=occurring)|n=2|split=test|v1"


def test_every_metric_is_filed_under_its_own_name_and_has_a_direction():
    assert {name: metric.name for name, metric in METRICS.items()} == {name: name for name in METRICS}
    assert {name for name, metric in METRICS.items() if not metric.higher_is_better} == {
        "nll",
        "perplexity",
        "brier",
        "ece",
    }
    rows = {"accuracy", "nll", "brier", "ece"}
    assert {metric.statistic for metric in METRICS.values()} == {
        *rows,
        "classes",
        "entities",
        "squad",
        "mlqa",
        "bleu",
        "chrf",
    }


def test_evaluate_refuses_unknown_metrics_missing_statistics_and_empty_splits():
    statistics = {"accuracy": np.zeros((0, 2))}
    with pytest.raises(ValueError, match=r"^metric 'f2' is not known; known: f1_binary, f1_macro, f1_weighted, acc"):
        evaluate(statistics, ["f2"])
    with pytest.raises(ValueError, match=r"^metric nll needs the statistic nll, computed are: accuracy$"):
        evaluate(statistics, ["nll"])
    with pytest.raises(DataError, match=r"^metric accuracy has no examples to score; the split is empty$"):
        evaluate(statistics, ["accuracy"])
