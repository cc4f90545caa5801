"""Numbers and findings in words, the same for the terminal and the HTML report. Pure text, nothing escaped.

An interval that contains 0 is called no visible difference, never "equal"; what an interval leaves out is said.
"""

from __future__ import annotations

from collections.abc import Sequence

from kdcache.report.choices import Effect
from kdcache.report.gain import CaseTable, Gain
from kdcache.report.study import Study

MINUS = "\N{MINUS SIGN}"
FEW_SEEDS = 3
"""Seeds that a configuration which is reported should have at least."""


def score_text(value: float) -> str:
    """A score in the metric's own unit, 4 decimals."""
    return f"{value:.4f}".replace("-", MINUS)


def signed(value: float) -> str:
    """Two decimals and a sign; what rounds to 0 has none.

    Example:
        >>> signed(1.234), signed(-0.001)
        ('+1.23', '0.00')
    """
    text = f"{value:+.2f}".replace("-", MINUS)
    return "0.00" if text[1:] == "0.00" else text


def range_text(low: float | None, high: float | None) -> str:
    """`+0.10 to +2.30`, or why there is none."""
    if low is None or high is None:
        return "no interval: a resample scores 0"
    return f"{signed(low)} to {signed(high)}"


def interval_text(low: float | None, high: float | None) -> str:
    """`95 % interval +0.10 to +2.30`, or why there is none."""
    return range_text(low, high) if low is None or high is None else f"95 % interval {range_text(low, high)}"


def unit(metric: str) -> tuple[str, float]:
    """Name and factor of the unit that differences are shown in: hundredths (`points`), or nats.

    Example:
        >>> unit("f1_binary"), unit("nll")
        (('points', 100.0), ('nats', 1.0))
    """
    return ("nats", 1.0) if metric == "nll" else ("points", 100.0)


