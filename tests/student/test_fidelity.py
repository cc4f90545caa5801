"""A student beside its teacher: the same most probable class, and the KL divergence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from kdcache.cache.reader import Cache
from kdcache.core.errors import IncompatibleTargets
from kdcache.core.results import read_run
from kdcache.losses.head import Head
from kdcache.losses.selection import select
from kdcache.losses.targets import HiddenTargets, SparseTargets
from kdcache.student.fidelity import TeacherRows, kl, means, most_probable, teacher_rows
from kdcache.tasks.base import Beside, Reading, RowFacts
from kdcache.training.batch import MASKED
from tests.tiny import call


def facts(best: list[int]) -> RowFacts:
    """Of rows of which only the best class matters."""
    none = np.zeros(len(best))
    return RowFacts(best_R=np.array(best), gold_R=none, squares_R=none, confidence_R=none, entropy_R=none)


def keep(logits: torch.Tensor, classes: list[int], **settings: Any) -> SparseTargets:
    return select(logits, torch.full((len(logits),), -100), torch.tensor(classes), **settings)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_dense_rows_give_the_kl_divergence_of_torch_also_where_rows_differ_in_classes() -> None:
    teacher, student = noise(0, 3, 7), noise(1, 3, 7)
    classes = [7, 4, 6]
    for r, count in enumerate(classes):
        student[r, count:] = MASKED
    targets = keep(teacher, classes, top_k=7)
    wanted = [
        functional.kl_div(
            torch.log_softmax(student[r, :count].double(), 0),
            torch.log_softmax(teacher[r, :count].double(), 0),
            reduction="sum",
            log_target=True,
        )
        for r, count in enumerate(classes)
    ]
    torch.testing.assert_close(kl(student, targets).double(), torch.stack(wanted), rtol=1e-5, atol=1e-6)
    assert most_probable(targets).tolist() == [int(teacher[r, :count].argmax()) for r, count in enumerate(classes)]


def test_a_sparse_row_counts_its_tail_as_one_class() -> None:
    teacher = torch.tensor([[0.5, 0.3, 0.1, 0.06, 0.04]]).log()
    student = torch.tensor([[0.2, 0.4, 0.3, 0.05, 0.05]]).log()
    found = kl(student, keep(teacher, [5], top_k=2))
    wanted = 0.5 * np.log(0.5 / 0.2) + 0.3 * np.log(0.3 / 0.4) + 0.2 * np.log(0.2 / 0.4)
    assert found.item() == pytest.approx(wanted, abs=1e-5)
    assert found.item() < kl(student, keep(teacher, [5], top_k=5)).item()


@pytest.mark.parametrize("top_k", [1, 8, 50])
def test_a_student_that_is_its_teacher_has_a_divergence_of_zero(top_k: int) -> None:
    teacher = noise(2, 20, 50)
    assert kl(teacher + 5, keep(teacher, [50] * 20, top_k=top_k)).abs().max() < 2e-6


def test_the_most_probable_class_of_a_teacher_is_the_first_that_is_stored() -> None:
    teacher = torch.tensor([[0.0, 3.0, 3.0, 0.0, 1.0], [0.0, 2.0, 3.0, 0.0, 1.0]])
    assert most_probable(keep(teacher, [5, 5], top_k=5)).tolist() == [1, 2]
    assert most_probable(keep(teacher[1:], [5], top_k=2)).tolist() == [2]


def test_hidden_rows_have_a_divergence_but_keep_no_class_to_agree_on() -> None:
    head = Head(weight_VD=noise(3, 6, 4))
    hidden, student = noise(4, 2, 4), noise(5, 2, 6)
    rows = HiddenTargets(
        hidden_RD=hidden, head=head, num_classes_R=torch.tensor([6, 6]), gold_R=torch.full((2,), torch.nan)
    )
    dense = keep(hidden @ head.weight_VD.T, [6, 6], top_k=6)
    torch.testing.assert_close(kl(student, rows), kl(student, dense), rtol=1e-4, atol=1e-5)
    with pytest.raises(IncompatibleTargets, match=r"^rows of store hidden keep no class; use rows of store topk"):
        most_probable(rows)


def test_means_are_over_rows_and_never_below_zero() -> None:
    def reading(ours: list[int], theirs: list[int], nats: list[float]) -> Reading:
        return Reading(facts=facts(ours), beside=Beside(best_R=np.array(theirs), kl_R=np.array(nats)))

    found = means([reading([1], [1], [0.1]), reading([0, 1, 1], [0, 0, 2], [0.2, 0.3, 0.6])])
    assert found == {"agreement": 0.5, "kl": pytest.approx(0.3)}
    assert means([reading([3], [3], [-1e-8])]) == {"agreement": 1.0, "kl": 0.0}
    assert means([Reading(facts=facts([1]))]) == {}


@pytest.fixture(scope="module")
def cache(study: Path) -> Cache:
    return Cache.open(study / "out/cache")


def test_what_cannot_be_set_side_by_side_is_left_out(cache: Cache, study: Path, tmp_path: Path) -> None:
    items = cache.items(cache.plan.indices("validation"))
    assert isinstance(teacher_rows(cache, ("t_hs",), items), TeacherRows)
    assert teacher_rows(cache, (), items) is None
    assert teacher_rows(cache, ("t_hs", "t_ll"), items) is None
    assert teacher_rows(cache, ("t_hs",), items[1:]) is None
    other = replace(items[0], classes_R=items[0].classes_R + 1)
    assert teacher_rows(cache, ("t_hs",), [other, *items[1:]]) is None
    options = ("--device", "cpu", "--out", str(tmp_path), "--teacher", f"t_hs={study / 'out/teacher/selected/t_hs'}")
    call("dump-teacher", str(study / "run.yaml"), *options, "--set", "dump.splits=[train]")
    assert teacher_rows(Cache.open(tmp_path / "cache"), ("t_hs",), items) is None


def test_the_rows_of_a_batch_are_those_of_its_items_in_its_order(cache: Cache) -> None:
    items = cache.items(cache.plan.indices("validation"))
    rows = cache.rows("t_ll", cache.plan.indices("validation"))
    theirs = teacher_rows(cache, ("t_ll",), items)
    assert theirs is not None
    chosen = [5, 2, 2, 19]
    logits = torch.from_numpy(rows.logprobs.reshape(-1, 2)[chosen])  # the teacher's own
    found = theirs.beside([items[i] for i in chosen], logits)
    assert [beside.kl_R.shape for beside in found] == [(1,)] * 4
    assert np.concatenate([beside.kl_R for beside in found]) == pytest.approx(0, abs=1e-6)
    assert np.concatenate([beside.best_R for beside in found]).tolist() == logits.argmax(1).tolist()


def test_a_student_s_result_says_how_closely_it_follows_and_one_on_hard_labels_has_no_teacher(
    study: Path, tmp_path: Path
) -> None:
    run = (str(study / "run.yaml"), "--device", "cpu", "--out", str(tmp_path), "--cache", str(study / "out/cache"))
    call("train-student", *run, "--tau-t", "3")
    call("train-student", *run, "--alpha", "0")
    folders = [path.parent for path in (tmp_path / "students/half").glob("*/result.json")]
    runs = {read_run(folder).configuration.alpha: folder for folder in folders}
    assert read_run(runs[0.0]).extra["fidelity"] == {}
    assert read_run(runs[1.0]).extra["fidelity"] == pytest.approx(by_hand(study, runs[1.0]), rel=1e-4)


def by_hand(study: Path, folder: Path) -> dict[str, float]:
    """Both checkpoints over the validation texts, one at a time, in plain torch."""
    folders = {"teacher": study / "out/teacher/selected/t_hs", "student": folder / "selected"}
    models = {n: AutoModelForSequenceClassification.from_pretrained(f).eval() for n, f in folders.items()}
    cache = Cache.open(study / "out/cache")
    agreed, nats = [], []
    for item in cache.items(cache.plan.indices("validation")):
        ids = torch.from_numpy(item.inputs["input_ids"].astype(np.int64))[None]
        with torch.no_grad():
            log_p, log_q = (torch.log_softmax(models[n](input_ids=ids).logits[0], 0) for n in ("teacher", "student"))
        agreed.append(bool(log_p.argmax() == log_q.argmax()))
        nats.append(functional.kl_div(log_q, log_p, reduction="sum", log_target=True).item())
    return {"agreement": float(np.mean(agreed)), "kl": float(np.mean(nats))}
