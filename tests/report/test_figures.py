"""The figures of the findings: what they draw of many cases and of few, and the captions of the gallery."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kdcache.report.evidence import Calibration, NllGain, NllPoint, Reliability
from kdcache.report.figures_calibration import calibration_figure, nll_gain_figure, reliability_figure
from kdcache.report.figures_deciles import FEW_CASES, figure1, figure2, figure3
from kdcache.report.figures_forest import ROWS, across_figure, declared, factorial_figure, paired_figure
from kdcache.report.figures_regret import CURVES, regret_figure, shown
from kdcache.report.figures_response import all_cases_figure, case_figure
from kdcache.report.gallery import gallery
from kdcache.report.plots import as_svg
from tests.report.studies import changed, hostile, study


@pytest.fixture(scope="module")
def many():
    return study(12)


@pytest.fixture(scope="module")
def few():
    return study(3, datasets=3)


def visible(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_many_cases_are_a_curve_of_deciles_with_its_null_band(many):
    curves = many.findings.figure1
    panels = visible(figure1(curves))
    assert [axes.get_title(loc="left") for axes in panels] == [
        "best over worst\npicked by test (oracle)",
        "best over worst\npicked by validation",
        "best over random\npicked by test (oracle)",
        "best over random\npicked by validation",
    ]
    curve = panels[0].lines[1]  # after the median of the band
    assert tuple(curve.get_ydata()) == curves[0].values
    assert tuple(panels[0].lines[0].get_ydata()) == curves[0].null.median
    band = panels[0].collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(min(curves[0].null.low))
    assert band.max() == pytest.approx(max(curves[0].null.high))
    assert panels[0].get_ylim() == panels[1].get_ylim()


def test_few_cases_are_sorted_points_without_a_line(few):
    curve = few.findings.figure1[0]
    (points,) = [line for line in visible(figure1(few.findings.figure1))[0].lines if line.get_marker() == "o"]
    assert points.get_linestyle() == "None"
    assert list(points.get_ydata()) == sorted(curve.gains)
    assert list(points.get_xdata()) == [0.0, 5.0, 10.0]
    assert len(curve.gains) <= FEW_CASES


def test_a_single_case_is_one_point_at_the_median():
    one = study(1, seeds=1)
    figure = figure1(one.findings.figure1)
    (point,) = [line for line in visible(figure)[0].lines if line.get_marker() == "o"]
    assert list(point.get_xdata()) == [5.0]
    assert figure.get_figheight() < figure1(study(3, datasets=3).findings.figure1).get_figheight()


def test_figure_2_has_a_panel_for_each_choice_and_hides_the_empty_one(many):
    curves = many.findings.figure2
    panels = visible(figure2(curves))
    assert [axes.get_title(loc="left") for axes in panels] == [curve.name for curve in curves]
    assert len(visible(figure2(curves[:3]))) == 3
    assert figure2(()) is None


def test_figure_3_names_the_share_of_cases(many):
    found = many.findings.figure3
    (axes,) = figure3(found).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0] == f"stable over best (at least as good in {100 * found.share:.0f} % of cases)"
    assert labels[2:] == ["random over best", "lazy over best"]
    assert figure3(replace(found, stable=None, stable_global=None, random=None, lazy=None)) is None


def test_regret_of_many_cases_is_a_distribution_and_of_few_cases_points(many, few):
    rows = shown(many.findings.regret)
    assert [row.kind == "rule" for row in rows] == [False] * CURVES + [True, True]
    assert [row.label for row in rows[CURVES:]] == ["search, by validation", "random candidate"]
    (axes,) = regret_figure(many.findings.regret).axes
    curve = axes.lines[0]
    assert list(curve.get_xdata())[1:] == sorted(rows[0].regrets)
    assert curve.get_ydata()[0] == 0.0
    assert curve.get_ydata()[-1] == 1.0
    points = regret_figure(few.findings.regret)
    best = shown(few.findings.regret)[0]
    assert texts(points)[:2] == [best.label, f"mean {best.mean:.2f} %, worst {best.worst:.2f} %"]
    assert regret_figure(()) is None


def test_only_rows_known_in_the_most_cases_are_drawn(few):
    partial = replace(few.findings.regret[0], label="half", regrets=(0.0,), case_names=("d00, s0",), mean=0.0)
    assert "half" not in [row.label for row in shown((partial, *few.findings.regret))]


def test_the_forest_of_pairs_shows_p_and_holm_and_the_case(many):
    own = declared(many.findings.paired)
    assert len(own) == ROWS
    figure = paired_figure(own, cases=True)
    label, note = texts(figure)[:2]
    assert label.startswith(f"{own[0].case}:\n{own[0].b} against ")
    assert note.endswith(f"Holm {own[0].holm_p:.2g}")
    all_declared = [c for c in many.findings.paired if c.holm_p is not None]
    assert max(c.holm_p for c in own) <= min(c.holm_p for c in all_declared if c not in own)
    assert paired_figure((), cases=False) is None


def test_a_comparison_without_interval_is_a_point(few):
    bare = replace(few.findings.paired[0], low=None, high=None, p=None, holm_p=None)
    (axes,) = paired_figure([bare], cases=False).axes
    assert [line.get_marker() for line in axes.lines] == ["o", "None"]
    assert texts(axes.figure) == [f"{bare.b} against {bare.a}"]


def test_over_cases_probabilities_stand_at_the_right_and_cases_behind(many):
    across = many.findings.across
    figure = across_figure(across)
    assert texts(figure)[0] == "best by validation over hard labels"
    first = across[0]
    assert texts(figure)[1] == f"{first.worse:.2f} / {first.equal:.2f} / {first.better:.2f}"
    ticks = next(line for line in figure.axes[0].lines if line.get_marker() == "|")
    assert tuple(ticks.get_xdata()) == first.gains
    alone = replace(first, worse=None, equal=None, better=None, low=None, high=None)
    assert texts(across_figure([alone]))[1].endswith(" %")
    assert across_figure(()) is None


def test_factorial_effects_are_drawn_with_their_cases(many):
    effects = many.findings.factorial
    assert texts(factorial_figure(effects))[::2] == [effect.name for effect in effects]
    assert factorial_figure(()) is None


def test_a_response_has_a_point_for_every_seed_and_the_line_of_hard_labels(few):
    own = [r for r in few.findings.responses if r.case == few.cases[0].name and r.over == "tau_t"]
    (axes,) = case_figure(own).axes
    small = [line for line in axes.lines if line.get_markersize() == 2.6]
    assert len(small) == sum(len(r.points) for r in own)
    assert all(len(line.get_ydata()) == 3 for line in small)
    assert axes.get_legend().get_texts()[-1].get_text() == "hard labels"
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4"]
    assert case_figure(()) is None


def test_responses_of_many_cases_are_over_their_own_mean(many):
    own = [r for r in many.findings.responses if r.over == "tau_t"]
    figure = all_cases_figure(own)
    first = [r for r in own if r.label == own[0].label]
    lines = figure.axes[0].lines
    assert len(lines) == len(first) + 1
    scores = np.array([p.test for p in first[0].points])
    np.testing.assert_allclose(lines[0].get_ydata(), 100 * (scores / scores.mean() - 1))
    np.testing.assert_allclose(lines[-1].get_ydata(), np.mean([line.get_ydata() for line in lines[:-1]], axis=0))
    assert all_cases_figure(()) is None
    none = [replace(r, points=tuple(replace(p, test=0.0) for p in r.points)) for r in first]
    assert len(all_cases_figure(none).axes[0].lines) == 1


def calibration(kind, label, nll, ece=None):
    return Calibration(kind=kind, case="d", label=label, score=0.8, nll=nll, brier=None, ece=ece, temperature=None)


def test_calibration_has_a_bar_to_the_mean_and_a_point_for_each_case():
    found = [calibration("student", "ce", 0.4), calibration("teacher", "t_ll", 0.2), calibration("student", "ce", 0.6)]
    nll, ece = calibration_figure(found).axes
    assert texts(nll.figure) == ["teacher: t_ll", "student: ce (2 cases)"]
    assert [bar.get_width() for bar in nll.patches] == pytest.approx([0.2, 0.5])
    assert not ece.patches
    assert calibration_figure([calibration("student", "x", None)]) is None


def test_reliability_names_a_few_curves_and_greys_many():
    one = Reliability(case="d, s", label="ce", confidence=(0.3, 0.9), accuracy=(0.2, 0.8), count=(5, 5))
    (axes,) = reliability_figure([one]).axes
    assert axes.get_legend().get_texts()[0].get_text() == "d, s: ce"
    assert tuple(axes.lines[1].get_ydata()) == one.accuracy
    (axes,) = reliability_figure([one] * 9).axes
    assert axes.get_legend() is None
    assert reliability_figure(()) is None


def test_nll_and_gain_join_the_teachers_of_a_case():
    points = tuple(NllPoint(case="d, s", teacher=t, nll=n, gain=g) for t, n, g in (("a", 0.2, 3.0), ("b", 0.4, 1.0)))
    found = NllGain(points=points, rho=None, p=None, within=1.0, within_cases=1)
    (axes,) = nll_gain_figure(found).axes
    assert list(axes.lines[0].get_xdata()) == [0.2, 0.4]
    assert nll_gain_figure(replace(found, points=points[:1])) is None
    assert nll_gain_figure(None) is None


@pytest.mark.slow
def test_names_of_figures_are_unique_and_files(many, few):
    for found in (many, few):
        names = [drawn.name for drawn in gallery(found)]
        assert len(names) == len(set(names)) > 5
        assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_") for name in names)


@pytest.mark.slow
@pytest.mark.parametrize(("cases", "seeds"), [(12, 3), (3, 3), (1, 1)])
def test_every_caption_states_cases_seeds_quantiles_and_metric(cases, seeds):
    found = study(cases, seeds, datasets=3) if cases == 3 else study(cases, seeds)
    drawn = gallery(found)
    assert drawn
    for one in drawn:
        assert " cases; " in one.caption or "Case: d" in one.caption
        assert f"{seeds} seed{'s' if seeds > 1 else ''} for each configuration (seed" in one.caption
        assert "quantiles: linear; accuracy|n=10|v1." in one.caption
        assert "  " not in one.caption
        assert one.title


@pytest.mark.slow
def test_captions_of_few_cases_say_that_points_are_cases(many, few):
    captions = {drawn.name: drawn.caption for drawn in gallery(few)}
    for name in ("figure-1", "figure-2", "figure-3"):
        assert (
            "So few cases are points, sorted from D0 (least) to D10 (most), not a curve of deciles." in captions[name]
        )
    assert "D5 is the median, D10 the maximum." in {d.name: d.caption for d in gallery(many)}["figure-1"]


@pytest.mark.slow
def test_a_band_says_where_its_noise_is_from_and_no_band_why(many):
    caption = next(d.caption for d in gallery(many) if d.name == "figure-1")
    assert "95 % of 4,000 simulated studies with seed noise alone" in caption
    assert "noise from replicated seeds, pooled in each case" in caption
    alone = next(d.caption for d in gallery(study(2, 1)) if d.name == "figure-1")
    assert "No band of seed noise: noise between seeds is unknown" in alone


def test_cases_that_a_curve_lacks_are_counted(many):
    short = tuple(replace(curve, left_out=("d99, s0",)) for curve in many.findings.figure1)
    caption = next(d.caption for d in gallery(changed(many, figure1=short)) if d.name == "figure-1")
    assert "Left out, for want of a training or of a baseline above 0: up to 1 case." in caption


@pytest.mark.slow
def test_few_cases_have_figures_of_their_own_and_many_do_not(many, few):
    own, all_together = ({drawn.name for drawn in gallery(found)} for found in (few, many))
    assert {"gain-1", "gain-3", "paired-1", "temperature-1", "alpha-3"} <= own
    assert not {"gain-1", "temperature-1"} & all_together
    assert {"temperature", "alpha", "paired-accuracy", "across"} <= all_together


@pytest.mark.slow
def test_equal_studies_draw_equal_bytes(few):
    first = {drawn.name: as_svg(drawn.figure) for drawn in gallery(few)}
    second = {drawn.name: as_svg(drawn.figure) for drawn in gallery(few)}
    assert first == second


@pytest.mark.slow
def test_hostile_names_are_escaped_in_every_svg():
    for drawn in gallery(hostile()):
        assert b"<script" not in as_svg(drawn.figure)
