"""Every figure of a study in the order of the report, each with its title and caption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from kdcache.report.answers import Deciles
from kdcache.report.captions import INTERVAL, deciles_text, facts, left_out, null_text
from kdcache.report.evidence import PairedComparison, Response
from kdcache.report.figures_calibration import calibration_figure, nll_gain_figure, reliability_figure
from kdcache.report.figures_cases import effects_figure, gain_figure
from kdcache.report.figures_deciles import FEW_CASES, figure1, figure2, figure3
from kdcache.report.figures_forest import ROWS, across_figure, declared, factorial_figure, paired_figure
from kdcache.report.figures_regret import regret_figure, shown
from kdcache.report.figures_response import PANELS, all_cases_figure, case_figure
from kdcache.report.plots import SERIES, Drawn
from kdcache.report.study import Study
from kdcache.report.words import count

FEW = 4
"""Up to so many cases have figures and tables of their own, before those over all cases are all that fits."""
SPREAD, CHOICES, SAFE, COMPARED, RESPONSE, CALIBRATION, TWO, CASES = (
    "How much the choices matter",
    "Each choice",
    "One configuration for all",
    "Comparisons",
    "Temperature and alpha",
    "Calibration",
    "Two runs",
    "Cases",
)
"""Parts of the report that have figures."""


def gallery(study: Study) -> tuple[Drawn, ...]:
    """Every figure that these runs allow. A lone configuration has none, two runs have their own and calibration."""
    if study.findings.two_runs is not None:
        return (*_two_runs(study), *_calibration(study))
    if sum(len(table.rows) for table in study.cases) < 2:
        return ()
    parts = (_spread, _choices, _safe, _compared, _responses, _calibration, _cases)
    return tuple(drawn for part in parts for drawn in part(study))


def _drawn(name: str, section: str, title: str, caption: str, figure: Figure | None) -> Iterator[Drawn]:
    if figure is not None:
        yield Drawn(name=name, section=section, title=title, caption=caption, figure=figure)


def _names(curves: Sequence[Deciles]) -> list[str]:
    return [case for curve in curves for case in curve.cases]


def _spread(study: Study) -> Iterator[Drawn]:
    curves = study.findings.figure1
    if curves and len(study.cases) > 1:  # deciles of one case are one number, which the tables have
        caption = (
            f"Gain in test score of the best candidate over the worst, and over a random one. {deciles_text(curves)} "
            f"Picked by test: an oracle that nobody can follow; picked by validation: what a user can do. "
            f"{null_text(study.findings, curves)}{left_out(curves)} {facts(study, _names(curves))}"
        )
        yield from _drawn("figure-1", SPREAD, "Figure 1. Best over worst, best over random", caption, figure1(curves))


def _choices(study: Study) -> Iterator[Drawn]:
    curves = study.findings.figure2
    if curves and len(study.cases) > 1:
        caption = (
            f"Signed gain in test score of each choice's alternative over its default, as the search compared them. "
            f"{deciles_text(curves)} {null_text(study.findings, curves)}{left_out(curves)} "
            f"{facts(study, _names(curves))}"
        )
        yield from _drawn("figure-2", CHOICES, "Figure 2. What each choice gains", caption, figure2(curves))
    for metric in dict.fromkeys(effect.metric for effect in study.effects):
        own = [effect for effect in study.effects if effect.metric == metric]
        names = [table.name for table in study.cases if table.metric == metric]
        pairs = [len(effect.differences) for effect in own]
        caption = (
            f"Mean difference in test {metric} over pairs of runs that differ in that choice alone "
            f"({_span(pairs, 'pair')}). Faint ticks: the pairs. Lines: {INTERVAL} by paired bootstrap over test "
            f"examples, {study.resamples:,} resamples; noise between seeds is not in it. {facts(study, names)}"
        )
        yield from _drawn(f"choices-{metric}", CHOICES, f"Matched pairs, {metric}", caption, effects_figure(own))
    effects = study.findings.factorial
    if effects:
        caption = (
            "Main effects and interactions over the full grid of eight tuned configurations. Ticks: cases. Lines: "
            f"{INTERVAL} over datasets, where there are several. {facts(study, effects[0].cases)}"
        )
        yield from _drawn("factorial", CHOICES, "Factorial effects", caption, factorial_figure(effects))


def _safe(study: Study) -> Iterator[Drawn]:
    third = study.findings.figure3
    curves = [c for c in (third.stable, third.stable_global, third.random, third.lazy) if c is not None]
    if curves and len(study.cases) > 1:
        stable = study.findings.stable
        which = f"Stable is {stable[0].label}, chosen by the votes of these cases. " if stable else ""
        banded = [c for c in curves[:1] if c.null is not None]
        caption = (
            f"Gain in test score over the best by validation; at 0 or above nothing is lost. {which}"
            f"{deciles_text(curves)} {null_text(study.findings, banded)}{left_out(curves)} "
            f"{facts(study, _names(curves))}"
        )
        yield from _drawn("figure-3", SAFE, "Figure 3. Stable, random and lazy against best", caption, figure3(third))
    rows = shown(study.findings.regret)
    if rows:
        few = rows[0].cases <= FEW_CASES
        how = (
            "Points: mean over cases; ticks: cases. Open points: rules, not configurations."
            if few
            else "Each curve: the part of the cases in which it costs at most that much."
        )
        caption = (
            "Regret: per cent of the test score that a configuration falls short of the best candidate of its case by "
            f"test. Those of least mean regret, so a little better here than elsewhere. {how} "
            f"{facts(study, rows[0].case_names)}"
        )
        title = "Regret of fixed configurations"
        yield from _drawn("regret", SAFE, title, caption, regret_figure(study.findings.regret))


def _compared(study: Study) -> Iterator[Drawn]:
    across = study.findings.across
    if across and len(study.cases) > 1:
        rope = across[0].rope
        probabilities = any(a.better is not None for a in across)
        said = (
            f"At the right: probability that it is worse / equal / better, gains within {rope:g} % counting as equal "
            "(Bayesian signed-rank). "
            if probabilities
            else "One dataset: no interval and no test over datasets. "
        )
        caption = (
            f"Mean gain over cases. Ticks: cases. Lines: {INTERVAL} by bootstrap over datasets. {said}"
            f"{facts(study, [case for a in across for case in a.cases])}"
        )
        yield from _drawn("across", COMPARED, "Over all cases", caption, across_figure(across))
    family = [c for c in study.findings.paired if c.holm_p is not None]
    if len(study.cases) <= FEW or not family:
        return
    for metric in dict.fromkeys(c.metric for c in family):
        own = [c for c in family if c.metric == metric]
        yield from _paired(study, own, f"paired-{metric}", COMPARED, f"Within cases, {metric}")


def _paired(study: Study, own: Sequence[PairedComparison], name: str, section: str, title: str) -> Iterator[Drawn]:
    """`own`: declared comparisons of one metric."""
    drawn = declared(own)
    covers = " or ".join(dict.fromkeys(c.covers for c in drawn))
    which = f"The {ROWS} of smallest adjusted p of {len(own):,} declared comparisons; all are in pairs.csv. "
    caption = (
        f"{which if len(own) > len(drawn) else ''}Difference in test score, {INTERVAL} over {covers}; p, and Holm's p "
        f"over the {sum(c.holm_p is not None for c in study.findings.paired):,} declared comparisons of the report. "
        f"{facts(study, [c.case for c in drawn])}"
    )
    yield from _drawn(name, section, title, caption, paired_figure(drawn, cases=len({c.case for c in drawn}) > 1))


def _responses(study: Study) -> Iterator[Drawn]:
    for over in ("tau_t", "alpha"):
        own = [response for response in study.findings.responses if response.over == over]
        name = "temperature" if over == "tau_t" else "alpha"
        if not own:
            continue
        if len(study.cases) > FEW:
            caption = (
                "Test score of each case in per cent over the mean of its own curve (thin), and the mean over the "
                f"cases that have every value (bold). {_first(PANELS, len({r.label for r in own}))}"
                f"{facts(study, [r.case for r in own])}"
            )
            yield from _drawn(name, RESPONSE, f"Response to {name}", caption, all_cases_figure(own))
            continue
        for i, table in enumerate(study.cases, start=1):
            mine = [response for response in own if response.case == table.name]
            yield from _response(study, mine, f"{name}-{i}", f"Response to {name}: {table.name}")


def _response(study: Study, own: Sequence[Response], name: str, title: str) -> Iterator[Drawn]:
    if own:
        caption = (
            f"Mean test score over seeds; small points: the seeds. {_first(len(SERIES), len(own))}"
            f"{facts(study, [own[0].case])}"
        )
        yield from _drawn(name, RESPONSE, title, caption, case_figure(own))


def _first(drawn: int, there: int) -> str:
    return f"{drawn} of {there} curves; all are in response.csv. " if there > drawn else ""


def _calibration(study: Study) -> Iterator[Drawn]:
    found = study.findings
    caption = (
        "Negative log-likelihood and expected calibration error (15 bins): teachers on validation, students on the "
        "test (mean over seeds). Bars: mean over cases; points: cases. Those known in the most cases; all are in "
        f"calibration.csv. {facts(study)}"
    )
    title = "Calibration of teachers and students"
    yield from _drawn("calibration", CALIBRATION, title, caption, calibration_figure(found.calibration))
    names = [r.case for r in found.reliability]
    caption = f"Students on the test, bins summed over seeds; on the dashes they are calibrated. {facts(study, names)}"
    title = "Reliability of students"
    yield from _drawn("reliability", CALIBRATION, title, caption, reliability_figure(found.reliability))
    if found.nll_gain is not None:
        rho, p = found.nll_gain.rho, found.nll_gain.p
        rank = "" if rho is None or p is None else f" Spearman's rank correlation {rho:.2f} (p = {p:.2g})."
        points = [q.case for q in found.nll_gain.points]
        caption = (
            f"Points: a teacher and its best student by validation; lines join one case.{rank} {facts(study, points)}"
        )
        title = "Does a teacher's NLL predict its student's gain?"
        yield from _drawn("nll-gain", CALIBRATION, title, caption, nll_gain_figure(found.nll_gain))


def _two_runs(study: Study) -> Iterator[Drawn]:
    two = study.findings.two_runs
    if two is not None:
        caption = (
            f"Difference in test score, {INTERVAL} over {two.comparison.covers} ({two.comparison.method}). "
            f"{facts(study, [t.name for t in study.cases])}"
        )
        yield from _drawn("two-runs", TWO, "The difference", caption, paired_figure([two.comparison], cases=False))


def _cases(study: Study) -> Iterator[Drawn]:
    """Gains of every configuration of a case, where cases are few, and its declared comparisons."""
    if len(study.cases) > FEW:
        return
    for i, table in enumerate(study.cases, start=1):
        caption = (
            "Gain of each configuration, best validation score at the top; the filled point is validation's pick. "
            f"Lines: {INTERVAL} by paired bootstrap over test examples, {study.resamples:,} resamples of "
            f"{table.num_test:,} examples, the same for every run; noise between seeds is not in it. "
            f"{facts(study, [table.name])}"
        )
        yield from _drawn(f"gain-{i}", CASES, f"{table.name}: gains", caption, gain_figure(table))
        own = [c for c in study.findings.paired if c.holm_p is not None and c.case == table.name]
        if own:
            yield from _paired(study, own, f"paired-{i}", CASES, f"{table.name}: declared comparisons")


def _span(numbers: Sequence[int], noun: str) -> str:
    """`4 pairs`, or `4 to 8 pairs`."""
    least, most = min(numbers), max(numbers)
    return count(most, noun) if least == most else f"{least:,} to {count(most, noun)}"
