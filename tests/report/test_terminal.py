"""The plain text report."""

from __future__ import annotations

from kdcache.core.configuration import Configuration
from kdcache.report.runs import group_cases, load_run
from kdcache.report.study import examine
from kdcache.report.terminal import render
from tests.report.conftest import HARD, teachers


def test_it_says_everything_within_its_width_and_without_colour_codes(grid, run_writer):
    folders = [*sorted(grid.iterdir()), run_writer("t", HARD, 0.7, dataset="[red]ag", extra={"teachers": teachers()})]
    text = render(examine(group_cases(map(load_run, folders)), resamples=200, seed=0), width=100)
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text
    for words in (
        "10 runs, 10 configurations, 2 test cases, seed 0.",
        "mrpc, small: f1_binary on 300 test examples",
        "picked",
        "mrpc, small: validation picks ",
        "[red]ag, small: one configuration, hard labels: nothing to compare it with.",
        "What each choice did\n  - targets, distilled against hard labels: better by",
        "Teachers on validation",
        "Teacher forward passes in the 10 student runs: 0.",
        "\nONE SEED PROVES LITTLE.",
    ):
        assert words in text
    assert text.splitlines()[-1].endswith("then compare again.")


def test_it_is_quiet_about_what_is_not_there(run_writer):
    folders = [run_writer(f"a{seed}", Configuration(teacher="t_hs"), 0.9, seed=seed) for seed in range(3)]
    text = render(examine(group_cases(map(load_run, folders)), resamples=200, seed=0))
    assert "What each choice did" not in text
    assert "Teachers on validation" not in text
    assert "SEED" not in text
