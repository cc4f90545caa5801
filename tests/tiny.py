"""A study small enough for a test: a tiny random BERT, made-up texts, a teacher trained and dumped by the commands."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from kdcache.cli import main

WORDS = {"good": ["fine", "great", "nice", "warm"], "bad": ["poor", "awful", "dull", "cold"]}
SPLITS = {"train": 64, "validation": 24, "test": 24}


def write_model(folder: Path, *, words: Sequence[str] = (), vocab_size: int | None = None) -> Path:
    """A BERT of 4 layers x 16 and its tokenizer.

    Args:
        folder: where both go.
        words: more words, which make it another tokenizer.
        vocab_size: of the embedding; default: the tokenizer's.
    """
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "film", "was", *WORDS["good"], *WORDS["bad"], *words]
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
            vocab_size=len(vocabulary) if vocab_size is None else vocab_size,
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
        )
    ).save_pretrained(folder)
    return folder


def write_data(folder: Path, *, seed: int = 0) -> None:
    """`train.jsonl`, `validation.jsonl`, `test.jsonl`."""
    generator = random.Random(seed)
    for split, count in SPLITS.items():
        records = []
        for i in range(count):
            label = generator.choice(["good", "bad"])
            text = f"the film was {generator.choice(WORDS[label])} {generator.choice(WORDS[label])}"
            records.append({"id": f"{split}{i}", "text": text, "label": label})
        write_records(folder / f"{split}.jsonl", records)


def write_records(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def read_records(path: Path) -> list[dict[str, Any]]:
    """The inverse of `write_records`."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def run_tree(folder: Path) -> dict[str, Any]:
    """What a run file over `base/` and the data of a folder says."""
    training = {"epochs": 2, "batch_size": 16, "learning_rate": 0.005}
    return {
        "out": str(folder / "out"),
        "dataset": {
            "name": "tiny",
            "task": "classification",
            "files": {split: str(folder / f"{split}.jsonl") for split in SPLITS},
            "columns": {"text": "text", "label": "label", "id": "id"},
            "labels": ["bad", "good"],
            "max_length": 16,
        },
        "models": {
            "teacher": {"path": str(folder / "base")},
            "students": {"half": {"path": str(folder / "base"), "layers": 2}},
        },
        "teacher": {**training, "epochs": 8, "learning_rate": 0.01, "weight_decay": 0.0, "evals_per_epoch": 2},
        "student": {**training, "tau_t": 4},
    }


def write_run(folder: Path) -> Path:
    """The run file of a folder."""
    (folder / "run.yaml").write_text(yaml.safe_dump(run_tree(folder)))
    return folder / "run.yaml"


def write_study(folder: Path) -> Path:
    """A folder with `base/`, the data and `run.yaml`, and in `out/` a teacher that is trained and dumped."""
    write_model(folder / "base")
    write_data(folder)
    run = write_run(folder)
    for command in ("train-teacher", "dump-teacher"):
        call(command, str(run), "--device", "cpu")
    return folder


def call(*arguments: str) -> None:
    """Run a command that must succeed."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0, arguments


def refused(capsys: pytest.CaptureFixture[str], *arguments: object, code: int) -> str:
    """Run a command that must be refused; its one line on stderr, without the prefix."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    error = capsys.readouterr().err
    lines = error.splitlines()
    assert len(lines) == 1, error
    assert lines[0].startswith("kdcache: error: "), error
    assert end.value.code == code, error
    return lines[0].removeprefix("kdcache: error: ")
