"""A cache in plain numbers."""

import json
import subprocess
import sys

from kdcache.cache.reader import Cache
from kdcache.cache.summary import describe_cache
from kdcache.core.config import plain


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
    assert json.loads(json.dumps(plain(summary)))["dataset"] == "toy@3f2a9c0011223344"


def test_an_unfinished_cache_has_a_summary_too(toy, tmp_path):
    toy.writer(tmp_path / "c")
    summary = describe_cache(Cache.open(tmp_path / "c", allow_incomplete=True))
    assert (summary.sealed, summary.teachers) == (False, {})


def test_reading_a_cache_needs_no_torch():
    code = "import sys, kdcache.cache.summary, kdcache.cache.loader; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
