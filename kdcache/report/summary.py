"""What the study says, in words, before any figure; the same for the terminal and the HTML report.

A sentence says what it rests on, and what cannot be said is said to be so: one case, one seed, missing trainings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from kdcache.report.answers import Deciles, RegretRow, Reward, Stable
from kdcache.report.evidence import AcrossCases
from kdcache.report.findings import Findings
from kdcache.report.study import Study
from kdcache.report.two_runs import p_text
from kdcache.report.words import count, percent, range_text, signed, verdict

Z = 1.96
"""Normal quantile of a 95 % interval."""
P = 0.05


def summary(study: Study) -> tuple[str, ...]:
    """Sentences: two runs; or which configuration to use, what the choices are worth, each choice, hard labels."""
    found = study.findings
    if found.two_runs is not None:
        return (found.two_runs.sentence, *found.two_runs.limits)
    if len(study.cases) == 1:
        return (*verdict(study.cases[0]), *_one_case(study))
    said = [*_recommendation(found), *_spread(found), *map(reward_sentence, found.rewards), *_over_hard(found)]
    return tuple(said)


def _one_case(study: Study) -> list[str]:
    if sum(len(table.rows) for table in study.cases) < 2:
        return []
    return [
        "One test case: what is best here need not be best on other data or for another student, so no configuration "
        "can be called safe."
    ]


def noise_floor(found: Findings) -> tuple[float, int] | None:
    """Per cent, and seeds: smaller differences between two configurations are within seed noise; None where unknown.

        1.96 sqrt(2 / S) sd,   sd: median over cases of the deviation between seeds, S: seeds of a candidate

    Example: sd .4 % and 3 seeds: .64 %.
    """
    bands = [curve.null.noise_sd for curve in found.figure1 if curve.null is not None]
    sds = bands[0] if bands else tuple(c.noise_sd for c in found.cases if c.noise_sd is not None)
    if not sds:
        return None
    seeds = min(len(candidate.seeds) for case in found.cases for candidate in case.candidates)
    return Z * math.sqrt(2 / seeds) * float(np.median(sds)), seeds


def contested(found: Findings) -> int:
    """Cases with more than one candidate: those over which configurations are judged."""
    return sum(len(case.candidates) > 1 for case in found.cases)


def _recommendation(found: Findings) -> list[str]:
    """Which configuration to use, and what it costs to take it without a search."""
    per_case = {s.rule: s for s in found.stable if s.tau == "per case"}
    stable = per_case.get("in sample")
    total = contested(found)
    if stable is not None and stable.cases == total:
        return [*_use(stable, per_case.get("leave one dataset out"), found), *_doubts(stable, found)]
    row = next((r for r in found.regret if r.kind != "rule" and r.cases == total), None)
    lacking = (
        f"{configuration_words(stable.label)}, which the votes favour, was trained in {stable.cases} of {total} cases"
        if stable is not None
        else "no choice has both sides trained in every search"
    )
    if row is None:
        how = (
            f"; train what is missing with kdcache search CONFIG --complete {found.complete}" if found.complete else ""
        )
        return [
            f"Which configuration is safe cannot be said: {lacking}, and no other one was trained in all {total}{how}."
        ]
    said = (
        f"Of what was trained in all {total} cases {row.label} loses least: regret {percent(row.mean)} on average, "
        f"{percent(row.worst)} at worst ({row.worst_case}). It was picked by these test scores, so expect more "
        f"elsewhere; {lacking}, so the study's own rule cannot be applied."
    )
    return [said, *_noise(row, found)]


def _use(stable: Stable, out: Stable | None, found: Findings) -> list[str]:
    total = contested(found)
    tested = out if out is not None and out.cases == total else None
    told = tested or stable
    firm = tested is None or 2 * tested.cells.get(stable.label, 0) >= total
    lead = "Use" if firm else "No configuration is stable here; the votes lean to"
    what = f"{lead} {configuration_words(stable.label)}, with the temperature tuned for each case"
    cost = f"expected regret {percent(told.regret_mean)}, worst {percent(told.regret_worst)} ({told.worst_case})"
    if tested is None:
        trust = "The same cases chose it, so on other data expect more"
    else:
        same = tested.cells.get(stable.label, 0)
        trust = "Each case was judged by what the other datasets chose"
        trust += (
            ", the same configuration every time"
            if same == total
            else f", in {same} of {total} cases the same one (where all cases choose it: {percent(stable.regret_mean)})"
        )
    said = [
        f"{what}: {cost}, over {total} cases. {trust}. "
        f"It is at least as good as a search's own pick in {100 * stable.share:.0f} % of the cases."
    ]
    one = {s.rule: s for s in found.stable if s.tau == "global" and s.cases == total}
    temperature = one["in sample"].temperature if "in sample" in one else None
    fixed = one.get(told.rule)
    if fixed is not None and temperature is not None:
        own = f"tau_t = {temperature:g}"
        if fixed is not one["in sample"]:  # others may choose another one
            own = f"all cases choose {own}, whose own regret is {percent(one['in sample'].regret_mean)}"
        said.append(
            f"With one temperature for all ({own}), judged in the same way, regret is "
            f"{percent(fixed.regret_mean)} on average, {percent(fixed.regret_worst)} at worst ({fixed.worst_case})."
        )
    return said


def configuration_words(label: str) -> str:
    """A cell in words.

    Example:
        >>> configuration_words("ce t_ll tau_s=1"), configuration_words("mse t_hs tau_s=tied")
        ('t_ll, CE, tau_s = 1', 't_hs, MSE, tau_s = tau_t')
    """
    loss, _, rest = label.partition(" ")
    teacher, _, tau_s = rest.rpartition(" tau_s=")
    return f"{teacher}, {loss.upper()}, tau_s = {'tau_t' if tau_s == 'tied' else tau_s}"


def _doubts(stable: Stable, found: Findings) -> list[str]:
    """How far the votes behind it are from chance, and what else would do as well."""
    said = []
    tests = [(reward.tuned.p, reward.choice) for reward in found.rewards if reward.choice != "alpha"]
    known = [(p, choice) for p, choice in tests if p is not None]
    if known and min(known)[0] > P:
        said.append(
            f"The votes that chose it are no further from a coin's than {p_text(min(known)[0])} ({min(known)[1]})."
        )
    label = f"{stable.label}, tau tuned"
    total = contested(found)
    rows = [r for r in found.regret if r.kind == "tuned" and r.label == label and r.cases == total]
    return [*said, *_noise(rows[0] if rows else None, found, regret=stable.regret_mean)]


def _noise(row: RegretRow | None, found: Findings, *, regret: float | None = None) -> list[str]:
    floor = noise_floor(found)
    if floor is None:
        return [
            "Seed noise is unknown, because no configuration was trained with two seeds: whether another configuration "
            "would do as well cannot be said."
        ]
    size, seeds = floor
    said = f"Differences below {percent(size)} between two configurations of {count(seeds, 'seed')} are seed noise"
    mean = row.mean if row is not None else regret
    total = contested(found)
    others = [r for r in found.regret if r.kind != "rule" and r.cases == total and r is not row]
    if mean is None or not others:
        return [f"{said}."]
    near = sum(abs(other.mean - mean) < size for other in others)
    if near == 0:
        return [f"{said}; no other configuration that was trained in all cases comes as near in mean regret."]
    return [
        f"{said}; {near} of {len(others)} other configurations trained in all cases are within that of its mean regret."
    ]


def _spread(found: Findings) -> list[str]:
    """What choosing well is worth, beside what noise alone would show."""
    curves = [curve for curve in found.figure1 if curve.name == "best over worst"]
    said = []
    for curve in sorted(curves, key=lambda c: c.by, reverse=True):
        what = (
            "Validation's best configuration over its worst gains"
            if curve.by == "validation"
            else "Chosen by the test, which nobody can do, it would be"
        )
        values = f"{percent(curve.values[5])} in the median case and {percent(curve.values[10])} at most"
        said.append(f"{what} {values}{_beside_noise(curve)}.")
    return said


def _beside_noise(curve: Deciles) -> str:
    if curve.null is None:
        return ""
    low, high, median = curve.null.low[5], curve.null.high[5], curve.values[5]
    beside = "more than" if median > high else "less than" if median < low else "no more than"
    return f"; seed noise alone shows {range_text(low, high)} % in the median case, so this is {beside} noise"


def reward_sentence(reward: Reward) -> str:
    """In how many cases validation preferred the alternative, and whether a coin could have done it."""
    votes = reward.tuned
    ties = f", tied in {votes.ties}" if votes.ties else ""
    head = (
        f"{reward.choice}: {reward.alternative} beat {reward.default} on validation in {votes.plus} of "
        f"{count(votes.cases, 'case')} and lost in {votes.minus}{ties} (R = {_integer(votes.reward)}"
    )
    if votes.p is None:
        return f"{head}): no case tells them apart."
    tail = "more than a coin would do" if votes.p <= P else "a coin could do that"
    said = f"{head}, sign test {p_text(votes.p)}): {tail}."
    if reward.matched is not None and _sign(reward.matched.reward) != _sign(votes.reward):
        effort = f"{reward.trials_default:.3g} and {reward.trials_alternative:.3g} trainings to choose from"
        said += f" At equal temperatures R is {_integer(reward.matched.reward)}: the sides had {effort}."
    return said


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def _integer(value: int) -> str:
    return f"{value:+d}".replace("-", "\N{MINUS SIGN}") if value else "0"


def _over_hard(found: Findings) -> list[str]:
    own = [a for a in found.across if a.a == found.baseline and a.b == "best by validation"]
    return [across_sentence(a) for a in own]


def across_sentence(across: AcrossCases) -> str:
    """A mean gain over cases, its interval, and the probability that it matters."""
    head = f"{across.b[0].upper()}{across.b[1:]} gains {signed(across.mean)} % over {across.a} on average"
    where = f"{count(len(across.gains), 'case')} of {count(across.datasets, 'dataset')}"
    if across.low is None or across.high is None:
        return f"{head} ({where}: no interval over datasets)."
    inside = ", which contains 0: no difference is visible" if across.low <= 0 <= across.high else ""
    said = f"{head} ({where}, 95 % interval {range_text(across.low, across.high)}{inside})"
    if across.better is None:
        return f"{said}."
    return f"{said}; better by more than {across.rope:g} % with probability {across.better:.2f}."


def closing(study: Study) -> Sequence[str]:
    """What is missing and what could not be computed, for the remarks."""
    found = study.findings
    said = list(found.unavailable)
    if found.missing:
        cases = len({missing.case for missing in found.missing})
        wanted = ", ".join(dict.fromkeys(missing.wanted_by for missing in found.missing))
        how = f" kdcache search CONFIG --complete {found.complete} trains them." if found.complete else ""
        said.append(f"Trainings are missing in {count(cases, 'case')} (for: {wanted}).{how}")
    return said
