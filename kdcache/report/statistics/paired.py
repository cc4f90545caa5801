"""Two configurations of one case: difference, interval and p over the seeds that both have and the test examples.

A score varies with the seed and with the examples that happen to be in the test set. With d_s the difference at seed s,

    var(mean_s d_s) = var_seeds(d_s) / S + var_examples        both estimated, see `_total_variance`

With one seed there is only the second part. From `MANY_SEEDS` on both are resampled together (multi-bootstrap). With
fewer its percentiles are too narrow (docs/statistics.md): there the interval is that of Behrens and Fisher, for the sum

    sqrt(var_seeds / S) t_(S-1) + sqrt(var_examples) z

which is the t interval over seeds where examples do not matter, and the normal one where seeds do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize, special, stats

from kdcache.core.errors import DataError
from kdcache.report.statistics.family import detectable, probability_of_improvement
from kdcache.report.statistics.resample import LEVEL, Array, gain_percent, interval, two_sided_p

# B resamples of the examples  S seeds  Q points of quadrature

MANY_SEEDS = 30
"""From here on percentiles of the multi-bootstrap are wide enough: 94 % where seeds dominate (91 % at 10 seeds)."""

QUADRATURE = 1_000
STREAM = 1
"""Of the generator that draws seeds; the examples' generator is another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The runs of one configuration, one a seed.

    Attributes:
        scores: on the whole test set, float64 [S].
        resampled: the same runs on resampled examples, float64 [B, S]; the same resamples for both sides.
    """

    scores: Array
    resampled: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """b against a, positive where b is better, in the metric's unit.

    Attributes:
        difference: mean over seeds on the whole test set.
        gain: of the means, per cent of a's; None where that is 0.
        low, high, p: interval at the level asked for, two-sided p of no difference; None if a resample has no score.
        standard_error: of `difference`.
        degrees: of freedom of `standard_error` (Satterthwaite's approximation); None where percentiles were taken.
        method: how the interval was made, in words.
        seeds: how many.
        examples_only: one seed, so that the interval says nothing about another seed.
        probability: that a run of b scores better than one of a; None with one seed.
        detectable: least true difference found with power .8 at level .05; None with one seed.
    """

    difference: float
    gain: float | None
    low: float | None
    high: float | None
    p: float | None
    standard_error: float | None
    degrees: float | None
    method: str
    seeds: int
    examples_only: bool
    probability: float | None
    detectable: float | None


def paired(a: Side, b: Side, *, higher_is_better: bool, seed: int = 0, level: float = LEVEL) -> Paired:
    """Is b better than a? Column s of both sides is the same seed.

    Args:
        a, b: what is compared.
        higher_is_better: the metric's direction.
        seed: of the resampled seeds, >= 0.
        level: of the interval.

    Raises:
        DataError: no seeds, or sides that differ in seeds or resamples.

    References:
        Sellam et al. 2022, The MultiBERTs, ICLR; Robinson 1976, Annals of Statistics 4, on Behrens and Fisher.
    """
    _check(a, b)
    sign = 1.0 if higher_is_better else -1.0
    d_S, d_BS = sign * (b.scores - a.scores), sign * (b.resampled - a.resampled)
    num_seeds = len(d_S)
    found = spread(d_S, d_BS, seed=seed, level=level)
    gain = gain_percent(b.scores.mean(keepdims=True), a.scores.mean(keepdims=True), higher_is_better=higher_is_better)
    several = num_seeds > 1
    return Paired(
        difference=float(d_S.mean()),
        gain=float(gain[0]) if np.isfinite(gain[0]) else None,
        low=found.low,
        high=found.high,
        p=found.p,
        standard_error=found.standard_error,
        degrees=found.degrees,
        method=found.method,
        seeds=num_seeds,
        examples_only=not several,
        probability=probability_of_improvement(sign * a.scores, sign * b.scores) if several else None,
        detectable=_detectable(found, num_seeds),
    )


def _detectable(found: Spread, num_seeds: int) -> float | None:
    if found.standard_error is None or num_seeds == 1:
        return None
    return detectable(found.standard_error, num_seeds - 1 if found.degrees is None else found.degrees)


def multi_bootstrap(differences_BS: Array, *, seed: int) -> Array:
    """Mean difference with seeds and examples resampled together: S seeds drawn anew for every resample.

    Args:
        differences_BS: on resampled examples, float64 [B, S].
        seed: of the drawn seeds.

    Returns:
        float64 [B].
    """
    num_resamples, num_seeds = differences_BS.shape
    generator = np.random.default_rng([seed, STREAM])
    drawn_BS = generator.integers(num_seeds, size=(num_resamples, num_seeds))
    return np.asarray(np.take_along_axis(differences_BS, drawn_BS, axis=1).mean(axis=1), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How far the mean difference may be off; attributes are those of `Paired`."""

    low: float | None = None
    high: float | None = None
    p: float | None = None
    standard_error: float | None = None
    degrees: float | None = None
    method: str


def spread(d_S: Array, d_BS: Array, *, seed: int, level: float = LEVEL) -> Spread:
    """Interval and p of the mean of d_S, differences at each seed, [S], and on resampled examples, [B, S]."""
    num_seeds = len(d_S)
    if not (np.isfinite(d_BS).all() and np.isfinite(d_S).all()):
        return Spread(method="no interval: a resample of the examples has no score")
    if 1 < num_seeds < MANY_SEEDS:
        return _t_interval(d_S, d_BS, level=level)
    several = num_seeds > 1
    resampled_B = multi_bootstrap(d_BS, seed=seed) if several else d_BS[:, 0]
    low, high = interval(resampled_B, level=level) or (None, None)
    return Spread(
        low=low,
        high=high,
        p=two_sided_p(resampled_B, float(d_S.mean())),
        standard_error=float(resampled_B.std()),
        method="bootstrap over seeds and examples" if several else "bootstrap over examples",
    )


def _t_interval(d_S: Array, d_BS: Array, *, level: float) -> Spread:
    between, examples = _total_variance(d_S, d_BS)
    mean, variance, degrees = float(d_S.mean()), between + examples, len(d_S) - 1
    error = float(np.sqrt(variance))
    if error > 0:
        scales_Q = np.sqrt(between * _inverse_chi2(degrees)[0] + examples)
        p = _outside(abs(mean), scales_Q, degrees)
        widest = error * float(stats.t.ppf((1 + level) / 2, degrees))  # all of the variance as uncertain as the seeds'
        half = float(optimize.brentq(lambda x: _outside(x, scales_Q, degrees) - (1 - level), 0.0, 1.01 * widest))
    else:  # equal at every seed and on every resample: as far as these can tell there is no noise
        p, half = 1.0 if mean == 0 else 1 / (len(d_BS) + 1), 0.0
    return Spread(
        low=mean - half,
        high=mean + half,
        p=p,
        standard_error=error,
        degrees=degrees * (variance / between) ** 2 if between > 0 else float("inf"),
        method="t over seeds, with the bootstrap variance of the examples",
    )


def _outside(distance: float, scales_Q: Array, degrees: int) -> float:
    """P(|x| > distance) where x is normal with a scale that is `scales_Q` with the weights of `_inverse_chi2`."""
    return float(2 * special.ndtr(-distance / scales_Q) @ _inverse_chi2(degrees)[1])


@lru_cache(maxsize=MANY_SEEDS)
def _inverse_chi2(degrees: int) -> tuple[Array, Array]:
    """Points and weights [Q] of the distribution of degrees / chi2(degrees): by how much a sample variance may lie.

    The trapezoid rule in log chi2, where the density is smooth and vanishes at both ends, errs by less than 1e-10.
    """
    ends = np.log(stats.chi2.ppf([1e-13, 1 - 1e-13], degrees))
    log_Q = np.linspace(ends[0], ends[1], QUADRATURE)
    weights_Q = stats.chi2.pdf(np.exp(log_Q), degrees) * np.exp(log_Q)
    return np.asarray(degrees / np.exp(log_Q)), np.asarray(weights_Q / weights_Q.sum())


def _total_variance(d_S: Array, d_BS: Array) -> tuple[float, float]:
    """Variance of the mean difference in two independent parts: of the seeds, and of the examples.

    In d_si = mean + A_s + E_i + (AE)_si the variance of the mean is  A/S + E/I + AE/(S I).

    * The variance of d_S between seeds, on one test set, estimates A + AE/I; over S it is the first part.
    * The bootstrap variance of the mean over seeds estimates E/I + AE/(S I), whose second term is in the first part
      already. The bootstrap variance of the seeds' deviations from their mean estimates AE/I; over S it is taken off.
    """
    num_seeds = len(d_S)
    mean_B = d_BS.mean(axis=1)
    interaction = float((d_BS - mean_B[:, None]).var(axis=0).sum() / (num_seeds - 1))
    examples = max(0.0, float(mean_B.var()) - interaction / num_seeds)
    return float(d_S.var(ddof=1)) / num_seeds, examples


def _check(a: Side, b: Side) -> None:
    shapes = [(side.scores.shape, side.resampled.shape) for side in (a, b)]
    (points, resampled), other = shapes
    if (points, resampled) != other or len(points) != 1 or len(resampled) != 2 or resampled[1:] != points:
        raise DataError(f"paired sides have scores and resamples of shapes {shapes}; both need [S] and [B, S] alike")
    if points[0] == 0:
        raise DataError("paired sides have no seed in common; compare runs of the same seeds")
