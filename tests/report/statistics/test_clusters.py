"""Means over cases with datasets as clusters, and Wilcoxon's test where it can say something."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from kdcache.core.errors import DataError
from kdcache.report.statistics.clusters import cluster_mean, dataset_means, signed_rank


def test_dataset_means_are_in_order_of_first_occurrence():
    assert dataset_means(np.array([1.0, 5.0, 3.0]), ["b", "a", "b"]).tolist() == [2.0, 5.0]


def test_with_few_datasets_the_interval_is_the_t_interval_of_their_means():
    means = np.array([1.0, 2.0, 4.0, 3.5])
    found = cluster_mean(np.repeat(means, 3), [name for name in "abcd" for _ in range(3)], resamples=40_000)
    oracle = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert found.mean == pytest.approx(2.625)
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), abs=0.05)
    assert found.method == "t interval with the bootstrap's standard error over datasets"


def test_with_many_datasets_the_interval_follows_their_skewness():
    values = np.random.default_rng(0).exponential(1.0, 13) ** 2
    found = cluster_mean(values, [str(i) for i in range(13)])
    assert found.high - found.mean > found.mean - found.low
    assert found.method == "expanded percentiles of the bootstrap over datasets"


def test_cases_of_one_dataset_are_drawn_together():
    names = [name for name in "abcdef" for _ in range(5)]
    means = np.repeat(np.arange(6.0), 5)
    together, apart = cluster_mean(means, names), cluster_mean(means, [str(i) for i in range(30)])
    assert together.high - together.low > 1.8 * (apart.high - apart.low)


def test_equal_seeds_give_equal_intervals():
    values, names = np.arange(12.0), [str(i) for i in range(12)]
    assert cluster_mean(values, names, seed=1) == cluster_mean(values, names, seed=1)
    assert cluster_mean(values, names, seed=1) != cluster_mean(values, names, seed=2)


def test_one_dataset_has_a_mean_and_no_interval():
    found = cluster_mean(np.array([1.0, 3.0]), ["a", "a"])
    assert (found.mean, found.low, found.high, found.datasets) == (2.0, None, None, 1)
    assert found.method == "no interval: one dataset"


def test_wilcoxon_is_exact_on_the_means_of_datasets():
    values = np.array([1.0, 3.0, 0.5, -0.2, 2.5, 1.5, 0.9])
    assert signed_rank(values, list("abcdefg")).p == pytest.approx(2 * 2 / 2**7)
    doubled = signed_rank(np.repeat(values, 2), [name for name in "abcdefg" for _ in range(2)])
    assert (doubled.p, doubled.datasets) == (pytest.approx(2 * 2 / 2**7), 7)


def test_under_six_datasets_wilcoxon_says_that_it_cannot():
    found = signed_rank(np.arange(1.0, 6.0), list("abcde"))
    assert found.p is None
    assert found.note == "5 datasets with a difference: the least p they can give is 0.0625"
    assert signed_rank(np.zeros(7), list("abcdefg")).note == "every dataset's mean is 0"


def test_names_that_do_not_fit_the_values_are_refused():
    with pytest.raises(DataError, match=r"\(2,\) values of 1 datasets; give one dataset name for each value"):
        cluster_mean(np.array([1.0, 2.0]), ["a"])
    with pytest.raises(DataError, match=r"\(0,\) values of 0 datasets"):
        signed_rank(np.array([]), [])
