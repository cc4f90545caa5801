"""Several languages and zero-shot sets through the commands: a tiny BERT that learns one and is scored on two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kdcache.cache.reader import Cache
from kdcache.core.results import read_languages, read_statistics
from kdcache.metrics import METRICS
from tests.tiny import call, read_records, refused, write_data, write_model, write_records, write_run

pytestmark = pytest.mark.slow


def write_study(folder: Path, **dataset: Any) -> Path:
    """A run file over `base/`: English trains, German and English are scored."""
    write_model(folder / "base")
    write_data(folder)
    for split in ("validation", "test"):
        records = read_records(folder / f"{split}.jsonl")
        write_records(folder / f"de-{split}.jsonl", [{**r, "label": "good"} for r in records[:10]])
    run = yaml.safe_load(write_run(folder).read_text())
    files = run["dataset"].pop("files")
    run["dataset"]["sources"] = [
        {"name": "en", "language": "en", "files": files},
        {
            "name": "de",
            "language": "de",
            "files": {split: str(folder / f"de-{split}.jsonl") for split in ("validation", "test")},
        },
    ]
    run["dataset"] |= dataset
    run["teacher"]["epochs"] = 2
    (folder / "run.yaml").write_text(yaml.safe_dump(run, sort_keys=False))
    return folder / "run.yaml"


def test_scores_are_pooled_and_by_language_from_the_same_statistics(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = str(write_study(tmp_path))
    call("train-teacher", run, "--device", "cpu")
    printed = capsys.readouterr().out
    teacher = json.loads((tmp_path / "out/teacher/teacher.json").read_text())
    wanted = [f"f1_binary@{name}" for name in ("de", "en", "mean")]
    for role in ("t_hs", "t_ll"):
        assert [name for name in teacher["test"][role] if "@" in name] == wanted
        de, en, mean = (teacher["test"][role][name] for name in wanted)
        assert mean == pytest.approx((de + en) / 2)
        assert f"  test f1_binary {teacher['test'][role]['f1_binary']:.4f} (de {de:.4f}, en {en:.4f}, mean" in printed
    call("dump-teacher", run, "--device", "cpu")
    call("train-student", run, "--device", "cpu")
    (path,) = (tmp_path / "out/students/half").glob("*/result.json")
    printed = capsys.readouterr().out
    for split, count in (("validation", 24), ("test", 24)):
        scores = json.loads(path.read_text())["scores"][split]
        languages = np.array(read_languages(path.parent, split))
        uids, statistics = read_statistics(path.parent, split)
        assert languages.tolist() == ["en"] * count + ["de"] * 10 == [uid[:2] for uid in uids]
        metric = METRICS["f1_binary"]
        for language in ("de", "en"):
            part = statistics[metric.statistic][languages == language]
            assert scores[f"f1_binary@{language}"]["value"] == pytest.approx(metric.finish(part.sum(axis=0)))
        pooled, de = (scores[name]["value"] for name in ("f1_binary", "f1_binary@de"))
        assert f"  {split:<10} f1_binary {pooled:.4f} (de {de:.4f}, en " in printed
    capsys.readouterr()
    call("compare", str(tmp_path / "out/students"), "--out", str(tmp_path / "compare"), "--resamples", "100")
    assert "f1_binary@de" in (tmp_path / "compare/results.csv").read_text()
    assert "f1_binary@mean" in (tmp_path / "compare/report.html").read_text()


def test_a_dataset_without_a_training_set_is_inspected_and_dumped_but_teaches_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = write_study(tmp_path)
    tree = yaml.safe_load(run.read_text())
    tree["dataset"]["sources"] = tree["dataset"]["sources"][1:]
    run.write_text(yaml.safe_dump(tree, sort_keys=False))
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(tree["dataset"], sort_keys=False))
    call("inspect", str(tmp_path / "data.yaml"))
    printed = capsys.readouterr().out
    assert "  validation 10 examples\n             labels  bad 0 (0.0 %)  good 10 (100.0 %)\n" in printed
    assert "             languages  de 10 (100.0 %)\n" in printed
    error = refused(capsys, "train-teacher", run, "--device", "cpu", code=3)
    assert error == (
        "dataset tiny has no split 'train'; its splits: validation, test; join a training set under sources, as "
        "configs/datasets/xnli.yaml does (zero-shot), or dump without: dump.splits"
    )
    model = ("--device", "cpu", "--teacher", f"t={write_classifier(tmp_path / 'teacher', tmp_path / 'base')}")
    error = refused(capsys, "dump-teacher", run, *model, code=3)
    assert error.startswith("dataset tiny has no split 'train'; its splits: validation, test; join")
    call("dump-teacher", str(run), *model, "--set", "dump.splits=[validation]")
    assert Cache.open(tmp_path / "out/cache").plan.splits == ("validation",)
    error = refused(capsys, "train-student", run, "--device", "cpu", "--teacher", "t", code=4)
    assert "train" in error


def write_classifier(folder: Path, base: Path) -> Path:
    """A checkpoint with a head, as a user might bring it."""
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    model.config.id2label = {0: "bad", 1: "good"}
    model.config.label2id = {"bad": 0, "good": 1}
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder
