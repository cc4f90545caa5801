"""Named entities and questions through the commands: several rows an item, items an example, classes a row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForQuestionAnswering, AutoModelForTokenClassification

import kdcache
from kdcache.cache.reader import Cache
from kdcache.core.results import read_statistics
from tests.readonly import share
from tests.tiny import call, refused, write_model
from tests.tiny_spans import LABELS, NAMES, SECOND, SIZES, write_spans_study

pytestmark = pytest.mark.slow

TASKS = ("ner", "qa")


@pytest.fixture(scope="module", params=TASKS)
def spans_study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The task and its study, trained and dumped; read-only."""
    folder = write_spans_study(tmp_path_factory.mktemp(request.param), request.param)
    return request.param, share(request, folder)


def test_students_train_from_the_cache_and_compare(spans_study, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    task, folder = spans_study
    run = (str(folder / "run.yaml"), "--device", "cpu", "--out", str(tmp_path), "--cache", str(folder / "out/cache"))
    for options in (["--alpha", "0"], ["--loss", "ce", "--tau-s", "1"], ["--loss", "mse", "--teacher", "t_ll"]):
        call("train-student", *run, *options)
    results = sorted((tmp_path / "students/half").glob("*/result.json"))
    assert len(results) == 3
    primary = {"ner": "entity_f1", "qa": "squad_f1"}[task]
    for path in results:
        tree = json.loads(path.read_text())
        assert tree["metric"] == primary
        assert tree["counters"]["teacher_forwards"] == 0
        uids, statistics = read_statistics(path.parent, "test")
        assert len(uids) == SIZES["test"], "one row of statistics an example, however many items it has"
        assert {len(values) for values in statistics.values()} == {SIZES["test"]}
    capsys.readouterr()
    call("compare", str(tmp_path / "students"), "--out", str(tmp_path / "compare"), "--resamples", "100")
    assert primary in (tmp_path / "compare/report.html").read_text()
    assert "hard labels" in capsys.readouterr().out


def test_the_teacher_learns_what_the_words_tell(spans_study):
    task, folder = spans_study
    teacher = json.loads((folder / "out/teacher/teacher.json").read_text())
    scores = [record["score"] for record in teacher["checkpoints"]]
    assert max(scores) > {"ner": 0.8, "qa": 0.3}[task]
    assert all(0 < record["nll"] < 10 and record["entropy"] > 0 for record in teacher["checkpoints"])


def test_inspect_describes_the_cache_and_the_dataset(spans_study, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    task, folder = spans_study
    call("inspect", str(folder / "out/cache"), "--json")
    summary = json.loads(capsys.readouterr().out)
    assert all(teacher["forwards_per_item"] == 1 for teacher in summary["teachers"].values())
    train = summary["splits"]["train"]
    if task == "qa":
        assert train["rows"] == train["labels"] == 2 * train["items"]
        assert train["items"] > SIZES["train"]
    else:
        assert train["rows"] == train["labels"] > train["items"] == SIZES["train"]
    tree = yaml.safe_load((folder / "run.yaml").read_text())["dataset"]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree))
    call("inspect", str(tmp_path / "tiny.yaml"), "--tokenizer", str(folder / "base"))
    out = capsys.readouterr().out
    assert f"{SIZES['train']} examples" in out
    assert "longer than max_length" in out
    assert ("% in entities; entities  PER " in out) == (task == "ner")
    assert ("      question  the warm\n" in out) == (task == "qa")


def test_every_cached_row_is_the_teachers_own_without_padding(spans_study):
    """Each item alone through the checkpoint: no batch, no padding, no task code."""
    task, folder = spans_study
    auto = AutoModelForTokenClassification if task == "ner" else AutoModelForQuestionAnswering
    model = auto.from_pretrained(folder / "out/teacher/selected/t_hs").eval()
    cache = Cache.open(folder / "out/cache")
    indices = cache.plan.indices("validation")
    rows = cache.rows("t_hs", indices)
    for i, item in enumerate(cache.items(indices)):
        inputs = {name: torch.from_numpy(v[None].astype(np.int64)) for name, v in item.inputs.items()}
        outputs = model(**inputs)
        if task == "ner":
            logits = outputs.logits[0, item.positions_R.astype(np.int64)].detach().numpy()
        else:
            logits = np.stack([outputs.start_logits[0].detach().numpy(), outputs.end_logits[0].detach().numpy()])
        wanted = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        first = rows.row_ptr[i]
        for r in range(item.num_rows):
            part = (first + r, slice(rows.num_kept[first + r]))
            assert len(rows.ids[part]) == wanted.shape[1] == rows.num_classes[first + r] == item.classes_R[r]
            found = np.full(wanted.shape[1], np.nan)
            found[rows.ids[part]] = rows.logprobs[part]
            np.testing.assert_allclose(found, wanted[r], atol=1e-5)


def test_a_student_with_another_tokenizer_matches_words_and_is_refused_for_questions(
    spans_study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    task, folder = spans_study
    write_model(tmp_path / "other", words=["more", *NAMES["LOC"], *NAMES["PER"], *SECOND.values()])
    options = ("--device", "cpu", "--out", str(tmp_path), "--cache", str(folder / "out/cache"))
    student = ("--set", f"models.students={{other: {{path: {tmp_path / 'other'}}}}}")
    if task == "ner":
        call("train-student", str(folder / "run.yaml"), *options, *student)
        assert "rows were matched by example or word, 0 dropped" in capsys.readouterr().out
        return
    error = refused(capsys, "train-student", folder / "run.yaml", *options, *student, code=4)
    theirs = Cache.open(folder / "out/cache").marker.tokenizer_digest
    assert f"was dumped with tokenizer {theirs}, this run has " in error
    assert error.endswith(
        " and the classes of its rows are the tokens of a window; dump again, or set "
        "student.allow_mismatch: true if you know that they agree"
    )


def test_the_api_gives_rows_by_position(spans_study):
    task, folder = spans_study
    cache = kdcache.open(folder / "out/cache", teacher="t_hs")
    seen = 0
    for batch in cache.loader(split="train", batch_size=10, seed=0):
        assert len(batch.positions) == len(batch.labels) == len(batch.targets.num_classes_R)
        if task == "qa":
            assert batch.positions[:, 1].tolist() == [0, 1] * (len(batch.positions) // 2)
        else:
            assert set(batch.targets.num_classes_R.tolist()) == {len(LABELS)}
        seen += len(batch.inputs["input_ids"])
    assert seen == len(cache.cache.plan.indices("train"))
