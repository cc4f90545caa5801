"""The record of a search: what begins it anew, what leaves it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kdcache.core.configuration import Configuration
from kdcache.core.design import Space, Trial
from kdcache.core.search_record import SearchRecord, begin_record, read_record, record_path, write_record

RECORD = SearchRecord(
    code="1",
    student="half",
    model="aa",
    design="greedy",
    space=Space(),
    seeds=(0, 1),
    teachers={"t_hs": "t_hs"},
    training={"epochs": 3, "learning_rate": 1e-4},
    settings={"keep_checkpoints": True},
    failed=(Trial(configuration=Configuration()),),
    outcome={"best": {"score": 0.5}},
)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "search").mkdir()
    return tmp_path


def test_a_record_comes_back_as_it_was_written(study: Path) -> None:
    write_record(study, RECORD)
    assert read_record(record_path(study, "half")) == RECORD


@pytest.mark.parametrize(
    ("changes", "stays"),
    [
        ({}, True),
        ({"code": "2", "settings": {"keep_checkpoints": False}}, True),
        ({"seeds": (1, 0)}, False),
        ({"space": Space(alphas=())}, False),
        ({"training": {"epochs": 4}}, False),
        ({"model": "bb"}, False),
        ({"design": "factorial"}, False),
    ],
)
def test_the_same_search_keeps_what_it_found_while_it_runs_again(
    changes: dict[str, object], stays: bool, study: Path
) -> None:
    begun = replace(RECORD, failed=(), outcome=None, **changes)  # type: ignore[arg-type]
    write_record(study, RECORD)
    begin_record(study, begun)
    assert read_record(record_path(study, "half")) == (RECORD if stays else begun)


@pytest.mark.parametrize("before", [None, "no json", '{"format": 1}'])
def test_what_is_no_record_is_replaced(before: str | None, study: Path) -> None:
    if before is not None:
        record_path(study, "half").write_text(before)
    begin_record(study, RECORD)
    assert read_record(record_path(study, "half")) == RECORD
