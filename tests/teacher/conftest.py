"""The study of 40 classes, once for all tests of the teacher's stages; each test brings its own `out`."""

from pathlib import Path

import pytest

from tests.readonly import share
from tests.teacher.small import write_study


@pytest.fixture(scope="session")
def forty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its run file; the teacher is beside it in `teacher/`."""
    run = write_study(tmp_path_factory.mktemp("forty"))
    share(request, run.parent)
    return run


@pytest.fixture(scope="session")
def two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with two classes: every row is dense."""
    run = write_study(tmp_path_factory.mktemp("two"), num_classes=2)
    share(request, run.parent)
    return run
