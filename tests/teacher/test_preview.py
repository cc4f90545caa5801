"""The dry run: figures by hand, and nothing on the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer

from kdcache.cli import main
from kdcache.core.errors import ConfigError
from kdcache.core.row_format import RowFormat
from kdcache.teacher import estimate, preview
from kdcache.training.run import load_run
from tests.teacher.small import HIDDEN, NUM_CLASSES
from tests.tiny import write_records
from tests.tiny_text import write_mbart


def _files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def _run(run: Path, *settings: str, **options: Any) -> estimate.Estimate:
    file = load_run(run, overrides=[f"dump.{setting}" for setting in settings], out=run.parent / "nowhere")
    return preview.run(file, teachers=[f"t={run.parent / 'teacher'}"], device="cpu", **options)


def test_a_dry_run_counts_and_writes_nothing(forty: Path) -> None:
    before = _files(forty.parent)
    found = _run(forty, "top_k=8")
    assert _files(forty.parent) == before
    model = AutoModelForSequenceClassification.from_pretrained(forty.parent / "teacher")
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert (found.num_items, found.num_rows, found.num_classes) == (50, 50, NUM_CLASSES)
    assert found.flops == 2 * found.parameters * found.num_tokens
    assert found.num_target_tokens == 0
    assert found.num_blocks > 1
    assert found.logits_bytes == 4 * NUM_CLASSES * 50
    assert found.tokens_per_second is not None
    assert found.hours == pytest.approx(found.num_tokens / found.tokens_per_second / 3600)
    assert all(store.measured for store in found.stores)


def test_an_encoder_decoders_source_and_target_pass_through_other_weights(tmp_path: Path) -> None:
    write_mbart(tmp_path / "teacher", layers=1)
    records = [{"s": "der hund", "t": "the dog sees"}, {"s": "der hund sieht der mann", "t": "the dog"}]
    write_records(tmp_path / "train.jsonl", records)
    dataset = {
        "name": "pairs",
        "task": "translation",
        "files": {"train": str(tmp_path / "train.jsonl")},
        "columns": {"source": "s", "target": "t"},
        "source_language": "de_DE",
        "target_language": "en_XX",
        "metric": "bleu",
    }
    run = {
        "dataset": dataset,
        "models": {"teacher": {"path": str(tmp_path / "teacher")}},
        "dump": {"splits": ["train"], "store": "hidden"},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    found = _run(tmp_path / "run.yaml")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "teacher")
    words = {side: [len(tokenizer.tokenize(r[side])) for r in records] for side in "st"}
    source = sum(words["s"]) + 2 * 2  # the end and the language's code
    target = sum(words["t"]) + 2  # the end; the code begins the target
    assert (found.num_target_tokens, found.num_tokens) == (target, source + target)
    assert found.num_rows == target
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "teacher")
    encoder = sum(p.numel() for n, p in model.model.encoder.named_parameters() if n != "embed_tokens.weight")
    rest = found.parameters - encoder
    assert found.flops == 2 * (encoder * source + rest * target)
    assert found.tokens_per_second is not None
    assert found.hours == pytest.approx((source + target) / found.tokens_per_second / 3600)
    text = preview.text(found)
    assert f"2 items, {source + target} tokens ({source} source, {target} target), " in text
    assert "FLOPs: 1 x 2 x (encoder's parameters x source tokens + all others x target tokens)" in text


def test_the_table_has_every_store_and_marks_the_chosen_one(forty: Path) -> None:
    found = _run(forty, "top_k=8", "codec=compact", "compressor=zstd")
    labels = {(s.label, s.compressor) for s in found.stores}
    topk = {(f"top-8 {codec}", compressor) for codec in ("fast", "compact") for compressor in ("lz4", "zstd")}
    assert labels == topk | {(f"hidden {codec}", "lz4") for codec in ("float16", "bfloat16", "int8")}
    assert [s.chosen for s in found.stores] == [True, *[False] * 6]
    assert (found.stores[0].label, found.stores[0].compressor) == ("top-8 compact", "zstd")
    assert "> top-8 compact" in preview.text(found)


def test_a_stated_speed_runs_no_teacher(forty: Path) -> None:
    found = _run(forty, "top_k=8", speed=2.0)
    assert found.hours == pytest.approx(found.num_tokens / 2 / 3600)
    assert not any(store.measured for store in found.stores)
    assert "at 2 tokens a second, as stated" in preview.text(found)
    assert "sizes are estimates, and store: hidden is left out" in preview.text(found)


def test_few_classes_have_one_store(two: Path) -> None:
    found = _run(two)
    assert [s.label for s in found.stores] == ["dense"]
    assert found.stores[0].raw == 4 * 2 + 4 * 4


def test_a_store_that_needs_a_head_counts_it() -> None:
    hidden = RowFormat.of(store="hidden", num_classes=1000, hidden_size=HIDDEN)
    size = estimate.store_bytes(hidden, num_rows=10, measured=40.0, chosen=True)
    assert size.raw == 2 * HIDDEN + 12
    assert size.total == 10 * 40 + 4 * 1000 * HIDDEN


def test_an_estimate_of_a_language_models_rows_is_near_the_measured_table() -> None:
    for codec, compressor, k, measured in (
        ("fast", "lz4", 16, 82),
        ("fast", "lz4", 64, 231),
        ("compact", "lz4", 64, 174),
        ("compact", "zstd", 64, 158),
        ("compact", "zstd", 8, 46),
    ):
        variant = RowFormat.of(codec=codec, compressor=compressor, top_k=k, num_classes=49_152)
        size = estimate.store_bytes(variant, num_rows=1, measured=None, chosen=False)
        assert size.stored == pytest.approx(measured, rel=0.08)


def test_the_command_prints_json(forty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["dump-teacher", str(forty), "--teacher", f"t={forty.parent / 'teacher'}", "--device", "cpu"]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--dry-run", "--json"])
    assert end.value.code == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["teachers"] == ["t"]
    assert tree["hours"] > 0
    assert tree["stores"][0]["chosen"] is True
    assert not (forty.parent / "out").exists()


@pytest.mark.parametrize("speed", [0.0, -1.0, float("inf")])
def test_a_speed_that_is_none_is_refused(forty: Path, speed: float) -> None:
    with pytest.raises(ConfigError, match=r"--speed \S+ is not a speed; give tokens a second, > 0"):
        _run(forty, speed=speed)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--dry-run", "--fidelity", "3"), "--dry-run and --fidelity are two reports; ask for one at a time"),
        (("--speed", "3"), "--speed means something only with --dry-run"),
        (("--dry-run", "--grid", "ce:1:1"), "--grid means something only with --fidelity N"),
        (("--student", "half"), "--student means something only with --fidelity N"),
        (("--json",), "--json means something only with --dry-run or --fidelity N"),
    ],
)
def test_flags_that_would_be_ignored_are_refused(
    forty: Path, flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["dump-teacher", str(forty), *flags])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