def count(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def overview(study: Study) -> str:
    """How many runs of what were compared."""
    rows = sum(len(table.rows) for table in study.cases)
    cases = f"1 test case ({study.cases[0].name})" if len(study.cases) == 1 else count(len(study.cases), "test case")
    return f"{count(study.num_runs, 'run')}, {count(rows, 'configuration')}, {cases}, {seeds_text(study.seeds)}."


def pair_label(a: str, b: str) -> str:
    """Two things over all cases.

    Example:
        >>> pair_label("loss = ce", "loss = mse"), pair_label("hard labels", "stable")
        ('loss: mse over ce', 'stable over hard labels')
    """
    (one, _, default), (two, _, alternative) = a.partition(" = "), b.partition(" = ")
    return f"{two}: {alternative} over {default}" if one == two and default else f"{b} over {a}"


def percent(value: float) -> str:
    """Per cent without a sign unless it is below 0: `0.30 %`."""
    return f"{signed(value).removeprefix('+')} %"


def seeds_text(seeds: Sequence[int]) -> str:
    """`seed 0`, or `seeds 0, 1, 2`."""
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def verdict(table: CaseTable) -> list[str]:
    """What validation would pick in a case, what that gains, and what the test would have picked."""
    picked, oracle = table.rows[table.picked], table.rows[table.oracle]
    if len(table.rows) == 1:
        return [f"{table.name}: one configuration, {picked.label}: nothing to compare it with."]
    said = f"{table.name}: validation picks {picked.label} (test {table.metric} {score_text(picked.test)})"
    ties = [row.label for i, row in enumerate(table.rows) if i != table.picked and row.validation == picked.validation]
    ties = [label for label in ties if table.hard is None or label != table.rows[table.hard].label]
    sentences = [
        said
        + (
            f", tied on validation with {', '.join(ties)}, which come{'s' if len(ties) == 1 else ''} after it by name."
            if ties
            else "."
        )
    ]
    if picked.over_hard is not None:
        sentences.append(f"Its gain over hard labels is {gain_sentence(picked.over_hard)}.")
    elif table.hard is None:
        sentences.append(
            "There is no run on hard labels (--alpha 0), so nothing here says whether distillation helped."
        )
    elif table.picked != table.hard:
        why = (
            "the two have no seed in common"
            if set(picked.seeds).isdisjoint(table.rows[table.hard].seeds)
            else "hard labels score 0"
        )
        sentences.append(f"Its gain over hard labels has no value: {why}.")
    if table.hard is not None and table.picked != table.hard:
        hard = table.rows[table.hard]
        sign = 1 if table.higher_is_better else -1
        if sign * hard.validation >= sign * picked.validation:
            sentences.append("On validation hard labels are at least as good: validation would not distil at all.")
    if table.oracle == table.picked:
        sentences.append("It is also the best distillation configuration on the test.")
    else:
        sentences.append(
            f"The best on the test is {oracle.label} ({score_text(oracle.test)}); nobody can choose by the test, so "
            f"this is an upper bound."
        )
    return sentences


def gain_sentence(gain: Gain) -> str:
    """A gain with its interval and what the interval says."""
    inside = gain.low is not None and gain.high is not None and gain.low <= 0 <= gain.high
    doubt = ", which contains 0: no gain or loss is visible" if inside else ""
    return f"{signed(gain.percent)} % ({interval_text(gain.low, gain.high)}{doubt})"


def effect_title(effect: Effect) -> str:
    """`loss, mse against ce`."""
    return f"{effect.choice}, {effect.alternative} against {effect.default}"


def effect_sentence(effect: Effect) -> str:
    """What one choice did, over how many pairs, and whether the runs can tell."""
    name, factor = unit(effect.metric)
    mean, pairs = effect.mean * factor, len(effect.differences)
    low = None if effect.low is None else effect.low * factor
    high = None if effect.high is None else effect.high * factor
    direction = "better" if mean > 0 else "worse"
    head = f"{effect_title(effect)}: {direction} by {abs(mean):.2f} {name} of test {effect.metric} on average"
    if f"{abs(mean):.2f}" == "0.00":
        head = f"{effect_title(effect)}: the same test {effect.metric} on average (to 0.01 {name})"
    cases = f" in {count(effect.cases, 'case')}" if effect.cases > 1 else ""
    body = f"over {count(pairs, 'pair')}{cases} ({interval_text(low, high)})"
    body += f", better in {effect.better} of {pairs}"
    if low is None or high is None:
        return f"{head} {body}."
    tail = "The interval contains 0: these runs do not show a difference." if low <= 0 <= high else _beyond(effect)
    return f"{head} {body}. {tail}"


def _beyond(effect: Effect) -> str:
    said = "More than the choice of test examples explains;"
    if len(effect.seeds) < FEW_SEEDS:
        return f"{said} with {count(len(effect.seeds), 'seed')}, noise between seeds could still explain it."
    return f"{said} compare it with the deviation over seeds in the tables."


def missing_effects(study: Study) -> list[str]:
    """Choices that could not be told, and why: one checkpoint under two teacher names, or no pair at all."""
    folded = [t.name for t in study.cases if any(len(row.teachers) > 1 for row in t.rows)]
    said = [
        f"teacher: the teacher names of {name} are one and the same checkpoint, so they make no difference there."
        for name in folded
    ]
    if not study.effects and not folded and sum(len(table.rows) for table in study.cases) > 1:
        said.append("No two runs differ in one choice alone (at one seed), so no choice can be told from the others.")
    return said


def seed_warning(study: Study) -> str | None:
    """A loud sentence while any configuration has fewer than three seeds, and what to run next; a quiet one where these
    were only tried while a search tuned."""
    seeds = [len(row.seeds) for table in study.cases for row in table.rows]
    if min(seeds) >= FEW_SEEDS:
        return None
    fewest = min((row.seeds for table in study.cases for row in table.rows), key=len)
    more = " and ".join(f"--seed {seed}" for seed in _next_seeds(study.seeds, fewest))
    if max(seeds) == 1:
        return (
            "ONE SEED PROVES LITTLE. Every configuration was trained once, and another seed would give another score. "
            "The intervals hold the choice of test examples only; seed noise is not in them, so the order of close "
            f"configurations may be chance. Next: train each configuration again with {more}, then compare again."
        )
    few = sum(n < FEW_SEEDS for n in seeds)
    found = study.findings.cases
    reported = [len(candidate.seeds) for case in found for candidate in case.candidates]
    reported += [len(table.rows[table.hard].seeds) for table in study.cases if table.hard is not None]
    if all(case.replayed for case in found) and min(reported) >= FEW_SEEDS:
        return (
            f"Every candidate of the searches has at least {FEW_SEEDS} seeds. {count(few, 'other configuration')}, "
            f"tried while a temperature or learning rate was tuned, {'has' if few == 1 else 'have'} fewer: the "
            f"interval in {'its' if few == 1 else 'their'} row holds the choice of test examples only."
        )
    return (
        f"FEW SEEDS. {few} of {count(len(seeds), 'configuration')} {'has' if few == 1 else 'have'} fewer than "
        f"{FEW_SEEDS} seeds. The intervals hold the choice of test examples only; seed noise is not in them. "
        f"Next: train {'it' if few == 1 else 'them'} again with {more}, then compare again."
    )


def _next_seeds(used: Sequence[int], own: Sequence[int]) -> list[int]:
    """Seeds to run next, those that other configurations have first: gains need seeds in common."""
    new = (seed for seed in range(len(used) + FEW_SEEDS) if seed not in used)
    return [*(seed for seed in used if seed not in own), *new][: FEW_SEEDS - len(own)]


def remarks(study: Study) -> list[str]:
    """Everything else that a reader must know: teacher forwards, approximate targets, what was left out."""
    said = []
    if study.teacher_forwards is None:
        said.append("Teacher forward passes in the student runs: not recorded by every run.")
    else:
        alarm = "; TEACHER FORWARDS: a student that trains from a cache makes 0" if study.teacher_forwards else ""
        runs = count(study.num_runs, "student run")
        said.append(f"Teacher forward passes in the {runs}: {study.teacher_forwards:,}{alarm}.")
    approximate = [
        f"{table.name}, {row.label}"
        for table in study.cases
        for row in table.rows
        if any(e.startswith("approximate") for e in row.exactness)
    ]
    if approximate:
        said.append(f"Approximate targets (their scores are not those of the exact loss): {'; '.join(approximate)}.")
    said += [f"{note}." for table in study.cases for note in table.notes]
    said += [f"{folder} is left out: its run has not finished." for folder in study.unfinished]
    return said
