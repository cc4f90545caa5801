"""Settings of a dump: defaults of each store, and contradictions refused with a way out."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import pytest

from kdcache.core.config import parse
from kdcache.core.errors import ConfigError
from kdcache.core.row_format import DENSE, STORES, RowFormat
from kdcache.teacher.settings import STUDY_GRID, DumpConfig, FidelityConfig, parse_grid


@pytest.mark.parametrize(
    ("given", "num_classes", "kept"),
    [
        ({}, 50_000, ("fast", 64)),
        ({"top_k": 16, "codec": "compact"}, 50_000, ("compact", 16)),
        ({}, 64, ("dense", 64)),
        ({}, 65, ("fast", 64)),
        ({"codec": "compact"}, 2, ("dense", 64)),
        ({"store": "hidden"}, 2, ("float16", 0)),
        ({"store": "hidden", "codec": "int8"}, 50_000, ("int8", 0)),
    ],
)
def test_codec_and_top_k_follow_from_store_and_number_of_classes(
    given: dict[str, Any], num_classes: int, kept: tuple[str, int]
) -> None:
    found = DumpConfig(**given).row_format(num_classes=num_classes, hidden_size=8)
    assert (found.codec, found.top_k) == kept
    assert found.hidden_size == (8 if found.store == "hidden" else 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"store": "hidden", "top_k": 64}, r"top_k = 64 means nothing to store: hidden, .*; leave it out"),
        ({"store": "hidden", "top_p": 0.9}, r"top_p = 0\.9 means nothing to store: hidden, .*; leave it out"),
        (
            {"store": "hidden", "codec": "compact"},
            r"codec = compact is of store: topk; store: hidden has float16, bfloat16, int8, float32",
        ),
        ({"codec": "int8"}, r"codec = int8 is of store: hidden; store: topk has fast, compact"),
        ({"top_p": 0.0}, r"top_p = 0\.0 is not a probability mass; it must lie in \(0, 1\]; 1 keeps top_k"),
        ({"top_k": 0}, r"top_k = 0 must be at least 1"),
        ({"batch_size": 0}, r"batch_size = 0 must be at least 1"),
        ({"splits": ()}, r"splits is empty; name at least one"),
        ({"store": "logits"}, r"dump\.store in run\.yaml is 'logits'; allowed: one of topk, hidden"),
        ({"compressor": "gzip"}, r"dump\.compressor in run\.yaml is 'gzip'; allowed: one of lz4, zstd"),
        ({"fidelity": {"grid": ["ce:2"]}}, r"grid has 'ce:2'; write LOSS:TAU_T:TAU_S, e\.g\. ce:2:1"),
        ({"fidelity": {"grids": []}}, r"did you mean dump\.fidelity\.grid\?"),
    ],
)
def test_contradictions_are_refused_with_a_way_out(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(DumpConfig, given, where="run.yaml", block="dump")


def test_what_is_not_said_is_what_a_row_format_has_by_default() -> None:
    assert DumpConfig().row_format(num_classes=50_000) == RowFormat.of(num_classes=50_000)
    hidden = DumpConfig(store="hidden").row_format(num_classes=9, hidden_size=4)
    assert hidden == RowFormat.of(store="hidden", num_classes=9, hidden_size=4)
    codecs = {codec for store in STORES.values() for codec in store}
    assert set(get_args(get_type_hints(DumpConfig)["codec"])) == {"auto", *codecs} - {DENSE}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("kl2:1:1",), r"grid has 'kl2:1:1'; .* losses: ce, mse"),
        (("ce:a:1",), r"grid has 'ce:a:1': \['a', '1'\] are not temperatures"),
        (("ce:0:1",), r"tau_t = 0\.0 is not a temperature"),
        ((), r"grid is empty; name at least one configuration, e\.g\. ce:2:1"),
    ],
)
def test_a_grid_that_is_none_is_refused(texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_grid(texts)


def test_a_mass_where_everything_is_kept_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"top_p = 0\.9 means nothing here: top_k = 64 keeps all 40 classes of a row; "
    ):
        DumpConfig(top_p=0.9).row_format(num_classes=40)


def test_tied_is_the_teachers_temperature() -> None:
    tied, fixed = parse_grid(["ce:4:tied", "mse:2:1"])
    assert (tied.loss, tied.tau_t, tied.student_temperature) == ("ce", 4, 4)
    assert (fixed.loss, fixed.tau_t, fixed.student_temperature) == ("mse", 2, 1)


def test_the_default_grid_holds_each_configuration_once() -> None:
    keys = {(c.loss, c.tau_t, c.student_temperature) for c in (c.canonical() for c in parse_grid(STUDY_GRID))}
    assert len(keys) == len(STUDY_GRID) == len(FidelityConfig().grid)


def test_a_tolerance_is_a_relative_error() -> None:
    with pytest.raises(ConfigError, match=r"tolerance = 2 is not a relative error; it must lie in \(0, 1\)"):
        FidelityConfig(tolerance=2)
