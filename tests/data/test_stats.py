from __future__ import annotations

import numpy as np
import pytest

from kdcache.core.errors import DataError
from kdcache.core.types import Example
from kdcache.data.spec import load_spec
from kdcache.data.stats import SplitSummary, describe_dataset

SPEC = load_spec(
    {
        "name": "toy",
        "task": "classification",
        "files": {"train": "a.csv", "test": "b.csv"},
        "columns": {"text": "text", "label": "label"},
        "labels": ["no", "yes"],
        "max_length": 8,
    }
)


def example(uid, text, label=None, **more):
    return Example(uid=uid, fields={"text": text, **({"label": label} if label else {}), **more})


EXAMPLES = {
    "train": [
        example("0", "a", "yes"),
        example("1", "a", "yes"),
        example("2", "a", "yes", text_pair="b"),
        example("3", "c", language="de"),
    ],
    "test": [example("4", "a", "yes"), example("5", "a", "yes"), example("6", "d", "yes")],
}


def test_labels_duplicates_and_texts_of_other_splits_are_counted():
    summary = describe_dataset(SPEC, EXAMPLES)
    assert (summary.name, summary.task, summary.metric, summary.max_length) == ("toy", "classification", "f1", 8)
    assert summary.examples == tuple(EXAMPLES["train"][:3])
    assert summary.splits["train"] == SplitSummary(
        num_examples=4,
        labels={"no": 0, "yes": 3},
        num_labels=3,
        languages={"de": 1},
        num_unlabelled=1,
        num_duplicates=1,
        num_seen={"test": 2},
        tokens={},
        truncated=None,
    )
    assert summary.splits["test"].num_duplicates == 1
    assert summary.splits["test"].num_seen == {"train": 2}


def test_token_lengths_give_percentiles_and_the_share_that_is_cut():
    lengths = {"train": np.array([2, 4, 8, 9]), "test": np.array([3, 3, 3])}
    splits = describe_dataset(SPEC, EXAMPLES, lengths).splits
    assert splits["train"].tokens == pytest.approx({"50": 6, "90": 8.7, "99": 8.97, "100": 9})
    assert splits["train"].truncated == 0.25
    assert splits["test"].truncated == 0


def test_lengths_of_other_examples_are_refused():
    with pytest.raises(DataError, match=r"^split train has 4 examples, but 1 token lengths; give one an example$"):
        describe_dataset(SPEC, EXAMPLES, {"train": np.array([1])})
    with pytest.raises(DataError, match=r"^split test has 3 examples, but 0 token lengths; give one an example$"):
        describe_dataset(SPEC, EXAMPLES, {"train": np.array([1, 2, 3, 4])})


def test_a_dataset_without_splits_has_nothing_to_show():
    assert describe_dataset(SPEC, {}).examples == ()
