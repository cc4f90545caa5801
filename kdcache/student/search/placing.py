"""Where the trainings of one machine run: how many at once, on which GPU, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch

from kdcache.core.errors import LaunchError
from kdcache.student.search.packing import MOST

PerGpu = int | Literal["auto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a search may use.

    Attributes:
        gpus: CUDA devices that this process sees; 0 with `--device cpu`.
        cores: that this process may run on.
        world: processes of the launcher that started this one; 1 without a launcher.
    """

    gpus: int = 0
    cores: int = 1
    world: int = 1

    @classmethod
    def here(cls, device: str) -> Machine:
        """This machine.

        Args:
            device: `auto`, `cpu`, `cuda`.
        """
        gpus = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
        return cls(gpus=gpus, cores=len(os.sched_getaffinity(0)), world=int(os.environ.get("WORLD_SIZE", "1")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Slots for trainings; slot s is on GPU s modulo `gpus`.

    Attributes:
        machine: whose they are.
        slots: trainings at once.
        most: trainings at once that there may ever be; more than `slots` where `--jobs-per-gpu auto` has yet to decide.
    """

    machine: Machine
    slots: int
    most: int

    @property
    def undecided(self) -> bool:
        """Whether the first training decides how many there are."""
        return self.most > self.slots

    @property
    def alone(self) -> int:
        """Trainings at once that have a GPU, or their share of the cores, to themselves."""
        return min(self.slots, self.machine.gpus) if self.machine.gpus else self.slots

    @property
    def cores_per_gpu(self) -> int:
        """At least 1."""
        return max(1, self.machine.cores // max(1, self.machine.gpus))

    def device(self, slot: int) -> int:
        """The number of a slot's GPU among those that are visible; 0 for all slots where there is none."""
        return slot % self.machine.gpus if self.machine.gpus else 0

    def decided(self, per_gpu: int) -> Places:
        """The slots once it is known how many trainings each GPU has."""
        slots = min(self.most, per_gpu * max(1, self.machine.gpus))
        return replace(self, slots=slots, most=slots)


def place(
    jobs: int | None, per_gpu: PerGpu | None, *, machine: Machine, device: str, executor: str = "local"
) -> Places:
    """The slots that `--jobs` and `--jobs-per-gpu` ask for.

    `--jobs` is the number of trainings at once, over all GPUs: 1 if it is not given, and one GPU each. With
    `--jobs-per-gpu` every GPU has that many, and `--jobs`, if it is given too, is the most over all of them.

    Args:
        jobs: `--jobs`; null: not given.
        per_gpu: `--jobs-per-gpu`; null: not given.
        machine: with its GPUs.
        device: `auto`, `cpu`, `cuda`.
        executor: `local` or `ray`.

    Raises:
        LaunchError: no job, more jobs than there is room for, GPUs that are not there, or this process is one of
            several already.
    """
    gpus = machine.gpus
    _check_flags(jobs, per_gpu, device=device, executor=executor)
    if machine.world > 1:
        raise LaunchError("a search is one process and starts others with --jobs; run it without a launcher")
    if per_gpu is not None and not gpus:
        raise LaunchError(
            f"--jobs-per-gpu {per_gpu}: this machine shows no CUDA device; "
            f"use --jobs N for N trainings at once on the CPU, or check the driver"
        )
    if per_gpu == "auto":
        most = gpus * MOST
        slots = min(jobs or gpus, gpus)
        return Places(machine=machine, slots=slots, most=min(jobs or most, most))
    room = gpus * (per_gpu or 1)
    if jobs is not None and 0 < room < jobs:
        takes = (
            "each training takes one" if per_gpu is None else f"--jobs-per-gpu {per_gpu} has room for {room} on them"
        )
        raise LaunchError(
            f"--jobs {jobs}: this machine shows {gpus} CUDA devices, and {takes}; "
            f"use --jobs {room}, or --jobs-per-gpu {-(-jobs // gpus)}{', or --device cpu' if per_gpu is None else ''}"
        )
    slots = jobs or (room if per_gpu is not None else 1)
    return Places(machine=machine, slots=slots, most=slots)


def _check_flags(jobs: int | None, per_gpu: PerGpu | None, *, device: str, executor: str) -> None:
    """Refuse flags that contradict each other, on any machine."""
    if jobs is not None and jobs < 1:
        raise LaunchError(f"--jobs {jobs}: give at least 1")
    if per_gpu is not None and per_gpu != "auto" and per_gpu < 1:
        raise LaunchError(f"--jobs-per-gpu {per_gpu}: give at least 1, or auto")
    if executor != "local" and per_gpu is not None:
        raise LaunchError(
            "--jobs-per-gpu is for --executor local; Ray gives each training a GPU of its own: leave it out"
        )
    if executor != "local" and jobs is not None and jobs > 1:
        raise LaunchError("--jobs is for --executor local; Ray runs as many as search.cpus_per_trial leaves room for")
    if device == "cpu" and per_gpu is not None:
        raise LaunchError(
            f"--jobs-per-gpu {per_gpu}: --device cpu uses no GPU; use --jobs N for N trainings at once on the CPU"
        )


def environment(slot: int, *, places: Places, now: Mapping[str, str]) -> dict[str, str]:
    """What a worker's environment has beside the parent's: its GPU, if there are any, and its share of the cores.

    Args:
        slot: the worker's number, from 0.
        places: all slots.
        now: the parent's environment; GPUs that its CUDA_VISIBLE_DEVICES lists, by number or UUID, are used in turn.

    Example:
        >>> places = Places(machine=Machine(gpus=2, cores=8), slots=4, most=4)
        >>> environment(3, places=places, now={"CUDA_VISIBLE_DEVICES": "4,GPU-8932f937"})
        {'CUDA_VISIBLE_DEVICES': 'GPU-8932f937', 'OMP_NUM_THREADS': '2'}
    """
    found: dict[str, str] = {}
    if places.machine.gpus:
        listed = now.get("CUDA_VISIBLE_DEVICES", "")
        number = places.device(slot)
        found["CUDA_VISIBLE_DEVICES"] = listed.split(",")[number].strip() if listed else str(number)
    threads = max(1, places.machine.cores // places.most)
    return {**found, "OMP_NUM_THREADS": now.get("OMP_NUM_THREADS") or str(threads)}
