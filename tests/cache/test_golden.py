"""A cache of every released minor stays here and must read for ever."""

from pathlib import Path

import numpy as np

from kdcache.cache.reader import Cache
from kdcache.cache.verify import verify

GOLDEN = Path(__file__).parents[1] / "golden" / "cache-1.0"


def test_a_cache_of_format_1_0_still_gives_its_items():
    cache = Cache.open(GOLDEN)
    assert cache.manifest_digest == "6d492f4ceba2f69c24d6e7dac7135854ffa78561e46055573ab8f6467224057b"
    assert cache.plan.splits == ("train", "test")
    item = cache.items(np.array([1]))[0]
    assert (item.uid, item.inputs["input_ids"].tolist()) == ("train1", [29317, 2733, 1284, 12179])
    assert (item.labels_R.tolist(), item.meta) == ([8, 0], {"language": "de", "answers": ["ä"]})


def test_a_cache_of_format_1_0_still_gives_its_rows_sparse_and_dense():
    cache = Cache.open(GOLDEN)
    rows = cache.rows("t_ll", np.arange(5))
    assert np.diff(rows.entry_ptr).tolist() == [4, 4, 4, 4, 4, 4, 4, 4, 3]
    assert rows.ids[:8].tolist() == [6, 7, 2, 5, 2, 4, 8, 7]
    assert rows.logprobs[:4].tolist() == [-0.78515625, -1.4990234375, -2.111328125, -2.669921875]
    assert rows.lse[[0, -1]].tolist() == [3.392963409423828, 3.361894130706787]
    assert rows.atoms[0, 0].tolist() == [-3.6474609375, 1.6094379425048828]
    assert rows.gold[[0, -1]].tolist() == [-0.78515625, -4.665476322174072]
    assert cache.signature("test", "t_hs") == "kdcache1|toy@3f2a.test|roberta-large@a1b2:t_hs|topk4|items1"


def test_a_cache_of_format_1_0_is_sound():
    assert verify(GOLDEN, deep=True) == ()
