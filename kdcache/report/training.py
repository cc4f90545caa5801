"""How runs were trained, as they recorded it: the settings that may change a score, and in which of them runs differ.

The learning rate is apart: it is tuned within a case. Settings that change memory or speed alone are no difference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from kdcache.core.results import RunResult

NEUTRAL = frozenset({"eval_batch_size", "micro_batch_size", "zero_stage", "fused"})
"""Settings that results do not depend on, up to rounding."""
RATE = "learning_rate"
SHORT = {RATE: "lr"}

R = TypeVar("R")


def learning_rate(training: object) -> float | None:
    """The peak learning rate of a recorded block `training`; None where it is not there."""
    value = training.get(RATE) if isinstance(training, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


def settings(training: object) -> dict[str, Any]:
    """What of a recorded block `training` tells two ways of training apart; empty where nothing was recorded."""
    there = training if isinstance(training, Mapping) else {}
    return {str(name): value for name, value in there.items() if name != RATE and name not in NEUTRAL}


def split(results: Sequence[tuple[R, RunResult]]) -> list[tuple[str, list[R]]]:
    """Runs by the way they were trained, the way of the most runs first (at a tie the first met).

    Args:
        results: things, each with its run's result. Those that recorded nothing count with the first way.

    Returns:
        For each way the settings that vary, e.g. `epochs 3, batch_size 16` (empty with one way), and its things.
    """
    ways: dict[str, list[R]] = {}
    of: dict[str, dict[str, Any]] = {}
    silent: list[R] = []
    for thing, result in results:
        own = settings(result.extra.get("training"))
        key = json.dumps(own, sort_keys=True, default=str)
        of[key] = own
        (ways.setdefault(key, []) if own else silent).append(thing)
    if not ways:
        return [("", silent)]
    order = sorted(ways, key=lambda key: -len(ways[key]))
    ways[order[0]] += silent
    names = list(dict.fromkeys(name for key in order for name in of[key]))
    varying = [n for n in names if len({json.dumps(of[key].get(n), default=str) for key in order}) > 1]
    return [(", ".join(f"{name} {_text(of[key].get(name))}" for name in varying), ways[key]) for key in order]


def differing(one: RunResult, two: RunResult) -> list[str]:
    """Names of the settings in which two runs differ, the learning rate among them; none where one recorded nothing."""
    a, b = (_recorded(result) for result in (one, two))
    names = dict.fromkeys([*a, *b]) if a and b else {}
    return [name for name in names if name not in NEUTRAL and a.get(name) != b.get(name)]


def words(result: RunResult, names: Sequence[str]) -> str:
    """Settings of a run for people, e.g. `lr 0.0005, epochs 3`; those that it has."""
    own = _recorded(result)
    return ", ".join(f"{SHORT.get(name, name)} {_text(own[name])}" for name in names if name in own)


def _recorded(result: RunResult) -> Mapping[str, Any]:
    there = result.extra.get("training")
    return there if isinstance(there, Mapping) else {}


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
