"""The HTML report: whole, in order, self-contained, escaped, the same each time."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from kdcache.core.configuration import Configuration
from kdcache.report.findings import Excluded, TwoRuns
from kdcache.report.gallery import gallery
from kdcache.report.page import render
from kdcache.report.plots import as_svg
from kdcache.report.runs import group_cases, load_run
from kdcache.report.study import examine
from kdcache.report.summary import summary
from kdcache.report.terminal import render as render_text
from tests.report.conftest import HARD, teachers
from tests.report.studies import HOSTILE, changed, hostile, study

LOADS = re.compile(r"""(?:src|srcset|href|data|action|poster)\s*=\s*["'](?!#)|@import|url\((?!#)""")
"""What makes a browser ask for something: an address that is no place in the page itself."""


class Reader(HTMLParser):
    """Collects tags and ids, and checks that elements close in the order they open."""

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


def page(found):
    drawn = gallery(found)
    return render(found, drawn, {one.name: as_svg(one.figure) for one in drawn})


def read(text):
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def whole(grid):
    return page(study_of(*sorted(grid.iterdir())))


@pytest.fixture(scope="module")
def eight():
    return study(8, published=True)


@pytest.fixture(scope="module")
def of_eight(eight):
    return page(eight)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["whole", "of_eight"])
def test_every_element_closes_every_id_is_unique_and_every_reference_has_one(name, request):
    text = request.getfixturevalue(name)
    reader = read(text)
    assert len(reader.ids) == len(set(reader.ids)) > 0
    targets = re.findall(r'(?:xlink:href="|url\()#([^")]+)', text)
    assert targets
    assert set(targets) <= set(reader.ids)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["whole", "of_eight"])
def test_it_loads_nothing_and_runs_nothing(name, request):
    text = request.getfixturevalue(name)
    assert "<script" not in text
    assert not LOADS.search(text)
    assert not re.search(r"\son\w+=\"", text)
    addresses = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert all(address.startswith("http://www.w3.org/") for address in addresses)  # names of SVG, never fetched


def test_the_pattern_of_what_loads_knows_what_it_looks_for():
    for loading in ('<img src="a">', "<a href='b'>", "@import 'x'", "url(a.png)", 'href="//a"'):
        assert LOADS.search(loading)
    assert not LOADS.search('<use xlink:href="#a"/> url(#b)')


def test_its_parts_come_in_order(of_eight):
    titles = (
        "Summary", "Findings", "Against the paper", "Tables", "Cases", "Remarks", "How it was computed",
    )  # fmt: skip
    places = [re.search(rf"<h2[^>]*>{title}</h2>", of_eight).start() for title in titles]
    assert places == sorted(places)
    sections = (
        "How much the choices matter", "Each choice", "One configuration for all", "Comparisons",
        "Temperature and alpha",
    )  # fmt: skip
    places = [of_eight.index(f"<h3>{section}</h3>") for section in sections]
    assert places == sorted(places)


def test_page_and_terminal_say_the_same_sentences(eight, of_eight):
    terminal = " ".join(render_text(eight, width=100).split())
    plain = " ".join(re.sub(r"<[^>]+>", "", of_eight).replace("&nbsp;", " ").replace("&#x27;", "'").split())
    for sentence in summary(eight):
        assert sentence in terminal
        assert sentence.replace("<", "&lt;") in plain


def test_one_seed_is_loud_and_the_method_is_told(whole):
    for words in (
        "<strong>ONE SEED PROVES LITTLE.</strong>",
        "<code>--seed 1</code> and <code>--seed 2</code>",
        "by paired bootstrap over test examples, 200 resamples of 300 examples",
        "1 seed for each configuration (seed 0); quantiles: linear; f1:binary(positive=1)|n=300|v1.",
        "(4 to 8 pairs)",
        "cache|k=64|v1",
        "torch 2.9",
        '<tr class="picked">',
    ):
        assert words in whole


def test_figures_take_the_colours_of_the_page(whole):
    body = whole[whole.index("<body>") :]
    assert "var(--accent)" in body
    assert "#1f6f8b" not in body
    assert body.count('<svg role="img" aria-label="') == body.count("<figcaption>") > 5


def test_long_tables_and_single_cases_are_folded(of_eight, whole):
    assert "<details><summary>Cases (8)</summary>" in of_eight
    assert "<details><summary>d00, s0</summary>" in of_eight
    assert "<details><summary>Declared comparisons within cases (" in of_eight
    assert "<summary>mrpc, small" not in whole


def test_the_paper_is_set_beside_with_footnotes(of_eight, whole):
    assert "<h3>The paper (39 cases) and these runs</h3>" in of_eight
    assert "<ol><li>The paper trained every configuration once" in of_eight
    assert "Against the paper" not in whole


@pytest.mark.slow
def test_excluded_runs_are_named_and_many_are_folded(eight):
    few = page(changed(eight, excluded=(Excluded(folder="runs/<x>", reason="has a NaN score"),)))
    assert few.index("Excluded runs</h2>") < few.index("runs/&lt;x&gt;") < few.index("has a NaN score")
    many = page(changed(eight, excluded=tuple(Excluded(folder=f"r{i}", reason="crashed") for i in range(20))))
    assert "<details><summary>Excluded runs (20)</summary>" in many


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
    read(text)


@pytest.mark.slow
def test_a_dataset_called_script_is_text_in_every_part():
    text = page(hostile())
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 20
    assert HOSTILE not in text
    read(text)


def test_two_runs_have_a_part_of_their_own(eight):
    comparison = eight.findings.paired[0]
    two = TwoRuns(a="a", b="b <x>", comparison=comparison, sentence="B is 1 % better.", limits=("Not shown.",))
    text = page(changed(eight, two_runs=two))
    part = text[text.index("Two runs</h2>") : text.index("Tables</h2>")]
    assert text.index("B is 1&nbsp;% better.") < text.index("Not shown.")
    assert "b &lt;x&gt;" in part
    assert "<h4>The difference</h4>" in part
    assert text.index("Not shown.") < text.index("Two runs</h2>")
    assert "Figure 1" not in text


def test_equivalent_configurations_are_named_and_nothing_to_draw_is_said(run_writer):
    one = Configuration(teacher="t_hs", loss="mse", tau_t=4.0)
    two = Configuration(teacher="t_hs", loss="mse", tau_t=2.0)
    text = page(study_of(run_writer("a", one, 0.9), run_writer("b", two, 0.8)))
    assert "mse t_hs tau 4/4: asked for as mse t_hs tau 2/2 too, the same gradient at every step" in text
    assert "There is nothing to draw: no two configurations in any case." in text
    assert "nothing to compare it with" in text


def test_many_datasets_are_counted_in_the_title(run_writer):
    folders = [run_writer(name, HARD, 0.8, dataset=name) for name in "abcd"]
    assert "<h1>Distillation of 4 datasets</h1>" in page(study_of(*folders))
    assert "none recorded" in page(study_of(*folders))


def test_enough_seeds_have_no_warning(run_writer):
    folders = [run_writer(f"a{seed}", Configuration(teacher="t_hs"), 0.9, seed=seed) for seed in range(3)]
    assert '<p class="loud"' not in page(study_of(*folders))


@pytest.mark.slow
def test_equal_studies_give_equal_bytes(eight, of_eight):
    assert page(eight) == of_eight
