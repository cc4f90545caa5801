"""The self-contained HTML report: summary in words, figures, tables, how it was computed. No script, no network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape

from kdcache.report.gain import CaseTable
from kdcache.report.plots import COLOURS
from kdcache.report.statistics.resample import LEVEL
from kdcache.report.study import Study
from kdcache.report.style import CSS
from kdcache.report.tables import PICKED, Table, case_table, effects_table, others_table, teachers_table
from kdcache.report.words import (
    count,
    effect_sentence,
    missing_effects,
    overview,
    remarks,
    seed_warning,
    seeds_text,
    verdict,
)
from kdcache.version import __version__


def render(study: Study, figures: Mapping[str, bytes]) -> str:
    """The whole page.

    Args:
        study: what was found.
        figures: name -> SVG; `choices-<metric>` and `gain-<n>` for case n (from 1) are shown if they are there.
    """
    names = list(dict.fromkeys(table.dataset for table in study.cases))
    title = f"Distillation of {', '.join(names)}" if len(names) < 4 else f"Distillation of {len(names)} datasets"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(overview(study))}</p>',
        _warning(study),
        "<h2>Summary</h2>",
        *(f"<p>{_prose(' '.join(verdict(table)))}</p>" for table in study.cases),
        *_choices(study),
        "<h3>Remarks</h3>",
        _list(remarks(study)),
        "<h2>Figures</h2>",
        *_figures(study, figures),
        "<h2>Tables</h2>",
        *_tables(study),
        "<h2>How it was computed</h2>",
        _method(study),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)} | kdcache compare</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _warning(study: Study) -> str:
    text = seed_warning(study)
    if text is None:
        return ""
    head, _, rest = text.partition(". ")
    return f'<p class="loud" role="note"><strong>{escape(head)}.</strong> {_prose(rest)}</p>'


def _prose(sentence: str) -> str:
    """A sentence escaped, its flags as code that does not break over lines."""
    return re.sub(r"(?<=[ (])--[\w-]+( \d+)?", r"<code>\g<0></code>", escape(sentence))


def _choices(study: Study) -> list[str]:
    told = [*map(effect_sentence, study.effects), *missing_effects(study)]
    return ["<h3>What each choice did</h3>", _list(told)] if told else []


def _list(sentences: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{_prose(sentence)}</li>" for sentence in sentences) + "</ul>" if sentences else ""


def _figures(study: Study, figures: Mapping[str, bytes]) -> list[str]:
    parts = []
    interval = f"{100 * LEVEL:g} % interval by paired bootstrap over test examples"
    for i, table in enumerate(study.cases, start=1):
        caption = (
            f"{table.name}: gain of each configuration, best validation score at the top, the filled point is "
            f"validation's pick. Lines: {interval}, {study.resamples:,} resamples of {table.num_test:,} examples, the "
            f"same for every run. {_seeds(table)}. {table.signature}."
        )
        parts += _figure(figures, f"gain-{i}", caption)
    for metric in dict.fromkeys(effect.metric for effect in study.effects):
        own = [effect for effect in study.effects if effect.metric == metric]
        signatures = dict.fromkeys(table.signature for table in study.cases if table.metric == metric)
        pairs = [len(effect.differences) for effect in own]
        cases = sum(table.metric == metric for table in study.cases)
        caption = (
            f"What each choice did: mean difference in test {metric} over pairs of runs that differ in that choice "
            f"alone ({_span(pairs, 'pair')} in {count(cases, 'case')}; "
            f"{seeds_text(study.seeds)}). "
            f"Faint ticks: the pairs. Lines: {interval}. {', '.join(signatures)}."
        )
        parts += _figure(figures, f"choices-{metric}", caption)
    return parts or ["<p>There is nothing to draw: no two configurations in any case.</p>"]


def _seeds(table: CaseTable) -> str:
    return f"{_span([len(row.seeds) for row in table.rows], 'seed')} for each configuration"


def _span(numbers: list[int], noun: str) -> str:
    """`4 pairs`, or `4 to 8 pairs`."""
    least, most = min(numbers), max(numbers)
    return count(most, noun) if least == most else f"{least:,} to {count(most, noun)}"


def _figure(figures: Mapping[str, bytes], name: str, caption: str) -> list[str]:
    if name not in figures:
        return []
    svg = inline_svg(figures[name].decode(), prefix=name, description=caption)
    # A box that scrolls must be reachable by keyboard.
    return [f'<figure><div class="scroll" tabindex="0">{svg}</div><figcaption>{escape(caption)}</figcaption></figure>']


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


def _tables(study: Study) -> list[str]:
    parts = [_table(case_table(table)) for table in study.cases]
    aliases = {
        f"{row.label}: asked for as {', '.join(row.aliases)} too, the same gradient at every step"
        for table in study.cases
        for row in table.rows
        if row.aliases
    }
    parts.append(_list(sorted(aliases)))
    parts += [_table(table) for table in (effects_table(study), teachers_table(study)) if table is not None]
    parts += [_table(table) for table in map(others_table, study.cases) if table is not None]
    return parts


def _table(table: Table) -> str:
    def cell(tag: str, column: str, text: str, more: str = "") -> str:
        numeric = ' class="n"' if column in table.numeric else ""
        scope = {"td": "", "th": ' scope="row"', "head": ' scope="col"'}[tag]
        name = "td" if tag == "td" else "th"
        return f"<{name}{scope}{numeric}>{_small_interval(escape(text))}{more}</{name}>"

    head = "".join(cell("head", column, column) for column in table.columns)
    rows = []
    for i, row in enumerate(table.rows):
        marks = table.marks[i] if table.marks else ()
        badges = "".join(
            f'<span class="mark{" picked" if mark == PICKED else ""}">{escape(mark)}</span>' for mark in marks
        )
        badges = f'<span class="marks">{badges}</span>' if badges else ""
        cells = [cell("th", table.columns[0], row[0], badges)]
        cells += [cell("td", column, text) for column, text in zip(table.columns[1:], row[1:], strict=True)]
        opening = '<tr class="picked">' if PICKED in marks else "<tr>"
        rows.append(f"{opening}{''.join(cells)}</tr>")
    return (
        f"<h3>{escape(table.title)}</h3>"
        f'<div class="scroll" tabindex="0"><table aria-label="{escape(table.title)}">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _small_interval(text: str) -> str:
    """The bracketed interval behind a gain goes on a quiet line of its own."""
    return re.sub(r" (\[.*\].*)$", r'<span class="span">\1</span>', text)


def _method(study: Study) -> str:
    facts = [
        (
            "gain",
            "100 (score / baseline − 1), in per cent; its negative where lower is better. Means over seeds; a gain "
            "uses the seeds that both rows have.",
        ),
        (
            "baselines",
            "Hard labels: the run with alpha = 0. The worst: the distillation configuration with the lowest "
            "test score, an oracle as the best one is; choosing either by the test is not in the intervals.",
        ),
        (
            "interval",
            f"{100 * LEVEL:g} % percentile (linear quantiles) of {study.resamples:,} paired bootstrap resamples of the "
            f"test examples, seed {study.seed}. Noise between seeds is not in it.",
        ),
        ("one row", "Configurations with the same gradient at every step and the same teacher weights are one row."),
        (
            "pairs",
            "Two runs of one case and one seed whose configurations differ in one choice alone, up to that "
            "equivalence. Points are hundredths of the score.",
        ),
    ]
    for table in study.cases:
        facts.append((table.name, f"{table.signature}; {table.num_test:,} test examples, digest {table.test_digest}"))
    facts.append(("cache signatures", ", ".join(study.signatures) or "none recorded"))
    facts.append(("versions", ", ".join((f"this report kdcache {__version__}", *study.versions))))
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts) + "</dl>"
