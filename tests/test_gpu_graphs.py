"""On a GPU: CUDA graphs beside the same operations one by one, what cannot be recorded, memory, page-locked copies."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdcache.losses.objective import Objective
from kdcache.training.recording import CudaRecorder
from kdcache.training.sending import Sender
from tests.training import cases
from tests.training.cases import HARD, KD, Case, Lengths
from tests.training.recorders import Ran, Rerun, eager, graphs, train

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
FLOAT32 = {"precision": "float32", "learning_rate": 1e-4}
"""At a low rate, so that the last digit of a sum does not grow over the steps."""


def build(family: str, *, dropout: float = 0.0) -> Case:
    """A case whose attention is a product, a softmax and a product: the same kernels whatever is masked."""
    case = cases.build(family, dropout=dropout, count=40)
    case.model.set_attn_implementation("eager")
    return case


def trained(case: Case, steps: Any, objective: Objective, recorder: Any, **settings: Any) -> Ran:
    make = eager if recorder is None else graphs(recorder, always=True)
    return train(case, steps, objective, make, device=DEVICE, **{**FLOAT32, **settings})


@pytest.mark.parametrize(
    ("family", "store", "micro"),
    [
        ("bert", "none", None),
        ("bert", "hidden", 2),
        ("roberta", "fast", None),
        ("xlm-r", "compact", None),
        ("llama", "fast", None),
        ("qwen2", "hidden", 2),
        ("mbart", "compact", None),
    ],
)
def test_200_steps_as_graphs_are_those_one_by_one(family: str, store: str, micro: int | None, tmp_path: Path) -> None:
    case, objective = build(family), HARD if store == "none" else KD
    steps = case.steps(tmp_path, store, micro_batch_size=micro)
    settings = {"epochs": 20, "micro_batch_size": micro}
    off = trained(build(family), steps, objective, Rerun(), **settings)
    on = trained(case, steps, objective, CudaRecorder(torch.device(DEVICE)), **settings)
    assert len(on.losses) == 200
    assert on.record["graphs"] == off.record["graphs"] > 0, on.events
    torch.testing.assert_close(on.losses, off.losses, rtol=1e-6, atol=1e-7)
    unpadded = trained(build(family), steps, objective, None, **settings)
    torch.testing.assert_close(on.losses, unpadded.losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fused", ["always", "never"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_bfloat16_as_graphs_is_near_float32(family: str, fused: str, tmp_path: Path) -> None:
    case, objective = cases.build(family, count=40), KD
    steps = case.steps(tmp_path, "fast")
    recorder = CudaRecorder(torch.device(DEVICE))
    half = trained(case, steps, objective, recorder, precision="bfloat16", fused=fused, epochs=3)
    single = trained(cases.build(family), steps, objective, None, epochs=3)
    assert half.record["graphs"] > 0, half.events
    assert {weight.dtype for weight in half.weights.values()} == {torch.float32}
    torch.testing.assert_close(half.losses, single.losses, rtol=0.03, atol=0.03)
    assert half.record["peak_bytes"] > 0


def test_dropout_differs_from_replay_to_replay() -> None:
    """Over batches that are all alike, with weights that hardly move."""
    steps, recorder = Lengths(lengths=(9,) * 20), CudaRecorder(torch.device(DEVICE))
    case = build("bert", dropout=0.3)
    ran = trained(case, steps, HARD, recorder, learning_rate=1e-9, epochs=1)
    still = trained(build("bert"), steps, HARD, CudaRecorder(torch.device(DEVICE)), learning_rate=1e-9, epochs=1)
    assert ran.record["graphs"] == still.record["graphs"] == 1
    assert len({round(loss, 6) for loss in ran.losses[8:, 0].tolist()}) > 6
    assert not torch.allclose(ran.losses, still.losses, atol=1e-4)


def waiting(case: Case) -> Case:
    """The case, whose model asks the device for a number in the middle of its forward pass."""

    def ask(module: Any, given: tuple[Any, ...]) -> None:
        assert math.isfinite(float(given[0].detach().sum()))

    case.model.bert.encoder.register_forward_pre_hook(ask)
    return case


def test_a_model_that_waits_goes_on_eagerly_and_its_dropout_still_works() -> None:
    steps, objective = Lengths(lengths=(9,) * 20), HARD
    case = waiting(build("bert", dropout=0.3))
    ran = trained(case, steps, objective, CudaRecorder(torch.device(DEVICE)), epochs=1)
    assert ran.record["graphs"] == 0
    assert ran.record["why"].startswith("a step cannot be recorded: ")
    assert [event["event"] for event in ran.events] == ["eager"]
    assert ran.losses.isfinite().all()
    outputs = []
    inputs = torch.full((4, 9), 7, device=DEVICE)
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        outputs.append(case.model(inputs).logits.detach())
    assert torch.equal(outputs[0], outputs[2])
    assert not torch.equal(outputs[0], outputs[1])
    again = trained(build("bert"), steps, objective, CudaRecorder(torch.device(DEVICE)), epochs=1)
    assert again.record["graphs"] == 1, "the next training records"


def test_a_recording_that_cuda_refused_gives_its_memory_back() -> None:
    gc.collect()  # the graphs of other tests
    torch.cuda.empty_cache()
    before = reserved_for_graphs()
    steps = Lengths(lengths=(9,) * 20)
    for _ in range(3):
        ran = trained(waiting(build("bert")), steps, HARD, CudaRecorder(torch.device(DEVICE)), epochs=1)
        assert ran.record["graphs"] == 0
        del ran
        gc.collect()
        torch.cuda.empty_cache()
        assert reserved_for_graphs() == before


def test_however_many_streams_are_asked_for_none_that_copies_is_the_one_that_records() -> None:
    device = torch.device(DEVICE)
    recorder = CudaRecorder(device)
    streams = {Sender(device)._stream.cuda_stream for _ in range(100)}  # type: ignore[union-attr]
    assert recorder._stream.cuda_stream not in streams


def test_a_model_that_waits_without_dropout_learns_what_it_learns_eagerly() -> None:
    steps = Lengths(lengths=(9,) * 20)
    got = trained(waiting(build("bert")), steps, HARD, CudaRecorder(torch.device(DEVICE)), epochs=1)
    wanted = trained(build("bert"), steps, HARD, None, epochs=1)
    torch.testing.assert_close(got.losses, wanted.losses, rtol=1e-5, atol=1e-6)


class Slow(CudaRecorder):
    """Its clock says that a graph takes twice as long. Notes what is reserved for graphs when memory is given back."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.clock: Iterator[float] = iter([0.0, 1.0, 1.0, 3.0])
        self.held: list[int] = []

    def seconds(self) -> float:
        """What it says."""
        super().seconds()
        return next(self.clock)

    def release(self) -> None:
        """Give it back."""
        self.held.append(reserved_for_graphs())
        super().release()
        self.held.append(reserved_for_graphs())


