"""The demo's data, from a file of our own in the same form."""

from __future__ import annotations

import json

import pytest

from kdcache.core.errors import DataError
from kdcache.demo import ratings

LINES = "\n".join(f"{i}\t{(-1) ** i * 1.5}\tsnippet number {i}" for i in range(200))


def test_a_folder_of_ratings_becomes_three_splits(tmp_path):
    (tmp_path / ratings.RATINGS).write_text(LINES + "\n200\t0\tneither\n201\t1\tsnippet number 7\n", encoding="latin-1")
    sizes = ratings.prepare(tmp_path / "data", source=tmp_path)
    assert sum(sizes.values()) == 200
    assert sizes["train"] > sizes["validation"] > 0
    first = json.loads((tmp_path / "data/train.jsonl").read_text().splitlines()[0])
    assert first["label"] == ("positive" if int(first["id"]) % 2 == 0 else "negative")
    assert ratings.prepare(tmp_path / "data", source=None) == sizes


def test_bad_sources_are_refused_in_one_line(tmp_path):
    with pytest.raises(DataError, match=r"holds no movieReviewSnippets_GroundTruth.txt"):
        ratings.prepare(tmp_path / "data", source=tmp_path)
    with pytest.raises(DataError, match="no file or folder"):
        ratings.prepare(tmp_path / "data", source=tmp_path / "missing.tar.gz")
    (tmp_path / "other.tar.gz").write_bytes(b"other")
    with pytest.raises(DataError, match=r"has sha256 .* not 5d7c06e0"):
        ratings.prepare(tmp_path / "data", source=tmp_path / "other.tar.gz")
    with pytest.raises(DataError, match=r"line 1 of .* is not"):
        ratings.parse("no tabs here")
