"""Translation and language models through the commands: rows over a vocabulary, from both stores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from kdcache.cache.reader import Cache
from kdcache.core.results import read_run, read_statistics
from tests.readonly import share
from tests.tiny import call, refused
from tests.tiny_text import SIZES, write_llama, write_mbart, write_text_study

pytestmark = pytest.mark.slow

PRIMARY = {"translation": "bleu", "text": "nll", "dialogues": "nll"}


@pytest.fixture(scope="module", params=PRIMARY)
def text_study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What is generated and its study, trained and dumped; read-only."""
    epochs = 24 if request.param == "translation" else 6
    folder = write_text_study(tmp_path_factory.mktemp(request.param), request.param, epochs=epochs)
    return request.param, share(request, folder)


def test_students_train_from_both_stores_and_compare(text_study, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    kind, folder = text_study
    run = (str(folder / "run.yaml"), "--device", "cpu", "--out", str(tmp_path))
    topk, hidden = str(folder / "out/cache"), str(folder / "out/hidden/cache")
    call("train-student", *run, "--cache", topk, "--alpha", "0")
    call("train-student", *run, "--cache", topk, "--loss", "ce")
    call("train-student", *run, "--cache", hidden, "--loss", "mse", "--teacher", "t_ll")
    results = sorted((tmp_path / "students/half").glob("*/result.json"))
    assert len(results) == 3
    for path in results:
        tree = json.loads(path.read_text())
        assert tree["metric"] == PRIMARY[kind]
        assert tree["counters"]["teacher_forwards"] == 0
        uids, statistics = read_statistics(path.parent, "test")
        assert {len(values) for values in statistics.values()} == {len(uids)}
        assert kind == "text" or len(uids) == SIZES["test"]
        signatures = {name: score["signature"] for name, score in tree["scores"]["test"].items()}
        if kind == "translation":
            assert "|beams=2|" in signatures["bleu"]
            assert "tok:13a" in signatures["bleu"]
            assert "|beams=1|" in tree["scores"]["validation"]["bleu"]["signature"]
        else:
            scores = tree["scores"]["test"]
            assert scores["perplexity"]["value"] == pytest.approx(np.exp(scores["nll"]["value"]))
    capsys.readouterr()
    call("compare", str(tmp_path / "students"), "--out", str(tmp_path / "compare"), "--resamples", "100")
    report = (tmp_path / "compare/report.html").read_text()
    assert PRIMARY[kind] in report
    assert "Students and their teachers on validation" in report
    runs = {read_run(path.parent).configuration.label(): path.parent for path in results}
    fidelity = {label: read_run(run).extra["fidelity"] for label, run in runs.items()}
    by_label = {label.split()[0]: label for label in runs}
    assert fidelity[by_label["hard"]] == fidelity[by_label["mse"]] == {}  # no teacher; rows that keep no classes
    check_fidelity(kind, folder, runs[by_label["ce"]], fidelity[by_label["ce"]])


def check_fidelity(kind: str, folder: Path, run: Path, found: dict[str, float]) -> None:
    """Against both checkpoints over the validation items, one at a time, with all classes of a row."""
    auto = AutoModelForSeq2SeqLM if kind == "translation" else AutoModelForCausalLM
    models = [auto.from_pretrained(place).eval() for place in (folder / "out/teacher/selected/t_hs", run / "selected")]
    cache = Cache.open(folder / "out/cache")
    num_classes = cache.teacher("t_hs").row_format.num_classes
    assert num_classes > 16  # what is kept
    agreed, nats = [], []
    for item in cache.items(cache.plan.indices("validation")):
        inputs = {name: torch.from_numpy(v[None].astype(np.int64)) for name, v in item.inputs.items()}
        with torch.no_grad():
            log_p, log_q = (
                torch.log_softmax(model(**inputs).logits[0, item.positions_R.astype(np.int64), :num_classes], 1)
                for model in models
            )
        agreed += (log_p.argmax(1) == log_q.argmax(1)).tolist()
        nats += functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1).tolist()
    assert found["agreement"] == pytest.approx(np.mean(agreed), abs=1.5 / len(agreed))  # codecs may turn a near tie
    assert 0.5 * np.mean(nats) < found["kl"] < np.mean(nats) + 1e-3


