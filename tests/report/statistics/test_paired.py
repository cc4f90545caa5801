"""Two configurations: hand values, the two limits of the interval, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest
from scipy import stats

from kdcache.core.errors import DataError
from kdcache.metrics import METRICS
from kdcache.metrics.bleu import bleu_statistics
from kdcache.report.statistics.family import detectable
from kdcache.report.statistics.paired import MANY_SEEDS, Side, multi_bootstrap, paired, spread
from kdcache.report.statistics.resample import resampled_scores


def side(scores, noise=None):
    """A side whose resamples are its scores plus `noise` [B, S], or exactly its scores."""
    values = np.asarray(scores, dtype=np.float64)
    return Side(scores=values, resampled=values + (np.zeros((200, len(values))) if noise is None else noise))


def common_noise(num_seeds, sd, seed=0):
    """Noise of examples that all seeds share, of mean 0 and standard deviation `sd` exactly."""
    z = np.random.default_rng(seed).standard_normal(4000)
    return np.repeat(((z - z.mean()) / z.std() * sd)[:, None], num_seeds, axis=1)


def test_without_noise_of_the_examples_it_is_scipys_paired_t_test():
    a, b = np.array([0.80, 0.82, 0.79, 0.81]), np.array([0.83, 0.83, 0.84, 0.82])
    found = paired(side(a), side(b), higher_is_better=True)
    oracle = stats.ttest_rel(b, a)
    ends = oracle.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
    assert found.p == pytest.approx(oracle.pvalue)
    assert found.degrees == pytest.approx(3)
    assert found.difference == pytest.approx(0.025)
    assert found.gain == pytest.approx(100 * (0.83 / 0.805 - 1))
    assert (found.seeds, found.examples_only, found.probability) == (4, False, 15.5 / 16)


def test_without_noise_of_the_seeds_it_is_the_normal_interval_of_the_examples():
    noise = common_noise(3, 0.01)
    a, b = side([0.80, 0.81, 0.82], np.zeros_like(noise)), side([0.81, 0.82, 0.83], noise)
    found = paired(a, b, higher_is_better=True)
    assert found.low == pytest.approx(0.01 - 1.959964 * 0.01, abs=1e-6)
    assert found.p == pytest.approx(2 * stats.norm.sf(1.0), abs=1e-6)
    assert found.degrees > 1e6
    assert found.detectable == pytest.approx(2.8016 * 0.01, rel=1e-4)


def test_the_variances_of_seeds_and_examples_add():
    noise = common_noise(2, 0.02)
    found = paired(side([0.0, 0.0], np.zeros_like(noise)), side([0.01, 0.03], noise), higher_is_better=True)
    assert found.standard_error == pytest.approx(
        np.hypot(0.02 / 2**0.5 / 2**0.5, 0.02), rel=1e-6
    )  # sd of 1, 3 is 2**.5
    assert found.detectable == pytest.approx(detectable(found.standard_error, found.degrees))


def test_noise_of_an_example_at_a_seed_is_not_counted_twice():
    rng = np.random.default_rng(0)
    num_examples, num_seeds = 400, 4
    values = rng.standard_normal((num_examples, num_seeds)) + 0.05
    resampled = resampled_scores(values[..., None], lambda sums: sums[..., 0] / num_examples, resamples=2000, seed=0)
    found = spread(values.mean(axis=0), resampled, seed=0)
    once = values.mean(axis=0).std(ddof=1) / np.sqrt(num_seeds)
    assert found.standard_error == pytest.approx(once, rel=0.12)  # twice would be more by a factor of 1.41


def test_where_lower_is_better_the_signs_turn():
    a, b = side([2.0, 2.2, 2.1]), side([1.9, 1.8, 2.0])
    down, up = paired(a, b, higher_is_better=False), paired(a, b, higher_is_better=True)
    assert (down.difference, down.low, down.high) == pytest.approx((-up.difference, -up.high, -up.low))
    assert (down.gain, down.probability) == pytest.approx((-up.gain, 1 - up.probability))
    assert down.difference == pytest.approx(0.2)


def test_one_seed_gives_the_examples_percentiles_and_says_so():
    noise = np.linspace(-0.02, 0.02, 401)[:, None]
    found = paired(side([0.80], np.zeros_like(noise)), side([0.81], noise), higher_is_better=True)
    assert (found.low, found.high) == pytest.approx((0.01 - 0.019, 0.01 + 0.019))
    assert found.p == pytest.approx((1 + 202) / 402, abs=2 / 402)
    assert found.examples_only
    assert found.method == "bootstrap over examples"
    assert (found.probability, found.detectable, found.degrees) == (None, None, None)


def test_from_thirty_seeds_on_seeds_and_examples_are_resampled_together():
    rng = np.random.default_rng(1)
    d = rng.normal(0.01, 0.02, MANY_SEEDS)
    noise = np.repeat(rng.normal(0, 0.003, 4000)[:, None], MANY_SEEDS, axis=1)
    found = paired(side(np.zeros(MANY_SEEDS), np.zeros_like(noise)), side(d, noise), higher_is_better=True)
    error = np.hypot(d.std() / np.sqrt(MANY_SEEDS), 0.003)
    assert found.standard_error == pytest.approx(error, rel=0.05)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.07)
    assert found.method == "bootstrap over seeds and examples"
    assert found.detectable == pytest.approx(2.8 * error, rel=0.1)


def test_the_multi_bootstrap_of_two_seeds_gives_each_alone_a_quarter_of_the_time():
    means = multi_bootstrap(np.tile([0.0, 1.0], (20_000, 1)), seed=0)
    assert set(means) == {0.0, 0.5, 1.0}
    assert (means == 0.5).mean() == pytest.approx(0.5, abs=0.015)


def test_a_run_against_itself_shows_no_difference_with_certainty():
    found = paired(side([0.8, 0.9]), side([0.8, 0.9]), higher_is_better=True)
    assert (found.difference, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    assert found.probability == 0.5


def test_a_constant_difference_without_noise_has_the_least_p_of_the_resamples():
    assert paired(side([0.5, 0.7]), side([0.75, 0.95]), higher_is_better=True).p == pytest.approx(1 / 201)


def test_a_resample_without_a_score_leaves_the_difference_and_no_interval():
    noise = np.zeros((5, 2))
    noise[3, 1] = np.nan
    found = paired(side([1.0, 2.0], noise), side([2.0, 3.0], np.zeros((5, 2))), higher_is_better=True)
    assert found.difference == 1.0
    assert (found.low, found.high, found.p, found.standard_error, found.detectable) == (None,) * 5
    assert found.method == "no interval: a resample of the examples has no score"


def test_no_gain_over_a_score_of_zero():
    assert paired(side([0.0, 0.0]), side([0.5, 0.6]), higher_is_better=True).gain is None


def test_sides_of_other_seeds_and_without_seeds_are_refused():
    with pytest.raises(DataError, match=r"shapes .*\(2,\).*\(3,\).*; both need \[S\] and \[B, S\] alike"):
        paired(side([1.0, 2.0]), side([1.0, 2.0, 3.0]), higher_is_better=True)
    with pytest.raises(DataError, match=r"have no seed in common; compare runs of the same seeds"):
        paired(side([]), side([]), higher_is_better=True)


def translations(num_sentences=150):
    """References, and two systems that replace some of their words, the second fewer."""
    rng = np.random.default_rng(5)
    words = np.array("the a cat dog house sees runs over red old small tree under with and".split())  # noqa: SIM905
    references = [" ".join(rng.choice(words, rng.integers(6, 15))) for _ in range(num_sentences)]

    def spoil(sentence, share):
        return " ".join(rng.choice(words) if rng.random() < share else word for word in sentence.split())

    return references, *([spoil(r, share) for r in references] for share in (0.32, 0.28))


RESAMPLES = 4000


@pytest.fixture(scope="module")
def bleu_pair():
    """References, hypotheses of both, resampled BLEU [B, 2], and what `paired` says."""
    references, worse, better = translations()
    statistics = np.stack([bleu_statistics(worse, references), bleu_statistics(better, references)], axis=1)
    finish = METRICS["bleu"].finish
    scores = resampled_scores(statistics, finish, resamples=RESAMPLES, seed=0)
    points = finish(statistics.sum(axis=0))
    a, b = (Side(scores=points[[i]], resampled=scores[:, [i]]) for i in (0, 1))
    return references, worse, better, scores, paired(a, b, higher_is_better=True)


def sacrebleus(bleu_pair, kind):
    references, worse, better, *_ = bleu_pair
    systems = [("baseline", worse), ("system", better)]
    _, results = PairedTest(systems, {"BLEU": BLEU()}, [references], kind, n_samples=RESAMPLES)()
    return results["BLEU"]


def test_one_seed_agrees_with_sacrebleus_paired_bootstrap(bleu_pair):
    *_, scores, found = bleu_pair
    baseline, system = sacrebleus(bleu_pair, "bs")
    assert 100 * found.difference == pytest.approx(system.score - baseline.score, abs=1e-9)
    assert 100 * scores[:, 1].mean() == pytest.approx(system.mean, abs=0.15)
    low, high = np.quantile(scores[:, 1], [0.025, 0.975])
    assert 100 * (high - low) / 2 == pytest.approx(system.ci, rel=0.06)
    # Its p is of differences without their signs, centred: the same count on ours.
    folded = np.abs(scores[:, 1] - scores[:, 0])
    p = (1 + (folded - folded.mean() >= found.difference).sum()) / (RESAMPLES + 1)
    error = np.sqrt(2 * p * (1 - p) / RESAMPLES)
    assert 0.005 < p < 0.5
    assert system.p_value == pytest.approx(p, abs=4 * error)
    # Ours counts both tails: twice that of a difference whose resamples hardly change their sign.
    assert found.p == pytest.approx(2 * p, rel=0.35)


def test_one_seed_agrees_with_sacrebleus_two_sided_randomisation_test(bleu_pair):
    found = bleu_pair[-1]
    system = sacrebleus(bleu_pair, "ar")[1]
    assert 0.01 < found.p < 0.5
    assert found.p == pytest.approx(system.p_value, abs=0.03)
