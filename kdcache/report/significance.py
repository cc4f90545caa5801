"""What is more than chance: paired comparisons in a case, gains over cases, null bands. Joins runs and `statistics`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kdcache.report.answers import NullBand, Pick
from kdcache.report.cases import Played
from kdcache.report.deciles import Bands
from kdcache.report.declared import Declared, Strategy
from kdcache.report.evidence import AcrossCases, PairedComparison
from kdcache.report.gain import Sampled
from kdcache.report.options import Options
from kdcache.report.statistics.bayes import bayesian_signed_rank
from kdcache.report.statistics.clusters import cluster_mean, dataset_means, signed_rank
from kdcache.report.statistics.family import holm
from kdcache.report.statistics.null import Design, Gain, null_band
from kdcache.report.statistics.paired import Side
from kdcache.report.statistics.paired import paired as compare_sides
from kdcache.report.trials import Trained

# C cases


def paired(declared: Sequence[Declared], sampled: Mapping[str, Sampled], *, seed: int) -> tuple[PairedComparison, ...]:
    """Every comparison on the seeds that both sides have, those without a common seed left out.

    Args:
        sampled: case name -> resampled scores of its runs.
        seed: of resampled seeds.
    """
    found: list[tuple[PairedComparison, bool]] = []
    for asked in declared:
        own = sampled[asked.case.name]
        up = asked.case.case.metric.higher_is_better
        comparison = compare_trained(asked.a, asked.b, (own, own), higher_is_better=up, seed=seed)
        if comparison is not None:
            found.append((replace(comparison, case=asked.case.name), asked.declared))
    return _with_holm(found)


def _with_holm(found: Sequence[tuple[PairedComparison, bool]]) -> tuple[PairedComparison, ...]:
    """Holm over the declared comparisons that have a p."""
    family = [i for i, (comparison, declared) in enumerate(found) if declared and comparison.p is not None]
    adjusted = dict(zip(family, holm([found[i][0].p or 0.0 for i in family]), strict=True))
    return tuple(replace(comparison, holm_p=adjusted.get(i)) for i, (comparison, _) in enumerate(found))


def compare_trained(
    a: Trained, b: Trained, sampled: tuple[Sampled, Sampled], *, higher_is_better: bool, seed: int
) -> PairedComparison | None:
    """b against a on their common seeds; None without one. `sampled` is of a's case and of b's."""
    seeds = tuple(s for s in a.runs if s in b.runs)
    if not seeds:
        return None
    sides = [_side(trained, own, seeds) for trained, own in zip((a, b), sampled, strict=True)]
    found = compare_sides(*sides, higher_is_better=higher_is_better, seed=seed)
    first = a.runs[seeds[0]].result
    return PairedComparison(
        case=f"{first.dataset}, {first.student}",
        metric=first.metric,
        a=a.label,
        b=b.label,
        difference=found.difference,
        low=found.low,
        high=found.high,
        gain=found.gain,
        p=found.p,
        holm_p=None,
        method=found.method,
        covers="examples" if found.examples_only else "seeds and examples",
        seeds=seeds,
        probability=found.probability,
        detectable=found.detectable,
    )


def _side(trained: Trained, sampled: Sampled, seeds: Sequence[int]) -> Side:
    columns = [sampled.columns[trained.runs[s].folder] for s in seeds]
    scores = np.array([trained.runs[s].test for s in seeds])
    return Side(scores=scores, resampled=np.ascontiguousarray(sampled.scores[:, columns]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Across:
    """How gains over cases are judged: the region of equivalence in per cent, resamples of datasets, their seed."""

    rope: float
    resamples: int
    seed: int

    def interval(self, gains_C: NDArray[np.float64], datasets: Sequence[str]) -> tuple[float, float] | None:
        """Of the mean, over datasets; None with one dataset."""
        found = cluster_mean(gains_C, datasets, resamples=self.resamples, seed=self.seed)
        return None if found.low is None or found.high is None else (found.low, found.high)

    def compare(self, asked: Strategy) -> AcrossCases:
        """b over a in every case that has both."""
        gains_C = np.array(asked.gains)
        mean = cluster_mean(gains_C, asked.datasets, resamples=self.resamples, seed=self.seed)
        several = mean.datasets > 1
        means_G = dataset_means(gains_C, asked.datasets)
        posterior = bayesian_signed_rank(means_G, rope=self.rope, seed=self.seed) if several else None
        return AcrossCases(
            a=asked.a,
            b=asked.b,
            gains=asked.gains,
            cases=asked.cases,
            mean=mean.mean,
            low=mean.low,
            high=mean.high,
            datasets=mean.datasets,
            wilcoxon_p=signed_rank(gains_C, asked.datasets).p,
            worse=None if posterior is None else posterior.worse,
            equal=None if posterior is None else posterior.equal,
            better=None if posterior is None else posterior.better,
            rope=self.rope,
        )


def null_bands(played: Sequence[Played], options: Options, seed: int) -> Bands | None:
    """How to make the band of any curve of these cases; None where noise is neither known nor given.

    Cases without replicated seeds take the median standard deviation of the others.
    """
    noise = {case.name: case.noise_sd for case in played}
    known = [sd for sd in noise.values() if sd is not None]
    if options.noise_sd is None and not known:
        return None
    source = noise_text(played, options)

    def band(own: Sequence[Played], like: Gain, by: Pick) -> NullBand | None:
        if options.noise_sd is not None:
            sds = [options.noise_sd] * len(own)
        else:
            sds = [float(np.median(known)) if (sd := noise[case.name]) is None else sd for case in own]
        distinct = [len({id(candidate) for candidate in case.candidates}) for case in own]
        design = Design(
            gain=like,
            pick=by,
            candidates=tuple(max(2, number) for number in distinct),
            seeds=tuple(min(len(c.runs) for c in case.candidates) for case in own),
        )
        found = null_band(np.array(sds), design, seed=seed)
        return NullBand(
            low=found.low,
            median=found.median,
            high=found.high,
            source=source,
            noise_sd=tuple(sds),
            simulations=found.simulations,
        )

    return band


def noise_text(played: Sequence[Played], options: Options) -> str:
    """Where null bands come from, in words."""
    if options.noise_sd is not None:
        return f"a given standard deviation of {options.noise_sd:g} % between seeds (--noise-sd)"
    known = [case.noise_sd for case in played if case.noise_sd is not None]
    if not known:
        return "unknown: no configuration was trained with more than one seed, and no --noise-sd was given"
    rest = len(played) - len(known)
    others = f"; {rest} of {len(played)} cases have none and take the median of the others" if rest else ""
    return f"replicated seeds, pooled in each case (median {np.median(known):.2g} %){others}"
