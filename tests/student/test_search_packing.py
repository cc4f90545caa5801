"""How many trainings a GPU should have: by the turns that a step leaves, memory, cores; and what is known of a step."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcache.student.search import device_memory
from kdcache.student.search.device_memory import DeviceMemory
from kdcache.student.search.packing import MOST, Probe, pack

GB = 10**9
EAGER = Probe(graphs=False, seconds=0.02, busy=0.004, peak_bytes=2 * GB, total_bytes=80 * GB)
"""Its host leaves four fifths of the GPU's time."""
STEP = {"engine": "plain", "graphs": 0, "why": "eager", "seconds": 0.02, "busy": 0.004, "peak_bytes": 2 * GB}


@pytest.mark.parametrize(
    ("probe", "cores", "jobs"),
    [
        (EAGER, 16, 5),
        (replace(EAGER, seconds=0.3, busy=0.1), 16, 3),  # 2.9999999999999996 in floating point
        (replace(EAGER, seconds=0.0079), 16, 1),
        (replace(EAGER, busy=0.03), 16, 1),  # overlapping kernels: never under one
        (replace(EAGER, busy=0.001), 64, MOST),
        (replace(EAGER, peak_bytes=24 * GB), 16, 3),  # 72 GB of 80
        (replace(EAGER, peak_bytes=25 * GB), 16, 2),
        (replace(EAGER, peak_bytes=79 * GB), 16, 1),
        (EAGER, 4, 4),
        (EAGER, 1, 1),
        (replace(EAGER, graphs=True), 16, 1),
        (replace(EAGER, graphs=True, seconds=0.0, busy=0.0, peak_bytes=0), 16, 1),
        (None, 16, 1),
    ],
)
def test_a_gpu_gets_as_many_as_the_tightest_bound_allows(probe: Probe | None, cores: int, jobs: int) -> None:
    assert pack(probe, cores=cores).jobs == jobs


def test_the_numbers_of_a_decision_are_named() -> None:
    assert pack(EAGER, cores=4).why == (
        "a step takes 20.00 ms and keeps the GPU busy for 4.00 ms (5 fit), "
        "a training takes 2.0 GB of 80.0 GB (36 fit), there are 4 cores for each GPU (4 fit), and 8 is the most"
    )
    assert pack(replace(EAGER, graphs=True), cores=4).why == (
        "its steps run as CUDA graphs, and those of several trainings only take turns"
    )
    assert pack(None, cores=4).why == "the training did not measure its steps and its memory on the GPU"


@given(
    seconds=st.floats(1e-6, 10),
    share=st.floats(1e-3, 1),
    peak=st.integers(1, 80 * GB),
    cores=st.integers(1, 256),
)
def test_a_gpu_is_never_given_more_memory_or_turns_than_it_has(
    seconds: float, share: float, peak: int, cores: int
) -> None:
    probe = Probe(graphs=False, seconds=seconds, busy=seconds * share, peak_bytes=peak, total_bytes=80 * GB)
    jobs = pack(probe, cores=cores).jobs
    assert 1 <= jobs <= min(MOST, cores)
    assert jobs == 1 or jobs * peak <= 0.9 * probe.total_bytes
    assert jobs == 1 or jobs * probe.busy <= probe.seconds * (1 + 1e-5)


def test_a_probe_is_what_a_training_recorded_and_what_was_measured_around_it() -> None:
    assert Probe.of(STEP, total_bytes=80 * GB) == EAGER
    assert Probe.of(STEP, total_bytes=80 * GB, peak_bytes=3 * GB) == replace(EAGER, peak_bytes=3 * GB)
    assert Probe.of(STEP, total_bytes=80 * GB, peak_bytes=GB) == EAGER
    graphs = {"engine": "plain", "graphs": 7, "why": ""}
    assert Probe.of(graphs, total_bytes=80 * GB) == Probe(
        graphs=True, seconds=0.0, busy=0.0, peak_bytes=0, total_bytes=80 * GB
    )


@pytest.mark.parametrize("missing", ["seconds", "busy", "peak_bytes"])
def test_without_a_number_that_decides_there_is_no_probe(missing: str) -> None:
    assert Probe.of({name: value for name, value in STEP.items() if name != missing}, total_bytes=80 * GB) is None
    assert Probe.of(STEP | {missing: None}, total_bytes=80 * GB) is None


def test_older_runs_and_trainings_on_a_cpu_have_no_probe() -> None:
    assert Probe.of(None, total_bytes=80 * GB) is None
    assert Probe.of({}, total_bytes=80 * GB) is None
    assert Probe.of(STEP, total_bytes=0) is None


def test_a_process_that_used_no_gpu_took_nothing_of_one() -> None:
    if torch.cuda.is_initialized():
        pytest.skip("this process has used a GPU")
    device_memory.restart()
    assert device_memory.read() == DeviceMemory(peak_bytes=0, total_bytes=0)


def test_memory_outside_of_pytorch_s_pool_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(
        is_initialized=lambda: True,
        mem_get_info=lambda: (70 * GB, 80 * GB),
        memory_reserved=lambda: 9 * GB,
        max_memory_reserved=lambda: 20 * GB,
    )
    monkeypatch.setattr(device_memory.torch, "cuda", fake)
    assert device_memory.read() == DeviceMemory(peak_bytes=21 * GB, total_bytes=80 * GB)


@pytest.mark.gpu
def test_on_a_gpu_a_tensor_and_the_context_are_counted() -> None:
    torch.zeros(1, device="cuda")
    device_memory.restart()
    before = device_memory.read()
    held = torch.zeros(GB, dtype=torch.uint8, device="cuda")
    assert device_memory.read().peak_bytes >= before.peak_bytes + held.numel()
    assert 0 < before.peak_bytes < before.total_bytes == torch.cuda.get_device_properties(0).total_memory
