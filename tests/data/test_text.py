"""Parallel text, plain text, dialogues and columns within columns."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcache.core.config import shipped
from kdcache.core.errors import ConfigError, DataError
from kdcache.data.read import read_split
from kdcache.data.spec import load_spec
from kdcache.data.stats import describe_dataset


def parallel(folder: Path, *texts: str | bytes, **change):
    for i, text in enumerate(texts, start=1):
        (folder / f"{i}.txt").write_bytes(text.encode() if isinstance(text, str) else text)
    tree = {
        "name": "toy",
        "task": "translation",
        "format": "lines",
        "files": {"train": [f"{folder}/1.txt", f"{folder}/2.txt"]},
        "columns": {"source": 1, "target": 2},
        "metric": "bleu",
    }
    return load_spec({**tree, **change}, where="toy.yaml")


def test_aligned_files_give_pairs_by_line(tmp_path: Path):
    spec = parallel(tmp_path, "eins\n\nzwei\u2028drei\r\n", "one\n\ntwo three")
    assert [(e.uid, e.fields) for e in read_split(spec, "train")] == [
        ("train-0", {"source": "eins", "target": "one"}),
        ("train-1", {"source": "zwei\u2028drei", "target": "two three"}),
    ]
    summary = describe_dataset(spec, {"train": read_split(spec, "train")})
    assert summary.splits["train"].num_unlabelled == 0


def test_plain_text_is_a_text_a_line(tmp_path: Path):
    spec = parallel(
        tmp_path, "one\n\n two\n", task="causal_lm", files={"train": f"{tmp_path}/1.txt"}, columns={"text": 1}
    )
    assert [e.fields for e in read_split(spec, "train")] == [{"text": "one"}, {"text": " two"}]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("a\nb\n", "a\n"), r"aligned line by line have as many lines each, but .*1\.txt has 2, .*2\.txt has 1; align"),
        (("a\n \n", "a\nb\n"), r"^line 2 of .*1\.txt \+ .*2\.txt has empty text in the column '1'; fill it or leave"),
        (("\n", "\n"), r"1\.txt \+ .*2\.txt hold no text; a split needs at least one example$"),
        ((b"\xe9\n", "a\n"), r"1\.txt is not utf-8 text \(byte 0xe9: .*\); set encoding, e\.g\. encoding: latin-1"),
    ],
)
def test_bad_text_is_refused_in_one_line(tmp_path: Path, texts, message):
    with pytest.raises(DataError, match=message) as error:
        read_split(parallel(tmp_path, *texts), "train")
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_wrong_column_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"no file .*2\.txt; check the path$"):
        read_split(parallel(tmp_path, "a\n"), "train")
    with pytest.raises(DataError, match=r"has no column '3' for target; columns there: 1, 2"):
        read_split(parallel(tmp_path, "a\n", "b\n", columns={"source": 1, "target": 3}), "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "jsonl"}, r"^toy\.yaml: files\.train lists 2 files, but format = 'jsonl' reads one file a split; "),
        ({"columns": {"source": 1}}, r"^toy\.yaml: columns\.target is missing; name the column that holds the target$"),
        ({"too_long": "cut"}, r"^too_long in toy\.yaml is 'cut'; allowed: one of drop, refuse$"),
    ],
)
def test_wrong_descriptions_are_refused(tmp_path: Path, change, message):
    with pytest.raises(ConfigError, match=message):
        parallel(tmp_path, **change)


def records(folder: Path, rows, columns, **change):
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = {"name": "toy", "task": "causal_lm", "files": {"train": f"{folder}/a.jsonl"}, "metric": "nll"}
    return load_spec({**tree, "columns": columns, **change}, where="toy.yaml")


def test_dialogues_and_answers_are_read(tmp_path: Path):
    said = [{"role": "user", "content": "hi", "id": 3}, {"role": "assistant", "content": "ho"}]
    spec = records(tmp_path, [{"m": said}], {"messages": "m"})
    (found,) = read_split(spec, "train")
    assert found.fields["messages"] == [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    spec = records(tmp_path, [{"q": "hi", "a": "ho"}], {"prompt": "q", "response": "a"})
    assert read_split(spec, "train")[0].fields == {"prompt": "hi", "response": "ho"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "hi",
            r"^line 1 of .*a\.jsonl has 'hi' in the column 'm'; it must be a list of \{role: \.\.\., content: \.",
        ),
        ([], r"^line 1 of .*a\.jsonl has \[\] in the column 'm'; it must be a list"),
        ([{"role": "user"}], r"^message 0 of line 1 of .* is \{'role': 'user'\}; it must have role and content, both"),
        ([{"role": "user", "content": " "}], r"^message 0 of line 1 of .*; it must have role and content, both text"),
    ],
)
def test_malformed_dialogues_are_refused(tmp_path: Path, value, message):
    with pytest.raises(DataError, match=message):
        read_split(records(tmp_path, [{"m": value}], {"messages": "m"}), "train")


@pytest.mark.parametrize("extension", ["jsonl", "parquet"])
def test_columns_within_a_column_are_named_with_a_dot(tmp_path: Path, extension: str):
    rows = [{"translation": {"de": "eins", "en": "one"}}, {"translation": {"de": "zwei", "en": "two"}}]
    path = tmp_path / f"a.{extension}"
    if extension == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    tree = {"name": "toy", "task": "translation", "files": {"train": str(path)}, "metric": "bleu"}
    spec = load_spec({**tree, "columns": {"source": "translation.de", "target": "translation.en"}})
    assert [e.fields for e in read_split(spec, "train")] == [
        {"source": "eins", "target": "one"},
        {"source": "zwei", "target": "two"},
    ]
    wrong = load_spec({**tree, "columns": {"source": "translation.dee", "target": "translation.en"}})
    with pytest.raises(
        DataError, match=r"has no column 'translation\.dee' for source; .*did you mean 'translation\.de'\?"
    ):
        read_split(wrong, "train")


def test_a_dotted_column_of_no_object_is_refused(tmp_path: Path):
    spec = records(tmp_path, [{"t": "eins"}], {"text": "t.de"})
    with pytest.raises(DataError, match=r"has 'eins' in the column 't'; 't\.de' needs an object there, such as \{de:"):
        read_split(spec, "train")


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "sizes"), [("multi30k_de-en", (29000, 1014, 1000)), ("wmt16_ro-en", (6780, 500, 500))]
)
def test_every_split_of_the_real_pairs_is_read(data_root: Path, name: str, sizes):
    spec = load_spec(shipped(f"datasets/dev/{name}.yaml"))
    for split, size in zip(("train", "validation", "test"), sizes, strict=True):
        examples = read_split(spec, split, data_root=data_root)
        assert len(examples) == size
        assert all(e.fields["source"].strip() and e.fields["target"].strip() for e in examples)
