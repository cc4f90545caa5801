"""All findings together, on cases in memory: what is declared, what needs seeds, what cannot be computed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kdcache.core.configuration import Configuration
from kdcache.core.design import HARD
from kdcache.core.errors import ConfigError
from kdcache.report.csvs import csv_files
from kdcache.report.options import Options
from kdcache.report.study import examine
from tests.report.synthetic import additive, case, full_case, run, thirty_nine

CE = Configuration(teacher="t_hs", tau_t=4.0)


def noisy(sd: float, seed: int = 0):
    """Scores of `additive(.01, -.01, .002)` with noise between runs."""
    generator = np.random.default_rng(seed)
    exact = additive(0.01, -0.01, 0.002)

    def score(c: Configuration):
        value = exact(c)[0]
        return value + generator.normal(0, sd), value + generator.normal(0, sd)

    return score


def concluded(cases, **options):
    return examine(cases, resamples=200, seed=0, options=Options(**options)).findings


@pytest.fixture(scope="module")
def seeded():
    """Four datasets, two students, three seeds each."""
    places = [(d, s) for d in ("a", "b", "c", "d") for s in ("base", "four")]
    return [
        full_case(noisy(0.002, i), seeds=(0, 1, 2), dataset=dataset, student=student)
        for i, (dataset, student) in enumerate(places)
    ]


@pytest.fixture(scope="module")
def findings(seeded):
    return concluded(seeded)


def test_everything_is_there_where_there_are_seeds_and_datasets(findings):
    assert len(findings.cases) == 8
    assert [(d.name, d.by) for d in findings.figure1] == [
        ("best over worst", "test"),
        ("best over random", "test"),
        ("best over worst", "validation"),
        ("best over random", "validation"),
    ]
    assert all(d.null is not None and len(d.null.low) == 11 for d in (*findings.figure1, *findings.figure2))
    assert findings.noise.startswith("replicated seeds, pooled in each case (median 0.")
    assert {c.shared_seeds for c in findings.cases} == {(0, 1, 2)}
    assert findings.stable[0].label == "ce t_ll tau_s=1"
    assert (findings.missing, findings.complete, findings.unavailable, findings.excluded) == ((), "", (), ())
    assert (findings.baseline, findings.design) == ("hard labels", "greedy")
    assert findings.published is findings.two_runs is None


def test_noise_is_estimated_in_each_case(findings):
    assert np.median([c.noise_sd for c in findings.cases]) == pytest.approx(100 * 0.002 / 0.79, rel=0.15)


def test_holm_is_over_the_declared_comparisons_alone(findings):
    declared = [c for c in findings.paired if c.holm_p is not None]
    assert all(c.holm_p >= c.p for c in declared)
    assert {c.a for c in findings.paired if c.holm_p is None} == {"hard labels"}
    smallest = min(declared, key=lambda c: c.p)
    assert smallest.holm_p == pytest.approx(min(1.0, smallest.p * len(declared)))
    assert all(c.covers == "seeds and examples" and c.probability is not None for c in findings.paired)


def test_over_cases_the_best_beats_hard_labels_by_more_than_the_rope(findings):
    across = {(a.a, a.b): a for a in findings.across}
    best = across["hard labels", "best by validation"]
    assert (best.datasets, len(best.gains)) == (4, 8)
    assert best.low > 10
    assert best.better > 0.9
    assert best.worse + best.equal + best.better == pytest.approx(1.0)
    assert best.wilcoxon_p is None  # four datasets cannot give a small p
    assert across["teacher = t_hs", "teacher = t_ll"].mean > 0


def test_a_family_of_ones_own_is_what_holm_counts(seeded):
    found = concluded(seeded[:1], family=("ce t_ll tau 4/1",))
    declared = [c for c in found.paired if c.holm_p is not None]
    assert [(c.a, c.b) for c in declared] == [("hard labels", "ce t_ll tau 4/1")]
    assert declared[0].holm_p == declared[0].p


def test_the_baseline_may_be_the_worst_or_any_label(seeded):
    worst = concluded(seeded[:1], baseline="worst")
    assert worst.baseline == "the worst candidate by validation"
    assert {c.a for c in worst.paired if c.holm_p is None} == {worst.cases[0].candidates[worst.cases[0].worst].label}
    label = concluded(seeded[:1], baseline="ce t_hs tau 1/1")
    assert label.baseline == "ce t_hs tau 1/1"
    assert "ce t_hs tau 1/1" in {c.a for c in label.paired}


def test_a_label_that_no_run_has_is_refused(seeded):
    with pytest.raises(ConfigError, match=r"^'ce best' is the label of no configuration among the runs; there are '"):
        concluded(seeded[:1], family=("ce best",))
    with pytest.raises(ConfigError, match=r" and \d+ more in results.csv$"):
        concluded(seeded[:1], baseline="nothing")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rope": -1.0}, "rope = -1.0 is no region of practical equivalence; give per cent >= 0"),
        ({"noise_sd": 0.0}, "noise_sd = 0.0 is no standard deviation; give per cent > 0"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(ConfigError) as caught:
        Options(**options)
    assert str(caught.value) == words


def test_two_configurations_of_one_case_give_what_makes_sense():
    found = concluded([case([run(CE, (0.8, 0.7)), run(replace(CE, loss="mse"), (0.9, 0.6))])])
    assert [(r.choice, r.tuned.plus, r.tuned.minus) for r in found.rewards] == [("loss", 1, 0)]
    assert found.figure2[0].gains == pytest.approx([100 * (0.6 / 0.7 - 1)])
    assert found.baseline == "the worst candidate by validation"
    assert found.figure1[0].null is None
    assert found.noise.startswith("unknown: no configuration was trained with more than one seed")
    assert found.unavailable == (
        "All cases are of one dataset (d00): no interval or test over datasets, and the stable configuration cannot be "
        "tested on a dataset left out.",
        "No null bands: no configuration was trained with more than one seed, so noise between seeds is unknown; train "
        "more seeds, or give --noise-sd PERCENT.",
    )
    assert [(m.wanted_by, m.seeds) for m in found.missing] == [("hard", (0,))]


def test_a_given_standard_deviation_makes_null_bands():
    runs = [run(CE, (0.8, 0.7)), run(replace(CE, loss="mse"), (0.9, 0.6))]
    found = concluded([case(runs)], noise_sd=0.4)
    assert found.noise == "a given standard deviation of 0.4 % between seeds (--noise-sd)"
    band = found.figure1[0].null
    assert band.noise_sd == (0.4,)
    # The extremes of two draws differ by |x - y|, whose median is .954 sd.
    assert band.median[5] == pytest.approx(0.4 * 0.954, rel=0.05)


def test_cases_without_replicated_seeds_take_the_median_noise(seeded):
    lone = full_case(noisy(0.002, 9), dataset="e")
    found = concluded([*seeded[:2], lone])
    assert "1 of 3 cases have none and take the median of the others" in found.noise
    sds = found.figure1[0].null.noise_sd
    assert sds[2] == pytest.approx(np.median(sds[:2]))


def test_missing_seeds_are_named_and_validation_decides_on_the_shared_ones():
    runs = [run(CE, (0.8, 0.7), seed=s) for s in (0, 1)] + [run(replace(CE, loss="mse"), (0.9, 0.6))]
    found = concluded([case(runs)])
    assert found.cases[0].shared_seeds == (0,)
    assert "d00, base: mse t_hs tau 1/1 lacks seeds 1; validation decides on the shared seeds 0." in found.unavailable
    apart = concluded([case([run(CE, (0.8, 0.7)), run(replace(CE, loss="mse"), (0.9, 0.6), seed=1)])])
    assert apart.cases[0].shared_seeds == ()
    assert any("no seed is shared by all, so each decides by its own" in said for said in apart.unavailable)


def test_a_search_that_cannot_be_replayed_is_said():
    full = full_case(additive(0.01, 0.01, 0.01), dataset="b")
    broken = case([r for r in full.runs if r.result.configuration.loss == "ce" or r.result.configuration.tau_t == 1.0])
    mixed = [run(replace(CE, teacher="t_ll"), (0.8, 0.8)), run(replace(CE, loss="mse", tau_s=1.0), (0.7, 0.7))]
    found = concluded([case(mixed), broken])
    assert [c.replayed for c in found.cases] == [False, False]
    assert any("the search cannot be replayed, because trainings are missing" in said for said in found.unavailable)
    assert any(m.wanted_by == "greedy pairs" for m in found.missing)


@pytest.mark.slow
def test_published_numbers_stand_beside_39_cases():
    cases = thirty_nine(lambda i: (0.004 if i < 25 else -0.004, -0.002, 0.001))
    found = concluded(cases, against_published=True, noise_sd=0.4)
    rows = {row.quantity: row for row in found.published.rows}
    assert rows["R, teacher: t_hs to t_ll"].honest == "+11 of 39"
    assert rows["stable configuration"].verdict == "the same"
    assert rows["cases with stable at least as good as best, %"].honest == "64"  # 25 of 39


def test_calibration_reliability_and_nll_are_of_the_students_shown():
    teachers = {"t_hs": {"nll": 0.4, "digest": "digest of t_hs"}, "t_ll": {"nll": 0.3, "digest": "digest of t_ll"}}
    bins = np.array([[0.0, 0.0, 0.0], [10.0, 8.0, 7.0]])
    cases = []
    for dataset, gain in (("a", 0.01), ("b", 0.02)):
        full = full_case(additive(gain, -0.01, 0.0), dataset=dataset)
        fidelity = {"agreement": 0.9, "kl": 0.1} if dataset == "a" else {"agreement": 0.8}  # as older runs have it
        extra = {"teachers": teachers, "fidelity": fidelity}
        runs = [replace(r, reliability=bins, result=replace(r.result, extra=extra)) for r in full.runs]
        cases.append(case(runs))
    found = concluded(cases)
    assert [(c.kind, c.case, c.label, c.nll) for c in found.calibration[:2]] == [
        ("teacher", "a", "t_hs", 0.4),
        ("teacher", "a", "t_ll", 0.3),
    ]
    assert found.reliability[0].confidence == (0.8,)
    assert found.reliability[0].accuracy == (0.7,)
    assert found.reliability[0].count == (10,)
    assert {(f.case[0], f.agreement, f.kl) for f in found.fidelity} == {("a", 0.9, 0.1), ("b", 0.8, None)}
    assert len(found.nll_gain.points) == 4
    assert found.nll_gain.rho < 0
    assert (found.nll_gain.within, found.nll_gain.within_cases) == (1.0, 2)


def test_every_kind_of_number_is_in_a_csv_file(seeded):
    study = examine(seeded, resamples=100, seed=0, options=Options(against_published=True))
    files = csv_files(study)
    assert set(files) >= {"deciles", "gains", "rewards", "pairs", "regret", "stable", "response", "published", "across"}
    head, first = files["deciles"].splitlines()[:2]
    assert head == "curve,picked_by,decile,gain_percent,null_low,null_median,null_high,cases"
    assert first.startswith("best over worst,test,D0,")
    assert len(files["deciles"].splitlines()) == 1 + 11 * (4 + 4 + 4)
    assert (
        files["rewards"]
        .splitlines()[0]
        .endswith("reward,plus,minus,ties,p,matched_reward,matched_plus,matched_minus,matched_ties,matched_p")
    )
    assert files["regret"].splitlines()[0] == "label,kind,mean,worst,worst_case,of,cases"


def test_hard_labels_alone_crash_nothing():
    found = concluded([case([run(HARD, (0.8, 0.7))])])
    assert found.paired == found.across == found.rewards == ()
    assert any("one configuration, so there is neither a best nor a worst" in said for said in found.unavailable)
