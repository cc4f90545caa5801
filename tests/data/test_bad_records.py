"""What a user's files get wrong, in every task: one line that names the place, the value and the way out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from transformers import AutoTokenizer

from kdcache.core.errors import DataError
from kdcache.data.read import read_split
from kdcache.data.spec import load_spec
from kdcache.training.run import load_run, prepare
from tests.tiny import write_model

TASKS: dict[str, dict[str, Any]] = {
    "classification": {"columns": {"text": "text", "text_pair": "pair", "label": "label"}, "labels": ["no", "yes"]},
    "ner": {"columns": {"words": "words", "tags": "tags"}, "labels": ["O", "B-PER", "I-PER"]},
    "qa": {"columns": {"question": "question", "context": "context", "answers": "answers"}},
    "translation": {"columns": {"source": "pair.de", "target": "pair.en"}, "metric": "bleu"},
    "causal_lm": {"columns": {"prompt": "prompt", "response": "response"}, "metric": "nll"},
}
GOOD: dict[str, dict[str, Any]] = {
    "classification": {"text": "a", "pair": "b", "label": "yes"},
    "ner": {"words": ["Anna", "saw"], "tags": ["B-PER", "O"]},
    "qa": {"question": "who?", "context": "Anna saw", "answers": {"text": ["Anna"], "answer_start": [0]}},
    "translation": {"pair": {"de": "ein Hund", "en": "a dog"}},
    "causal_lm": {"prompt": "a", "response": "b"},
}
OR_DROP = "fill it or leave the row out, or set drop_empty: true"


def spec_of(task: str, name: str, **change: Any):
    return load_spec({"name": "toy", "task": task, "files": {"train": name}, **TASKS[task], **change})


def refused(folder: Path, task: str, name: str, content: bytes, **change: Any) -> str:
    (folder / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        read_split(spec_of(task, name, **change), "train", data_root=folder)
    message = str(error.value)
    assert "\n" not in message
    return message.replace(str(folder / name), "PATH")


@pytest.mark.parametrize("task", TASKS)
def test_the_good_record_of_each_task_is_read(tmp_path: Path, task: str):
    (tmp_path / "a.jsonl").write_text(json.dumps(GOOD[task]))
    (example,) = read_split(spec_of(task, "a.jsonl"), "train", data_root=tmp_path)
    assert example.uid == "train-0"


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        (
            "classification",
            {"label": "maybe"},
            "line 2 of PATH has the label 'maybe' in the column 'label'; known: no ",
        ),
        (
            "ner",
            {"tags": ["B-LOC", "O"]},
            "word 0 of line 2 of PATH has the label 'B-LOC' in the column 'tags'; known: O",
        ),
        ("ner", {"tags": ["O"]}, "line 2 of PATH has 2 words and 1 tags; each word has one tag"),
        ("ner", {"tags": ["O"] * 3}, "line 2 of PATH has 2 words and 3 tags; each word has one tag"),
        (
            "qa",
            {"answers": {"text": ["Anna"], "answer_start": [1]}},
            "line 2 of PATH has the answer 'Anna' at 1, but the context has 'nna ' there; correct answer_start (the "
            "number of its first character, from 0)",
        ),
        ("classification", {"text": " "}, f"line 2 of PATH has empty text in the column 'text'; {OR_DROP}"),
        ("classification", {"pair": None}, f"line 2 of PATH has empty text in the column 'pair'; {OR_DROP}"),
        (
            "ner",
            {"words": ["Anna", ""]},
            "word 1 of line 2 of PATH is '' in the column 'words'; it must be text and not",
        ),
        ("qa", {"question": ""}, f"line 2 of PATH has empty text in the column 'question'; {OR_DROP}"),
        ("qa", {"context": "\u00a0"}, f"line 2 of PATH has empty text in the column 'context'; {OR_DROP}"),
        (
            "translation",
            {"pair": {"de": "x", "en": ""}},
            f"line 2 of PATH has empty text in the column 'pair.en'; {OR_DROP}",
        ),
        ("translation", {"pair": {"de": "x"}}, f"line 2 of PATH has empty text in the column 'pair.en'; {OR_DROP}"),
        ("causal_lm", {"response": "\t"}, f"line 2 of PATH has empty text in the column 'response'; {OR_DROP}"),
        ("causal_lm", {"response": 3}, "line 2 of PATH has 3 (int) in the column 'response'; it must be text"),
    ],
)
def test_a_record_that_cannot_be_used_is_refused(tmp_path: Path, task: str, change: dict[str, Any], message: str):
    records = [GOOD[task], {**GOOD[task], **change}]
    content = "\n".join(json.dumps(record) for record in records).encode()
    assert refused(tmp_path, task, "a.jsonl", content).startswith(message)


@pytest.mark.parametrize(
    ("task", "column", "field"),
    [
        ("classification", "pair", "text_pair"),
        ("ner", "words", "words"),
        ("qa", "context", "context"),
        ("causal_lm", "response", "response"),
    ],
)
def test_a_missing_column_is_named_with_what_it_is_for(tmp_path: Path, task: str, column: str, field: str):
    record = {name: value for name, value in GOOD[task].items() if name != column}
    there = ", ".join(record)
    message = refused(tmp_path, task, "a.jsonl", json.dumps(record).encode())
    assert message.startswith(f"PATH has no column {column!r} for {field}; columns there: {there}")


@pytest.mark.parametrize("task", TASKS)
def test_another_encoding_is_named_with_the_setting(tmp_path: Path, task: str):
    content = json.dumps({**GOOD[task], "more": "\u00e9"}, ensure_ascii=False).encode("latin-1")
    assert refused(tmp_path, task, "a.jsonl", content) == (
        "PATH is not utf-8 text (byte 0xe9: invalid continuation byte); set encoding, e.g. encoding: latin-1, or "
        "convert the file"
    )
    (tmp_path / "a.jsonl").write_bytes(content)
    sources = [{"name": "a", "files": {"train": "a.jsonl"}, "encoding": "latin-1"}]
    spec = load_spec({"name": "toy", "task": task, **TASKS[task], "sources": sources})
    assert len(read_split(spec, "train", data_root=tmp_path)) == 1


def test_so_is_that_of_a_zipped_file(tmp_path: Path):
    content = gzip.compress(b'{"context": "caf\xe9"}', mtime=0)
    message = refused(tmp_path, "qa", "a.gz", content, format="mrqa")
    assert message.startswith("PATH is not utf-8 text (byte 0xe9: invalid continuation byte); set encoding, ")


@pytest.mark.parametrize("task", TASKS)
def test_an_empty_split_is_refused(tmp_path: Path, task: str):
    assert refused(tmp_path, task, "a.jsonl", b"\n") == "PATH has no rows; a split needs at least one example"
    pq.write_table(pa.Table.from_pylist([GOOD[task]])[:0], tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    assert refused(tmp_path, task, "a.parquet", content) == "PATH has no rows; a split needs at least one example"


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        (
            "qa",
            {},
            "example train-0: its question of 40 tokens leaves 0 of max_length = 12 for the context, but windows "
            "overlap by 2; raise max_length, lower overlap, or shorten the question",
        ),
        (
            "translation",
            {},
            "split train of dataset toy: all 1 examples are longer than max_length = 12 and were left out; raise "
            "max_length",
        ),
        (
            "translation",
            {"too_long": "refuse"},
            "example train-0 has 42 tokens on one side, max_length is 12; raise it, shorten the example, or set "
            "too_long: drop",
        ),
        (
            "causal_lm",
            {},
            "split train of dataset toy: all 1 examples are longer than max_length = 12 and were left out; raise "
            "max_length",
        ),
        (
            "causal_lm",
            {"too_long": "refuse"},
            "example train-0 has 43 tokens, max_length is 12; raise it, shorten the example, or set too_long: drop",
        ),
    ],
)
def test_an_item_over_the_limit_is_refused_where_it_cannot_be_cut(
    tmp_path: Path, task: str, change: dict[str, Any], message: str
):
    long = "word " * 40
    record = {
        "qa": {**GOOD["qa"], "question": long},
        "translation": {"pair": {"de": "w", "en": long}},
        "causal_lm": {"prompt": long, "response": "b"},
    }[task]
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    settings = {"max_length": 12, **({"overlap": 2} if task == "qa" else {}), **change}
    tree = {"name": "toy", "task": task, "files": {"train": "a.jsonl"}, **TASKS[task], **settings}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"dataset": tree, "models": {"teacher": {"path": "none"}}}))
    tokenizer = AutoTokenizer.from_pretrained(write_model(tmp_path / "base"))
    tokenizer.decoder_start = 0
    with pytest.raises(DataError) as error:
        prepare(load_run(tmp_path / "run.yaml", data_root=tmp_path), tokenizer, encode=["train"], digest_of=["train"])
    assert str(error.value) == message
