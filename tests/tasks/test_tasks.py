from __future__ import annotations

import pytest

from kdcache.core.errors import ConfigError
from kdcache.core.types import TaskSettings
from kdcache.tasks import TASKS, make

SETTINGS = TaskSettings(labels=("no", "yes"), max_length=16, metric="f1")


def test_every_task_is_filed_under_its_own_name():
    assert {name: make(name, SETTINGS).name for name in TASKS} == {name: name for name in TASKS}


def test_an_unknown_task_is_refused_with_the_known_ones_and_the_closest():
    with pytest.raises(ConfigError) as error:
        make("clasification", SETTINGS)
    assert str(error.value) == (
        "task = 'clasification' is not known; known: classification; did you mean classification?"
    )
    with pytest.raises(ConfigError, match=r"^task = 'parsing' is not known; known: classification$"):
        make("parsing", SETTINGS)
