from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcache.core.errors import DataError
from kdcache.core.types import Example
from kdcache.data.read import dataset_digest, read_split
from kdcache.data.spec import load_spec

TREE = {
    "name": "toy",
    "task": "classification",
    "files": {"train": "train.jsonl"},
    "columns": {"text": "text", "label": "label"},
    "labels": ["no", "yes"],
}
PAIR = {"columns": {"text": "a", "text_pair": "b", "label": "label", "id": "id", "language": "lang"}}


def read(folder: Path, rows, split="train", **changes) -> list[Example]:
    lines = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "train.jsonl").write_text(lines, encoding="utf-8")
    return read_split(load_spec({**TREE, **changes}), split, data_root=folder)


def test_an_example_has_the_tasks_fields_and_the_class_by_name(tmp_path: Path):
    rows = [{"text": "good", "label": "yes", "more": 1}, {"text": "bad", "label": 0}]
    assert read(tmp_path, rows) == [
        Example(uid="train-0", fields={"text": "good", "label": "yes"}),
        Example(uid="train-1", fields={"text": "bad", "label": "no"}),
    ]


def test_pairs_ids_and_languages_come_from_their_columns(tmp_path: Path):
    rows = [{"id": 7, "a": "one", "b": "two", "label": "no", "lang": "de"}]
    fields = {"text": "one", "text_pair": "two", "label": "no", "language": "de"}
    assert read(tmp_path, rows, **PAIR) == [Example(uid="7", fields=fields)]


def test_pairs_with_an_empty_text_are_left_out_where_the_yaml_says_so(tmp_path: Path):
    texts = [("one", "two"), ("one", " "), (None, "two"), ("three", "four")]
    rows = [{"id": i, "a": a, "b": b, "label": "no", "lang": "de"} for i, (a, b) in enumerate(texts)]
    assert [e.uid for e in read(tmp_path, rows, drop_empty=True, **PAIR)] == ["0", "3"]
    with pytest.raises(DataError, match=r"^line 2 of .* has empty text in the column 'b'; fill it or leave"):
        read(tmp_path, rows, **PAIR)


@pytest.mark.parametrize(
    ("labels", "value", "expected"),
    [
        (["no", "yes"], "yes", "yes"),
        (["no", "yes"], 1, "yes"),
        (["no", "yes"], "1", "yes"),
        (["no", "yes"], 1.0, "yes"),
        (["1", "0"], 1, "1"),  # names go before numbers
        (["false", "true"], True, "true"),
    ],
)
def test_a_label_is_a_name_or_a_number(tmp_path: Path, labels, value, expected):
    (example,) = read(tmp_path, [{"text": "a", "label": value}], labels=labels)
    assert example.fields["label"] == expected


def test_a_label_map_goes_first_and_may_say_that_there_is_no_label(tmp_path: Path):
    rows = [{"text": "a", "label": value} for value in ("+", 1, -1)]
    examples = read(tmp_path, rows, label_map={"+": "yes", "1": "no", "-1": None})
    assert [e.fields.get("label") for e in examples] == ["yes", "no", None]


def test_an_example_without_a_label_is_allowed_in_four_ways(tmp_path: Path):
    rows = [{"text": "a", "label": None}, {"text": "b"}, {"text": "c", "label": "yes"}]
    assert [e.fields.get("label") for e in read(tmp_path, rows)] == [None, None, "yes"]
    assert [dict(e.fields) for e in read(tmp_path, rows, columns={"text": "text"})] == [
        {"text": "a"}, {"text": "b"}, {"text": "c"},
    ]  # fmt: skip
    only_text = read(tmp_path, [{"text": "a"}], unlabelled=["train"])
    assert only_text == [Example(uid="train-0", fields={"text": "a"})]


def test_every_format_gives_the_same_examples(tmp_path: Path):
    rows = [{"text": 'say "no"', "label": "yes"}, {"text": "b", "label": None}]
    expected = read(tmp_path, rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    (tmp_path / "train.csv").write_text('text,label\n"say ""no""",yes\nb,\n')
    (tmp_path / "train.tsv").write_text('text\tlabel\nsay "no"\tyes\nb\t\n')
    for name in ("train.parquet", "train.csv", "train.tsv"):
        assert read_split(load_spec({**TREE, "files": {"train": name}}), "train", data_root=tmp_path) == expected


def test_a_held_out_split_keeps_the_uids_of_its_source(tmp_path: Path):
    rows = [{"text": f"t{i}", "label": i % 2} for i in range(10)]
    changes = {"holdout": {"validation": {"from": "train", "count": 4}}}
    validation = read(tmp_path, rows, split="validation", **changes)
    train = read(tmp_path, rows, **changes)
    assert (len(validation), len(train)) == (4, 6)
    assert {e.uid for e in validation} | {e.uid for e in train} == {f"train-{i}" for i in range(10)}


def test_files_start_at_the_data_root_else_at_the_folder_of_the_yaml_unless_absolute(tmp_path: Path):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "train.jsonl").write_text(json.dumps({"text": folder.name, "label": "no"}))
    (here / "toy.yaml").write_text(json.dumps(TREE))  # JSON is YAML
    spec = load_spec(here / "toy.yaml")
    assert read_split(spec, "train")[0].fields["text"] == "here"
    assert read_split(spec, "train", data_root=there)[0].fields["text"] == "there"
    absolute = replace(spec, files={"train": str(here / "train.jsonl")})
    assert read_split(absolute, "train", data_root=there)[0].fields["text"] == "here"


