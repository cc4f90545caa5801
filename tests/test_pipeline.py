"""The whole pipeline with a tiny random BERT: teacher, one dump, students, comparison, by the commands."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel, PreTrainedTokenizerFast

import kdcache
from kdcache.cli import main
from kdcache.core.configuration import Loss
from kdcache.losses.targets import select

WORDS = {"good": ["fine", "great", "nice", "warm"], "bad": ["poor", "awful", "dull", "cold"]}


def _write_model(folder: Path) -> None:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "film", "was", *WORDS["good"], *WORDS["bad"]]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
        )
    ).save_pretrained(folder)


def _write_data(folder: Path) -> None:
    generator = random.Random(0)
    for split, count in (("train", 64), ("validation", 24), ("test", 24)):
        lines = []
        for i in range(count):
            label = generator.choice(["good", "bad"])
            text = f"the film was {generator.choice(WORDS[label])} {generator.choice(WORDS[label])}"
            lines.append(json.dumps({"id": f"{split}{i}", "text": text, "label": label}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose teacher is trained and dumped."""
    folder = tmp_path_factory.mktemp("study")
    _write_model(folder / "base")
    _write_data(folder)
    training = {"epochs": 2, "batch_size": 16, "learning_rate": 0.005}
    run = {
        "out": str(folder / "out"),
        "dataset": {
            "name": "tiny",
            "task": "classification",
            "files": {s: str(folder / f"{s}.jsonl") for s in ("train", "validation", "test")},
            "columns": {"text": "text", "label": "label", "id": "id"},
            "labels": ["bad", "good"],
            "max_length": 16,
        },
        "models": {
            "teacher": {"path": str(folder / "base")},
            "students": {"half": {"path": str(folder / "base"), "layers": 2}},
        },
        "teacher": {**training, "evals_per_epoch": 2},
        "student": {**training, "tau_t": 4},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    for command in ("train-teacher", "dump-teacher"):
        _call(command, str(folder / "run.yaml"), "--device", "cpu")
    return folder


def _call(*arguments: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 0


def test_each_checkpoint_ran_once_over_each_item(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _call("inspect", str(study / "out/cache"), "--json")
    summary = json.loads(capsys.readouterr().out)
    assert summary["teachers"]
    assert all(teacher["forwards_per_item"] == 1 for teacher in summary["teachers"].values())
    log = [json.loads(line) for line in (study / "out/dump/log.jsonl").read_text().splitlines()]
    assert set(log[-1]["forwards"].values()) == {88}


def test_students_train_from_the_cache_and_compare(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(study / "run.yaml")
    _call("train-student", run, "--device", "cpu", "--alpha", "0")
    for loss in ("ce", "mse"):
        _call("train-student", run, "--device", "cpu", "--loss", loss, "--teacher", "t_ll", "--tau-s", "1")
    results = sorted((study / "out/students/half").glob("*/result.json"))
    assert len(results) == 3
    for path in results:
        assert json.loads(path.read_text())["counters"]["teacher_forwards"] == 0
    capsys.readouterr()
    _call("compare", str(study / "out/students"), "--out", str(study / "compare"), "--resamples", "200")
    assert (study / "compare/report.html").is_file()
    assert "hard labels" in capsys.readouterr().out


def test_a_finished_dump_does_nothing_again(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _call("dump-teacher", str(study / "run.yaml"), "--device", "cpu")
    assert "all there already" in capsys.readouterr().out


def test_inspect_describes_a_cache_and_a_dataset(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _call("inspect", str(study / "out/cache"))
    assert "sealed" in capsys.readouterr().out
    tree = yaml.safe_load((study / "run.yaml").read_text())["dataset"]
    (study / "tiny.yaml").write_text(yaml.safe_dump(tree))
    _call("inspect", str(study / "tiny.yaml"), "--tokenizer", str(study / "base"))
    assert "64 examples" in capsys.readouterr().out


def test_the_api_gives_a_loop_of_ones_own_its_batches(study: Path) -> None:
    cache = kdcache.open(study / "out/cache", teacher="t_ll")
    objective = kdcache.Objective(loss="ce", tau_t=4, tau_s=1)
    assert cache.exactness(objective).kind == "exact"
    seen = 0
    for batch in cache.loader(split="train", batch_size=10, seed=0):
        logits = torch.zeros(len(batch.labels), 2, requires_grad=True)
        objective(logits, batch.targets, batch.labels).total.backward()
        assert logits.grad is not None
        seen += len(batch.labels)
    assert seen == 64


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (("train-student", "missing.yaml"), "cannot read missing.yaml", 2),
        (("inspect", "missing.yaml"), "cannot read missing.yaml", 2),
        (("compare", "missing"), "missing is not a folder", 8),
    ],
)
def test_bad_input_ends_in_one_line(
    arguments: tuple[str, ...], message: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert exit_.value.code == code


def test_an_unknown_setting_names_the_closest(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train-student", str(study / "run.yaml"), "--set", "student.tau=1"])
    assert "did you mean student.tau_t?" in capsys.readouterr().err


def test_two_processes_and_one_give_the_same_loss_curve(study: Path) -> None:
    """Same global batch, float32, no dropout in eight steps: the launcher's two ranks against one process."""
    run, curves = str(study / "run.yaml"), []
    config = "models.students={plain: {path: %s, layers: 2}}" % (study / "flat")
    _write_flat(study)
    for extra in ((), ("--num-procs", "2")):
        out = study / f"ranks{len(extra)}"
        command = ["train-student", run, "--device", "cpu", "--loss", "ce", "--set", config, "--out", str(out), *extra]
        command += ["--cache", str(study / "out/cache")]
        result = subprocess.run(
            [sys.executable, "-m", "kdcache", *command], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        log = next((out / "students/plain").glob("*/log.jsonl")).read_text().splitlines()
        curves.append([line["loss"] for line in map(json.loads, log) if line["event"] == "step"])
    assert len(curves[0]) == 8
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)


def _write_flat(study: Path) -> None:
    """The base model without dropout."""
    shutil.copytree(study / "base", study / "flat")
    path = study / "flat/config.json"
    tree = json.loads(path.read_text()) | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    path.write_text(json.dumps(tree))


def test_a_student_never_opens_a_teachers_weights(study: Path) -> None:
    """An audit hook in a process of its own sees every file that is opened."""
    script = (
        "import sys\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == 'open' else None)\n"
        "from kdcache.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "assert any('cache/teachers' in name for name in opened)\n"
        "bad = [name for name in opened if '/teacher/selected' in name or '/teacher/checkpoints' in name]\n"
        "assert not bad, bad\n"
    )
    arguments = ["train-student", str(study / "run.yaml"), "--device", "cpu", "--tau-t", "3"]
    hidden = study / "out/teacher"
    hidden.rename(study / "gone")  # memory-mapped reads pass the audit hook: without the folder they would fail
    try:
        command = [sys.executable, "-c", script, *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        (study / "gone").rename(hidden)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("loss", ["ce", "mse"])
@pytest.mark.parametrize("tau_s", [1.0, 4.0])
def test_a_dense_cache_gives_the_losses_of_the_teacher_in_memory(study: Path, loss: Loss, tau_s: float) -> None:
    source = study / "out/teacher/selected/t_ll"
    teacher = AutoModelForSequenceClassification.from_pretrained(source).eval()
    objective = kdcache.Objective(loss=loss, tau_t=4, tau_s=tau_s)
    curves = []
    for cached in (True, False):
        torch.manual_seed(1)
        student = AutoModelForSequenceClassification.from_pretrained(study / "base", num_labels=2).eval()
        optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
        losses: list[float] = []
        for epoch in range(3):
            cache = kdcache.open(study / "out/cache", teacher="t_ll")
            for batch in cache.loader(split="train", batch_size=8, seed=0, epoch=epoch):
                targets = batch.targets
                if not cached:
                    with torch.no_grad():
                        logits = teacher(**batch.inputs).logits
                    targets = select(logits, batch.labels, torch.full((len(logits),), 2), top_k=2)
                total = objective(student(**batch.inputs).logits, targets, batch.labels).total
                optimizer.zero_grad()
                total.backward()
                optimizer.step()
                losses.append(total.item())
        curves.append(losses)
    assert len(curves[0]) == 24
    assert curves[0] == pytest.approx(curves[1], rel=1e-5, abs=1e-7)
