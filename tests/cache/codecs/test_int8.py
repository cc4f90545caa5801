"""Hidden vectors in one byte a component."""

import dataclasses

import numpy as np
import pytest

from kdcache.cache.codec import check_arrays, encode, pack, unpack
from kdcache.core.errors import CacheDamaged, CacheError

from ..conftest import build_head, build_hidden, build_item, build_teacher

SIZE = 96


def vectors(num_rows=64):
    """As a transformer's last layer has them: a large common offset and two outlying components."""
    random = np.random.default_rng(0)
    made = random.normal(size=(num_rows, SIZE)) + 3 * random.normal(size=SIZE)
    made[:, [5, 40]] *= 30
    return made.astype(np.float32)


def case(*, mean=True):
    items = [build_item("a", num_rows=64, num_classes=9)]
    rows = build_hidden(items, build_head(num_classes=9, hidden_size=SIZE))
    rows = dataclasses.replace(rows, hidden=vectors())
    identity = build_teacher(store="hidden", codec="int8", top_k=0, hidden_size=SIZE, num_classes=9)
    centre = rows.hidden.mean(axis=0) if mean else np.zeros(SIZE, np.float32)
    return rows, identity, {"mean": centre, "rotation_seed": np.array([3], np.int64)}


def error(rows, identity, tables):
    found = unpack(pack(rows, identity.row_format, tables)).hidden
    return float(np.linalg.norm(found - rows.hidden) / np.linalg.norm(rows.hidden - rows.hidden.mean(axis=0)))


def test_mean_and_rotation_make_the_error_small():
    rows, identity, tables = case()
    assert error(rows, identity, tables) < 0.012
    unrotated = np.abs(rows.hidden).max(axis=1, keepdims=True) / 127
    plain = np.rint(rows.hidden / unrotated) * unrotated
    ours = unpack(pack(rows, identity.row_format, tables)).hidden
    assert np.linalg.norm((plain - rows.hidden)[:, :5]) > 3 * np.linalg.norm((ours - rows.hidden)[:, :5])
    assert error(*case(mean=False)) > 1.2 * error(rows, identity, tables)


def test_codes_fill_their_range_and_leave_out_the_fill():
    rows, identity, tables = case()
    arrays = encode(rows, identity.row_format, tables)
    assert np.abs(arrays["hidden"].astype(int)).max(axis=1).tolist() == [127] * 64
    assert arrays["hidden"].min() > -128


def test_a_vector_equal_to_the_mean_has_scale_zero():
    rows, identity, tables = case()
    rows = dataclasses.replace(rows, hidden=np.tile(tables["mean"], (64, 1)))
    arrays = encode(rows, identity.row_format, tables)
    check_arrays(arrays, identity.row_format, tables)
    assert arrays["scale"].max() == 0
    np.testing.assert_array_equal(unpack(pack(rows, identity.row_format, tables)).hidden, rows.hidden)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scale", -1.0, "scale is negative, not finite, or stands where no row is"),
        ("scale", np.inf, "scale is negative, not finite, or stands where no row is"),
        ("hidden", -128, "hidden has a hole, or values where no row is"),
    ],
)
def test_values_that_no_encoder_writes_are_damage(name, value, message):
    rows, identity, tables = case()
    arrays = encode(rows, identity.row_format, tables)
    arrays[name][2] = value
    with pytest.raises(CacheDamaged, match=message):
        check_arrays(arrays, identity.row_format, tables)


def test_a_vector_that_is_not_finite_is_refused():
    rows, identity, tables = case()
    rows = dataclasses.replace(rows, hidden=np.where(np.arange(SIZE) == 1, np.nan, rows.hidden).astype(np.float32))
    with pytest.raises(CacheError, match="row 0 has a hidden vector that is not finite"):
        encode(rows, identity.row_format, tables)
