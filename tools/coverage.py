"""Do the intervals of the comparison hold what they say? Studies with known truth: `python -m tools.coverage`.

Prints the tables of docs/statistics.md: coverage of the 95 % interval of a paired difference by number of seeds, source
of noise and method; of the mean over cases by number of datasets; false positives of a Holm family; and how many null
studies a null band holds. Figures outside 93 to 97 % are marked, not hidden.

A difference is d_si = A_s + E_i + (AE)_si with truth 0: a shift of the seed, a shift of the example, and what an
example does at a seed. All are normal, or exponential less its mean in the rows called skewed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kdcache.report.statistics.clusters import cluster_mean
from kdcache.report.statistics.family import holm
from kdcache.report.statistics.null import Design, design, lognormal_noise, null_band, simulate
from kdcache.report.statistics.paired import Spread, multi_bootstrap, spread
from kdcache.report.statistics.resample import Array, interval, resampled_scores

# N studies  I test examples  B resamples  S seeds  P comparisons of a family

NUM_SEEDS = (1, 2, 3, 5, 10, 20, 30)
NUM_EXAMPLES = 300
RESAMPLES = 1_000
BATCH = 100
METHODS = ("percentiles over examples", "multi-bootstrap percentiles", "kdcache")
Noise = Callable[[np.random.Generator, tuple[int, ...]], Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where noise comes from: variances of A_s, of E_i over I, and of (AE)_si over I, in any one unit."""

    name: str
    seeds: float
    examples: float
    interaction: float
    skewed: bool = False


SOURCES = (
    Source(name="seeds dominate", seeds=1.0, examples=0.01, interaction=0.01),
    Source(name="balanced", seeds=1.0, examples=0.5, interaction=0.5),
    Source(name="examples dominate", seeds=0.01, examples=0.5, interaction=0.5),
    Source(name="seeds dominate, skewed", seeds=1.0, examples=0.01, interaction=0.01, skewed=True),
)


