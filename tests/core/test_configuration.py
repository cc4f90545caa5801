"""Which configurations are one training, and what cannot be one."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from kdcache.core.config import digest, plain
from kdcache.core.configuration import Configuration
from kdcache.core.errors import ConfigError
from kdcache.core.results import RunResult, read_run, write_run


def _same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    left, right = (Configuration(**settings).canonical() for settings in (one, two))
    assert (left == right) == (digest(left.content()) == digest(right.content()))
    return left == right


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"tau_t": 2, "tau_s": "tied"}, {"tau_t": 2, "tau_s": 2}),
        ({"alpha": 0, "teacher": None}, {"alpha": 0, "loss": "jsd", "tau_t": 9, "jsd_beta": 0.1}),
        ({"loss": "mse", "tau_t": 4}, {"loss": "mse", "tau_t": 1, "kd_scale": "none"}),
        ({"loss": "ce", "jsd_beta": 0.1}, {"loss": "ce", "jsd_beta": 0.9}),
        ({"teacher_weight": 0.1}, {"teacher_weight": 0.9}),
        ({"loss": "jsd", "jsd_beta": 0.1}, {"loss": "jsd", "jsd_beta": 0.1 + 1e-9}),
        ({"teacher": "a+b", "teacher_weight": 0.3}, {"teacher": "b+a", "teacher_weight": 0.7}),
        ({"teacher": "a+b", "teacher_weight": 1}, {"teacher": "a"}),
        ({"teacher": "a+b", "teacher_weight": 0}, {"teacher": "b", "teacher_weight": 0.2}),
        ({"teacher": "a+a", "teacher_weight": 0.2}, {"teacher": "a"}),
        ({"teacher": "b+a", "teacher_weight": 1e-9}, {"teacher": "a"}),
    ],
)
def test_equivalent_settings_are_one_configuration(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert _same(one, two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"loss": "jsd", "jsd_beta": 0.1}, {"loss": "jsd", "jsd_beta": 0.9}),
        ({"teacher": "a+b", "teacher_weight": 0.3}, {"teacher": "b+a", "teacher_weight": 0.3}),
        ({"teacher": "a+b"}, {"teacher": "a"}),
        ({"loss": "reverse_kl"}, {"loss": "ce"}),
        ({"loss": "ce", "tau_t": 4}, {"loss": "ce", "tau_t": 1}),
    ],
)
def test_settings_that_train_otherwise_are_two(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert not _same(one, two)


@pytest.mark.parametrize(
    "settings",
    [{}, {"teacher": "b+a", "teacher_weight": 0.25}, {"loss": "jsd", "jsd_beta": 0.2, "tau_t": 3}, {"alpha": 0}],
)
def test_a_canonical_configuration_is_its_own(settings: dict[str, Any]) -> None:
    canonical = Configuration(**settings).canonical()
    assert canonical.canonical() == canonical


def test_labels_name_the_parameters_that_count() -> None:
    assert Configuration(loss="jsd", jsd_beta=0.1, tau_t=2).label() == "jsd 0.1 t_hs tau 2/2"
    mixture = Configuration(teacher="t_hs+t_ll", teacher_weight=0.25, tau_t=4, tau_s=1, alpha=0.5)
    assert mixture.label() == "ce 0.25 t_hs + 0.75 t_ll tau 4/1 alpha 0.5"
    assert mixture.label(teacher="both") == "ce both tau 4/1 alpha 0.5"
    assert Configuration(loss="reverse_kl", jsd_beta=0.1).label() == "reverse_kl t_hs tau 1/1"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"jsd_beta": 0}, r"jsd_beta = 0 must lie inside \(0, 1\); at 0 use loss: ce, at 1 loss: reverse_kl"),
        ({"jsd_beta": 1}, r"jsd_beta = 1 must lie inside"),
        ({"teacher_weight": 1.5}, r"teacher_weight = 1.5 is outside \[0, 1\]; 1 is the first teacher alone"),
        ({"teacher": "a+b", "loss": "mse"}, r"loss = mse of the mixture a\+b is not defined; use loss: ce, or one"),
        ({"teacher": "a+b+c"}, r"teacher = 'a\+b\+c' is neither a name nor two names joined by \+, e\.g\. t_hs\+t_ll"),
        ({"teacher": "a+"}, r"neither a name nor two names"),
        ({"teacher": None}, r"alpha = 1.0 needs a teacher"),
        ({"tau_s": 0}, r"tau_s = 0 is not a temperature"),
        ({"alpha": 2}, r"alpha = 2 is outside \[0, 1\]"),
    ],
)
def test_what_is_no_configuration_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Configuration(**settings)


def _result(configuration: Configuration) -> RunResult:
    return RunResult(
        key="k",
        dataset="d",
        dataset_digest="x",
        student="s",
        seed=0,
        configuration=configuration,
        metric="f1",
        scores={},
        test_digest={},
        selected={},
        counters={},
        seconds={},
    )


def test_a_result_keeps_the_configuration_and_older_results_are_read(tmp_path: Path) -> None:
    configuration = Configuration(teacher="a+b", teacher_weight=0.25, tau_t=2)
    write_run(tmp_path, _result(configuration), ())
    assert read_run(tmp_path).configuration == configuration
    path = tmp_path / "result.json"
    tree = json.loads(path.read_text())
    older = replace(configuration, teacher="a", teacher_weight=0.5)
    new = {"jsd_beta", "teacher_weight"}
    assert new <= {f.name for f in fields(Configuration)}
    tree["configuration"] = {name: value for name, value in plain(older).items() if name not in new}
    path.write_text(json.dumps(tree))
    assert read_run(tmp_path).configuration == older
