"""Batches on a grid of sizes: few sizes, little waste, and the same loss and gradient."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdcache.core.types import IGNORE
from kdcache.losses.objective import Objective
from kdcache.training.batch import Batch, read_rows
from kdcache.training.shapes import SMALLEST, Grid, grid_of, pad, rounded
from kdcache.training.steps import TrainStep
from tests.training import cases
from tests.training.cases import HARD, KD, Case

counts = st.integers(1, 4096)
limits = st.integers(1, 4096)
NUM_SIZES = 8 + 4 * 6
"""Sizes up to 4,096: eight multiples of 8 up to 64, then four in each of six doublings."""


def test_a_few_sizes_hold_all_counts_up_to_4096():
    sizes = {rounded(count) for count in range(1, 4097)}
    assert len(sizes) == NUM_SIZES
    assert all(size % SMALLEST == 0 for size in sizes)
    assert max(sizes) == 4096


@given(count=counts)
def test_a_size_holds_its_count_and_wastes_less_than_a_quarter(count: int):
    size = rounded(count)
    assert count <= size
    assert size - count < max(SMALLEST, count / 4)


@given(count=counts, more=counts)
def test_sizes_grow_with_their_counts_and_are_their_own_sizes(count: int, more: int):
    assert rounded(count) <= rounded(count + more)
    assert rounded(rounded(count)) == rounded(count)


@given(count=counts, limit=limits)
def test_a_limit_is_the_last_size_and_what_is_beyond_it_is_left_alone(count: int, limit: int):
    size = rounded(count, limit=limit)
    assert size >= count
    assert size == count if count >= limit else size <= limit
    assert size in (rounded(count), limit, count)
    assert Grid(longest=limit).tokens(count) == size
    assert Grid(longest=limit).rows(count) == Grid().tokens(count) == rounded(count)


def test_nothing_stays_nothing():
    assert rounded(0) == rounded(0, limit=5) == 0


def test_a_models_grid_ends_two_before_its_positions():
    assert grid_of(cases.build("bert").model) == Grid(longest=62)
    assert grid_of(cases.build("roberta").model) == Grid(longest=64)
    assert grid_of(torch.nn.Linear(1, 1)) == Grid()


Learnt = tuple[Tensor, dict[str, Tensor]]


def learnt(
    case: Case, batch: Batch, objective: Objective, step: TrainStep, *, nonsense_from: int | None = None
) -> Learnt:
    """The terms of a batch's loss, and the gradient of the parameters; the last rows' logits may be nonsense."""
    case.model.zero_grad()
    batch = batch.to(torch.device("cpu"))
    rows = read_rows(case.task, case.model(**batch.inputs), batch)
    if nonsense_from is not None:
        rows = torch.cat([rows[:nonsense_from], torch.full_like(rows[nonsense_from:], 1e30)])
    losses = objective(
        rows,
        batch.targets,
        batch.labels_R,
        weights_R=batch.weights_R,
        num_rows=step.num_rows,
        num_labels=step.num_labels,
        facts=batch.facts,
    )
    losses.total.backward()
    terms = torch.stack([losses.total, losses.hard, losses.soft, losses.kl]).detach()
    return terms, {n: p.grad.clone() for n, p in case.model.named_parameters() if p.grad is not None}


def assert_same(got: Learnt, wanted: Learnt) -> None:
    torch.testing.assert_close(got[0], wanted[0], rtol=1e-5, atol=1e-6)
    assert got[1].keys() == wanted[1].keys()
    largest = max(float(gradient.abs().max()) for gradient in wanted[1].values())
    for name, gradient in wanted[1].items():
        assert float((got[1][name] - gradient).abs().max()) <= 1e-5 * largest, name


CASES = [
    *[(family, "none") for family in cases.FAMILIES],
    *[("bert", store) for store in ("dense", "fast", "hidden")],
    *[(family, store) for family in ("roberta", "llama", "mbart") for store in ("dense", "fast", "compact", "hidden")],
    ("xlm-r", "fast"),
    ("xlm-r", "compact"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "store"), CASES)
def test_a_padded_batch_has_the_loss_and_the_gradient_of_the_batch(family: str, store: str, tmp_path: Path):
    case = cases.build(family)
    grid, objective = grid_of(case.model), HARD if store == "none" else KD
    longer = 0
    for step in case.steps(tmp_path, store).epoch(0):
        (batch,) = step.batches
        padded = pad(batch, grid, pad_token_id=case.pad_token_id)
        longer += len(padded.labels_R) - len(batch.labels_R)
        longer += padded.inputs["input_ids"].shape[1] - batch.inputs["input_ids"].shape[1]
        assert_same(learnt(case, padded, objective, step), learnt(case, batch, objective, step))
    assert longer > 0


@pytest.mark.slow
@pytest.mark.parametrize("family", ["roberta", "mbart"])
def test_padding_is_behind_the_items_and_is_masked(family: str, tmp_path: Path):
    case = cases.build(family)
    (batch, *_), *_ = (step.batches for step in case.steps(tmp_path, "fast").epoch(0))
    padded = pad(batch, Grid(), pad_token_id=case.pad_token_id)
    assert padded.inputs.keys() == batch.inputs.keys()
    for name, tensor in batch.inputs.items():
        width = tensor.shape[1]
        assert padded.inputs[name].shape == (len(tensor), rounded(width))
        assert torch.equal(padded.inputs[name][:, :width], tensor)
        filler = case.pad_token_id if name.endswith("input_ids") else 0
        assert padded.inputs[name][:, width:].eq(filler).all()
    num_rows = len(batch.labels_R)
    assert len(padded.labels_R) == len(padded.weights_R) == len(padded.classes_R) == rounded(num_rows)
    assert padded.weights_R.sum() == batch.weights_R.sum() == num_rows
    assert padded.labels_R[num_rows:].eq(IGNORE).all()
    assert torch.equal(padded.positions_R2[:num_rows], batch.positions_R2)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "of_tokens"), [("xlm-r", True), ("roberta", False), ("llama", False)])
def test_classes_that_are_tokens_become_as_many_as_the_grid_says(family: str, of_tokens: bool, tmp_path: Path):
    case = cases.build(family)
    for step in case.steps(tmp_path, "none").epoch(0):
        (batch,) = step.batches
        width = pad(batch, Grid(), pad_token_id=case.pad_token_id).facts.width
        assert batch.facts.ragged == of_tokens
        assert width == (rounded(batch.facts.width) if of_tokens else batch.facts.width)


def ruined(batch: Batch, num_rows: int) -> Batch:
    """The batch with nonsense in rows beyond `num_rows`, of weight 0, and in columns that no row keeps."""
    labels, packed = batch.labels_R.clone(), batch.packed
    labels[num_rows:] = 1
    if packed is not None:
        (rows,) = packed.rows
        arrays = {name: array.copy() for name, array in rows.arrays.items()}
        for name in {"lse", "logprobs", "first", "hidden", "moments", "gold"} & arrays.keys():
            arrays[name][num_rows:] = 6e4  # the largest that float16 holds, or nearly
        for name in {"ids", "logprobs", "gaps"} & arrays.keys():
            arrays[name][:, int(arrays["num_kept"].max()) :] = 7
        packed = replace(packed, rows=(replace(rows, arrays=arrays),))
    return replace(batch, labels_R=labels, packed=packed)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "store"), [case for case in CASES if case[0] in ("roberta", "llama")])
def test_nothing_that_padded_rows_hold_reaches_the_loss(family: str, store: str, tmp_path: Path):
    case, found = cases.build(family, count=8), 0
    objective = HARD if store == "none" else KD
    for step in case.steps(tmp_path, store).epoch(0):
        padded = pad(step.batches[0], Grid(), pad_token_id=case.pad_token_id)
        num_rows = len(step.batches[0].labels_R)
        found += len(padded.labels_R) - num_rows
        got = learnt(case, ruined(padded, num_rows), objective, step, nonsense_from=num_rows)
        assert_same(got, learnt(case, padded, objective, step))
    assert found > 0


def test_as_many_rows_as_items_stay_as_many(tmp_path: Path):
    case = cases.build("bert", count=3)
    (batch,) = next(case.steps(tmp_path, "fast", batch_size=3).epoch(0)).batches
    padded = pad(batch, Grid(), pad_token_id=0)
    assert len(padded.labels_R) == 3
    assert padded.inputs["input_ids"].shape == (3, rounded(batch.inputs["input_ids"].shape[1]))


def test_a_batch_without_rows_is_left_as_it_is(tmp_path: Path):
    case = cases.build("roberta", count=4)
    (batch,) = next(case.steps(tmp_path, "none").epoch(0)).batches
    none = replace(batch, labels_R=batch.labels_R[:0], positions_R2=batch.positions_R2[:0])
    assert pad(none, Grid(), pad_token_id=1) is none


def test_roberta_counts_positions_of_tokens_alone(tmp_path: Path):
    case = cases.build("roberta", count=4)
    (batch,) = next(case.steps(tmp_path, "none").epoch(0)).batches
    width = batch.inputs["input_ids"].shape[1]
    found = {}
    for filler in (case.pad_token_id, 7):
        padded = pad(batch, Grid(), pad_token_id=filler)
        assert padded.inputs["input_ids"].shape[1] > width
        found[filler] = case.model.roberta.embeddings(padded.inputs["input_ids"])
    wanted = case.model.roberta.embeddings(batch.inputs["input_ids"])
    assert torch.equal(found[case.pad_token_id][:, :width], wanted)
    assert torch.equal(found[7][:, :width], wanted), "tokens behind a token do not move it"
