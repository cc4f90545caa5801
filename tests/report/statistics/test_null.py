"""Null bands: the published design, a naive loop, and what a band holds."""

from __future__ import annotations

import numpy as np
import pytest

from kdcache.core.errors import DataError
from kdcache.report.statistics.null import design, lognormal_noise, noise_percent, null_band, simulate
from tools.coverage import null_contained


def test_noise_alone_draws_the_papers_curve():
    # docs of the study: best over worst of 13 configurations, means of D5, D9, D10 over simulations 1.3, 3.7, 9.0 %
    of = design("best over worst", "test", 13, cases=39)
    band = null_band(lognormal_noise(39), of)
    assert band.mean[5] == pytest.approx(1.3, abs=0.05)
    assert band.mean[9] == pytest.approx(3.7, abs=0.1)
    assert band.mean[10] == pytest.approx(9.0, abs=0.3)
    # and the paper's own D5, D9, D10 are inside what noise gives
    for k, published in ((5, 1.6), (9, 4.3), (10, 9.4)):
        assert band.low[k] < published < band.high[k]


def test_four_candidates_give_less_than_thirteen_and_more_seeds_less_than_one():
    noise = np.full(39, 0.4)

    def median(candidates, seeds=1):
        return null_band(noise, design("best over worst", "test", candidates, cases=39, seeds=seeds)).median[5]

    assert median(13) == pytest.approx(0.4 * 3.336, rel=0.03)  # expected range of 13 normals, of 4: 2.059
    assert median(4) == pytest.approx(0.4 * 2.059, rel=0.04)
    assert median(13, seeds=4) == pytest.approx(median(13) / 2, rel=0.02)


@pytest.mark.parametrize(("gain", "pick"), [("best over worst", "test"), ("best over random", "validation")])
def test_curves_are_those_of_a_naive_loop(gain, pick):
    candidates, noise = (2, 5, 3), np.array([0.5, 1.0, 0.2])
    rng, curves = np.random.default_rng(3), []
    for _ in range(4000):
        gains = []
        for count, sd in zip(candidates, noise, strict=True):
            test, validation = 1 + sd / 100 * rng.standard_normal(count), rng.standard_normal(count)
            judge = test if pick == "test" else validation
            base = test[judge.argmin()] if gain == "best over worst" else test.mean()
            gains.append(100 * (test[judge.argmax()] / base - 1))
        curves.append(np.quantile(gains, np.arange(11) / 10))
    band = null_band(noise, design(gain, pick, candidates, cases=3))
    np.testing.assert_allclose(band.mean, np.mean(curves, axis=0), atol=0.05)
    np.testing.assert_allclose(band.high, np.quantile(curves, 0.975, axis=0), atol=0.15)


def test_what_validation_picks_gains_nothing_from_noise():
    band = null_band(np.full(39, 1.0), design("best over worst", "validation", 13, cases=39))
    assert abs(band.median[5]) < 0.02
    assert band.low[5] < 0 < band.high[5]
    assert band.median[0] == pytest.approx(-band.median[10], rel=0.05)


@pytest.mark.parametrize("gain", ["best over worst", "one over another"])
def test_a_band_holds_95_percent_of_other_null_studies(gain):
    noise = lognormal_noise(39, simulations=1)[0]
    held = null_contained(noise, design(gain, "test", 13, cases=39), simulations=4000, seed=0)
    assert held["mean"] == pytest.approx(0.95, abs=0.01)
    assert held["least decile"] > 0.935
    assert held["whole curve"] == pytest.approx(0.95, abs=0.015)


def test_equal_seeds_give_equal_curves_and_the_joint_band_is_the_wider():
    noise, of = np.full(5, 0.3), design("best over random", "test", 4, cases=5)
    one, two = (simulate(noise, of, simulations=50, seed=seed) for seed in (1, 2))
    assert (one == simulate(noise, of, simulations=50, seed=1)).all()
    assert (one != two).any()
    band = null_band(noise, of)
    assert all(a <= b for a, b in zip(band.joint_low, band.low, strict=True))
    assert all(a >= b for a, b in zip(band.joint_high, band.high, strict=True))


def test_noise_is_pooled_within_configurations_relative_to_their_means():
    scores = [[0.80, 0.82, 0.84], [0.40, 0.41], [0.9], [0.0, 0.0]]
    pooled = np.sqrt((2 * (0.02 / 0.82) ** 2 + (0.01**2 / 2) / 0.405**2) / 3)
    assert noise_percent(scores) == pytest.approx(100 * pooled)
    assert noise_percent([[0.5], [0.6]]) is None


def test_what_is_no_study_is_refused():
    with pytest.raises(DataError, match=r"2 cases, candidates \(4, 1\) and 1 seeds is no study; give two candidates"):
        design("best over worst", "test", (4, 1), cases=2)
    with pytest.raises(DataError, match=r"noise of shape \(2,\) does not fit \(4000, 3\)"):
        null_band(np.array([0.1, 0.2]), design("best over worst", "test", 4, cases=3))
    with pytest.raises(DataError, match=r"give numbers >= 0"):
        null_band(np.array([-0.1]), design("best over worst", "test", 4, cases=1))
