"""Every shipped description of data and models can be read, and its task accepts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcache.core.config import parse, read_yaml
from kdcache.data.spec import load_spec
from kdcache.tasks import make
from kdcache.training.models import ModelsConfig

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = {
    folder: sorted(path.relative_to(CONFIGS / folder) for path in (CONFIGS / folder).rglob("*.yaml"))
    for folder in ("datasets", "models")
}


@pytest.mark.parametrize("name", NAMES["datasets"], ids=str)
def test_a_dataset_is_read_and_its_task_accepts_it(name: Path):
    spec = load_spec(CONFIGS / "datasets" / name)
    task = make(spec.task, spec.task_settings())
    assert task.metrics()
    assert "train" in spec.splits
    assert name.stem == "template" or spec.name.startswith(name.stem)


@pytest.mark.parametrize("name", NAMES["models"], ids=str)
def test_a_teacher_and_its_students_are_read(name: Path):
    models = parse(ModelsConfig, read_yaml(CONFIGS / "models" / name), where=str(name))
    assert len(models.students) >= 2


LANGUAGES = {
    "paws-x": ("de", "en", "es", "fr", "ja", "ko", "zh"),
    "xnli": ("en", "ar", "bg", "de", "el", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"),
    "conll": ("es", "nl", "en"),
    "mlqa": ("en", "ar", "de", "en", "es", "hi", "vi", "zh"),
}
STUDY = {
    "mrpc": "classification", "mnli": "classification", "paws-x": "classification", "xnli": "classification",
    "ontonotes5": "ner", "conll": "ner", "klue3": "ner",
    "squad": "qa", "nq": "qa", "mlqa": "qa", "tydiqa": "qa",
    "wmt16_de-en": "translation", "wmt16_ro-en": "translation",
}  # fmt: skip
"""The thirteen datasets of the study -> their task."""


def test_the_thirteen_datasets_of_the_study_are_described():
    paths = [CONFIGS / "datasets" / name for name in NAMES["datasets"] if name.stem not in ("template", "demo")]
    specs = [load_spec(path) for path in paths if path.parent.name == "datasets"]
    assert {spec.name: spec.task for spec in specs} == STUDY


@pytest.mark.parametrize("name", STUDY)
def test_a_study_dataset_has_three_splits_and_holds_out_by_the_studys_seed(name: str):
    spec = load_spec(CONFIGS / "datasets" / f"{name}.yaml")
    assert all(cut.seed == 42 for cut in spec.holdout.values())
    assert "train" in spec.splits
    assert "test" in spec.splits
    # the questions that MLQA holds out are left out of training, and so are scored by no split
    assert "validation" in spec.splits
    assert tuple(part.language for part in spec.parts) == LANGUAGES.get(name, (None,))


@pytest.mark.parametrize(("name", "sources"), [("mrpc", 1), ("mnli", 1), ("paws-x", 7), ("xnli", 15)])
def test_study_datasets_of_classification_are_pinned_to_a_commit(name: str, sources: int):
    spec = load_spec(CONFIGS / "datasets" / f"{name}.yaml")
    assert len(spec.parts) == sources
    for part in spec.parts:
        assert part.hub is not None
        assert len(part.hub.revision or "") == 40
        zero_shot = name == "xnli" and part.language != "en"
        assert ("train" in part.splits) != zero_shot
        assert "test" in part.splits


def test_mnli_holds_its_validation_split_out_and_is_tested_on_the_matched_genres():
    spec = load_spec(CONFIGS / "datasets/mnli.yaml")
    assert spec.hub is not None
    assert spec.hub.splits == {"train": "train", "test": "validation_matched"}
    assert (spec.holdout["validation"].source, spec.holdout["validation"].count) == ("train", 9815)
