"""Contrasts of a two-level design against least squares and a known truth."""

from __future__ import annotations

import numpy as np
import pytest

from kdcache.core.errors import DataError
from kdcache.report.statistics.factorial import factorial_contrasts

FACTORS = ("loss", "teacher", "tau_s")


def test_a_known_truth_is_found():
    side = np.array([-1.0, 1.0])
    loss, teacher, tau_s = side[:, None, None], side[None, :, None], side[None, None, :]
    scores = 80 - 1.0 * loss + 0.5 * teacher + 0 * tau_s + 0.25 * loss * tau_s
    found = factorial_contrasts(scores, FACTORS)
    expected = {("loss",): -2.0, ("teacher",): 1.0, ("loss", "tau_s"): 0.5}
    assert len(found) == 6
    for name, effect in found.items():
        assert float(effect) == pytest.approx(expected.get(name, 0.0))


def test_contrasts_are_least_squares_for_every_case_at_once():
    scores = np.random.default_rng(0).random((5, 2, 2, 2))
    found = factorial_contrasts(scores, FACTORS)
    x = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1], indexing="ij"), axis=-1).reshape(8, 3)
    design = np.column_stack([np.ones(8), x, x[:, 0] * x[:, 1], x[:, 0] * x[:, 2], x[:, 1] * x[:, 2]])
    coefficients = np.linalg.lstsq(design, scores.reshape(5, 8).T, rcond=None)[0]
    np.testing.assert_allclose(np.stack(list(found.values())), 2 * coefficients[1:], atol=1e-12)


def test_scores_that_are_no_two_level_design_are_refused():
    with pytest.raises(DataError, match=r"shape \(2, 3, 2\) are no two-level design of loss, teacher, tau_s"):
        factorial_contrasts(np.zeros((2, 3, 2)), FACTORS)
