"""Where trainings run: what --jobs and --jobs-per-gpu mean together, what is refused, what a worker is told."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from kdcache.core.errors import LaunchError
from kdcache.student.search.placing import Machine, PerGpu, Places, environment, place
from kdcache.student.search.preview import Cost, hours

CPU = Machine(gpus=0, cores=8)
TWO = Machine(gpus=2, cores=8)


@pytest.mark.parametrize(
    ("machine", "jobs", "per_gpu", "slots", "most"),
    [
        (CPU, None, None, 1, 1),
        (CPU, 3, None, 3, 3),
        (TWO, None, None, 1, 1),  # as ever: one training, unless more are asked for
        (TWO, 2, None, 2, 2),
        (TWO, None, 1, 2, 2),  # all GPUs
        (TWO, None, 4, 8, 8),
        (TWO, 3, 4, 3, 3),  # bounded
        (TWO, 8, 4, 8, 8),
        (TWO, None, "auto", 2, 16),
        (TWO, 5, "auto", 2, 5),
        (TWO, 1, "auto", 1, 1),
        (TWO, 99, "auto", 2, 16),
    ],
)
def test_jobs_are_over_all_gpus_and_jobs_per_gpu_uses_each(
    machine: Machine, jobs: int | None, per_gpu: PerGpu | None, slots: int, most: int
) -> None:
    assert place(jobs, per_gpu, machine=machine, device="auto") == Places(machine=machine, slots=slots, most=most)


def test_a_decision_grows_as_far_as_jobs_allows_and_is_final() -> None:
    places = place(5, "auto", machine=TWO, device="auto")
    assert (places.undecided, places.slots) == (True, 2)
    assert [places.decided(n).slots for n in (1, 2, 3)] == [2, 4, 5]
    assert not any(places.decided(n).undecided for n in (1, 2, 3))
    assert not place(2, 1, machine=TWO, device="auto").undecided


def test_a_gpu_has_its_share_of_the_cores() -> None:
    assert [
        Places(machine=machine, slots=1, most=1).cores_per_gpu for machine in (TWO, CPU, Machine(gpus=8, cores=4))
    ] == [4, 8, 1]


@pytest.mark.parametrize(
    ("machine", "jobs", "per_gpu", "device", "executor", "message"),
    [
        (CPU, 0, None, "cpu", "local", "--jobs 0: give at least 1"),
        (TWO, None, 0, "auto", "local", "--jobs-per-gpu 0: give at least 1, or auto"),
        (
            TWO,
            3,
            None,
            "auto",
            "local",
            "--jobs 3: this machine shows 2 CUDA devices, and each training takes one; "
            "use --jobs 2, or --jobs-per-gpu 2, or --device cpu",
        ),
        (
            TWO,
            9,
            4,
            "cuda",
            "local",
            "--jobs 9: this machine shows 2 CUDA devices, and --jobs-per-gpu 4 has room for 8 on them; "
            "use --jobs 8, or --jobs-per-gpu 5",
        ),
        (
            CPU,
            None,
            "auto",
            "auto",
            "local",
            "--jobs-per-gpu auto: this machine shows no CUDA device; "
            "use --jobs N for N trainings at once on the CPU, or check the driver",
        ),
        (
            CPU,
            None,
            2,
            "cpu",
            "local",
            "--jobs-per-gpu 2: --device cpu uses no GPU; use --jobs N for N trainings at once on the CPU",
        ),
        (
            TWO,
            None,
            2,
            "auto",
            "ray",
            "--jobs-per-gpu is for --executor local; Ray gives each training a GPU of its own: leave it out",
        ),
        (
            CPU,
            2,
            None,
            "cpu",
            "ray",
            "--jobs is for --executor local; Ray runs as many as search.cpus_per_trial leaves room for",
        ),
        (
            replace(CPU, world=2),
            1,
            None,
            "cpu",
            "local",
            "a search is one process and starts others with --jobs; run it without a launcher",
        ),
    ],
)
def test_what_contradicts_itself_or_has_no_room_is_refused(
    machine: Machine, jobs: int | None, per_gpu: PerGpu | None, device: str, executor: str, message: str
) -> None:
    with pytest.raises(LaunchError) as refusal:
        place(jobs, per_gpu, machine=machine, device=device, executor=executor)
    assert str(refusal.value) == message


def test_workers_take_the_visible_gpus_in_turn_by_number_or_uuid() -> None:
    places = place(None, 2, machine=TWO, device="auto")

    def shown(now: dict[str, str]) -> list[str]:
        return [environment(slot, places=places, now=now)["CUDA_VISIBLE_DEVICES"] for slot in range(places.slots)]

    assert shown({}) == ["0", "1", "0", "1"]
    assert shown({"CUDA_VISIBLE_DEVICES": "6,4"}) == ["6", "4", "6", "4"]
    assert shown({"CUDA_VISIBLE_DEVICES": "GPU-8932f937, MIG-1c2d"}) == ["GPU-8932f937", "MIG-1c2d"] * 2
    assert shown({"CUDA_VISIBLE_DEVICES": "3,5,-1"}) == ["3", "5", "3", "5"]  # CUDA shows those before the -1


def test_each_worker_has_its_share_of_the_cores() -> None:
    on_cpu = [place(jobs, None, machine=CPU, device="cpu") for jobs in (3, 9)]
    assert [environment(1, places=places, now={}) for places in on_cpu] == [
        {"OMP_NUM_THREADS": "2"},
        {"OMP_NUM_THREADS": "1"},
    ]
    assert environment(0, places=on_cpu[0], now={"OMP_NUM_THREADS": "5"}) == {"OMP_NUM_THREADS": "5"}
    undecided = place(None, "auto", machine=Machine(gpus=1, cores=16), device="auto")
    assert environment(0, places=undecided, now={})["OMP_NUM_THREADS"] == "2"  # of what may become eight


def test_gpus_that_a_user_hides_stay_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = place(2, None, machine=CPU, device="cuda")
    assert "CUDA_VISIBLE_DEVICES" not in environment(1, places=hidden, now={"CUDA_VISIBLE_DEVICES": ""})
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert Machine.here("cpu") == Machine(gpus=0, cores=len(os.sched_getaffinity(0)), world=3)


COSTS = [Cost(student="half", all=(8, 16), left=(8, 16), seconds=(300.0, 900.0))]


@pytest.mark.parametrize(
    ("places", "ending"),
    [
        (Places(machine=CPU, slots=2, most=2), "40 min to 80 min with --jobs 2"),
        (Places(machine=TWO, slots=2, most=2), "40 min to 80 min with --jobs 2"),
        (
            Places(machine=TWO, slots=8, most=8),
            "10 min to 80 min with --jobs 8 on 2 GPUs (the most if sharing wins nothing)",
        ),
        (
            Places(machine=Machine(gpus=1), slots=4, most=4),
            "20 min to 2.7 h with --jobs 4 on 1 GPU (the most if sharing wins nothing)",
        ),
        (
            Places(machine=TWO, slots=2, most=16),
            "40 min to 80 min with --jobs 2 (less if --jobs-per-gpu auto takes more)",
        ),
    ],
)
def test_the_time_of_a_search_counts_trainings_at_once_and_those_that_share_a_gpu(places: Places, ending: str) -> None:
    assert hours(COSTS, places=places) == f"to do: 8 to 16 trainings, {ending}, from 2 that have finished"
