"""The bootstrap against a naive loop, its coverage, and the gain's formula."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.metrics import METRICS
from kdcache.report.statistics import resample
from kdcache.report.statistics.resample import gain_percent, interval, resampled_scores, two_sided_p
from tests.report.conftest import f1_statistics

F1, ACCURACY = METRICS["f1_binary"], METRICS["accuracy"]


def f1_runs(num_examples: int, num_runs: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=(num_examples, 1))
    predicted = np.where(rng.random((num_examples, num_runs)) < 0.8, labels, 1 - labels)
    return np.stack([f1_statistics(labels[:, 0], predicted[:, r]) for r in range(num_runs)], axis=1)


def test_resampled_scores_equal_a_naive_loop_over_the_same_draws():
    statistics = f1_runs(40, 3)
    scores = resampled_scores(statistics, F1.finish, resamples=25, seed=3, stream="digest")
    from kdcache.core.config import digest

    drawn = np.random.default_rng([3, int(digest("digest"), 16)]).integers(40, size=(25, 40))
    for b in range(25):
        for r in range(3):
            total = np.zeros(6)
            for i in drawn[b]:
                total += statistics[i, r]
            assert scores[b, r] == pytest.approx(2 * total[3] / (2 * total[3] + total[4] + total[5]))


@settings(max_examples=15)
@given(num_examples=st.integers(1, 30), chunk=st.integers(1, 200))
def test_the_chunk_size_changes_no_result(num_examples, chunk):
    statistics = np.random.default_rng(0).random((num_examples, 2, 2)) + 0.1
    whole = resampled_scores(statistics, ACCURACY.finish, resamples=23, seed=1)
    parts = resampled_scores(statistics, ACCURACY.finish, resamples=23, seed=1, chunk_cells=chunk)
    np.testing.assert_allclose(parts, whole, rtol=1e-12)


def test_resamples_are_the_same_for_equal_seed_and_test_set_and_differ_otherwise():
    statistics = f1_runs(50, 1)

    def scores(**changes):
        return resampled_scores(
            statistics, F1.finish, **{"resamples": 10, "seed": 0, "stream": "a", **changes}
        ).tolist()

    assert scores() == scores()
    assert scores() != scores(seed=1)
    assert scores() != scores(stream="b")


def test_a_run_compared_with_itself_differs_nowhere():
    statistics = np.repeat(f1_runs(50, 1), 2, axis=1)
    scores = resampled_scores(statistics, F1.finish, resamples=50, seed=0)
    assert (scores[:, 0] == scores[:, 1]).all()


def test_bootstrap_spread_is_the_standard_error_of_a_mean():
    correct = np.random.default_rng(0).random(400) < 0.7
    statistics = np.stack([correct, np.ones(400)], axis=1)[:, None, :].astype(np.float64)
    scores = resampled_scores(statistics, ACCURACY.finish, resamples=4000, seed=0)
    assert scores.std() == pytest.approx(correct.std() / 20, rel=0.05)
    assert scores.mean() == pytest.approx(correct.mean(), abs=0.002)


def test_interval_of_a_paired_difference_covers_the_truth_as_often_as_it_says():
    rng, covered, studies = np.random.default_rng(1), 0, 200
    for study in range(studies):
        difficulty = rng.random(200)
        right = np.stack([difficulty < 0.80, difficulty + rng.normal(0, 0.1, 200) < 0.75], axis=1)
        statistics = np.stack([right, np.ones_like(right)], axis=2).astype(np.float64)
        scores = resampled_scores(statistics, ACCURACY.finish, resamples=400, seed=study)
        low, high = interval(scores[:, 1] - scores[:, 0])
        covered += low <= TRUE_DIFFERENCE <= high
    assert 0.90 <= covered / studies <= 0.99


# P(U + 0.1 Z < 0.75) is 0.75 but for the edges, where the normal tail beyond 1 weighs 1e-2 x 0.0028.
TRUE_DIFFERENCE = -0.05


def test_nine_runs_of_two_thousand_examples_take_seconds_and_little_memory():
    statistics = f1_runs(2000, 9)
    start = time.process_time()
    resampled_scores(statistics, F1.finish, resamples=10_000, seed=0)
    assert time.process_time() - start < 10
    tracemalloc.start()
    resampled_scores(statistics, F1.finish, resamples=2_000, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6


def test_counts_are_summed_in_float32_and_equal_float64_exactly():
    counts = np.random.default_rng(0).integers(0, 50, (300, 4, 2)).astype(np.float64)
    counts[..., 1] += 1

    def scores(statistics):
        return resampled_scores(statistics, ACCURACY.finish, resamples=200, seed=0)

    # a half is no integer: the same statistics, halved, go the float64 way, and a ratio does not change
    assert (scores(counts) == scores(counts / 2)).all()


def test_integers_too_large_for_float32_are_summed_in_float64():
    statistics = np.full((3, 1, 2), 2.0**23 + 1)
    statistics[0, 0, 0] += 1
    found = resampled_scores(statistics, lambda sums: sums[..., 0] - sums[..., 1], resamples=50, seed=0)
    assert set(found.ravel()) <= {0.0, 1.0, 2.0, 3.0}
    assert len(set(found.ravel())) > 1


@pytest.mark.parametrize("kept", [0, 2**26], ids=["drawn again", "kept"])
def test_kept_weights_change_no_result(monkeypatch, kept):
    statistics = f1_runs(60, 2)
    expected = resampled_scores(statistics, F1.finish, resamples=40, seed=0, stream="c", chunk_cells=100)
    monkeypatch.setattr(resample, "KEPT_CELLS", kept)
    found = resampled_scores(statistics, F1.finish, resamples=40, seed=0, stream="c")
    assert (found == expected).all()


def test_p_counts_resamples_whose_scatter_is_as_wide_as_the_effect():
    values = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert two_sided_p(values, 2.0) == pytest.approx((1 + 2) / 6)
    assert two_sided_p(values + 10, 3.0) == pytest.approx(1 / 6)  # where they are centred does not matter
    assert two_sided_p(np.array([1.0, np.nan]), 1.0) is None


def test_an_interval_with_a_resample_that_has_no_score_is_none():
    assert interval(np.array([0.1, np.nan, 0.3])) is None
    assert interval(np.array([0.1, np.inf])) is None


def test_gain_is_relative_in_per_cent_and_positive_where_better():
    score, baseline = np.array([0.84, 0.5]), np.array([0.8, 0.0])
    assert gain_percent(score, baseline, higher_is_better=True)[0] == pytest.approx(5.0)
    assert gain_percent(score, baseline, higher_is_better=False)[0] == pytest.approx(-5.0)
    assert np.isnan(gain_percent(score, baseline, higher_is_better=True)[1])
