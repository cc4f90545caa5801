"""The Bayesian signed-rank test against baycomp."""

from __future__ import annotations

import baycomp
import numpy as np
import pytest

from kdcache.core.errors import DataError
from kdcache.report.statistics.bayes import bayesian_signed_rank

DRAWS = 10_000
"""Of both: a difference of two probabilities has a standard error of at most .0071."""


@pytest.mark.parametrize("rope", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("mean", [0.0, 0.5, -0.6])
def test_it_agrees_with_baycomp(mean, rope):
    differences = np.random.default_rng(7).normal(mean, 0.8, 9)
    differences[4] = 2 * rope  # with the pseudo-observation exactly on the edge
    found = bayesian_signed_rank(differences, rope=rope, draws=DRAWS)
    sample = baycomp.SignedRankTest(np.zeros(9), differences, rope, nsamples=DRAWS, random_state=1)
    assert (found.worse, found.equal, found.better) == pytest.approx(sample.probs(), abs=4 * 0.0071)


def test_probabilities_sum_to_one_and_turn_with_the_sign():
    differences = np.array([0.2, 1.4, -0.3, 0.9, 0.8])
    one = bayesian_signed_rank(differences, rope=0.4)
    other = bayesian_signed_rank(-differences, rope=0.4)
    assert one.worse + one.equal + one.better == pytest.approx(1)
    assert (other.worse, other.equal, other.better) == pytest.approx((one.better, one.equal, one.worse), abs=1e-12)


def test_small_differences_are_equal_and_large_ones_are_not():
    assert bayesian_signed_rank(np.full(8, 0.1), rope=0.5).equal == 1.0
    assert bayesian_signed_rank(np.full(8, -3.0), rope=0.5).worse > 0.999


def test_bad_differences_and_a_negative_rope_are_refused():
    with pytest.raises(DataError, match=r"differences \[1.0, nan\] are no list of numbers; give one finite number"):
        bayesian_signed_rank(np.array([1.0, np.nan]), rope=0.5)
    with pytest.raises(DataError, match=r"rope = -1 is negative"):
        bayesian_signed_rank(np.ones(3), rope=-1)
