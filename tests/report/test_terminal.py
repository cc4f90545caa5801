"""The plain text report."""

from __future__ import annotations

import pytest

from kdcache.core.configuration import Configuration
from kdcache.report.findings import TwoRuns
from kdcache.report.runs import group_cases, load_run
from kdcache.report.study import examine
from kdcache.report.tables_across import published_table
from kdcache.report.terminal import column_widths, render
from tests.report.conftest import HARD, teachers
from tests.report.studies import changed, study


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


@pytest.mark.parametrize("width", [70, 80, 110])
def test_no_word_of_the_papers_table_is_cut_off(width):
    whole = study(8, published=True)
    text = render(whole, width=width)
    assert max(map(len, text.splitlines())) <= width
    table = published_table(whole.findings.published)
    shown = text.split(table.title)[1].split("1. The paper trained every configuration once")[0].split()
    for row in table.rows:
        for word in " ".join(row).split():
            assert word in shown
    assert shown.count("1,") == 9, "the notes of six gains and three rewards"


def test_columns_fit_share_the_room_by_need_and_are_cut_last():
    rows = [["label", "n"], ["a b c d e f", "1 to 2"]]
    assert column_widths(rows, [0, 6], 99) == [11, 6], "as wide as their texts, no wider"
    assert column_widths(rows, [0, 6], 15) == [7, 6], "the text wraps, the number does not"
    assert column_widths(rows, [0, 6], 10) == [5, 3], "both wrap between words"
    assert column_widths(rows, [0, 6], 6) == [2, 2], "the longest word is cut"
    assert column_widths(rows, [0, 6], 1) == [1, 1]
    assert column_widths([["head"]], [0], 9) == [4]


def test_it_is_quiet_about_what_is_not_there(run_writer):
    folders = [run_writer(f"a{seed}", Configuration(teacher="t_hs"), 0.9, seed=seed) for seed in range(3)]
    text = render(examine(group_cases(map(load_run, folders)), resamples=200, seed=0))
    assert "What each choice did" not in text
    assert "Teachers on validation" not in text
    assert "SEED" not in text


def test_few_cases_show_their_tables_and_many_what_is_over_all_of_them():
    few, many = render(study(3, datasets=3)), render(study(8))
    assert "d00, s0: accuracy on 10 test examples" in few
    assert "d00, s0: accuracy on 10 test examples" not in many
    for text in (few, many):
        for title in ("Deciles of gains over cases, %", "Rewards: cases", "Stable configuration", "Regret: per cent"):
            assert title in text
    assert "cases.csv, results.csv and pairs.csv beside the report." in many
    assert max(map(len, many.splitlines())) <= 110


def test_two_runs_fit_on_one_screen():
    whole = study(2, 3)
    two = TwoRuns(a="x", b="y", comparison=whole.findings.paired[0], sentence="Y is better.", limits=("Not shown.",))
    text = render(changed(whole, two_runs=two))
    assert len(text.splitlines()) <= 30
    for words in ("- Y is better.", "- Not shown.", "95 % interval", "P(improvement)"):
        assert words in text
    assert "Regret" not in text


def test_the_paper_is_shown_when_it_was_asked_for():
    text = render(study(8, published=True), width=120)
    assert "The paper (39 cases) and these runs" in text
    assert "1. The paper trained every configuration once" in text


def test_many_remarks_are_counted():
    text = render(changed(study(8), unavailable=tuple(f"Remark {i}." for i in range(9))))
    assert "Remark 5." in text
    assert "Remark 6." not in text
    assert "3 more remarks are in the report." in text
