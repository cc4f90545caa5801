"""What `kdcache inspect DATASET` prints, a dataset of each task; its tokenizer knows one token a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdcache.describe.dataset import INDENT, dataset_text
from tests.tiny import write_model, write_records

LONG = "the film was the film was the film was"  # 9 words, 11 tokens
TASKS: dict[str, tuple[dict[str, Any], list[dict[str, Any]], list[str]]] = {
    "classification": (
        {"columns": {"text": "text", "label": "label", "language": "lang"}, "labels": ["bad", "good"]},
        [
            {"text": LONG, "label": "good", "lang": "en"},
            {"text": "the film", "label": "good", "lang": "de"},
            {"text": "the  film\nwas", "label": "bad", "lang": "en"},
        ],
        [
            "  train      3 examples",
            f"{INDENT}labels  bad 1 (33.3 %)  good 2 (66.7 %)",
            f"{INDENT}languages  en 2 (66.7 %)  de 1 (33.3 %)",
            f"{INDENT}tokens  p50 5  p90 10  p99 11  p100 11; 33.3 % longer than max_length (cut)",
            "  first of train:",
            "    train-0",
            f"      text      {LONG}",
            "      label     good",
            "      language  en",
            "    train-1",
            "      text      the film",
            "      label     good",
            "      language  de",
            "    train-2",
            "      text      the film was",
            "      label     bad",
            "      language  en",
        ],
    ),
    "ner": (
        {"columns": {"words": "words", "tags": "tags"}, "labels": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]},
        [
            {"words": LONG.split(), "tags": ["B-PER", "I-PER", "O", "B-LOC", "O", "O", "O", "O", "B-LOC"]},
            {"words": ["the"], "tags": ["O"]},
        ],
        [
            "  train      2 examples",
            f"{INDENT}10 words, 40.0 % in entities; entities  PER 1 (33.3 %)  LOC 2 (66.7 %)",
            f"{INDENT}tokens  p50 7  p90 10  p99 11  p100 11; 50.0 % longer than max_length (cut, lost "
            "entities missed)",
            "  first of train:",
            "    train-0",
            f"      words     {LONG}",
            "      tags      B-PER I-PER O B-LOC O O O O B-LOC",
            "    train-1",
            "      words     the",
            "      tags      O",
        ],
    ),
    "qa": (
        {"columns": {"question": "q", "context": "c", "answers": "a"}, "overlap": 2},
        [{"q": "the film", "c": LONG, "a": {"text": ["the film", "film"], "answer_start": [0, 4]}}],
        [
            "  train      1 examples",
            f"{INDENT}tokens  p50 14  p90 14  p99 14  p100 14; 100.0 % longer than max_length (cut into windows)",
            "  first of train:",
            "    train-0",
            "      question  the film",
            f"      context   {LONG}",
            "      answers   the film | film",
            "      spans     [[0, 8], [4, 8]]",
        ],
    ),
    "translation": (
        {"columns": {"source": "s", "target": "t"}, "metric": "bleu"},
        [{"s": "the film", "t": LONG}, {"s": "film", "t": "the"}],
        [
            "  train      2 examples",
            f"{INDENT}tokens  p50 7  p90 10  p99 11  p100 11; 50.0 % longer than max_length (left out)",
            "  first of train:",
            "    train-0",
            "      source    the film",
            f"      target    {LONG}",
            "    train-1",
            "      source    film",
            "      target    the",
        ],
    ),
    "causal_lm": (
        {"columns": {"text": "text"}, "metric": "nll"},
        [{"text": LONG}],
        [
            "  train      1 examples",
            f"{INDENT}tokens  p50 11  p90 11  p99 11  p100 11; 100.0 % longer than max_length "
            "(text is cut into items, dialogues",
            f"{INDENT}  are left out)",
            "  first of train:",
            "    train-0",
            f"      text      {LONG}",
        ],
    ),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("base")))


def write(folder: Path, task: str, **change: Any) -> Path:
    settings, records, _ = TASKS[task]
    write_records(folder / "train.jsonl", records)
    tree = {"name": "toy", "task": task, "files": {"train": "train.jsonl"}, "max_length": 10, **settings, **change}
    (folder / "toy.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return folder / "toy.yaml"


def read(path: Path, tokenizer: str | None, *, as_json: bool = False) -> str:
    return dataset_text(path, tokenizer=tokenizer, data_root=path.parent, as_json=as_json)


@pytest.mark.parametrize("task", TASKS)
def test_a_dataset_of_each_task_is_described(tmp_path: Path, tokenizer: str, task: str):
    settings, _, wanted = TASKS[task]
    first, *lines = read(write(tmp_path, task), tokenizer).splitlines()
    assert first == f"dataset toy: {task}, metric {settings.get('metric', 'f1')}, max_length 10"
    assert lines == wanted


@pytest.mark.parametrize("task", ["translation", "causal_lm"])
def test_examples_that_would_be_an_error_are_called_so(tmp_path: Path, tokenizer: str, task: str):
    assert "refused)" in read(write(tmp_path, task, too_long="refuse"), tokenizer)


def test_without_a_tokenizer_lengths_are_left_out_and_asked_for(tmp_path: Path):
    text = read(write(tmp_path, "qa"), None)
    assert "tokens  " not in text
    assert text.endswith("  token lengths: give --tokenizer (a folder, package:NAME/folder or Hub id)")


def test_unlabelled_splits_repeated_and_long_texts_are_pointed_out(tmp_path: Path, tokenizer: str):
    path = write(tmp_path, "classification", unlabelled=["train"])
    write_records(tmp_path / "train.jsonl", [{"text": "word " * 40, "lang": "en"}] * 2)
    lines = read(path, tokenizer).splitlines()
    assert f"{INDENT}2 without a label, 1 duplicate texts" in lines
    assert not any("labels" in line for line in lines)
    (text, _) = [line for line in lines if line.startswith("      text")]
    assert text.endswith("word wo...")
    assert len(text) <= 120


def test_json_holds_the_same_numbers(tmp_path: Path, tokenizer: str):
    tree = json.loads(read(write(tmp_path, "ner"), tokenizer, as_json=True))
    train = tree["splits"]["train"]
    assert train["labels"] == {"O": 6, "B-PER": 1, "I-PER": 1, "B-LOC": 2, "I-LOC": 0}
    assert (train["num_labels"], train["languages"], train["truncated"]) == (10, {}, 0.5)
    assert train["tokens"] == pytest.approx({"50": 7, "90": 10.2, "99": 10.92, "100": 11})
