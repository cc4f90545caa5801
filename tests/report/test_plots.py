"""Figures: what is drawn, and that the bytes are reproducible."""

from __future__ import annotations

import numpy as np
import pytest

from kdcache.core.configuration import Configuration
from kdcache.report.plots import as_png, as_svg, effects_figure, gain_figure
from kdcache.report.runs import group_cases, load_run
from kdcache.report.study import examine
from tests.report.conftest import HARD


def study_of(*folders):
    return examine(group_cases(map(load_run, folders)), resamples=200, seed=0)


@pytest.fixture(scope="module")
def study(grid):
    return study_of(*sorted(grid.iterdir()))


def test_the_gain_figure_has_a_point_and_an_interval_for_every_configuration(study):
    (axes,) = gain_figure(study.cases[0]).axes
    assert axes.get_xlabel() == "gain in test f1_binary over hard labels, %"
    rows = [row for row in study.cases[0].rows if row.over_hard]
    assert [label.get_text() for label in axes.get_yticklabels()] == [row.label for row in rows]
    points = {line.get_ydata()[0]: line for line in axes.lines if line.get_marker() == "o"}
    spans = {line.get_ydata()[0]: line for line in axes.lines if line.get_linewidth() == 2}
    for y, row in enumerate(rows):
        assert points[y].get_xdata() == [row.over_hard.percent]
        assert list(spans[y].get_xdata()) == [row.over_hard.low, row.over_hard.high]
    assert [y for y, p in points.items() if p.get_markerfacecolor() != "none"] == [0]


def test_without_hard_labels_the_baseline_is_the_worst(run_writer):
    study = study_of(
        run_writer("a", Configuration(teacher="t_hs"), 0.9),
        run_writer("b", Configuration(teacher="t_hs", loss="mse"), 0.8),
    )
    (axes,) = gain_figure(study.cases[0]).axes
    assert axes.get_xlabel() == "gain in test f1_binary over the worst configuration (mse t_hs tau 1/1), %"
    assert len(axes.get_yticklabels()) == 1


def test_the_choices_figure_shows_means_intervals_and_pairs(study):
    (axes,) = effects_figure(study.effects).axes
    assert [label.get_text() for label in axes.get_yticklabels()][1] == "loss, mse against ce"
    loss = study.effects[1]
    ticks = next(line for line in axes.lines if line.get_marker() == "|" and line.get_ydata()[0] == 1)
    np.testing.assert_allclose(ticks.get_xdata(), [100 * d for d in loss.differences])


def test_nothing_to_draw_is_no_figure(run_writer):
    study = study_of(run_writer("a", HARD, 0.9))
    assert gain_figure(study.cases[0]) is None
    assert effects_figure(study.effects) is None


def test_svg_and_png_are_files_of_their_kind_and_the_same_each_time(study):
    first, second = as_svg(gain_figure(study.cases[0])), as_svg(gain_figure(study.cases[0]))
    assert first == second
    assert b"<svg" in first
    assert b"ce t_ll tau 4/4" in first
    assert b"<metadata>" not in first
    assert as_png(gain_figure(study.cases[0])).startswith(b"\x89PNG")


def test_names_that_look_like_mathematics_are_drawn_as_they_are(run_writer):
    study = study_of(
        run_writer("a", Configuration(teacher="t_$x^"), 0.9, teacher_digest="e"), run_writer("b", HARD, 0.8)
    )
    assert b"ce t_$x^ tau 1/1" in as_svg(gain_figure(study.cases[0]))