def reserved_for_graphs() -> int:
    """Bytes in pools of graphs."""
    segments = torch.cuda.memory_snapshot()
    return sum(segment["total_size"] for segment in segments if tuple(segment["segment_pool_id"]) != (0, 0))


def test_memory_is_given_back_where_graphs_gain_nothing() -> None:
    gc.collect()  # the graphs of other tests
    torch.cuda.empty_cache()
    recorder = Slow(torch.device(DEVICE))
    steps = Lengths(lengths=(9,) * 12)
    make = graphs(recorder, always=False)
    ran = train(build("bert"), steps, HARD, make, device=DEVICE, epochs=1, **FLOAT32)
    assert ran.record["why"].startswith("the device limits a step, not the host: 1000.0 ms eager, 2000.0 ms as a graph")
    of_graphs, after = recorder.held
    assert of_graphs > after == 0
    wanted = trained(build("bert"), steps, HARD, None, epochs=1)
    torch.testing.assert_close(ran.losses, wanted.losses, rtol=1e-5, atol=1e-6)


def recorded(recorder: CudaRecorder, function: Callable[[], None]) -> Callable[[], None]:
    """A recording of a function that ran once."""
    function()
    return recorder.record(function)


def test_a_recording_repeats_what_it_recorded_and_does_not_run_it() -> None:
    recorder, value = CudaRecorder(torch.device(DEVICE)), torch.zeros(3, device=DEVICE)
    with recorder.scope():
        replay = recorded(recorder, lambda: value.add_(1))
        assert value.tolist() == [1, 1, 1]
        value.fill_(5)
        replay()
        replay()
    assert value.tolist() == [7, 7, 7]


def test_what_cannot_be_recorded_is_an_error_and_nothing_else_is_broken() -> None:
    recorder, value = CudaRecorder(torch.device(DEVICE)), torch.zeros(3, device=DEVICE)
    with recorder.scope():
        with pytest.raises(RuntimeError):
            recorded(recorder, lambda: value.add_(float(value.sum())))
        assert (value + 1).tolist() == [1, 1, 1]
        assert math.isfinite(float(torch.rand(3, device=DEVICE).sum()))
        replay = recorded(recorder, lambda: value.add_(2))
        replay()
    assert value.tolist() == [4, 4, 4]


def test_page_locked_sending_gives_the_same_tensors_though_their_sources_change() -> None:
    sender, random = Sender(torch.device(DEVICE)), torch.Generator().manual_seed(0)
    dtypes = (torch.bool, torch.int8, torch.uint8, torch.int16, torch.float16, torch.bfloat16, torch.int64)
    sent: list[tuple[Any, dict[str, Tensor]]] = []
    for number in range(50):
        tensors = {
            f"{i}": torch.randint(0, 100, (number * 37 % 11, 1000), generator=random).to(dtype)
            for i, dtype in enumerate(dtypes)
        }
        wanted = {name: tensor.clone() for name, tensor in tensors.items()}
        sent.append((sender.send(tensors), wanted))
        for tensor in tensors.values():
            tensor.zero_()
    for there, wanted in sent:
        assert there.ready is not None
        for name, tensor in there.layout.views(there.arrive()).items():
            assert tensor.device.type == DEVICE
            assert torch.equal(tensor.cpu(), wanted[name])
