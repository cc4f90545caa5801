"""A student beside its teacher: the same most probable class."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kdcache.core.types import SparseRows
from kdcache.student.agreement import most_probable
from tests.tiny import call


def rows(*parts: tuple[list[int], list[float]]) -> SparseRows:
    sizes = [len(ids) for ids, _ in parts]
    count = len(parts)
    return SparseRows(
        row_ptr=np.array([0, count]),
        entry_ptr=np.concatenate([[0], np.cumsum(sizes)]),
        ids=np.array([i for ids, _ in parts for i in ids]),
        logprobs=np.array([v for _, values in parts for v in values], dtype=np.float32),
        num_classes=np.full(count, 9, np.int32),
        lse=np.zeros(count, np.float32),
        atoms=np.zeros((count, 0, 2), np.float32),
        moments=np.zeros((count, 2), np.float32),
        gold=np.zeros(count, np.float32),
    )


def test_the_most_probable_class_is_found_in_sparse_and_in_dense_rows() -> None:
    sparse = ([7, 2], [-0.1, -2.0])
    dense = ([0, 1, 2], [-3.0, -2.0, -0.2])
    tie = ([4, 5], [-0.7, -0.7])
    assert most_probable(rows(sparse, dense, tie)).tolist() == [7, 2, 4]


def test_a_student_s_result_says_how_often_it_agrees_and_one_on_hard_labels_has_no_teacher(study: Path) -> None:
    run = str(study / "run.yaml")
    call("train-student", run, "--device", "cpu", "--tau-t", "3", "--seed", "5")
    call("train-student", run, "--device", "cpu", "--alpha", "0", "--seed", "5")
    found = [json.loads(p.read_text()) for p in (study / "out/students/half").glob("*seed5*/result.json")]
    shares = {tree["configuration"]["alpha"]: tree["extra"]["fidelity"].get("agreement") for tree in found}
    assert shares[0.0] is None
    assert 0 <= shares[1.0] <= 1
    assert (shares[1.0] * 24) == pytest.approx(round(shares[1.0] * 24))  # 24 validation texts, a row each
