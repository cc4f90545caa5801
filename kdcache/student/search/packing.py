"""How many trainings one GPU should have at once, from what one training measured. Pure: nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST = 8
"""Trainings on one GPU at most: more have not been measured."""
MEMORY = 0.9
"""The share of a GPU's memory that trainings may fill; the rest is for what they take beyond the first one's peak."""
GIGABYTE = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a training that had a GPU to itself measured.

    Attributes:
        graphs: whether its steps ran as CUDA graphs.
        seconds: wall time of a step, in seconds; 0 where graphs make it of no interest.
        busy: time of a step during which the GPU worked, in seconds; 0 likewise.
        peak_bytes: the most memory that the process took of the GPU, with its CUDA context.
        total_bytes: memory of the GPU.
    """

    graphs: bool
    seconds: float
    busy: float
    peak_bytes: int
    total_bytes: int

    @classmethod
    def of(cls, step: Mapping[str, Any] | None, *, total_bytes: int, peak_bytes: int = 0) -> Probe | None:
        """The probe of a training's record.

        Args:
            step: `extra["step"]` of its result, with `graphs`, `seconds`, `busy` and `peak_bytes`; null in older ones.
            total_bytes: memory of its GPU; 0 where it ran on none.
            peak_bytes: what was measured around it; the record's own figure counts where it is larger.

        Returns:
            Null where the record lacks what a decision needs.

        Example:
            >>> Probe.of({"graphs": 0, "seconds": 0.5}, total_bytes=80) is None
            True
        """
        if not step or not total_bytes:
            return None
        graphs = bool(step.get("graphs", 0))
        seconds, busy = float(step.get("seconds") or 0), float(step.get("busy") or 0)
        peak = max(int(step.get("peak_bytes") or 0), peak_bytes)
        if not graphs and min(seconds, busy, peak) <= 0:
            return None
        return cls(graphs=graphs, seconds=seconds, busy=busy, peak_bytes=peak, total_bytes=total_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """A decision.

    Attributes:
        jobs: trainings on each GPU, at least 1.
        why: the numbers that it rests on, for people.
    """

    jobs: int
    why: str


def pack(probe: Probe | None, *, cores: int) -> Packing:
    """Decide how many trainings a GPU should have at once.

    Processes take turns on a GPU. A training whose steps wait for its host leaves turns to others: about as many fit as
    its step takes longer than the GPU works for it. A CUDA graph leaves nothing. Each such training keeps one core busy
    with launching kernels, and each holds its own memory:

        jobs = min(floor(seconds / busy), floor(0.9 total_bytes / peak_bytes), cores, 8), but at least 1

    Args:
        probe: of a training that had the GPU to itself; null: nothing was measured, and one training it is.
        cores: of the machine, for each of its GPUs.

    Example:
        >>> pack(Probe(graphs=False, seconds=0.01, busy=0.002, peak_bytes=20, total_bytes=80), cores=16).jobs
        3
    """
    if probe is None:
        return Packing(jobs=1, why="the training did not measure its steps and its memory on the GPU")
    if probe.graphs:
        return Packing(jobs=1, why="its steps run as CUDA graphs, and those of several trainings only take turns")
    times = f"a step takes {probe.seconds * 1000:.2f} ms and keeps the GPU busy for {probe.busy * 1000:.2f} ms"
    memory = f"a training takes {probe.peak_bytes / GIGABYTE:.1f} GB of {probe.total_bytes / GIGABYTE:.1f} GB"
    fits = {
        times: int(probe.seconds / probe.busy + 1e-6),  # 0.3 / 0.1 is 2.9999999999999996
        memory: int(MEMORY * probe.total_bytes / probe.peak_bytes),
        f"there are {cores} cores for each GPU": cores,
    }
    why = ", ".join(f"{text} ({max(1, fit)} fit)" for text, fit in fits.items())
    return Packing(jobs=max(1, min(*fits.values(), MOST)), why=f"{why}, and {MOST} is the most")
