"""How runs were trained, as they recorded it: the settings that may change a score, and in which of them runs differ.

The learning rate is apart: it is tuned within a case. Settings that change memory or speed alone are no difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from kdcache.core.results import RunResult

NEUTRAL = frozenset({"eval_batch_size", "micro_batch_size", "zero_stage", "fused", "engine", "graph", "compile"})
"""Settings that results do not depend on, up to rounding."""
RATE = "learning_rate"
SHORT = {RATE: "lr"}
MODEL = "model"
"""In a run's `extra`: digest of what the student was made from, e.g. a checkpoint and the layers that are kept."""

R = TypeVar("R")


def learning_rate(training: object) -> float | None:
    """The peak learning rate of a recorded block `training`; None where it is not there."""
    value = training.get(RATE) if isinstance(training, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


def settings(training: object) -> dict[str, str]:
    """What of a recorded block `training` tells two ways of training apart, as text; empty where nothing was recorded.

    A setting that is null is one that is not there.
    """
    there = training if isinstance(training, Mapping) else {}
    return {str(n): _text(v) for n, v in there.items() if n != RATE and n not in NEUTRAL and v is not None}


def way(result: RunResult) -> dict[str, str]:
    """The settings of a run that tell ways apart, and the student's model where that was recorded."""
    own = settings(result.extra.get("training"))
    model = result.extra.get(MODEL)
    return {**own, MODEL: str(model)} if own and model else own


def split(results: Sequence[tuple[R, RunResult]]) -> list[tuple[str, list[R]]]:
    """Runs by the way they were trained, the way of the most runs first (at a tie the first met).

    Args:
        results: things, each with its run's result. Those that recorded nothing count with the first way.

    Returns:
        For each way the settings that vary, e.g. `epochs 3, batch_size 16` (empty with one way), and its things; no two
        ways read alike.
    """
    ways: dict[frozenset[tuple[str, str]], list[R]] = {}
    silent: list[R] = []
    names: dict[str, None] = {}
    for thing, result in results:
        own = way(result)
        names |= dict.fromkeys(own)
        (ways.setdefault(frozenset(own.items()), []) if own else silent).append(thing)
    if not ways:
        return [("", silent)]
    order = sorted(ways, key=lambda key: -len(ways[key]))
    ways[order[0]] += silent
    varying = [name for name in names if len({dict(key).get(name) for key in order}) > 1]
    return [(_words(dict(key), varying), ways[key]) for key in order]


def differing(one: RunResult, two: RunResult) -> list[str]:
    """Names of the settings in which two runs differ, the learning rate among them; none where one recorded nothing."""
    a, b = _whole(one), _whole(two)
    return [name for name in dict.fromkeys([*a, *b]) if a.get(name) != b.get(name)] if a and b else []


def words(result: RunResult, names: Sequence[str]) -> str:
    """Settings of a run for people, e.g. `lr 0.0005, epochs 3`."""
    own = _whole(result)
    return _words(own, names) if own else ""


def _whole(result: RunResult) -> dict[str, str]:
    """A run's way, and its learning rate."""
    rate = learning_rate(result.extra.get("training"))
    return way(result) | ({} if rate is None else {RATE: _text(rate)})


def _words(own: Mapping[str, str], names: Sequence[str]) -> str:
    return ", ".join(
        f"{SHORT.get(name, name)} {own[name]}" if name in own else f"no {SHORT.get(name, name)}" for name in names
    )


def _text(value: object) -> str:
    """For people, and equal exactly where the values are: 3 and 3.0 are one."""
    number = isinstance(value, float) and value.is_integer()
    return str(int(value)) if number else str(value)  # type: ignore[call-overload]  # a number, as asked