def test_a_missing_file_is_named_in_full_with_the_way_to_set_the_root(tmp_path: Path):
    spec = load_spec({**TREE, "files": {"train": "x/train.jsonl"}})
    with pytest.raises(DataError) as error:
        read_split(spec, "train", data_root=tmp_path)
    assert str(error.value) == (
        f"dataset toy, split train: no file {tmp_path}/x/train.jsonl; relative files start at the data root; "
        "set --data-root or KDCACHE_DATA to the folder that holds x/train.jsonl"
    )
    with pytest.raises(DataError) as error:
        read_split(replace(spec, base=tmp_path), "train")
    assert "relative files start at the folder of the YAML; set --data-root" in str(error.value)
    with pytest.raises(DataError) as error:
        read_split(replace(spec, files={"train": f"{tmp_path}/gone.csv"}), "train")
    assert str(error.value) == f"dataset toy, split train: no file {tmp_path}/gone.csv; check the path"


def test_a_split_that_does_not_exist_is_refused():
    with pytest.raises(DataError, match=r"^dataset toy has no split 'dev'; its splits: train$"):
        read_split(load_spec(TREE), "dev")


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (
            [{"sentence": "a", "label": "no"}],
            {"columns": {"text": "sentences", "label": "label"}},
            "{path} has no column 'sentences' for text; columns there: sentence, label; did you mean 'sentence'?",
        ),
        (
            [{"text": "a", "lable": "no"}],
            {},
            "{path} has no column 'label' for label; columns there: text, lable; did you mean 'lable'?; "
            "or list train under unlabelled",
        ),
        (
            [{"text": "a"}, {"text": " "}],
            {"columns": {"text": "text"}},
            "line 2 of {path} has empty text in the column 'text'; fill it or leave the row out, or set drop_empty: "
            "true",
        ),
        (
            [{"text": "a", "label": "no"}, {"label": "no"}],
            {},
            "line 2 of {path} has empty text in the column 'text'; fill it or leave the row out, or set drop_empty: "
            "true",
        ),
        (
            [{"text": 3}],
            {"columns": {"text": "text"}},
            "line 1 of {path} has 3 (int) in the column 'text'; it must be text",
        ),
        (
            [{"text": "a", "label": "no"}, {"text": "b", "label": "YES"}],
            {},
            "line 2 of {path} has the label 'YES' in the column 'label'; known: no (0), yes (1); correct labels, "
            "or add a label_map",
        ),
        (
            [{"text": "a", "label": 2}],
            {},
            "line 1 of {path} has the label 2 in the column 'label'; known: no (0), yes (1); correct labels, "
            "or add a label_map",
        ),
        (
            [{"text": "a", "id": "x"}, {"text": "b", "id": "y"}, {"text": "c", "id": "x"}],
            {"columns": {"text": "text", "id": "id"}},
            "line 3 of {path} has the id 'x' of line 1; an id must be unique",
        ),
        (
            [{"text": "a", "id": None}],
            {"columns": {"text": "text", "id": "id"}},
            "line 1 of {path} has None in the id column 'id'; an id is a number or one line of text",
        ),
        ("{}\n", {}, "{path} has no column 'text' for text; columns there: "),
    ],
)
def test_what_a_dataset_must_not_hold_is_refused_in_one_line(tmp_path: Path, rows, changes, message):
    with pytest.raises(DataError) as error:
        read(tmp_path, rows, **changes)
    assert str(error.value) == message.format(path=tmp_path / "train.jsonl")


def test_the_digest_changes_with_everything_that_a_cache_depends_on():
    spec = load_spec(TREE)
    a, b = (Example(uid=uid, fields={"text": "t", "label": "no"}) for uid in "ab")
    digest = dataset_digest(spec, {"train": [a, b], "test": [a]})
    assert digest == dataset_digest(spec, {"test": [a], "train": [a, b]}) == "8dc2912e18fd0e6c"
    others = [
        dataset_digest(spec, {"train": [b, a], "test": [a]}),
        dataset_digest(spec, {"train": [a], "test": [a, b]}),
        dataset_digest(spec, {"train": [a, b]}),
        dataset_digest(spec, {"train": [a, replace(b, fields={"text": "t"})], "test": [a]}),
        dataset_digest(replace(spec, labels=("yes", "no")), {"train": [a, b], "test": [a]}),
        dataset_digest(replace(spec, version=2), {"train": [a, b], "test": [a]}),
    ]
    assert len({digest, *others}) == 1 + len(others)


def test_the_digest_takes_text_that_has_no_utf8_form(tmp_path: Path):
    examples = read(tmp_path, '{"text": "\\ud800", "label": "no"}\n')
    assert dataset_digest(load_spec(TREE), {"train": examples}) != dataset_digest(load_spec(TREE), {"train": []})
