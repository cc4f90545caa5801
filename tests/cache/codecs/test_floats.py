"""Hidden vectors as floats."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcache.cache.codec import check_arrays, encode
from kdcache.cache.codecs.floats import from_bfloat16, from_float16, to_bfloat16
from kdcache.core.errors import CacheDamaged, CacheError

from ..conftest import build_head, build_hidden, build_item, build_teacher


@given(values=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=30))
def test_bfloat16_is_rounded_as_torch_rounds(values):
    values = np.array(values, np.float32)
    theirs = torch.from_numpy(values).bfloat16()
    np.testing.assert_array_equal(to_bfloat16(values), theirs.view(torch.uint16).numpy())
    np.testing.assert_array_equal(from_bfloat16(to_bfloat16(values)), theirs.float().numpy())


def test_nan_becomes_the_fill():
    assert to_bfloat16(np.array([np.nan], np.float32)).tolist() == [0xFFFF]


def case(codec):
    items = [build_item("a", num_rows=3, num_classes=9)]
    rows = build_hidden(items, build_head(num_classes=9, hidden_size=4))
    return rows, build_teacher(store="hidden", codec=codec, top_k=0, hidden_size=4, num_classes=9)


@pytest.mark.parametrize(("codec", "value"), [("float16", 70_000), ("bfloat16", 3.4e38), ("float32", np.inf)])
def test_a_vector_beyond_the_type_is_refused(codec, value):
    rows, identity = case(codec)
    rows = dataclasses.replace(rows, hidden=np.where(np.arange(4) == 1, np.float32(value), rows.hidden))
    with pytest.raises(CacheError, match=f"row 0 has a hidden vector that is not finite in {codec}; choose codec bf"):
        encode(rows, identity.row_format, {})


@pytest.mark.parametrize("codec", ["float32", "float16", "bfloat16"])
def test_one_component_lost_or_added_is_damage(codec):
    rows, identity = case(codec)
    arrays = encode(rows, identity.row_format, {}, num_rows=4)
    for source, target in ((3, 1), (1, 3)):
        broken = {**arrays, "hidden": arrays["hidden"].copy()}
        broken["hidden"][target, 2] = arrays["hidden"][source, 2]
        with pytest.raises(CacheDamaged, match="hidden has a hole, or values where no row is"):
            check_arrays(broken, identity.row_format, {})


def test_every_finite_float16_becomes_its_float32():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    assert from_float16(finite).tobytes() == finite.astype(np.float32).tobytes()
