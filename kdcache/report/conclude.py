"""All findings of a comparison, put together from the files beside this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdcache.core.design import CHOICES
from kdcache.report.answers import CaseResult
from kdcache.report.calibrations import Recorded, calibrations, fidelities, nll_gain, reliabilities
from kdcache.report.cases import Played, case_result, play
from kdcache.report.choices import Material
from kdcache.report.deciles import Bands, figure1, figure2, figure3, no_null, share
from kdcache.report.declared import baseline_name, check_labels, declare, strategies
from kdcache.report.factors import factorial_effects
from kdcache.report.findings import Excluded, Findings, Published, TwoRuns
from kdcache.report.lacking import complete, missing
from kdcache.report.options import Options
from kdcache.report.published import Ours, against, read_paper
from kdcache.report.regret import regret_rows
from kdcache.report.responses import responses
from kdcache.report.rewards import rewards
from kdcache.report.significance import Across, noise_text, null_bands, paired
from kdcache.report.spaces import described
from kdcache.report.stable import Answer, answer, stable_results
from kdcache.report.two_runs import Sides, two_runs
from kdcache.report.unavailable import unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What `conclude` needs beside the runs: options, resamples and their seed, what was left out, the two sides."""

    options: Options
    resamples: int
    seed: int
    excluded: tuple[Excluded, ...] = ()
    sides: Sides | None = None


def conclude(materials: Sequence[Material], teachers: Sequence[Recorded], asked: Asked) -> Findings:
    """Every finding that these runs allow.

    Raises:
        ConfigError: a label in `asked.options` that no run has.
        RunError: a damaged record of a search.
    """
    options = asked.options
    played = [play(material.case) for material in materials]
    check_labels(played, options)
    contested = [case for case in played if len(case.candidates) > 1]  # one candidate is neither best nor worst
    decided = any(pair.choice in CHOICES for case in contested for pair in case.pairs)
    whole = answer(contested, played) if decided else None
    bands = null_bands(played, options, asked.seed) or no_null
    over = Across(rope=options.rope, seed=asked.seed, resamples=asked.resamples)
    sampled = {material.case.name: material.sampled for material in materials}
    lacking = missing(played, whole)
    two = two_runs(asked.sides, sampled, seed=asked.seed)
    return Findings(
        baseline=baseline_name(played, options),
        design=", ".join(dict.fromkeys(case.replayed.searched.design for case in played)),
        space=" | ".join(dict.fromkeys(described(case.replayed.searched) for case in played)),
        rope=options.rope,
        noise=noise_text(played, options),
        cases=tuple(_case(case, whole) for case in played),
        figure1=figure1(played, bands),
        figure2=figure2(played, bands),
        figure3=figure3(contested, whole, bands),
        rewards=rewards(played),
        stable=stable_results(contested, whole) if whole else (),
        regret=regret_rows(contested),
        paired=paired(declare(played, whole, options), sampled, seed=asked.seed),
        across=tuple(over.compare(strategy) for strategy in strategies(played, whole, options)),
        factorial=factorial_effects(played, over.interval),
        calibration=calibrations(played, teachers),
        reliability=reliabilities(played),
        fidelity=fidelities(played),
        nll_gain=nll_gain(played, teachers),
        responses=responses(played),
        published=_published(contested, whole, bands) if options.against_published else None,
        two_runs=two if isinstance(two, TwoRuns) else None,
        missing=lacking,
        complete=complete(lacking),
        excluded=asked.excluded,
        unavailable=(*unavailable(played, whole, options), *((f"{two}.",) if isinstance(two, str) else ())),
    )


def _case(case: Played, stable: Answer | None) -> CaseResult:
    return case_result(
        case,
        stable=stable.score(case, "per case") if stable else None,
        stable_global=stable.score(case, "global") if stable else None,
    )


def _published(played: Sequence[Played], stable: Answer | None, bands: Bands) -> Published:
    ours = Ours(
        figure1=figure1(played, bands),
        rewards=rewards(played),
        stable=stable_results(played, stable)[0].label if stable else None,
        shares=(share(played, stable, "per case", "test"), share(played, stable, "per case", "validation")),
        cases=len(played),
    )
    return against(ours, read_paper())
