"""The whole pipeline with a tiny random BERT: teacher, one dump, students, comparison, by the commands."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification

import kdcache
from kdcache.cli import main
from kdcache.core.configuration import Loss
from kdcache.core.results import read_run
from kdcache.losses.selection import select
from kdcache.training.launch import free_port
from tests.tiny import call, write_model

pytestmark = pytest.mark.slow


def test_each_checkpoint_ran_once_over_each_item(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("inspect", str(study / "out/cache"), "--json")
    summary = json.loads(capsys.readouterr().out)
    assert summary["teachers"]
    assert all(teacher["forwards_per_item"] == 1 for teacher in summary["teachers"].values())
    log = [json.loads(line) for line in (study / "out/dump/log.jsonl").read_text().splitlines()]
    assert set(log[-1]["forwards"].values()) == {88}


def test_students_train_from_the_cache_and_compare(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = (str(study / "run.yaml"), "--device", "cpu", "--out", str(tmp_path), "--cache", str(study / "out/cache"))
    call("train-student", *run, "--alpha", "0")
    for loss in ("ce", "mse"):
        call("train-student", *run, "--loss", loss, "--teacher", "t_ll", "--tau-s", "1")
    results = sorted((tmp_path / "students/half").glob("*/result.json"))
    assert len(results) == 3
    for path in results:
        assert json.loads(path.read_text())["counters"]["teacher_forwards"] == 0
    capsys.readouterr()
    call("compare", str(tmp_path / "students"), "--out", str(tmp_path / "compare"), "--resamples", "200")
    assert (tmp_path / "compare/report.html").is_file()
    assert "hard labels" in capsys.readouterr().out


def test_the_next_command_that_is_named_goes_on_with_the_settings_of_the_one_before(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "other runs"
    command = ["train-teacher", str(study / "run.yaml"), "--out", str(out), "--set", "teacher.epochs=1"]
    command += ["--set", "dataset.limit={train: 32}"]
    for following in ("dump-teacher", "train-student", "compare"):
        call(*command, "--device", "cpu")
        hint = capsys.readouterr().out.splitlines()[-1]
        assert hint.startswith(f"next: kdcache {following} ")
        command = shlex.split(hint)[2:]
    forwards = json.loads((out / "dump/log.jsonl").read_text().splitlines()[-1])["forwards"]
    assert set(forwards.values()) == {32 + 24}, "the limit of the first command holds for the second"
    assert len(list(out.glob("students/half/*/result.json"))) == 1


def test_a_finished_dump_does_nothing_again(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shutil.copytree(study / "out", tmp_path / "out")
    call("dump-teacher", str(study / "run.yaml"), "--device", "cpu", "--out", str(out))
    assert "all there already" in capsys.readouterr().out


def test_inspect_describes_a_cache_and_a_dataset(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("inspect", str(study / "out/cache"))
    assert "sealed" in capsys.readouterr().out
    tree = yaml.safe_load((study / "run.yaml").read_text())["dataset"]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree))
    call("inspect", str(tmp_path / "tiny.yaml"), "--tokenizer", str(study / "base"))
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


@pytest.fixture(scope="module")
def flat(study: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """`train-student` and its arguments for a student without dropout, whose curve can be compared."""
    folder = tmp_path_factory.mktemp("flat") / "base"
    shutil.copytree(study / "base", folder)
    tree = json.loads((folder / "config.json").read_text())
    tree |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(tree))
    config = f"models.students={{plain: {{path: {folder}, layers: 2}}}}"
    arguments = ["train-student", str(study / "run.yaml"), "--loss", "ce", "--device", "cpu", "--set", config]
    return [*arguments, "--cache", str(study / "out/cache")]


def _curve(out: Path) -> list[float]:
    log = next((out / "students/plain").glob("*/log.jsonl")).read_text().splitlines()
    return [line["loss"] for line in map(json.loads, log) if line["event"] == "step"]


def _fidelity(out: Path) -> dict[str, float]:
    run = next((out / "students/plain").glob("*"))
    return dict(read_run(run).extra["fidelity"])


@pytest.fixture(scope="module")
def one_process(flat: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process writes."""
    out = tmp_path_factory.mktemp("one")
    call(*flat, "--out", str(out))
    return out


@pytest.mark.parametrize("launcher", ["kdcache", "deepspeed", "torchrun"])
def test_the_two_processes_of_every_launcher_give_the_losses_of_one(
    launcher: str, flat: list[str], one_process: Path, tmp_path: Path
) -> None:
    """The same global batch in float32; ZeRO stages and the rest are in tests/training/test_loop.py."""
    port = f"{free_port()}"
    options = {
        "kdcache": [],
        "deepspeed": ["--num_gpus", "2", "--master_port", port, "--module", "kdcache"],
        "torchrun": ["--nproc-per-node", "2", "--master-port", port, "-m", "kdcache"],
    }[launcher]
    extra = ["--num-procs", "2"] if launcher == "kdcache" else []
    command = [str(Path(sys.executable).with_name(launcher)), *options, *flat, *extra, "--out", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    losses = _curve(one_process)
    assert len(losses) == 8
    assert _curve(tmp_path) == pytest.approx(losses, rel=1e-4)
    fidelity = _fidelity(one_process)
    assert set(fidelity) == {"agreement", "kl"}
    assert _fidelity(tmp_path) == pytest.approx(fidelity, rel=1e-3)
    assert result.stdout.count("next: kdcache compare") == 1, "only the first process speaks"


def test_a_student_never_opens_a_teachers_weights(study: Path, tmp_path: Path) -> None:
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
    arguments += ["--out", str(tmp_path), "--cache", str(study / "out/cache")]
    hidden = study / "out/teacher"
    # Memory-mapped reads pass the audit hook: without the folder they would fail. It is back before the test ends.
    hidden.rename(study / "gone")
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


def test_no_command_shows_progress_bars_or_reports_of_transformers(study: Path, tmp_path: Path) -> None:
    """In a process that loads transformers before kdcache, where the environment would come too late."""
    script = (
        "import sys, transformers\n"
        "from kdcache.cli import main\n"
        "for command in ('train-teacher', 'dump-teacher', 'train-student'):\n"
        "    try:\n"
        "        main([command, *sys.argv[1:]])\n"
        "    except SystemExit as end:\n"
        "        assert not end.code\n"
        "import kdcache.training.models as models\n"
        "models.load_model(models.ModelSource(path=sys.argv[-1] + '/teacher/selected/t_hs'), 'AutoModel')\n"
    )
    arguments = [str(study / "run.yaml"), "--device", "cpu", "--out", str(tmp_path)]
    result = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    progress = [line.split("  ")[0] for line in result.stderr.splitlines()]
    assert progress == ["train-teacher", "dump-teacher t_hs", "train-student half ce t_hs tau 4/4 seed 0"]


def test_a_student_with_another_tokenizer_trains_from_the_same_cache(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path / "other", words=["more"])
    options = ("--device", "cpu", "--out", str(tmp_path), "--cache", str(study / "out/cache"))
    student = ("--set", f"models.students={{other: {{path: {tmp_path / 'other'}}}}}")
    call("train-student", str(study / "run.yaml"), *options, *student)
    assert "rows were matched by example or word, 0 dropped" in capsys.readouterr().out
