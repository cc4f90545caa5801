"""What these runs cannot say, and why, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from kdcache.report.cases import Played
from kdcache.report.options import Options
from kdcache.report.stable import Answer

LISTED = 3
"""Names that a sentence lists before it counts the rest."""


def unavailable(played: Sequence[Played], stable: Answer | None, options: Options) -> tuple[str, ...]:
    """Sentences; empty where everything could be computed."""
    said = [*_ways(played), *_replays(played), *_seeds(played)]
    lone = [case.name for case in played if len(case.candidates) < 2]
    if lone:
        said.append(f"{listed(lone)}: one configuration, so there is neither a best nor a worst.")
    if stable is None:
        said.append(
            "No stable configuration and no rewards: no choice has both sides trained in a case (loss, teacher, tau_s)."
        )
    datasets = {case.case.dataset for case in played}
    if len(datasets) == 1:
        said.append(
            f"All cases are of one dataset ({next(iter(datasets))}): no interval or test over datasets, and the stable "
            "configuration cannot be tested on a dataset left out."
        )
    if options.noise_sd is None and all(case.noise_sd is None for case in played):
        said.append(
            "No null bands: no configuration was trained with more than one seed, so noise between seeds is unknown; "
            "train more seeds, or give --noise-sd PERCENT."
        )
    said += [note + "." for case in played for note in case.replayed.trials.notes]
    said += [_failed(case) for case in played if case.replayed.failed]
    return tuple(said)


def _ways(played: Sequence[Played]) -> list[str]:
    """Students that were trained in several ways."""
    found: dict[str, list[str]] = {}
    for case in played:
        own = case.case
        found.setdefault(f"{own.dataset}, {own.runs[0].result.student}", []).append(own.student)
    return [
        f"{name}: its runs were trained in {len(ways)} ways ({'; '.join(ways)}), so each way is a case of its own, and "
        "nothing is compared across them."
        for name, ways in found.items()
        if len(ways) > 1
    ]


def _failed(case: Played) -> str:
    labels = list(dict.fromkeys(trial.configuration.label() for trial in case.replayed.failed))
    more = f" and {len(labels) - LISTED} more" if len(labels) > LISTED else ""
    return (
        f"{case.name}: {', '.join(labels[:LISTED])}{more} failed to train; the search took that for the worst, and "
        "here there is no score of it."
    )


def _replays(played: Sequence[Played]) -> list[str]:
    said = []
    for lacking, why in ((True, "trainings are missing"), (False, "all of them failed that it decided by")):
        broken = [c.name for c in played if c.replayed.outcome is None and bool(c.replayed.lacking) == lacking]
        if broken:
            said.append(
                f"{listed(broken)}: the search cannot be replayed, because {why}, so choices have no vote there and "
                "all distilled configurations count as candidates."
            )
    return said


def _seeds(played: Sequence[Played]) -> list[str]:
    """Candidates that lack seeds which others have."""
    said = []
    for case in played:
        everything = {seed for candidate in case.candidates for seed in candidate.runs}
        lacking = {c.label: sorted(everything - set(c.runs)) for c in case.candidates if everything - set(c.runs)}
        if lacking:
            label, seeds = next(iter(lacking.items()))
            more = f" and {len(lacking) - 1} more lack some" if len(lacking) > 1 else ""
            decide = (
                f"validation decides on the shared seeds {', '.join(map(str, case.seeds))}"
                if case.seeds
                else "no seed is shared by all, so each decides by its own"
            )
            said.append(f"{case.name}: {label} lacks seeds {', '.join(map(str, seeds))}{more}; {decide}.")
    return said


def listed(names: Sequence[str]) -> str:
    """`a; b; c and 4 more cases`."""
    rest = len(names) - LISTED
    return "; ".join(names[:LISTED]) + (f" and {rest} more {'case' if rest == 1 else 'cases'}" if rest > 0 else "")
