"""The synthetic study of the benchmark is one that compare takes, and a missed bar is told."""

from __future__ import annotations

from kdcache.report.runs import find_runs, group_cases, load_run
from tools.bench_compare import SECONDS, Figures, Size, build, configurations, verdict


def test_runs_of_the_benchmark_are_cases_that_share_test_sets(tmp_path):
    assert build(tmp_path, Size(datasets=2, students=2, seeds=2, examples=30)) == 2 * 2 * 14 * 2
    finished, unfinished = find_runs([tmp_path])
    cases = group_cases(load_run(folder) for folder in finished)
    assert not unfinished
    assert [len(case.runs) for case in cases] == [28] * 4
    assert cases[0].test_digest == cases[1].test_digest != cases[2].test_digest
    assert cases[0].runs[0].statistics.shape == (30, 9)


def test_its_configurations_are_thirteen_candidates_and_hard_labels():
    assert len({c.canonical() for c in configurations()}) == 14


def test_a_missed_bar_is_told():
    text, met = verdict(Figures(seconds=SECONDS + 1, mebibytes=10.0))
    assert not met
    assert text.splitlines()[0].split() == ["time", "31.0", "s", "bar", "30", "s", "MISSED"]
    assert verdict(Figures(seconds=1.0, mebibytes=10.0))[1]
