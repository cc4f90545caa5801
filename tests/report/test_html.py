"""The HTML report: whole, self-contained, escaped."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from kdcache.core.configuration import Configuration
from kdcache.report.html import inline_svg, render
from kdcache.report.plots import as_svg, effects_figure, gain_figure
from kdcache.report.runs import group_cases, load_run
from kdcache.report.study import examine
from tests.report.conftest import HARD, teachers


class Reader(HTMLParser):
    """Collects ids, and checks that elements close in the order they open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def study_of(*folders):
    return examine(group_cases(map(load_run, folders)), resamples=200, seed=0)


def page(study):
    figures = {f"gain-{i}": gain_figure(table) for i, table in enumerate(study.cases, start=1)}
    figures["choices-f1_binary"] = effects_figure(study.effects)
    return render(study, {name: as_svg(figure) for name, figure in figures.items() if figure is not None})


@pytest.fixture(scope="module")
def whole(grid):
    return page(study_of(*sorted(grid.iterdir())))


def test_every_element_closes_and_every_id_is_unique(whole):
    reader = Reader()
    reader.feed(whole)
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids)) > 0


def test_it_loads_nothing_and_runs_nothing(whole):
    assert "<script" not in whole
    assert "@import" not in whole
    assert not re.search(r'\b(src|href)="(?!#)', whole)
    assert not re.search(r"url\((?!#)", whole)
    assert not re.search(r'\son\w+="', whole)


def test_references_inside_figures_point_to_ids_that_exist(whole):
    reader = Reader()
    reader.feed(whole)
    targets = re.findall(r'(?:xlink:href="|url\()#([^")]+)', whole)
    assert targets
    assert set(targets) <= set(reader.ids)


def test_it_holds_summary_figures_tables_and_method_in_this_order(whole):
    places = [whole.index(f"<h2>{title}</h2>") for title in ("Summary", "Figures", "Tables", "How it was computed")]
    assert places == sorted(places)
    for words in (
        "<strong>ONE SEED PROVES LITTLE.</strong>",
        "<code>--seed 1</code> and <code>--seed 2</code>",
        "95 % interval by paired bootstrap over test examples, 200 resamples of 300 examples",
        "1 seed for each configuration. f1:binary(positive=1)|n=300|v1.",
        "(4 to 8 pairs in 1 case; seed 0)",
        "cache|k=64|v1",
        "torch 2.9",
        '<tr class="picked">',
    ):
        assert words in whole


def test_figures_take_the_colours_of_the_page(whole):
    body = whole[whole.index("<body>") :]
    assert "var(--accent)" in body
    assert "#1f6f8b" not in body
    assert body.count('<svg role="img" aria-label="') == 2


def test_names_from_outside_are_escaped(run_writer):
    evil = '<img src=x onerror="alert(1)">&'
    study = study_of(
        run_writer("a", Configuration(teacher=evil), 0.9, dataset=evil, student=evil, teacher_digest=evil),
        run_writer(
            "b", HARD, 0.8, dataset=evil, student=evil, extra={"teachers": teachers(), "versions": {evil: evil}}
        ),
    )
    text = page(study)
    assert "<img" not in text
    assert "&lt;img src=x" in text
    reader = Reader()
    reader.feed(text)
    assert reader.open == []


def test_equivalent_configurations_are_named_and_nothing_to_draw_is_said(run_writer):
    one = Configuration(teacher="t_hs", loss="mse", tau_t=4.0)
    two = Configuration(teacher="t_hs", loss="mse", tau_t=2.0)
    text = page(study_of(run_writer("a", one, 0.9), run_writer("b", two, 0.8)))
    assert "mse t_hs tau 4/4: asked for as mse t_hs tau 2/2 too, the same gradient at every step" in text
    assert "There is nothing to draw: no two configurations in any case." in text


def test_many_datasets_are_counted_in_the_title(run_writer):
    folders = [run_writer(name, HARD, 0.8, dataset=name) for name in "abcd"]
    assert "<h1>Distillation of 4 datasets</h1>" in page(study_of(*folders))
    assert "none recorded" in page(study_of(*folders))


def test_an_inline_figure_has_no_size_of_its_own():
    svg = '<?xml version="1.0"?><svg width="5pt" height="6pt" viewBox="0 0 5 6"><g id="a"/><use xlink:href="#a"/></svg>'
    assert inline_svg(svg, prefix="p", description='x "y"') == (
        '<svg role="img" aria-label="x &quot;y&quot;" viewBox="0 0 5 6"><g id="p-a"/><use xlink:href="#p-a"/></svg>'
    )


def test_enough_seeds_have_no_warning(run_writer):
    folders = [run_writer(f"a{seed}", Configuration(teacher="t_hs"), 0.9, seed=seed) for seed in range(3)]
    assert '<p class="loud"' not in page(study_of(*folders))
