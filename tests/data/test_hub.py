from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from kdcache.core.errors import DataError
from kdcache.data.hub import read_hub
from kdcache.data.read import read_split
from kdcache.data.spec import HubSource, load_spec


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset as the Hub holds it: Parquet and the features in the schema. Offline."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    features = datasets.Features(
        {
            "idx": datasets.Value("int32"),
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["yes", "no"]),
        }
    )
    rows = {"idx": [0, 1, 2], "sentence": ["a", "b", "c"], "label": [0, 1, -1]}
    place = tmp_path / "reviews"
    place.mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(place / "train-00000-of-00001.parquet")
    return place


def spec_of(folder: Path, **changes):
    return load_spec(
        {
            "name": "toy",
            "task": "classification",
            "hub": {"id": str(folder), "splits": {"train": "train"}},
            "columns": {"text": "sentence", "label": "label", "id": "idx"},
            "labels": ["no", "yes"],
            **changes,
        }
    )


def test_classes_are_matched_by_name_and_a_hidden_label_is_none(folder: Path):
    examples = read_split(spec_of(folder), "train")
    assert [e.uid for e in examples] == ["0", "1", "2"]
    assert [e.fields["text"] for e in examples] == ["a", "b", "c"]
    assert [e.fields.get("label") for e in examples] == ["yes", "no", None]


def test_tags_are_matched_by_name_and_answers_arrive_as_in_a_file(folder: Path):
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "I-LOC", "B-LOC"])),
            "question": datasets.Value("string"),
            "answers": {
                "text": datasets.List(datasets.Value("string")),
                "answer_start": datasets.List(datasets.Value("int32")),
            },
        }
    )
    rows = {
        "tokens": [["in", "New", "York"]],
        "ner_tags": [[0, 2, 1]],
        "question": ["where?"],
        "answers": [{"text": ["York"], "answer_start": [7]}],
    }
    (folder / "train-00000-of-00001.parquet").unlink()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "train-00000-of-00001.parquet")
    columns = {"words": "tokens", "tags": "ner_tags"}
    (example,) = read_split(spec_of(folder, columns=columns, labels=["O", "B-LOC", "I-LOC"]), "train")
    assert example.fields == {"words": ["in", "New", "York"], "tags": ["O", "B-LOC", "I-LOC"]}
    columns = {"question": "question", "context": "question", "answers": "answers"}
    with pytest.raises(DataError, match=r"has the answer 'York' at 7, but the context has '' there; correct "):
        read_split(spec_of(folder, columns=columns, labels=[]), "train")


def test_a_missing_column_is_refused_as_in_a_file(folder: Path):
    with pytest.raises(DataError) as error:
        read_split(spec_of(folder, columns={"text": "sentense"}), "train")
    assert str(error.value) == (
        f"hub dataset {folder}, split train has no column 'sentense' for text; columns there: idx, sentence, label; "
        "did you mean 'sentence'?"
    )


def test_a_split_that_is_not_there_is_refused_in_one_line(folder: Path):
    with pytest.raises(DataError) as error:
        read_hub(HubSource(id=str(folder), splits={"test": "dev"}), "dev", ["sentence"])
    message = str(error.value)
    assert message.startswith(f"cannot load the hub dataset {folder}, split dev: Unknown split")
    assert message.endswith(
        "check id, config, revision and splits, the connection and HF_HUB_OFFLINE, or give files instead"
    )
    assert "\n" not in message


@pytest.mark.parametrize("config", [None, "mrpc"])
def test_a_hub_that_cannot_be_reached_is_one_line(folder: Path, config: str | None):
    with pytest.raises(DataError) as error:
        read_hub(HubSource(id="nobody/nothing", config=config, splits={"train": "train"}), "train", ["text"])
    message = str(error.value)
    name = "nobody/nothing (mrpc)" if config else "nobody/nothing"
    assert message.startswith(f"cannot load the hub dataset {name}, split train: ")
    assert "\n" not in message


def test_a_split_without_rows_is_refused(tmp_path: Path, folder: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "train.csv").write_text("sentence,label\n")
    with pytest.raises(
        DataError, match=r"^cannot load the hub dataset .*/empty, split train: [^\n]*no data!; check id"
    ):
        read_hub(HubSource(id=f"{tmp_path}/empty", splits={"train": "train"}), "train", ["sentence"])


def test_the_cause_of_a_file_that_cannot_be_read_is_told(folder: Path):
    (folder / "train-00000-of-00001.parquet").write_bytes(b"PAR1 but not really PAR1")
    with pytest.raises(
        DataError, match=r"^cannot load the hub dataset .*, split train: [^\n]*[Pp]arquet[^\n]*; check id"
    ):
        read_hub(HubSource(id=str(folder), splits={"train": "train"}), "train", ["sentence"])
