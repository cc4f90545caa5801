from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.core.errors import DataError
from kdcache.core.types import Example
from kdcache.data.select import select
from kdcache.data.spec import load_spec

TREE = {
    "name": "toy",
    "task": "classification",
    "files": {"train": "train.jsonl"},
    "columns": {"text": "text", "label": "label", "language": "lang"},
    "labels": ["no", "yes"],
}


def examples(count, labels=("no",)):
    return [
        Example(
            uid=f"train-{i}", fields={"text": "a", **({"label": label} if (label := labels[i % len(labels)]) else {})}
        )
        for i in range(count)
    ]


def uids(spec, split, source):
    return [int(e.uid.removeprefix("train-")) for e in select(spec, split, source)]


def spec_with(limit=None, **holdout):
    return load_spec({**TREE, "holdout": holdout, "limit": limit or {}})


def test_without_hold_out_and_limit_all_examples_stay():
    source = examples(5)
    assert select(spec_with(), "train", source) == source


def test_the_frozen_hold_out_of_ten_examples():
    # Literal on purpose: a change here moves examples between the splits of every dataset.
    spec = spec_with(validation={"from": "train", "count": 3})
    assert uids(spec, "validation", examples(10)) == [3, 4, 5]
    assert uids(spec_with({"train": 3}), "train", examples(10)) == [1, 7, 8]


@settings(max_examples=40)
@given(count=st.integers(3, 60), first=st.integers(1, 20), fraction=st.floats(0.05, 0.5), seed=st.integers(0, 5))
def test_hold_outs_and_the_rest_share_nothing_and_lose_nothing(count, first, fraction, seed):
    spec = spec_with(
        b={"from": "train", "count": first, "seed": seed},
        c={"from": "train", "fraction": fraction, "seed": seed},
    )
    source = examples(count)
    if first >= count or int(fraction * (count - first)) == 0:
        with pytest.raises(DataError):
            select(spec, "train", source)
        return
    parts = [uids(spec, split, source) for split in ("train", "b", "c")]
    assert sorted(i for part in parts for i in part) == list(range(count))
    assert all(part == sorted(part) for part in parts)
    assert len(parts[1]) == first


def test_a_hold_out_of_another_split_takes_nothing_from_this_one():
    tree = {**TREE, "files": {"train": "a.csv", "other": "b.csv"}, "holdout": {"v": {"from": "other", "count": 2}}}
    source = examples(5)
    assert select(load_spec(tree), "train", source) == source
    assert len(select(load_spec(tree), "other", source)) == 3


def test_the_order_of_the_yaml_does_not_matter():
    one = {"from": "train", "count": 4}
    two = {"from": "train", "count": 3}
    source = examples(20)
    there, back = spec_with(b=one, c=two), spec_with(c=two, b=one)
    assert [uids(there, split, source) for split in "bc"] == [uids(back, split, source) for split in "bc"]


def test_a_stratified_hold_out_takes_the_same_share_of_each_value_rounded_down():
    source = examples(70, labels=("no", "no", "no", "no", "yes", "yes", None))
    spec = spec_with(validation={"from": "train", "fraction": 0.1, "stratify": "label"})
    held = Counter(e.fields.get("label") for e in select(spec, "validation", source))
    assert held == {"no": 4, "yes": 2, None: 1}


def test_a_stratified_count_is_met_exactly_by_largest_remainders():
    source = examples(30, labels=("no", "no", "yes"))
    spec = spec_with(validation={"from": "train", "count": 10, "stratify": "label"})
    assert Counter(e.fields["label"] for e in select(spec, "validation", source)) == {"no": 7, "yes": 3}


def test_a_tenth_of_seventy_is_seven_though_floats_disagree():
    spec = spec_with(validation={"from": "train", "fraction": 0.1})
    assert [len(uids(spec, "validation", examples(n))) for n in (69, 70, 79)] == [6, 7, 7]


def test_a_smaller_limit_is_a_subset_of_a_larger_one_and_keeps_the_order():
    source = examples(50)
    small, large = (uids(spec_with({"train": n}), "train", source) for n in (5, 20))
    assert set(small) < set(large)
    assert large == sorted(large)
    assert uids(spec_with({"train": 500}), "train", source) == list(range(50))


def test_a_limit_comes_after_the_hold_out_and_does_not_change_it():
    source = examples(40)
    holdout = {"validation": {"from": "train", "count": 10}}
    held = uids(spec_with(**holdout), "validation", source)
    limited = spec_with({"train": 5, "validation": 4}, **holdout)
    assert set(uids(limited, "validation", source)) < set(held)
    assert not set(uids(limited, "train", source)) & set(held)


@pytest.mark.parametrize(
    ("holdout", "message"),
    [
        ({"count": 11}, "holdout.v.count = 11 is more than the 10 examples of train; hold out less"),
        ({"count": 10}, "holding out leaves nothing of the split train (10 examples); hold out less"),
        ({"fraction": 0.01}, "holdout.v.fraction = 0.01 of 10 examples of train is none; hold out more"),
    ],
)
def test_a_hold_out_that_is_too_large_or_too_small_is_refused(holdout, message):
    with pytest.raises(DataError) as error:
        select(spec_with(v={"from": "train", **holdout}), "train", examples(10))
    assert str(error.value) == message
