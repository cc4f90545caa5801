"""On a GPU: dumps into every store and codec, trainings with every loss, fused and not, beside the same on a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.cache.reader import Cache
from kdcache.core.types import HiddenRows, SparseRows
from kdcache.student import distill
from kdcache.student.plan import StudentConfig
from kdcache.teacher import dump
from kdcache.training.run import RunFile, load_run
from tests.teacher.small import NUM_CLASSES, write_study
from tests.tiny_text import write_text_study

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
CODECS = {
    "fast": ("top_k=8",),
    "compact": ("top_k=8", "codec=compact"),
    "dense": (f"top_k={NUM_CLASSES}",),
    "top_p": ("top_k=20", "top_p=0.8"),
    "float16": ("store=hidden",),
    "bfloat16": ("store=hidden", "codec=bfloat16"),
    "int8": ("store=hidden", "codec=int8"),
    "float32": ("store=hidden", "codec=float32"),
}
LOSSES = {
    "uniform": ("tau_t=2", "tau_s=1"),
    "bucket": ("tau_t=2", "tau_s=tied"),
    "mixed with labels": ("tau_t=2", "tau_s=1", "alpha=0.5"),
    "mse": ("loss=mse",),
    "reverse_kl": ("loss=reverse_kl",),
    "jsd": ("loss=jsd",),
    "hard labels": ("alpha=0",),
}


@pytest.fixture(scope="module")
def forty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of 40 classes with a random teacher; without dropout, which draws other numbers on another device."""
    run = write_study(tmp_path_factory.mktemp("forty"))
    config = run.parent / "teacher/config.json"
    tree = json.loads(config.read_text())
    config.write_text(json.dumps({**tree, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}))
    return run


@pytest.fixture(scope="module", params=["text", "translation"])
def text(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study over a vocabulary; trained and dumped on the CPU into both stores."""
    folder = write_text_study(tmp_path_factory.mktemp(request.param), request.param, epochs=1)
    return folder / "run.yaml"


def load(run: Path, out: Path, block: str, *settings: str) -> RunFile:
    return load_run(run, overrides=[f"{block}.{setting}" for setting in settings], out=out)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """A run's log."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("codec", CODECS)
def test_a_dump_gives_the_rows_of_a_cpu(forty: Path, tmp_path: Path, codec: str) -> None:
    rows = []
    for place, device in (("one", "cpu"), ("two", DEVICE)):
        file = load(forty, tmp_path / place, "dump", *CODECS[codec])
        found = dump.run(file, teachers=[f"t={forty.parent / 'teacher'}"], device=device)
        assert found.sealed
        assert found.forwards == {"t": 50}
        cache = Cache.open(tmp_path / place / "cache")
        assert cache.teacher("t").dtype == "float32"
        rows.append(cache.rows("t", np.arange(50)))
    cpu, card = rows
    np.testing.assert_allclose(card.lse, cpu.lse, atol=2e-3)
    np.testing.assert_allclose(card.gold, cpu.gold, atol=2e-3)
    if isinstance(card, SparseRows) and isinstance(cpu, SparseRows):
        np.testing.assert_array_equal(card.num_kept, cpu.num_kept)
        np.testing.assert_array_equal(card.ids, cpu.ids)
        np.testing.assert_allclose(card.logprobs, cpu.logprobs, atol=0.04 if codec == "compact" else 4e-3)
    if isinstance(card, HiddenRows) and isinstance(cpu, HiddenRows):
        np.testing.assert_allclose(card.hidden, cpu.hidden, atol=0.05 if codec == "int8" else 0.02)


def test_a_dump_that_a_cpu_began_is_continued(forty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = load(forty, tmp_path, "dump", "top_k=8")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert not dump.run(file, teachers=[f"t={forty.parent / 'teacher'}"], device="cpu").sealed
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    assert dump.run(file, teachers=[f"t={forty.parent / 'teacher'}"], device=DEVICE).sealed


@pytest.mark.parametrize("loss", LOSSES)
def test_a_training_with_each_loss_is_that_of_a_cpu(forty: Path, tmp_path: Path, loss: str) -> None:
    """Dense rows in float32, without dropout: the losses of five steps."""
    file = load(forty, tmp_path / "t", "dump", f"top_k={NUM_CLASSES}")
    dump.run(file, teachers=[f"t={forty.parent / 'teacher'}"], device="cpu")
    losses = []
    for place, device in (("one", "cpu"), ("two", DEVICE)):
        settings = (*LOSSES[loss], "teacher=t", f"cache={tmp_path / 't/cache'}", "precision=float32", "epochs=1")
        file = load(forty, tmp_path / place, "student", *settings, "student=half", "batch_size=8")
        _, folder = distill.run(file, file.block("student", StudentConfig), device=device)
        losses.append([line["loss"] for line in lines_of(folder) if line["event"] == "step"])
    assert len(losses[0]) == 5
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-5)


@pytest.mark.parametrize(("precision", "apart"), [("float32", 1e-3), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("store", ["topk", "hidden"])
def test_fused_and_not_train_alike_over_a_vocabulary(
    text: Path, tmp_path: Path, store: str, precision: str, apart: float
) -> None:
    cache = text.parent / ("out/cache" if store == "topk" else "out/hidden/cache")
    losses = []
    for fused in ("always", "never"):
        settings = ("teacher=t_hs", f"cache={cache}", f"precision={precision}", f"fused={fused}", "tau_t=2", "tau_s=1")
        file = load(text, tmp_path / fused, "student", *settings)
        _, folder = distill.run(file, file.block("student", StudentConfig), device=DEVICE)
        losses.append([line["loss"] for line in lines_of(folder) if line["event"] == "step"])
        assert np.mean(losses[-1][-3:]) < losses[-1][0]
        assert ("fused" in {line["event"] for line in lines_of(folder)}) == (fused == "always")
    np.testing.assert_allclose(losses[0][:5], losses[1][:5], rtol=apart)
