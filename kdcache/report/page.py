"""The HTML report: summary in words, two runs, findings with figures, the paper, tables, remarks, method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from kdcache.report.answers import QUANTILES
from kdcache.report.findings import Published, TwoRuns
from kdcache.report.gallery import CASES, FEW, TWO
from kdcache.report.html import document, figure, folded, listed, prose, table
from kdcache.report.plots import Drawn
from kdcache.report.statistics.resample import LEVEL
from kdcache.report.study import Study
from kdcache.report.style import CSS
from kdcache.report.summary import closing, summary
from kdcache.report.tables import case_table, effects_table, others_table, teachers_table
from kdcache.report.tables_across import (
    calibration_table,
    cases_table,
    deciles_table,
    excluded_table,
    fidelity_table,
    missing_table,
    paired_table,
    published_table,
    regret_table,
    two_runs_table,
)
from kdcache.report.tables_across import tables as tables_across
from kdcache.report.words import effect_sentence, missing_effects, overview, remarks, seed_warning, verdict
from kdcache.version import __version__


def render(study: Study, gallery: Sequence[Drawn], vectors: Mapping[str, bytes]) -> str:
    """The whole page.

    Args:
        study: what was found.
        gallery: its figures, in order.
        vectors: name of a figure -> SVG.
    """
    names = list(dict.fromkeys(table.dataset for table in study.cases))
    title = f"Distillation of {', '.join(names)}" if len(names) < 4 else f"Distillation of {len(names)} datasets"
    found = study.findings
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(overview(study))}</p>',
        '<h2 id="summary">Summary</h2>',
        *(f'<p class="said">{prose(sentence)}</p>' for sentence in summary(study)),
        _warning(study),
        *(_two_runs(found.two_runs, gallery, vectors) if found.two_runs else ()),
        *_findings(study, gallery, vectors),
        *(_published(found.published) if found.published else ()),
        '<h2 id="tables">Tables</h2>',
        *_tables(study),
        *_cases(study, gallery, vectors),
        '<h2 id="remarks">Remarks</h2>',
        listed([*closing(study), *remarks(study)]),
        _long(table(missing_table(found)), "Missing trainings", len(found.missing)),
        '<h2 id="excluded">Excluded runs</h2>' if found.excluded else "",
        _long(table(excluded_table(found), heading=False), "Excluded runs", len(found.excluded)),
        '<h2 id="method">How it was computed</h2>',
        _method(study),
    ]
    return document(f"{title} | kdcache compare", CSS, body)


def _warning(study: Study) -> str:
    text = seed_warning(study)
    if text is None:
        return ""
    head, _, rest = text.partition(". ")
    return f'<p class="loud" role="note"><strong>{escape(head)}.</strong> {prose(rest)}</p>'


def _long(text: str, name: str, rows: int) -> str:
    """As it is, or folded where it is long."""
    most = 12
    return folded(f"{name} ({rows:,})", [text]) if rows > most else text


def _shown(drawn: Sequence[Drawn], vectors: Mapping[str, bytes]) -> str:
    inside = "".join(figure(one, vectors[one.name]) for one in drawn)
    return f'<div class="figures">{inside}</div>' if inside else ""


def _findings(study: Study, gallery: Sequence[Drawn], vectors: Mapping[str, bytes]) -> list[str]:
    """Part by part: its sentences, then its figures."""
    told = [*map(effect_sentence, study.effects), *missing_effects(study)]
    parts: list[str] = []
    sections = [one.section for one in gallery if one.section not in (TWO, CASES)]
    for section in dict.fromkeys(sections):
        own = [one for one in gallery if one.section == section]
        parts += [f"<h3>{escape(section)}</h3>", _shown(own, vectors)]
    if told and study.findings.two_runs is None:
        head = "What each choice did, over matched pairs"
        parts.append(_long(f"<h3>{head}</h3>{listed(told)}", head, len(told)))
    if not parts and study.findings.two_runs is None:
        parts.append("<p>There is nothing to draw: no two configurations in any case.</p>")
    return ['<h2 id="findings">Findings</h2>', *parts] if parts else []


def _two_runs(two: TwoRuns, gallery: Sequence[Drawn], vectors: Mapping[str, bytes]) -> list[str]:
    own = [one for one in gallery if one.section == TWO]
    return [
        '<h2 id="two">Two runs</h2>',
        table(two_runs_table(two), heading=False),
        _shown(own, vectors),
    ]


def _published(found: Published) -> list[str]:
    return [
        '<h2 id="published">Against the paper</h2>',
        f"<p>{prose(found.source)}</p>",
        table(published_table(found)),
        listed(found.footnotes, ordered=True),
    ]


def _tables(study: Study) -> list[str]:
    found = study.findings
    several = len(study.cases) > 1
    parts = [table(cases_table(found.cases))] if several else []
    if several and len(study.cases) > FEW:
        parts = [folded(f"Cases ({len(study.cases)})", parts)]
    if found.two_runs is None:
        over = tables_across(found) if several else (deciles_table(found.figure1), regret_table(found))
        parts += [table(one) for one in over]
        own = [c for c in found.paired if c.holm_p is not None]
        parts.append(_long(table(paired_table(found.paired)), "Declared comparisons within cases", len(own)))
        parts.append(_long(table(effects_table(study)), "What each choice did, over matched pairs", len(study.effects)))
    parts += [
        _long(table(teachers_table(study)), "Teachers on validation", len(study.teachers)),
    ]
    students = [c for c in found.calibration if c.kind == "student"]
    parts.append(_long(table(calibration_table(found.calibration)), "Calibration of students", len(students)))
    parts.append(_long(table(fidelity_table(found.fidelity)), "Students and their teachers", len(found.fidelity)))
    return parts


def _cases(study: Study, gallery: Sequence[Drawn], vectors: Mapping[str, bytes]) -> list[str]:
    """Every case: what validation picks, its figures, all its configurations; folded where cases are many."""
    parts = []
    for i, own in enumerate(study.cases, start=1):
        aliases = [
            f"{row.label}: asked for as {', '.join(row.aliases)} too, the same gradient at every step"
            for row in own.rows
            if row.aliases
        ]
        figures = [one for one in gallery if one.section == CASES and one.name.endswith(f"-{i}")]
        inside = [
            f"<p>{prose(' '.join(verdict(own)))}</p>" if len(study.cases) > 1 else "",
            table(case_table(own)),
            listed(sorted(aliases)),
            _shown(figures, vectors),
            table(others_table(own)),
        ]
        parts.append(folded(own.name, inside) if len(study.cases) > 1 else "\n".join(part for part in inside if part))
    return ['<h2 id="cases">Cases</h2>' if len(parts) > 1 else "", *parts]


def _method(study: Study) -> str:
    found = study.findings
    facts = [
        (
            "gain",
            "100 (score / baseline − 1), in per cent; its negative where lower is better. Means over seeds; a gain "
            "uses the seeds that both rows have.",
        ),
        (
            "baselines",
            "Hard labels: the run with alpha = 0. The worst: the distillation configuration with the lowest "
            f"test score, an oracle as the best one is. Comparisons are with {found.baseline}.",
        ),
        ("searched", f"{found.design}: {found.space}"),
        (
            "interval of gains",
            f"{100 * LEVEL:g} % percentile ({QUANTILES} quantiles) of {study.resamples:,} paired bootstrap resamples "
            f"of the test examples, seed {study.seed}. Noise between seeds is not in it.",
        ),
        ("comparisons", "; ".join(dict.fromkeys(c.method for c in found.paired)) or "none"),
        ("deciles", f"D_k = quantile(gains, k/10), {QUANTILES}."),
        ("seed noise", f"{found.noise}. A difference below 1.96 sqrt(2 / seeds) times it is called seed noise."),
        ("regret", "−100 (score / best − 1), best: the candidate of the case with the best test score."),
        ("one row", "Configurations with the same gradient at every step and the same teacher weights are one row."),
        (
            "pairs",
            "Two runs of one case and one seed whose configurations differ in one choice alone, up to that "
            "equivalence. Points are hundredths of the score.",
        ),
    ]
    for own in study.cases:
        facts.append((own.name, f"{own.signature}; {own.num_test:,} test examples, digest {own.test_digest}"))
    facts.append(("cache signatures", ", ".join(study.signatures) or "none recorded"))
    facts.append(("versions", ", ".join((f"this report kdcache {__version__}", *study.versions))))
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts) + "</dl>"