def normal(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Standard normal numbers."""
    return np.asarray(generator.standard_normal(shape))


def skewed(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Exponential numbers of mean 0 and variance 1."""
    return np.asarray(generator.standard_exponential(shape) - 1)


def differences(source: Source, shape: tuple[int, int, int], generator: np.random.Generator) -> Array:
    """Per-example differences of N studies, truth 0, float64 [I, N, S]; `shape` is (I, N, S)."""
    num_examples, num_studies, num_seeds = shape
    draw: Noise = skewed if source.skewed else normal
    by_seed = np.sqrt(source.seeds) * draw(generator, (1, num_studies, num_seeds))
    by_example = np.sqrt(source.examples * num_examples) * draw(generator, (num_examples, num_studies, 1))
    by_both = np.sqrt(source.interaction * num_examples) * draw(generator, shape)
    return np.asarray(by_seed + by_example + by_both)


def spreads(values_INS: Array, *, resamples: int, seed: int) -> list[dict[str, Spread]]:
    """The interval of each study by each of `METHODS`; examples and their resamples as the report makes them."""
    num_examples, num_studies, num_seeds = values_INS.shape
    resampled = resampled_scores(
        values_INS.reshape(num_examples, -1, 1),
        lambda sums: sums[..., 0] / num_examples,
        resamples=resamples,
        seed=seed,
    ).reshape(resamples, num_studies, num_seeds)
    found = []
    for n, d_S in enumerate(values_INS.mean(axis=0)):
        d_BS = np.ascontiguousarray(resampled[:, n])
        plain, multi = interval(d_BS.mean(axis=1)), interval(multi_bootstrap(d_BS, seed=seed + n))
        ends = [Spread(low=pair[0], high=pair[1], method="") for pair in (plain, multi) if pair is not None]
        found.append(dict(zip(METHODS, [*ends, spread(d_S, d_BS, seed=seed + n)], strict=True)))
    return found


def coverage(source: Source, num_seeds: int, *, studies: int, seed: int) -> dict[str, float]:
    """Method -> share of studies whose interval holds the truth."""
    generator = np.random.default_rng([seed, num_seeds, SOURCES.index(source)])
    held = dict.fromkeys(METHODS, 0)
    for start in range(0, studies, BATCH):
        size = min(BATCH, studies - start)
        values = differences(source, (NUM_EXAMPLES, size, num_seeds), generator)
        for own in spreads(values, resamples=RESAMPLES, seed=seed + start):
            for method, one in own.items():
                held[method] += one.low is not None and one.high is not None and one.low <= 0 <= one.high
    return {method: count / studies for method, count in held.items()}


def false_positives(source: Source, num_seeds: int, *, comparisons: int, studies: int, seed: int) -> dict[str, float]:
    """Share of null studies with any p <= .05, after Holm and as they are: P rows against one baseline, no effect."""
    generator = np.random.default_rng([seed, num_seeds, comparisons])
    plain = adjusted = 0
    for n in range(studies):
        runs = differences(source, (NUM_EXAMPLES, comparisons + 1, num_seeds), generator)
        found = spreads(runs[:, 1:] - runs[:, :1], resamples=RESAMPLES, seed=seed + n)
        p = [own[METHODS[-1]].p for own in found]
        known = [value for value in p if value is not None]
        plain += min(known) <= 0.05
        adjusted += min(holm(known)) <= 0.05
    return {"Holm": adjusted / studies, "unadjusted": plain / studies}


def cluster_coverage(
    num_datasets: int, *, share: float, studies: int, seed: int, students: int = 3
) -> dict[str, float]:
    """Of the mean over cases, by kdcache and by percentiles over cases; `share` of the variance is the dataset's."""
    generator = np.random.default_rng([seed, num_datasets])
    names = [str(g) for g in range(num_datasets) for _ in range(students)]
    held = {"percentiles over cases": 0, "kdcache": 0}
    for n in range(studies):
        by_dataset = np.repeat(generator.standard_normal(num_datasets), students) * np.sqrt(share)
        values = by_dataset + np.sqrt(1 - share) * generator.standard_normal(len(names))
        drawn = values[generator.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
        plain = interval(drawn)
        held["percentiles over cases"] += plain is not None and plain[0] <= 0 <= plain[1]
        own = cluster_mean(values, names, resamples=RESAMPLES, seed=seed + n)
        held["kdcache"] += own.low is not None and own.high is not None and own.low <= 0 <= own.high
    return {method: count / studies for method, count in held.items()}


def null_contained(noise: Array, of: Design, *, simulations: int, seed: int) -> dict[str, float]:
    """Share of fresh null studies that a band holds: least and mean over the deciles, and whole curves."""
    band = null_band(noise, of, simulations=simulations, seed=seed)
    fresh = simulate(noise, of, simulations=simulations, seed=seed + 1)
    apart = ((np.array(band.low) <= fresh) & (fresh <= np.array(band.high))).mean(axis=0)
    joint = ((np.array(band.joint_low) <= fresh) & (fresh <= np.array(band.joint_high))).all(axis=1)
    return {"least decile": float(apart.min()), "mean": float(apart.mean()), "whole curve": float(joint.mean())}


def row(label: Sequence[object], figures: Sequence[float], *, judge: int | None = None) -> str:
    """A line of a Markdown table in per cent; the judged figure is marked where it is outside 93 to 97."""
    cells = [f"{100 * figure:.1f}" for figure in figures]
    if judge is not None and not 0.93 <= figures[judge] <= 0.97:
        cells[judge] += " (outside)"
    return "| " + " | ".join([*(str(part) for part in label), *cells]) + " |"


def header(*names: str) -> str:
    """The two first lines of a Markdown table."""
    return "| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|"


def main() -> None:
    """Run all simulations and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2_000, help="simulated studies for each figure")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    studies, seed, start = options.studies, options.seed, time.perf_counter()

    print(header("noise", "seeds", *METHODS))
    for source in SOURCES:
        for num_seeds in NUM_SEEDS:
            found = coverage(source, num_seeds, studies=studies, seed=seed)
            print(row([source.name, num_seeds], list(found.values()), judge=2), flush=True)
    print("\n" + header("noise", "seeds", "comparisons", "any p <= .05 after Holm", "unadjusted"))
    for source in SOURCES[:3]:
        for num_seeds in (3, 10):
            false = false_positives(source, num_seeds, comparisons=8, studies=studies // 2, seed=seed)
            print(row([source.name, num_seeds, 8], list(false.values())), flush=True)
    print("\n" + header("datasets", "cases", "variance of the dataset", "percentiles over cases", "kdcache"))
    for num_datasets in (2, 3, 4, 6, 9, 10, 13):
        for share in (0.3, 0.9):
            held = cluster_coverage(num_datasets, share=share, studies=studies, seed=seed)
            print(
                row([num_datasets, 3 * num_datasets, f"{100 * share:.0f} %"], list(held.values()), judge=1), flush=True
            )
    print("\n" + header("curve", "candidates", "least decile", "mean of deciles", "whole curve in joint band"))
    fixed = lognormal_noise(39, simulations=1, seed=seed)[0]
    for candidates in (4, 13):
        for of in (
            design("best over worst", "test", candidates, cases=39),
            design("best over random", "validation", candidates, cases=39),
            design("one over another", "validation", candidates, cases=39),
        ):
            contained = null_contained(fixed, of, simulations=10_000, seed=seed)
            print(row([f"{of.gain}, by {of.pick}", candidates], list(contained.values())), flush=True)
    print(f"\n{studies} studies a figure, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
