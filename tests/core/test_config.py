"""Strict settings: what, where, what is allowed, the closest known key."""

from __future__ import annotations

import pytest

from kdcache.core import config
from kdcache.core.configuration import Configuration
from kdcache.core.errors import ConfigError


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"tau": 1}, r"unknown setting student.tau in a.yaml; did you mean student.tau_t\?"),
        ({"loss": "kl"}, "student.loss in a.yaml is 'kl'; allowed: one of ce, mse"),
        ({"tau_s": "foo"}, "student.tau_s in a.yaml is 'foo'; allowed: a number, or one of tied"),
        ({"alpha": [1]}, r"student.alpha in a.yaml is \[1\]; allowed: a number"),
        ({"alpha": 2}, r"alpha = 2.0 is outside \[0, 1\]"),
        ({"tau_t": 0}, "tau_t = 0.0 is not a temperature"),
        ({"teacher": None}, "alpha = 1.0 needs a teacher"),
        ([1], "must be a block of settings"),
    ],
)
def test_wrong_settings_say_what_and_where(tree, message):
    with pytest.raises(ConfigError, match=message):
        config.parse(Configuration, tree, where="a.yaml", block="student")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "the key 'a' stands twice"),
        ("[1, 2]", "must hold settings"),
        ("a: [", "is not valid YAML"),
        ("[1]: 2", "a key must be a plain word"),
    ],
)
def test_yaml_that_is_no_config_is_refused(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        config.read_yaml(path)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*missing.yaml"):
        config.read_yaml(tmp_path / "missing.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        config.read_yaml(tmp_path / "bytes.yaml")
    with pytest.raises(ConfigError, match="run from a clone"):
        config.shipped("runs/none.yaml")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [("a", "write --set block.key=value"), ("a.b.c=1", "a is a value"), ("x=[", "is not a YAML value")],
)
def test_overrides_that_make_no_sense_are_refused(assignment, message):
    with pytest.raises(ConfigError, match=message):
        config.override({"a": 1}, [assignment])


def test_equivalent_configurations_share_a_canonical_form():
    assert Configuration(alpha=0, loss="mse").canonical() == Configuration(alpha=0, teacher=None).canonical()
    tied = Configuration(loss="mse", tau_t=4).canonical()
    assert tied == Configuration(loss="mse", tau_t=1).canonical()
    assert Configuration(tau_t=2, kd_scale="tau_t^2").canonical() == Configuration(tau_t=2).canonical()
    assert Configuration(tau_t=2, tau_s=3, kd_scale="none").label() == "ce t_hs tau 2/3"
