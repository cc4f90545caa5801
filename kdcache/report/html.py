"""Elements of the HTML report: escaped prose, lists, figures as inline SVG, tables. No script, no network."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

from kdcache.report.plots import COLOURS, Drawn
from kdcache.report.tables import PICKED, Table


def document(title: str, css: str, body: Iterable[str]) -> str:
    """A whole page; empty parts of the body are left out."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{css}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def prose(sentence: str) -> str:
    """A sentence escaped, its flags as code; flags and numbers with their unit do not break over lines."""
    text = re.sub(r"(?<=[ (])--[\w-]+( \d+)?", r"<code>\g<0></code>", escape(sentence))
    return re.sub(r"(?<=\d) (?=%)|(?<=\bp) (?=[=&])|(?<=[=;]) (?=[\d+-])", "&nbsp;", text)


def listed(sentences: Iterable[str], *, ordered: bool = False) -> str:
    """A list; empty without sentences."""
    items = "".join(f"<li>{prose(sentence)}</li>" for sentence in sentences)
    tag = "ol" if ordered else "ul"
    return f"<{tag}>{items}</{tag}>" if items else ""


def folded(summary: str, body: Iterable[str]) -> str:
    """Parts that are closed until they are asked for; empty without any."""
    inside = "\n".join(part for part in body if part)
    return f"<details><summary>{escape(summary)}</summary>\n{inside}\n</details>" if inside else ""


def figure(drawn: Drawn, svg: bytes) -> str:
    """A figure with its title above and its caption below."""
    inline = inline_svg(svg.decode(), prefix=drawn.name, description=f"{drawn.title}. {drawn.caption}")
    return f"<figure><h4>{escape(drawn.title)}</h4>{inline}<figcaption>{escape(drawn.caption)}</figcaption></figure>"


def inline_svg(svg: str, *, prefix: str, description: str) -> str:
    """An SVG document as an element of the page: own ids, the page's colours, a description for screen readers."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)


def table(found: Table | None, *, heading: bool = True) -> str:
    """A table in a box of its own that scrolls; empty for None."""
    if found is None:
        return ""
    head = "".join(_cell("head", column, column, found) for column in found.columns)
    rows = []
    for i, row in enumerate(found.rows):
        marks = found.marks[i] if found.marks else ()
        badges = "".join(
            f'<span class="mark{" picked" if mark == PICKED else ""}">{escape(mark)}</span>' for mark in marks
        )
        badges = f'<span class="marks">{badges}</span>' if badges else ""
        cells = [_cell("th", found.columns[0], row[0], found, badges)]
        cells += [_cell("td", column, text, found) for column, text in zip(found.columns[1:], row[1:], strict=True)]
        opening = '<tr class="picked">' if PICKED in marks else "<tr>"
        rows.append(f"{opening}{''.join(cells)}</tr>")
    # A box that scrolls must be reachable by keyboard.
    return (
        (f"<h3>{escape(found.title)}</h3>" if heading else "")
        + f'<div class="scroll" tabindex="0"><table aria-label="{escape(found.title)}">'
        + f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        + (f'<p class="note">{prose(found.note)}</p>' if found.note else "")
    )


def _cell(kind: str, column: str, text: str, found: Table, more: str = "") -> str:
    longest = 48
    classes = [*(["n"] if column in found.numeric else []), *(["long"] if len(text) > longest else [])]
    style = f' class="{" ".join(classes)}"' if classes else ""
    scope = {"td": "", "th": ' scope="row"', "head": ' scope="col"'}[kind]
    name = "td" if kind == "td" else "th"
    return f"<{name}{scope}{style}>{_small_interval(escape(text))}{more}</{name}>"


def _small_interval(text: str) -> str:
    """The bracketed interval behind a gain goes on a quiet line of its own."""
    return re.sub(r" (\[.*\].*)$", r'<span class="span">\1</span>', text)
