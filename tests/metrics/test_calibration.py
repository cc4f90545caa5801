from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.metrics import brier_score_loss, log_loss

from kdcache.core.errors import DataError
from kdcache.metrics import METRICS, calibration
from kdcache.metrics.calibration import NUM_BINS, TEMPERATURE_BOUNDS, optimal_temperature


def gold_of(logprobs, labels):
    return logprobs[np.arange(len(labels)), labels]


def nll_statistics(logprobs, labels):
    return calibration.nll_statistics(gold_of(logprobs, labels))


def brier_statistics(logprobs, labels):
    return calibration.brier_statistics(gold_of(logprobs, labels), (np.exp(logprobs) ** 2).sum(axis=1))


def ece_statistics(logprobs, labels):
    return calibration.ece_statistics(np.exp(logprobs.max(axis=1)), logprobs.argmax(axis=1) == labels)


def random_case(seed, num_items=200, num_classes=3, scale=2.0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, scale, (num_items, num_classes))
    labels = np.concatenate([np.arange(num_classes), rng.integers(num_classes, size=num_items - num_classes)])
    return logits, labels


def ece_by_hand(probs, labels):
    """Bin by bin, as in Guo et al., equation 3."""
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    value = 0.0
    for m in range(NUM_BINS):
        inside = (confidence > m / NUM_BINS) & (confidence <= (m + 1) / NUM_BINS)
        if inside.any():
            value += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return value


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_nll_and_brier_are_those_of_scikit_learn(num_classes):
    logits, labels = random_case(num_classes, num_classes=num_classes)
    logprobs = log_softmax(logits, axis=1)
    nll = METRICS["nll"].finish(nll_statistics(logprobs, labels).sum(axis=0))
    assert nll == pytest.approx(log_loss(labels, np.exp(logprobs)), rel=1e-12)
    brier = METRICS["brier"].finish(brier_statistics(logprobs, labels).sum(axis=0))
    oracle = brier_score_loss(labels, np.exp(logprobs), labels=np.arange(num_classes), scale_by_half=False)
    assert brier == pytest.approx(oracle, rel=1e-12)


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 20))
def test_ece_is_the_sum_over_bins_of_share_times_gap(seed, scale):
    logits, labels = random_case(seed, scale=scale)
    logprobs = log_softmax(logits, axis=1)
    ece = METRICS["ece"].finish(ece_statistics(logprobs, labels).sum(axis=0))
    assert ece == pytest.approx(ece_by_hand(np.exp(logprobs), labels))


def test_ece_of_hand_made_confidences():
    # both in the last bin: mean confidence .95, half right
    logprobs = np.log([[0.95, 0.05], [0.05, 0.95]])
    statistics = ece_statistics(logprobs, np.array([0, 0]))
    assert statistics.shape == (2, 3 * NUM_BINS)
    assert statistics.sum(axis=0).reshape(NUM_BINS, 3)[-1].tolist() == pytest.approx([2, 1.9, 1])
    assert METRICS["ece"].finish(statistics.sum(axis=0)) == pytest.approx(0.45)


def test_a_confidence_of_1_falls_into_the_last_bin():
    statistics = ece_statistics(np.array([[0.0, -np.inf]]), np.array([0]))
    assert statistics.reshape(NUM_BINS, 3)[-1].tolist() == [1, 1, 1]


def test_an_ece_of_nothing_is_nan_and_resamples_are_finished_together():
    assert np.isnan(METRICS["ece"].finish(np.zeros(3 * NUM_BINS)))
    logits, labels = random_case(5)
    statistics = ece_statistics(log_softmax(logits, axis=1), labels)
    weights = np.random.default_rng(1).multinomial(200, np.full(200, 1 / 200), size=4)
    many = METRICS["ece"].finish(weights @ statistics)
    assert many.tolist() == pytest.approx([float(METRICS["ece"].finish(w @ statistics)) for w in weights], rel=1e-12)


def test_brier_runs_from_0_to_2():
    logprobs = np.array([[0.0, -np.inf]])
    assert brier_statistics(logprobs, np.array([0])).tolist() == [[0, 1]]
    assert brier_statistics(logprobs, np.array([1])).tolist() == [[2, 1]]


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), tau=st.floats(0.2, 8))
def test_the_optimal_temperature_undoes_a_temperature(seed, tau):
    logits, labels = random_case(seed, scale=1.0)
    rng = np.random.default_rng(seed)
    labels = np.array([rng.choice(3, p=np.exp(row)) for row in log_softmax(logits, axis=1)])
    base = optimal_temperature(logits, labels)
    if base < 10:
        assert optimal_temperature(logits * tau, labels) == pytest.approx(base * tau, rel=1e-4)


def test_the_optimal_temperature_is_the_minimum_of_the_nll():
    logits, labels = random_case(3, scale=3.0)

    def nll(tau):
        return -log_softmax(logits / tau, axis=1)[np.arange(len(labels)), labels].mean()

    # random labels: any confidence is too much, the upper bound wins
    assert optimal_temperature(logits, labels) > 10
    labels = np.where(np.arange(len(labels)) % 4 > 0, logits.argmax(axis=1), labels)
    best = optimal_temperature(logits, labels)
    assert 0.1 < best < 10
    assert nll(best) <= min(nll(best * 0.98), nll(best * 1.02))


def test_a_model_that_is_never_wrong_gets_a_temperature_where_its_nll_is_0_and_one_always_wrong_the_upper_bound():
    logits, labels = np.array([[2.0, 0.0], [0.0, 2.0]], dtype=np.float32), np.array([0, 1])
    low, high = TEMPERATURE_BOUNDS
    best = optimal_temperature(logits, labels)
    assert low <= best < 0.1
    assert nll_statistics(log_softmax(logits / best, axis=1), labels)[:, 0].max() < 1e-12
    assert optimal_temperature(logits, 1 - labels) == pytest.approx(high, rel=1e-4)


def test_labels_that_are_no_class_and_empty_input_are_refused():
    with pytest.raises(DataError, match=r"^label -100 of item 0 is not a class; allowed: 0 to 1; score labelled"):
        optimal_temperature(np.log([[0.5, 0.5]]), np.array([-100]))
    with pytest.raises(DataError, match=r"^an optimal temperature needs labelled items; there are 0$"):
        optimal_temperature(np.zeros((0, 2)), np.zeros(0, dtype=int))
