"""What is kept of a row: defaults, the rule of dense, words, contradictions."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, get_args

import pytest

from kdcache.core.errors import CacheError
from kdcache.core.row_format import COMPRESSOR, COMPRESSORS, STORES, TOP_K, Compressor, RowFormat, Store
from kdcache.core.types import NUM_ATOMS


def test_there_is_one_default_of_each_setting() -> None:
    # Literal on purpose: what a dump keeps where nothing is said.
    found = RowFormat.of(num_classes=50_000)
    assert {f.name: getattr(found, f.name) for f in fields(found)} == {
        "store": "topk",
        "codec": "fast",
        "compressor": "lz4",
        "top_k": 64,
        "top_p": 1.0,
        "num_classes": 50_000,
        "hidden_size": 0,
        "num_atoms": 5,
    }
    assert (TOP_K, COMPRESSOR, NUM_ATOMS) == (64, "lz4", 5)
    hidden = RowFormat.of(store="hidden", num_classes=9, hidden_size=4)
    assert (hidden.codec, hidden.top_k, hidden.num_atoms) == ("float16", 0, 0)


def test_the_lists_are_those_of_the_types() -> None:
    assert tuple(STORES) == get_args(Store)
    assert get_args(Compressor) == COMPRESSORS


@pytest.mark.parametrize("codec", ["auto", "fast", "compact", "dense"])
def test_a_row_that_keeps_all_its_classes_is_dense_and_has_no_tail(codec: str) -> None:
    found = RowFormat.of(num_classes=64, codec=codec)
    assert (found.is_dense, found.codec, found.top_k, found.num_atoms) == (True, "dense", 64, 0)
    assert not RowFormat.of(num_classes=65).is_dense
    assert replace(RowFormat.of(num_classes=65), num_classes=64).is_dense


@pytest.mark.parametrize(
    ("given", "label", "word"),
    [
        ({}, "top-64 fast", "topk64"),
        ({"codec": "compact", "top_k": 8}, "top-8 compact", "topk8"),
        ({"top_p": 0.98}, "top-64 fast top_p 0.98", "topk64p0.98"),
        ({"num_classes": 2}, "dense", "topk64"),
        ({"store": "hidden", "codec": "int8", "hidden_size": 8}, "hidden int8", "hidden-int8"),
    ],
)
def test_a_format_has_a_label_for_tables_and_a_word_for_signatures(
    given: dict[str, Any], label: str, word: str
) -> None:
    found = RowFormat.of(**{"num_classes": 1000, **given})
    assert (found.label, found.word) == (label, word)


def test_what_decides_values_is_not_how_bytes_are_packed() -> None:
    # Literal on purpose: the key of a student's run holds it.
    found = RowFormat.of(num_classes=1000, compressor="zstd", num_atoms=3)
    assert found.content == ("topk", "fast", 64, 1.0) == RowFormat.of(num_classes=500).content


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"store": "dense"}, r"^store is 'dense'; allowed: topk, hidden$"),
        ({"codec": "int8"}, r"^codec is 'int8'; allowed with store topk: fast, compact, dense$"),
        (
            {"codec": "dense"},
            r"^codec is 'dense' with top_k 64 of 1000 classes; dense keeps all classes: raise top_k, or choose codec "
            r"fast or compact$",
        ),
        ({"compressor": "gzip"}, r"^compressor is 'gzip'; allowed: lz4, zstd$"),
        ({"top_k": 0}, r"^top_k is 0; it must be at least 1$"),
        ({"top_p": 1.5}, r"^top_p is 1\.5; allowed: above 0, at most 1$"),
        ({"num_classes": 0, "top_k": -1}, r"^num_classes is 0; allowed: 1 to 2\^31 - 1$"),
        ({"hidden_size": 8}, r"^hidden_size is 8; set it to 0 for store topk$"),
        ({"store": "hidden"}, r"^hidden_size is 0; store hidden needs hidden_size of at least 1 and top_k 0$"),
        (
            {"store": "hidden", "hidden_size": 8, "top_k": 64},
            r"^top_k is 64; store hidden needs hidden_size of at least 1 and top_k 0$",
        ),
    ],
)
def test_a_format_that_contradicts_itself_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(CacheError, match=message):
        RowFormat.of(**{"num_classes": 1000, **given})
