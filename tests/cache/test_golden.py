"""A cache of every released minor stays here and must read for ever. `tools/make_golden.py` writes it."""

import json
from pathlib import Path

import numpy as np
import pytest

from kdcache.cache.codec import pack, unpack
from kdcache.cache.codecs import CODECS
from kdcache.cache.reader import Cache
from kdcache.cache.verify import verify
from kdcache.core.types import PackedRows
from tools import make_golden

GOLDEN = Path(__file__).parents[1] / "golden"


def test_a_cache_of_format_1_0_still_gives_its_items():
    cache = Cache.open(GOLDEN / "cache-1.0")
    assert cache.plan.splits == ("train",)
    item = cache.items(np.array([1]))[0]
    assert (item.uid, item.inputs["input_ids"].tolist()) == ("i1", [7, 2001, 29999])
    assert (item.labels_R.tolist(), item.meta) == ([0, 3], {"language": "de", "answers": ["ä"]})


@pytest.mark.parametrize(
    ("teacher", "field", "values"),
    [
        ("dense", "logprobs", [-3.1748735904693604, -4.799873352050781, -4.674873352050781, -4.112373352050781]),
        ("fast", "logprobs", [-1.4873046875, -1.9873046875, -2.17578125, -2.48828125]),
        ("compact", "logprobs", [-1.4873046875, -1.9873046875, -2.1748046875, -2.4873046875]),
        ("fast", "ids", [19, 12, 14, 5]),
        ("compact", "ids", [19, 12, 14, 5]),
        ("float32", "hidden", [-0.625, -0.25, 0.125, 0.5]),
        ("float16", "hidden", [-0.625, -0.25, 0.125, 0.5]),
        ("bfloat16", "hidden", [-0.625, -0.25, 0.125, 0.5]),
        ("int8", "hidden", [-0.625, -0.25, 0.125, 0.5]),
    ],
)
def test_a_cache_of_format_1_0_still_gives_its_rows(teacher, field, values):
    rows = Cache.open(GOLDEN / "cache-1.0").rows(teacher, np.arange(3))
    np.testing.assert_allclose(getattr(rows, field).ravel()[:4], values, rtol=0, atol=1e-6 if teacher == "int8" else 0)
    lse = [3.9248046875, 3.8076171875] if teacher in ("fast", "compact") else [3.9248735904693604, 3.8076210021972656]
    assert rows.lse[:2].tolist() == lse
    assert rows.gold[[0, 2]].tolist() == pytest.approx([-4.299874, rows.gold[2]])
    assert np.isnan(rows.gold).tolist() == [False, True, False, False, True, False]


def test_a_cache_of_format_1_0_has_a_teacher_of_each_codec_and_is_sound():
    cache = Cache.open(GOLDEN / "cache-1.0")
    assert sorted((t.row_format.store, t.row_format.codec) for t in cache.teachers.values()) == sorted(CODECS)
    assert verify(GOLDEN / "cache-1.0", deep=True) == ()


def golden_rows(codec):
    store = next(s for s, c in CODECS if c == codec)
    num_classes = {"topk": make_golden.NUM_CLASSES, "hidden": 50}[store] if codec != "dense" else 9
    identity, tables = make_golden.make_teacher(store, codec, num_classes)
    head = make_golden.make_head(num_classes)
    return identity, tables, make_golden.make_rows(identity, make_golden.make_items(num_classes)[:2], head)


def from_tree(tree):
    return {n: np.frombuffer(bytes.fromhex(a["hex"]), a["dtype"]).reshape(a["shape"]) for n, a in tree.items()}


@pytest.mark.parametrize("codec", [codec for _, codec in CODECS])
def test_bytes_of_a_small_block_are_frozen(codec):
    # Literal on purpose: a change here makes every cache in the world unreadable.
    golden = json.loads((GOLDEN / "blocks.json").read_text())[codec]
    identity, tables, rows = golden_rows(codec)
    arrays, decoded = from_tree(golden["arrays"]), from_tree(golden["decoded"])
    row_format = identity.row_format
    packed = PackedRows(row_ptr=np.array([0, 2, 4]), store=row_format.store, codec=codec, arrays=arrays, shared=tables)
    found = unpack(packed)
    for name, array in decoded.items():
        values = getattr(found, name)
        kept = values[found.kept] if name in ("ids", "logprobs") else values
        assert (kept.dtype, kept.tobytes()) == (array.dtype, array.tobytes()), name
    written = pack(rows, row_format, tables).arrays
    assert {n: (a.dtype, a.tobytes()) for n, a in written.items()} == {
        n: (a.dtype, a.tobytes()) for n, a in arrays.items()
    }
