"""Holm by hand, the sign test of the paper's rewards, and what a number of seeds can show, by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kdcache.report.statistics.family import (
    detectable,
    holm,
    minimum_detectable,
    probability_of_improvement,
    sign_test,
)


def test_holm_multiplies_the_least_by_all_and_never_falls():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.6, 0.7]) == (1.0, 1.0)
    assert holm([]) == ()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_the_p_and_bonferroni_and_keeps_their_order(p):
    adjusted = holm(p)
    assert all(one <= two <= min(1.0, len(p) * one) for one, two in zip(p, adjusted, strict=True))
    assert [adjusted[i] for i in np.argsort(p, kind="stable")] == sorted(adjusted)


def test_a_reward_of_eleven_of_39_cases_is_no_evidence():
    assert sign_test(25, 14) == pytest.approx(0.108, abs=0.001)
    assert sign_test(14, 25) == sign_test(25, 14)
    assert sign_test(5, 0) == pytest.approx(2 / 32)
    assert sign_test(0, 0) is None


def test_probability_of_improvement_is_that_of_the_rank_sum():
    a, b = np.array([1.0, 2.0, 2.5, 4.0]), np.array([2.0, 3.0, 5.0])
    expected = stats.mannwhitneyu(b, a).statistic / 12
    assert probability_of_improvement(a, b) == pytest.approx(expected)
    assert probability_of_improvement(b, a) == pytest.approx(1 - expected)


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_the_detectable_difference_is_found_four_times_in_five(seeds):
    shift = minimum_detectable(1.0, seeds)
    d = np.random.default_rng(seeds).normal(shift, 1.0, (20_000, seeds))
    assert (stats.ttest_1samp(d, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.012)


def test_with_known_noise_the_detectable_difference_is_that_of_the_normal_test():
    assert detectable(2.0, np.inf) == pytest.approx(2 * (1.959964 + 0.841621))
    assert detectable(2.0, 1e9) == pytest.approx(detectable(2.0, np.inf))
    assert minimum_detectable(1.0, 1) is None
