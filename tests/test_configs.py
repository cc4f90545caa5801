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
