"""What all figures share, and that their bytes are reproducible."""

from __future__ import annotations

import re

import numpy as np
import pytest

from kdcache.core.configuration import Configuration
from kdcache.report.figures_cases import effects_figure, gain_figure
from kdcache.report.plots import COLOURS, LABEL_CHARACTERS, SERIES, Bar, as_png, as_svg, clip, forest, panels
from kdcache.report.runs import group_cases, load_run
from kdcache.report.study import examine
from tests.report.conftest import HARD


def study_of(*folders):
    return examine(group_cases(map(load_run, folders)), resamples=200, seed=0)


@pytest.fixture(scope="module")
def runs(grid):
    return study_of(*sorted(grid.iterdir()))


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_gain_figure_has_a_point_and_an_interval_for_every_configuration(runs):
    figure = gain_figure(runs.cases[0])
    (axes,) = figure.axes
    assert axes.get_xlabel() == "gain in test f1_binary over hard labels, %"
    rows = [row for row in runs.cases[0].rows if row.over_hard]
    assert texts(figure)[::2] == [row.label for row in rows]
    points = {line.get_ydata()[0]: line for line in axes.lines if line.get_marker() == "o"}
    spans = {line.get_ydata()[0]: line for line in axes.lines if line.get_linewidth() == 2}
    for y, row in zip(sorted(points), rows, strict=True):
        assert points[y].get_xdata() == [row.over_hard.percent]
        assert list(spans[y].get_xdata()) == [row.over_hard.low, row.over_hard.high]
    assert [y for y, p in points.items() if p.get_markerfacecolor() != "none"] == [min(points)]


def test_without_hard_labels_the_baseline_is_the_worst(run_writer):
    study = study_of(
        run_writer("a", Configuration(teacher="t_hs"), 0.9),
        run_writer("b", Configuration(teacher="t_hs", loss="mse"), 0.8),
    )
    figure = gain_figure(study.cases[0])
    assert figure.axes[0].get_xlabel() == "gain in test f1_binary over the worst (mse t_hs tau 1/1), %"
    assert texts(figure)[::2] == ["ce t_hs tau 1/1"]


def test_the_choices_figure_shows_means_intervals_and_pairs(runs):
    figure = effects_figure(runs.effects)
    assert texts(figure)[2] == "loss, mse against ce"
    loss = runs.effects[1]
    ticks = [line for line in figure.axes[0].lines if line.get_marker() == "|"][1]
    np.testing.assert_allclose(ticks.get_xdata(), [100 * d for d in loss.differences])


def test_nothing_to_draw_is_no_figure(run_writer):
    study = study_of(run_writer("a", HARD, 0.9))
    assert gain_figure(study.cases[0]) is None
    assert effects_figure(study.effects) is None


def test_svg_and_png_are_files_of_their_kind_and_the_same_each_time(runs):
    first, second = as_svg(gain_figure(runs.cases[0])), as_svg(gain_figure(runs.cases[0]))
    assert first == second
    assert b"<svg" in first
    assert b"ce t_ll tau 4/4" in first
    assert b"<metadata>" not in first
    assert as_png(gain_figure(runs.cases[0])).startswith(b"\x89PNG")


def test_names_that_look_like_mathematics_are_drawn_as_they_are(run_writer):
    study = study_of(
        run_writer("a", Configuration(teacher="t_$x^"), 0.9, teacher_digest="e"), run_writer("b", HARD, 0.8)
    )
    assert b"ce t_$x^ tau 1/1" in as_svg(gain_figure(study.cases[0]))


def test_a_name_that_is_too_long_ends_in_an_ellipsis_and_leaves_room_for_its_note():
    figure = forest([Bar(label="x" * 99 + "\n" + "y" * 99, value=1.0, note="p = 0.5")], "gain")
    label, note = texts(figure)
    above, below = label.split("\n")
    assert above == "x" * (LABEL_CHARACTERS - 1) + "…"
    assert len(below) + len(note) == LABEL_CHARACTERS
    assert clip("short") == "short"


def test_a_long_label_is_wrapped_beside_its_note_and_only_its_own_row_grows():
    label = "mse t_ll = t_hs tau_t 4 tau_s 1 alpha 0.5 lr 0.0005 against hard labels"
    note = "p = 0.012, Holm 0.049"
    figure = forest([Bar(label=label, value=1.0, note=note), Bar(label="ce", value=1.0, note=note)], "gain")
    long, _, short, _ = texts(figure)
    assert long == "mse t_ll = t_hs tau_t 4 tau_s 1 alpha 0.5\nlr 0.0005 against hard labels"
    assert short == "ce"
    tall, low = (forest([Bar(label=one, value=1.0, note=note)], "gain").get_figheight() for one in (label, "ce"))
    assert tall == pytest.approx(low + 0.14)
    assert figure.get_figheight() == pytest.approx(tall + low - 0.6)
    assert texts(forest([Bar(label=label * 9, value=1.0, note=note)], "gain"))[0].endswith(" …")
    assert texts(forest([Bar(label="mse t_ll", value=1.0, note="n" * 99)], "gain"))[0] == "mse t_ll"
    assert texts(forest([Bar(label="", value=1.0, note=note)], "gain")) == ["", note]


def test_rows_of_two_lines_are_taller_than_rows_of_one():
    one, two = (forest([Bar(label=label, value=1.0)] * 5, "gain").get_figheight() for label in ("a", "a\nb"))
    assert two > one + 0.5


def test_panels_stand_apart_and_inside_the_figure():
    figure, found = panels(2, 2, 1.0, top=0.3)
    boxes = [axes.get_position() for axes in found]
    assert all(0 < box.x0 < box.x1 < 1 and 0 < box.y0 < box.y1 < 1 for box in boxes)
    assert boxes[0].x1 < boxes[1].x0
    assert boxes[2].y1 < boxes[0].y0
    assert [box.height * figure.get_figheight() for box in boxes] == pytest.approx([1.0] * 4)


def luminance(colour: str) -> float:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2


def test_curves_differ_without_colour_and_stand_out_from_the_paper():
    assert len({(str(dash), marker) for _, dash, marker in SERIES}) == len(SERIES)
    assert len({marker for _, _, marker in SERIES}) == len(SERIES)
    paper = luminance(COLOURS["paper"])
    for name, _, _ in SERIES:
        assert re.fullmatch(r"#[0-9a-f]{6}", COLOURS[name])
        assert (paper + 0.05) / (luminance(COLOURS[name]) + 0.05) > 3  # WCAG, graphical objects
