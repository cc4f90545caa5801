from __future__ import annotations

from dataclasses import replace

import pytest

from kdcache.core.errors import ConfigError
from kdcache.core.types import TaskSettings
from kdcache.tasks import TASKS, make

SETTINGS = TaskSettings(labels=("no", "yes"), max_length=16, metric="f1")
EACH = {
    "classification": SETTINGS,
    "ner": replace(SETTINGS, labels=("O", "B-PER", "I-PER")),
    "qa": replace(SETTINGS, labels=(), max_length=384),
    "translation": replace(SETTINGS, labels=(), metric="bleu"),
    "causal_lm": replace(SETTINGS, labels=(), metric="nll"),
}


def test_every_task_is_filed_under_its_own_name():
    assert {name: make(name, EACH[name]).name for name in TASKS} == {name: name for name in TASKS}


@pytest.mark.parametrize("name", ["classification", "ner"])
@pytest.mark.parametrize(("option", "value"), [("overlap", 16), ("empty_windows", "drop"), ("normalize", "mlqa")])
def test_a_setting_that_means_nothing_to_a_task_is_refused(name: str, option: str, value):
    with pytest.raises(ConfigError, match=rf"^{option} = {value!r} means nothing to task {name}; leave it out$"):
        make(name, replace(EACH[name], **{option: value}))


def test_an_unknown_task_is_refused_with_the_known_ones_and_the_closest():
    with pytest.raises(ConfigError) as error:
        make("clasification", SETTINGS)
    assert str(error.value) == (
        "task = 'clasification' is not known; known: classification, ner, qa, translation, causal_lm; "
        "did you mean classification?"
    )
    with pytest.raises(
        ConfigError, match=r"^task = 'parsing' is not known; known: classification, ner, qa, translation, causal_lm$"
    ):
        make("parsing", SETTINGS)
