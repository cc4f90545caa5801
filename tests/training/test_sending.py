"""Tensors on their way to a device in one buffer, and back out of it without a copy."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdcache.training.sending import ALIGNMENT, Layout, Sender

DTYPES = (
    torch.bool,
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.int64,
    torch.float64,
)
shapes = st.lists(st.integers(0, 5), max_size=3)
parts = st.lists(st.tuples(st.sampled_from(DTYPES), shapes), max_size=6)


def tensors_of(parts: list[tuple[torch.dtype, list[int]]]) -> dict[str, Tensor]:
    """Tensors of these dtypes and shapes, with different numbers in each."""
    return {
        f"t{i}": (torch.arange(math.prod(shape)).reshape(shape) * 3 + i).to(dtype)
        for i, (dtype, shape) in enumerate(parts)
    }


@given(parts=parts)
def test_what_is_sent_arrives(parts: list[tuple[torch.dtype, list[int]]]):
    tensors = tensors_of(parts)
    sent = Sender(torch.device("cpu")).send(tensors)
    found = sent.layout.views(sent.arrive())
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor)


@given(parts=parts)
def test_tensors_lie_aligned_one_behind_the_other(parts: list[tuple[torch.dtype, list[int]]]):
    layout = Layout.of(tensors_of(parts))
    ends = [start + math.prod(shape) * dtype.itemsize for _, dtype, shape, start in layout.places]
    starts = [place[3] for place in layout.places]
    assert all(start % ALIGNMENT == 0 for start in starts)
    for end, following in zip(ends, [*starts, layout.num_bytes][1:], strict=True):
        assert 0 <= following - end < ALIGNMENT


def test_views_are_the_buffer_itself():
    tensors = {"a": torch.zeros(3, dtype=torch.int64), "b": torch.zeros(2, 2), "none": torch.zeros(0, 4)}
    sent = Sender(torch.device("cpu")).send(tensors)
    views, again = (sent.layout.views(sent.buffer) for _ in range(2))
    views["b"].fill_(7)
    assert again["b"].tolist() == [[7, 7], [7, 7]]
    assert views["a"].data_ptr() == sent.buffer.data_ptr()
    assert views["b"].data_ptr() == sent.buffer.data_ptr() + 32
    assert views["none"].shape == (0, 4)
    assert tensors["b"].tolist() == [[0, 0], [0, 0]], "the buffer is a copy"


def test_a_tensor_that_is_not_contiguous_is_sent_as_it_reads():
    tensor = torch.arange(6).reshape(2, 3).T
    sent = Sender(torch.device("cpu")).send({"a": tensor})
    assert sent.layout.views(sent.buffer)["a"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_nothing_is_a_buffer_of_no_bytes():
    sent = Sender(torch.device("cpu")).send({})
    assert sent.layout.num_bytes == len(sent.arrive()) == 0


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.zeros(3), "b": torch.zeros(2, 1)},
        {"a": torch.zeros(3), "b": torch.zeros(2, dtype=torch.int32)},
        {"a": torch.zeros(3), "c": torch.zeros(2)},
        {"b": torch.zeros(2), "a": torch.zeros(3)},
        {"a": torch.zeros(4), "b": torch.zeros(2)},
    ],
)
def test_layouts_are_equal_keys_where_names_types_shapes_and_order_are(other: dict[str, Tensor]):
    layout = Layout.of({"a": torch.zeros(3), "b": torch.zeros(2)})
    same = Layout.of({"a": torch.ones(3), "b": torch.ones(2)})
    assert same == layout
    assert hash(same) == hash(layout)
    assert Layout.of(other) != layout
