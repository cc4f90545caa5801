"""Studies in memory for the tests of what is shown: many cases, few, one; noise between seeds or none."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from kdcache.core.configuration import Configuration
from kdcache.report.options import Options
from kdcache.report.study import Study, examine
from tests.report.synthetic import additive, full_case

HOSTILE = "<script>alert('1')</script> & \"$x^2\""
"""A name that would do harm if it were not escaped."""


def noisy(sd: float, seed: int):
    """Scores of additive effects with noise between runs: t_ll helps, MSE hurts, tau_s = 1 helps a little."""
    generator = np.random.default_rng(seed)
    exact = additive(0.01, -0.01, 0.002)

    def score(c: Configuration):
        value = exact(c)[0]
        return value + generator.normal(0, sd), value + generator.normal(0, sd)

    return score


@functools.cache
def study(cases: int, seeds: int = 3, *, datasets: int = 0, published: bool = False) -> Study:
    """So many cases, of two students to a dataset, or of `datasets` datasets."""
    number = datasets or max(1, cases // 2)
    made = [
        full_case(noisy(0.002, i), seeds=range(seeds), dataset=f"d{i % number:02d}", student=f"s{i // number}")
        for i in range(cases)
    ]
    return examine(made, resamples=100, seed=0, options=Options(against_published=published))


def hostile() -> Study:
    """Two cases whose names are code."""
    made = [full_case(noisy(0.002, i), dataset=HOSTILE, student=f"{HOSTILE} {i}") for i in range(2)]
    return examine(made, resamples=100, seed=0)


def changed(of: Study, **findings) -> Study:
    """The study with other findings."""
    return replace(of, findings=replace(of.findings, **findings))
