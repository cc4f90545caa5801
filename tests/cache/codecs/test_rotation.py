"""The rotation of int8: orthogonal, frozen, spreading."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.cache.codecs.rotation import rotate, rotate_back


@settings(max_examples=30)
@given(size=st.integers(1, 70), seed=st.integers(0, 2**40))
def test_the_rotation_is_orthogonal_at_every_size(size, seed):
    matrix = rotate(np.eye(size, dtype=np.float32), seed=seed)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-5)
    np.testing.assert_allclose(rotate_back(matrix, seed=seed), np.eye(size), atol=1e-5)


def test_the_rotation_of_six_numbers_is_frozen():
    # Literal on purpose: a change here makes every int8 cache in the world unreadable.
    found = rotate(np.arange(1, 7, dtype=np.float32)[None], seed=7)
    assert found[0].tolist() == [2.0, 0.0, -8.5, -1.5, 2.5, -2.5]


def test_hadamard_order_is_the_natural_one():
    size = 4
    signs = np.sign(rotate(np.array([[1, 0, 0, 0]], np.float32), seed=1))[0]
    matrix = rotate(np.eye(size, dtype=np.float32), seed=1) * np.sign(
        rotate(np.eye(size, dtype=np.float32), seed=1)[:, :1]
    )
    np.testing.assert_allclose(matrix * 2, [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    assert abs(signs).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("size", [64, 96, 576])
def test_one_large_component_is_spread_over_at_least_half(size):
    for place in (0, size // 2, size - 1):
        vector = np.zeros((1, size), np.float32)
        vector[0, place] = 1
        spread = rotate(vector, seed=0)
        assert np.abs(spread).max() <= 5 / size**0.5
        assert (spread != 0).sum() >= size / 2
