"""What is compared with what: the declared family within cases, and strategies over cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kdcache.core.errors import ConfigError
from kdcache.report.cases import Played, named
from kdcache.report.options import HARD, WORST, Options
from kdcache.report.rewards import NAMES, sides
from kdcache.report.stable import Answer
from kdcache.report.trials import Trained

MOST_LABELS = 8
"""Labels that a message lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """One comparison in a case, b against a; `declared` before the look at results, so that Holm counts it."""

    case: Played
    a: Trained
    b: Trained
    declared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """Gains of b over a, per cent, one a case."""

    a: str
    b: str
    gains: tuple[float, ...]
    cases: tuple[str, ...]
    datasets: tuple[str, ...]


def check_labels(played: Sequence[Played], options: Options) -> None:
    """Refuse a label that no case has.

    Raises:
        ConfigError: with labels that there are.
    """
    asked = [*options.family, *([] if options.baseline in (HARD, WORST) else [options.baseline])]
    known = dict.fromkeys(t.label for case in played for t in case.replayed.trials.distinct())
    for label in asked:
        if all(find(case, label) is None for case in played):
            there = ", ".join(repr(k) for k in list(known)[:MOST_LABELS])
            more = f" and {len(known) - MOST_LABELS} more in results.csv" if len(known) > MOST_LABELS else ""
            raise ConfigError(f"{label!r} is the label of no configuration among the runs; there are {there}{more}")


def find(case: Played, label: str) -> Trained | None:
    """The trial of a label: as tables show it, as it was asked for, or by any name of its teacher."""
    for trial, trained in case.replayed.trials.trained.items():
        asked = (run.result.configuration.label() for run in trained.runs.values())
        if label in (trained.label, case.replayed.trials.real(trial.configuration).label(), *asked):
            return trained
    return None


def baseline(case: Played, options: Options) -> Trained | None:
    """What a case's configurations are compared with; None if it has no such run."""
    worst = case.candidates[case.worst]
    if options.baseline == HARD:
        return case.hard or worst
    return worst if options.baseline == WORST else find(case, options.baseline)


def baseline_name(played: Sequence[Played], options: Options) -> str:
    """The baseline over cases, in words: hard labels where any case has them, one kind for all."""
    if options.baseline == HARD:
        return "hard labels" if any(case.hard for case in played) else "the worst candidate by validation"
    return "the worst candidate by validation" if options.baseline == WORST else options.baseline


def _over_cases(played: Sequence[Played], options: Options) -> list[Trained | None]:
    """The baseline of `baseline_name` in each case; None where a case lacks it, so that kinds are not mixed."""
    if options.baseline == HARD and any(case.hard for case in played):
        return [case.hard for case in played]
    return [baseline(case, options) for case in played]


def _stable(case: Played, stable: Answer | None) -> Trained | None:
    found = None if stable is None else stable.per_case[case.name]
    return found if isinstance(found, Trained) else None


def declare(played: Sequence[Played], stable: Answer | None, options: Options) -> tuple[Declared, ...]:
    """All comparisons, each once in a case: the declared ones, then every other candidate against the baseline.

    Without `--family` are declared: the best by validation, Hinton's and the stable configuration against the baseline,
    and the alternative of each choice against its default.
    """
    found: list[Declared] = []
    for case in played:
        base = baseline(case, options)
        seen: set[tuple[int, int]] = set()
        for a, b, declared in _asked(case, base, stable, options):
            if a is not None and b is not None and a is not b and (id(a), id(b)) not in seen:
                seen.add((id(a), id(b)))
                found.append(Declared(case=case, a=a, b=b, declared=declared))
    return tuple(found)


def _asked(
    case: Played, base: Trained | None, stable: Answer | None, options: Options
) -> Iterator[tuple[Trained | None, Trained | None, bool]]:
    default = not options.family
    for label in options.family:
        yield base, find(case, label), True
    for trained in (case.picked("validation"), case.hinton, _stable(case, stable)):
        yield base, trained, default
    for pair in case.pairs:
        yield case.side(pair.default), case.side(pair.alternative), default
    for trained in case.candidates:
        yield base, trained, False


def strategies(played: Sequence[Played], stable: Answer | None, options: Options) -> tuple[Strategy, ...]:
    """What is compared over cases: strategies with the baseline, with the best by validation, choices' sides."""
    base, bases = baseline_name(played, options), _over_cases(played, options)
    picked = [case.picked("validation") for case in played]
    stables = [_stable(case, stable) if len(case.candidates) > 1 else None for case in played]
    asked: list[tuple[str, str, Sequence[float | None], Sequence[float | None]]] = [
        (base, "best by validation", *_different(bases, picked)),
        (base, "Hinton's", *_different(bases, [case.hinton for case in played])),
        (base, "stable", *_different(bases, stables)),
    ]
    best = [trained.test() if len(case.candidates) > 1 else None for case, trained in zip(played, picked, strict=True)]
    asked += [
        ("best by validation", "stable", best, [None if s is None else s.test() for s in stables]),
        ("best by validation", "random", best, [case.random for case in played]),
        ("best by validation", "lazy", best, [case.lazy_score for case in played]),
    ]
    for choice in NAMES:
        pairs = [next((pair for pair in case.pairs if pair.choice == choice), None) for case in played]
        scores = [
            (None, None) if pair is None else (case.side(pair.default).test(), case.side(pair.alternative).test())
            for case, pair in zip(played, pairs, strict=True)
        ]
        default, alternative = (f"{choice} = {side}" for side in sides(choice))
        asked.append((default, alternative, [a for a, _ in scores], [b for _, b in scores]))
    found = [_strategy(played, *one) for one in asked]
    return tuple(strategy for strategy in found if strategy is not None)


def _different(
    ones: Sequence[Trained | None], twos: Sequence[Trained | None]
) -> tuple[list[float | None], list[float | None]]:
    """Test scores of either side; none in a case where both sides are one and the same."""
    pairs = [(None, None) if a is b else (a, b) for a, b in zip(ones, twos, strict=True)]
    scores = [[None if trained is None else trained.test() for trained in side] for side in zip(*pairs, strict=True)]
    return (scores[0], scores[1]) if scores else ([], [])


def _strategy(
    played: Sequence[Played], a: str, b: str, ones: Sequence[float | None], twos: Sequence[float | None]
) -> Strategy | None:
    gains = [(c.name, c.gain(two, one)) for c, one, two in zip(played, ones, twos, strict=True)]
    names, values, _ = named(gains)
    of = {case.name: case.case.dataset for case in played}
    if not values:
        return None
    return Strategy(a=a, b=b, gains=values, cases=names, datasets=tuple(of[name] for name in names))
