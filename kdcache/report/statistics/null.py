"""Null bands: the decile curves that seed noise alone would draw, were all configurations equally good.

A simulated study has C cases of n_c candidates; the test score of a candidate is 1 + sd_c/100 z, its validation score
an independent draw. Gains are picked and divided as in the real study, then sorted into D0 ... D10.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kdcache.core.errors import DataError
from kdcache.report.statistics.resample import LEVEL, Array

# N simulations, n of one chunk  C cases  K candidates at most  11 deciles

Gain = Literal["best over worst", "best over random", "one over another"]
"""What is divided by what: extremes of the candidates, the best by the mean of all, or any two."""

Pick = Literal["test", "validation"]
"""Who picks best and worst: an oracle, or what a user can do."""

SIMULATIONS = 4_000
STREAM = 4
CHUNK_CELLS = 2**20
MEDIAN, LOG_SD = 0.4, 0.8
"""Lognormal model of seed noise over cases, per cent of the score, for a study without replicated seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """D0 ... D10 of pure noise, per cent, each [11].

    Attributes:
        low, median, high, mean: of each decile apart: 95 % of null studies have D_k within low_k and high_k.
        joint_low, joint_high: 95 % of null studies have their whole curve in between.
        simulations: how many.
    """

    low: tuple[float, ...]
    median: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    joint_low: tuple[float, ...]
    joint_high: tuple[float, ...]
    simulations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """Of the study to imitate.

    Attributes:
        gain, pick: which curve; the pick of `one over another` is irrelevant.
        candidates: in each case [C], >= 2.
        seeds: runs that a score is the mean of, in each case [C].
    """

    gain: Gain
    pick: Pick
    candidates: tuple[int, ...]
    seeds: tuple[int, ...]


def design(gain: Gain, pick: Pick, candidates: Sequence[int] | int, *, cases: int, seeds: int = 1) -> Design:
    """A design of `cases` cases; one number of candidates for all, or one for each.

    Raises:
        DataError: no cases, a case with fewer than two candidates, or not one number a case.
    """
    each = (candidates,) * cases if isinstance(candidates, int) else tuple(candidates)
    if cases < 1 or len(each) != cases or min(each) < 2 or seeds < 1:
        raise DataError(
            f"a null band of {cases} cases, candidates {each} and {seeds} seeds is no study; "
            "give two candidates or more for each case, and a seed or more"
        )
    return Design(gain=gain, pick=pick, candidates=each, seeds=(seeds,) * cases)


def noise_percent(scores: Iterable[Sequence[float]]) -> float | None:
    """Standard deviation between seeds in per cent of the score, pooled within configurations.

        sd = 100 sqrt(sum_i (S_i - 1) (s_i / mean_i)^2 / sum_i (S_i - 1))

    Args:
        scores: of each configuration of a case, one a seed; those with one seed, or of mean 0, tell nothing.

    Returns:
        None if no configuration has two seeds.

    Example:
        >>> noise_percent([[99.0, 101.0], [50.0]]).__round__(6)
        1.414214
    """
    squares, degrees = 0.0, 0
    for own in scores:
        if len(own) > 1 and np.mean(own) != 0:
            squares += (len(own) - 1) * float(np.var(own, ddof=1) / np.mean(own) ** 2)
            degrees += len(own) - 1
    return 100.0 * float(np.sqrt(squares / degrees)) if degrees else None


def lognormal_noise(
    cases: int, *, simulations: int = SIMULATIONS, seed: int = 0, median: float = MEDIAN, log_sd: float = LOG_SD
) -> Array:
    """Standard deviations in per cent for every simulation and case, float64 [N, C], from the lognormal model."""
    generator = np.random.default_rng([seed, STREAM, 0])
    return np.asarray(median * np.exp(log_sd * generator.standard_normal((simulations, cases))), dtype=np.float64)


def null_band(noise: Array, of: Design, *, simulations: int = SIMULATIONS, seed: int = 0) -> Band:
    """Band of a decile curve under pure noise.

    Args:
        noise: standard deviation between single runs, per cent, float64 [C], or [N, C] if it varies by simulation.
        of: the study.
        simulations: N.
        seed: >= 0.

    Raises:
        DataError: noise of another shape, negative, or not a number.
    """
    curves = simulate(noise, of, simulations=simulations, seed=seed)
    tail = (1 - LEVEL) / 2
    low, median, high = np.quantile(curves, [tail, 0.5, 1 - tail], axis=0)
    joint_low, joint_high = _joint(curves)
    return Band(
        low=tuple(low.tolist()),
        median=tuple(median.tolist()),
        high=tuple(high.tolist()),
        mean=tuple(curves.mean(axis=0).tolist()),
        joint_low=tuple(joint_low.tolist()),
        joint_high=tuple(joint_high.tolist()),
        simulations=simulations,
    )


def simulate(noise: Array, of: Design, *, simulations: int = SIMULATIONS, seed: int = 0) -> Array:
    """Decile curves of simulated null studies, float64 [N, 11], per cent; arguments and errors as in `null_band`."""
    shape = (simulations, len(of.candidates))
    noise = np.asarray(noise, dtype=np.float64)
    if noise.shape not in (shape, shape[1:]) or not (np.isfinite(noise) & (noise >= 0)).all():
        raise DataError(f"noise of shape {noise.shape} does not fit {shape}; give numbers >= 0, one for each case")
    sd_NC = np.broadcast_to(noise / 100.0, shape) / np.sqrt(of.seeds)
    gains = np.concatenate(list(_gains(sd_NC, of, np.random.default_rng([seed, STREAM, 1]))))
    return np.asarray(np.quantile(100.0 * gains, np.arange(11) / 10, axis=1, method="linear").T)


def _gains(sd_NC: Array, of: Design, generator: np.random.Generator) -> Iterator[Array]:
    """Gain - 1 of every case, chunk by chunk [n, C]."""
    num_cases, most = len(of.candidates), max(of.candidates)
    present_CK = np.arange(most) < np.asarray(of.candidates)[:, None]
    chunk = max(1, CHUNK_CELLS // (num_cases * most))
    for start in range(0, len(sd_NC), chunk):
        sd_nC1 = sd_NC[start : start + chunk, :, None]
        test_nCK = 1 + sd_nC1 * generator.standard_normal((len(sd_nC1), num_cases, most))
        if of.gain == "one over another":
            yield test_nCK[..., 0] / test_nCK[..., 1] - 1
            continue
        judge = test_nCK if of.pick == "test" else generator.standard_normal(test_nCK.shape)
        best = _take(test_nCK, np.argmax(np.where(present_CK, judge, -np.inf), axis=-1))
        if of.gain == "best over worst":
            base = _take(test_nCK, np.argmin(np.where(present_CK, judge, np.inf), axis=-1))
        else:
            base = test_nCK.mean(axis=-1, where=present_CK)
        yield best / base - 1


def _take(values_nCK: Array, index_nC: np.ndarray) -> Array:
    return np.asarray(np.take_along_axis(values_nCK, index_nC[..., None], axis=-1)[..., 0])


def _joint(curves_N11: Array) -> tuple[Array, Array]:
    """Envelope of the 95 % of curves whose worst decile is least extreme by rank (Myllymaki et al. 2017, JRSS B 79)."""
    ranks = np.argsort(np.argsort(curves_N11, axis=0), axis=0)
    extreme_N = np.minimum(ranks, len(ranks) - 1 - ranks).min(axis=1)
    inner = curves_N11[extreme_N >= np.quantile(extreme_N, 1 - LEVEL, method="lower")]
    return inner.min(axis=0), inner.max(axis=0)
