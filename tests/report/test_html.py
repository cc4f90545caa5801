"""Elements of the page: escaped, closed, self-contained."""

from __future__ import annotations

from matplotlib.figure import Figure

from kdcache.report.html import document, figure, folded, inline_svg, listed, prose, table
from kdcache.report.plots import Drawn
from kdcache.report.tables import PICKED, Table


def test_an_inline_figure_has_no_size_of_its_own():
    svg = '<?xml version="1.0"?><svg width="5pt" height="6pt" viewBox="0 0 5 6"><g id="a"/><use xlink:href="#a"/></svg>'
    assert inline_svg(svg, prefix="p", description='x "y"') == (
        '<svg role="img" aria-label="x &quot;y&quot;" viewBox="0 0 5 6"><g id="p-a"/><use xlink:href="#p-a"/></svg>'
    )


def test_a_figure_has_its_title_its_caption_and_a_description():
    drawn = Drawn(name="n", section="s", title="A <b>", caption="1 case.", figure=Figure())
    assert figure(drawn, b'<svg viewBox="0 0 5 6"></svg>') == (
        '<figure><h4>A &lt;b&gt;</h4><svg role="img" aria-label="A &lt;b&gt;. 1 case." viewBox="0 0 5 6"></svg>'
        "<figcaption>1 case.</figcaption></figure>"
    )


def test_prose_is_escaped_and_keeps_flags_and_units_together():
    assert prose("a <b> (--seed 1): 1.5 % at p = 0.2, p < 0.1") == (
        "a &lt;b&gt; (<code>--seed 1</code>): 1.5&nbsp;% at p&nbsp;=&nbsp;0.2, p&nbsp;&lt;&nbsp;0.1"
    )


def test_lists_and_folds_without_content_are_nothing():
    assert listed([]) == folded("x", ["", ""]) == table(None) == ""
    assert listed(["a", "b"], ordered=True) == "<ol><li>a</li><li>b</li></ol>"
    assert folded("a <b>", ["x"]) == "<details><summary>a &lt;b&gt;</summary>\nx\n</details>"


def test_a_table_scrolls_in_a_box_and_marks_its_rows():
    found = Table(
        title="T",
        columns=("name", "gain"),
        rows=(("a", "+1.00 [0.00, 2.00]"), ("b", "x" * 60)),
        numeric=frozenset({"gain"}),
        marks=((PICKED,), ()),
        note="3 more rows are in a.csv.",
    )
    text = table(found)
    assert text.startswith('<h3>T</h3><div class="scroll" tabindex="0"><table aria-label="T">')
    assert '<th scope="col" class="n">gain</th>' in text
    assert '<tr class="picked"><th scope="row">a<span class="marks"><span class="mark picked">' in text
    assert '<td class="n">+1.00<span class="span">[0.00, 2.00]</span></td>' in text
    assert f'<td class="n long">{"x" * 60}</td>' in text
    assert text.endswith('<p class="note">3 more rows are in a.csv.</p>')
    assert table(found, heading=False).startswith("<div")


def test_a_document_names_its_language_and_leaves_empty_parts_out():
    page = document("a & b", "p{}", ["<p>x</p>", ""])
    assert '<html lang="en">' in page
    assert "<title>a &amp; b</title>\n<style>p{}</style>" in page
    assert page.endswith("<main>\n<p>x</p>\n</main>\n</body>\n</html>\n")
