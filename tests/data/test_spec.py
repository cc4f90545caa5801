from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kdcache.core.config import plain
from kdcache.core.errors import ConfigError
from kdcache.core.types import TaskSettings
from kdcache.data.spec import DatasetSpec, Holdout, load_spec

CONFIGS = Path(__file__).parents[2] / "configs" / "datasets"
TREE = {
    "name": "toy",
    "task": "classification",
    "files": {"train": "train.jsonl", "test": "test.jsonl"},
    "columns": {"text": "text", "label": "label"},
    "labels": ["no", "yes"],
}
HUB = {**{key: value for key, value in TREE.items() if key != "files"}, "hub": {"id": "x/y", "splits": {"train": "a"}}}


def test_a_small_description_has_the_defaults_of_the_study():
    spec = load_spec(TREE, where="toy.yaml")
    assert (spec.format, spec.encoding, spec.metric, spec.max_length, spec.seed) == ("auto", "utf-8", "f1", 128, 42)
    assert spec.splits == ("train", "test")
    assert spec.task_settings() == TaskSettings(labels=("no", "yes"), max_length=128, metric="f1")


def test_relative_files_of_a_yaml_start_at_its_folder(tmp_path: Path):
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(TREE))
    assert load_spec(path).base == tmp_path
    path.write_text(yaml.safe_dump({**TREE, "base": "below"}))
    assert load_spec(path).base == tmp_path / "below"
    assert load_spec(TREE).base is None


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_dataset_that_is_shipped_is_read_and_survives_being_saved_as_resolved(path: Path):
    spec = load_spec(path)
    assert load_spec(yaml.safe_load(yaml.safe_dump(plain(spec)))) == spec
    assert {"train", "validation", "test"} <= set(spec.splits)


def test_from_names_the_split_that_is_cut():
    spec = load_spec({**TREE, "holdout": {"validation": {"from": "train", "count": 5, "stratify": "label"}}})
    assert spec.holdout == {"validation": Holdout(source="train", count=5, stratify="label")}
    assert spec.splits == ("train", "test", "validation")


def test_a_hub_dataset_has_the_splits_that_it_names():
    spec = load_spec(HUB)
    assert spec.splits == ("train",)
    assert spec.source_splits == {"train": "a"}


def holdout(**block):
    return {"holdout": {"validation": block}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colums": {}}, "unknown setting colums in toy.yaml; did you mean columns?"),
        ({"name": "a/b"}, "toy.yaml: name = 'a/b' cannot name a folder; use letters, digits, '.', '_' and '-'"),
        ({"files": {}}, "toy.yaml: neither files and hub given; give one of the two"),
        ({"hub": HUB["hub"]}, "toy.yaml: both files and hub given; give one of the two"),
        (
            {"format": "xlsx"},
            "format in toy.yaml is 'xlsx'; allowed: one of auto, jsonl, parquet, csv, tsv, conll, squad, mrqa, lines",
        ),
        ({"encoding": "utf9"}, "toy.yaml: encoding = 'utf9' is unknown to Python; e.g. utf-8, latin-1"),
        ({"max_length": 0}, "toy.yaml: max_length = 0 leaves no token; it must be at least 1"),
        ({"max_length": "128"}, "max_length in toy.yaml is '128'; allowed: a whole number"),
        ({"seed": -1}, "toy.yaml: seed = -1 is out of range; it must lie between 0 and 2^63 - 1"),
        ({"labels": ["no", "no"]}, "toy.yaml: labels has 'no' twice; each class has one name"),
        ({"labels": [False, True]}, "labels[0] in toy.yaml is False; allowed: text"),
        ({"labels": []}, "toy.yaml: columns.label = 'label' needs labels: the class names in class order"),
        ({"label_map": {"1": "maybe"}}, "toy.yaml: label_map.1 = 'maybe' is not among labels: no, yes"),
        ({"columns": {"label": "label"}}, "toy.yaml: columns.text is missing; name the column that holds the text"),
        (
            {"columns": {"text": "a", "texts": "b"}},
            "toy.yaml: unknown setting columns.texts in the dataset; did you mean columns.text?",
        ),
        (
            {"limit": {"dev": 5}},
            "toy.yaml: limit names the split 'dev', which does not exist; splits: train, test",
        ),
        ({"limit": {"train": 0}}, "toy.yaml: limit.train = 0 takes nothing; it must be at least 1"),
        (
            {"unlabelled": ["dev"]},
            "toy.yaml: unlabelled names the split 'dev', which does not exist; splits: train, test",
        ),
        (
            {"holdout": {"test": {"from": "train", "count": 1}}},
            "toy.yaml: holdout.test would replace the split test of the source; give it another name",
        ),
        (
            holdout(**{"from": "dev", "count": 1}),
            "toy.yaml: holdout.validation.from names the split 'dev', which does not exist; splits: train, test",
        ),
        (
            holdout(**{"from": "train", "count": 1, "stratify": "language"}),
            "toy.yaml: holdout.validation.stratify = 'language' has no column; add it to columns",
        ),
        (holdout(count=1), "toy.yaml lacks the setting holdout.validation.from"),
        (holdout(**{"from": 3}), "holdout.validation.from in toy.yaml is 3; allowed: text"),
        ({"holdout": {"validation": 5}}, "holdout.validation in toy.yaml must be a block of settings, not 5"),
        (
            holdout(**{"from": "train", "cuont": 1}),
            "unknown setting holdout.validation.cuont in toy.yaml; did you mean holdout.validation.count?",
        ),
        (
            holdout(**{"from": "train"}),
            "toy.yaml: holdout.validation: count = None and fraction = None: give one of the two",
        ),
        (
            holdout(**{"from": "train", "count": 0}),
            "toy.yaml: holdout.validation: count = 0 holds nothing out; it must be at least 1",
        ),
        (
            holdout(**{"from": "train", "fraction": 1}),
            "toy.yaml: holdout.validation: fraction = 1.0 is not a share; it must lie between 0 and 1",
        ),
        (
            holdout(**{"from": "train", "count": 1, "seed": -2}),
            "toy.yaml: holdout.validation: seed = -2 is out of range; it must lie between 0 and 2^63 - 1",
        ),
    ],
)
def test_a_wrong_description_is_refused_in_one_line(change, message):
    with pytest.raises(ConfigError) as error:
        load_spec({**TREE, **change}, where="toy.yaml")
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "csv"}, "the dataset: format and encoding are settings of files; a hub dataset has neither"),
        ({"encoding": "latin-1"}, "the dataset: format and encoding are settings of files; a hub dataset has neither"),
        (
            {"hub": {"id": "x/y", "splits": {}}},
            "the dataset: hub: splits is empty; name the splits, e.g. {train: train, validation: validation}",
        ),
        ({"hub": {"splits": {"train": "a"}}}, "the dataset lacks the setting hub.id"),
    ],
)
def test_a_wrong_hub_source_is_refused_in_one_line(change, message):
    with pytest.raises(ConfigError) as error:
        load_spec({**HUB, **change})
    assert str(error.value) == message


def test_a_yaml_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"^cannot read .*gone\.yaml: No such file or directory; check the path$"):
        load_spec(tmp_path / "gone.yaml")


def test_a_spec_can_be_made_without_a_file():
    spec = DatasetSpec(name="toy", task="classification", files={"train": "a.csv"}, columns={"text": "text"})
    assert spec.task_settings().labels == ()
