"""A cache in plain numbers."""

import json
import subprocess
import sys

import pytest

from kdcache.cache.reader import Cache
from kdcache.cache.summary import describe_cache
from kdcache.core.config import plain
from kdcache.describe.cache import render, tree


def test_the_summary_counts_splits_forwards_and_every_byte(sealed):
    summary = describe_cache(Cache.open(sealed))
    assert plain(summary.splits["train"]) == {"items": 11, "rows": 11, "labels": 11, "tokens": 53}
    assert tuple(summary.teachers) == ("t_hs", "t_ll")
    teacher = summary.teachers["t_ll"]
    assert (teacher.forwards, teacher.forwards_per_item) == (15, 1.0)
    assert teacher.signature["test"] == "kdcache1|toy@3f2a.test|roberta-large@0000:t_ll|topk64|items4"
    assert teacher.bytes_per_row == teacher.bytes_on_disk / 15
    on_disk = sum(
        p.stat().st_size
        for p in sealed.rglob("*")
        if p.is_file() and p.parent.name not in ("manifests",) and "commits" not in p.parts
    )
    assert summary.total_bytes == sum(summary.bytes_on_disk.values()) == on_disk
    assert (summary.sealed, summary.format, summary.num_blocks) == (True, "1.0", 3)


def test_the_summary_is_json(sealed):
    summary = describe_cache(Cache.open(sealed))
    assert json.loads(json.dumps(tree(summary)))["dataset"] == "toy@3f2a9c0011223344"


def test_an_unfinished_cache_has_a_summary_too(toy, tmp_path):
    toy.writer(tmp_path / "c")
    summary = describe_cache(Cache.open(tmp_path / "c", allow_incomplete=True))
    assert (summary.sealed, summary.teachers) == (False, {})


def test_reading_a_cache_needs_no_torch():
    code = "import sys, kdcache.cache.summary, kdcache.cache.loader; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ("dense", "    dense, lz4; "),
        ("fast", "    top 8 with 5 tail atoms, codec fast, lz4; "),
        ("compact", "    top 8 with 5 tail atoms, codec compact, lz4; "),
        ("int8", "    hidden vectors of 12, codec int8, lz4; "),
    ],
)
def test_the_summary_says_what_is_kept_and_what_it_costs(make_toy, tmp_path, store, words):
    toy = make_toy(num_classes=50)
    if store == "int8":
        toy.dump_hidden(tmp_path / "c", codec=store)
    else:
        toy.dump(tmp_path / "c", top_k=50 if store == "dense" else 8, codec=store)
    summary = describe_cache(Cache.open(tmp_path / "c"))
    teacher = summary.teachers["t_hs"]
    shared = sum(path.stat().st_size for path in (tmp_path / "c" / "teachers" / "t_hs").glob("*.safetensors"))
    assert teacher.bytes_shared == shared
    text = render(summary)
    assert words in text
    assert f"{teacher.bytes_per_row:.1f} bytes a row" in text
    assert (" once" in text) == (shared > 0)
    assert json.loads(json.dumps(tree(summary)))["teachers"]["t_hs"]["identity"]["codec"] == store