def test_the_teacher_learns_what_the_words_tell(text_study):
    kind, folder = text_study
    teacher = json.loads((folder / "out/teacher/teacher.json").read_text())
    losses = [record["nll"] for record in teacher["checkpoints"]]
    assert min(losses) < 0.7 * losses[0] or min(losses) < 1.0
    if kind == "translation":
        assert max(record["score"] for record in teacher["checkpoints"]) > 0.3
        assert teacher["test"]["t_hs"]["bleu"] > 0.3
    assert all(record["entropy"] > 0 and 0.01 <= record["temperature"] <= 100 for record in teacher["checkpoints"])


def test_every_cached_row_is_the_teachers_own_without_padding(text_study):
    """Each item alone through the checkpoint: no batch, no padding, no task code, no padded classes."""
    kind, folder = text_study
    auto = AutoModelForSeq2SeqLM if kind == "translation" else AutoModelForCausalLM
    model = auto.from_pretrained(folder / "out/teacher/selected/t_hs").eval()
    cache, hidden = Cache.open(folder / "out/cache"), Cache.open(folder / "out/hidden/cache")
    indices = cache.plan.indices("validation")
    rows, vectors = cache.rows("t_hs", indices), hidden.rows("t_hs", indices)
    num_classes = cache.teacher("t_hs").row_format.num_classes
    assert num_classes == hidden.teacher("t_hs").row_format.num_classes
    assert num_classes <= model.config.vocab_size - (0 if kind == "translation" else 5)
    for i, item in enumerate(cache.items(indices)):
        inputs = {name: torch.from_numpy(v[None].astype(np.int64)) for name, v in item.inputs.items()}
        with torch.no_grad():
            logits = model(**inputs).logits[0, item.positions_R.astype(np.int64), :num_classes].double()
        wanted, lse = torch.log_softmax(logits, dim=1).numpy(), torch.logsumexp(logits, dim=1).numpy()
        first = rows.row_ptr[i]
        for r in range(item.num_rows):
            part = (first + r, slice(rows.num_kept[first + r]))
            np.testing.assert_allclose(rows.logprobs[part], wanted[r, rows.ids[part]], atol=4e-3)
            assert rows.lse[first + r] == pytest.approx(lse[r], abs=2e-3)
            assert rows.gold[first + r] == pytest.approx(wanted[r, item.labels_R[r]], abs=4e-3)
            assert vectors.lse[first + r] == pytest.approx(lse[r], abs=1e-4)


def test_inspect_describes_the_cache_and_the_dataset(text_study, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    kind, folder = text_study
    call("inspect", str(folder / "out/cache"), "--json")
    summary = json.loads(capsys.readouterr().out)
    train = summary["splits"]["train"]
    assert train["rows"] == train["labels"] > train["items"]
    assert (train["items"] == SIZES["train"]) == (kind != "text")
    tree = yaml.safe_load((folder / "run.yaml").read_text())["dataset"]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree))
    call("inspect", str(tmp_path / "tiny.yaml"), "--tokenizer", str(folder / "base"))
    out = capsys.readouterr().out
    assert f"{SIZES['train']} examples" in out
    assert "longer than max_length" in out
    assert "without a label" not in out


def test_another_tokenizer_is_refused_with_the_reason(text_study, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    kind, folder = text_study
    other = (write_llama if kind == "translation" else write_mbart)(tmp_path / "other")
    change = f"models.students.half={{path: {other}, layers: 1}}"
    if kind == "translation":
        (other / "config.json").write_text(
            json.dumps({**json.loads((other / "config.json").read_text()), "decoder_start_token_id": 1})
        )
    said = refused(capsys, "train-student", folder / "run.yaml", "--device", "cpu", "--set", change, code=4)
    assert "was dumped with tokenizer" in said
    assert "their classes the vocabulary; dump again" in said


def test_what_a_dump_costs_and_keeps_is_told_beforehand(text_study, capsys: pytest.CaptureFixture[str]):
    _, folder = text_study
    capsys.readouterr()
    call("dump-teacher", str(folder / "run.yaml"), "--device", "cpu", "--dry-run", "--speed", "1000", "--json")
    assert json.loads(capsys.readouterr().out)["num_rows"] > 0
    call("dump-teacher", str(folder / "run.yaml"), "--device", "cpu", "--fidelity", "6", "--student", "half", "--json")
    report = json.loads(capsys.readouterr().out)
    assert {store["store"] for store in report["stores"]} == {"topk", "hidden"}
