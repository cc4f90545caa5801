"""A student's own tokens in place of the teacher's: the same steps, rows matched by word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from kdcache.cache.loader import Loader
from kdcache.cache.reader import Cache
from kdcache.core.errors import CacheMismatch, IncompatibleTargets
from kdcache.data.read import read_split
from kdcache.losses.targets import SparseTargets
from kdcache.student.other_tokens import OtherTokenSteps, match
from kdcache.tasks import make
from kdcache.training.batch import Batch
from kdcache.training.run import load_run
from kdcache.training.steps import CachedSteps
from tests.tiny import write_model
from tests.tiny_spans import NAMES, SECOND, write_spans_study

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of named entities, dumped."""
    return write_spans_study(tmp_path_factory.mktemp("ner"), "ner")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory):
    """A tokenizer with the same words under other ids."""
    words = [*SECOND.values(), *reversed([*NAMES["PER"], *NAMES["LOC"]])]
    return AutoTokenizer.from_pretrained(write_model(tmp_path_factory.mktemp("other"), words=words))


def expanded(batch: Batch) -> SparseTargets:
    targets = batch.to(torch.device("cpu")).targets
    assert isinstance(targets, SparseTargets)
    return targets


def items_of(folder: Path, tokenizer, **change):
    """The task, the cache's items and the student's of the train split."""
    file = load_run(folder / "run.yaml")
    task = make(file.dataset.task, replace(file.dataset.task_settings(), **change))
    cache = Cache.open(folder / "out/cache")
    ours = [item for e in read_split(file.dataset, "train") for item in task.encode(e, tokenizer, train=True)]
    return task, cache.items(cache.plan.indices("train")), ours


def steps_of(folder: Path, **sizes):
    """The steps of the cache with its own tokens."""
    loader = Loader(
        Cache.open(folder / "out/cache"),
        split="train",
        teachers=("t_hs",),
        seed=3,
        **{"batch_size": 16, "micro_batch_size": 8, **sizes},
    )
    return CachedSteps(loader=loader, teachers=("t_hs",), pad_token_id=0)


def test_the_same_words_under_other_ids_give_the_same_steps(ner: Path, other):
    task, cached, ours = items_of(ner, other)
    others = match(cached, ours, task)
    assert others.num_dropped == 0
    base = AutoTokenizer.from_pretrained(ner / "base")
    new_id = torch.tensor([other.convert_tokens_to_ids(t) for t in base.convert_ids_to_tokens(list(range(len(base))))])
    own = steps_of(ner)
    for epoch in (0, 1):
        for theirs, mine in zip(own.epoch(epoch), OtherTokenSteps(cached=own, others=others).epoch(epoch), strict=True):
            assert (mine.index, mine.num_rows, mine.num_labels) == (theirs.index, theirs.num_rows, theirs.num_labels)
            for a, b in zip(theirs.batches, mine.batches, strict=True):
                assert torch.equal(new_id[a.inputs["input_ids"]], b.inputs["input_ids"])
                assert torch.equal(a.positions_R2, b.positions_R2)
                assert torch.equal(a.labels_R, b.labels_R)
                assert torch.equal(a.weights_R, b.weights_R)
                assert torch.equal(expanded(a).logprobs_RK, expanded(b).logprobs_RK)


def test_words_that_one_side_lost_are_dropped_and_the_others_keep_their_rows(ner: Path, other):
    task, cached, ours = items_of(ner, other, max_length=5)  # the teacher had 8
    others = match(cached, ours, task)
    assert others.num_dropped == sum(item.num_rows for item in cached) - sum(item.num_rows for item in ours) > 0
    own, found = steps_of(ner, batch_size=16, micro_batch_size=16), 0
    for theirs, mine in zip(own.epoch(0), OtherTokenSteps(cached=own, others=others).epoch(0), strict=True):
        (a,), (b,) = theirs.batches, mine.batches
        assert mine.num_rows == int(b.weights_R.sum())  # fillers have weight 0
        found += theirs.num_rows - mine.num_rows
        owner_R = a.positions_R2[:, 0]
        first_three = torch.cat([(owner_R == i).nonzero()[:3, 0] for i in range(int(owner_R.max()) + 1)])
        assert torch.equal(expanded(a).gold_R[first_three], expanded(b).gold_R)
        assert torch.equal(a.labels_R[first_three], b.labels_R)
    assert found == others.num_dropped
    longer = make(task.name, replace(task.settings, max_length=30))
    file = load_run(ner / "run.yaml")
    whole = [item for e in read_split(file.dataset, "train") for item in longer.encode(e, other)]
    assert match(cached, whole, longer).num_dropped == sum(i.num_rows for i in whole) - sum(i.num_rows for i in cached)


def test_other_examples_and_other_labels_are_refused(ner: Path, other):
    task, cached, ours = items_of(ner, other)
    with pytest.raises(CacheMismatch, match=r"^the cache's item train-0 is no example of the dataset; dump again$"):
        match(cached, ours[1:], task)
    wrong = replace(ours[0], labels_R=(ours[0].labels_R + 1).astype(np.int32))
    with pytest.raises(CacheMismatch, match=r"^the cache has other labels for the item train-0 than the dataset; "):
        match(cached, [wrong, *ours[1:]], task)
    questions = make("qa", replace(task.settings, labels=()))
    with pytest.raises(IncompatibleTargets, match=r"^the rows of qa are made of tokens; they match those of no other "):
        match(cached, ours, questions)
