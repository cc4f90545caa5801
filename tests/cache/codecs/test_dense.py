"""All classes in class order."""

import dataclasses

import numpy as np
import pytest

from kdcache.cache.codec import check_arrays, encode, pack, unpack
from kdcache.core.errors import CacheDamaged, CacheError

from ..conftest import build_item, build_rows, identity_of


def rows_of(*classes):
    return build_rows([build_item(f"i{n}", num_classes=v) for n, v in enumerate(classes)], top_k=max(classes))


def test_dense_rows_are_float32_in_class_order_whatever_order_they_come_in():
    rows = rows_of(3)
    turned = dataclasses.replace(rows, ids=rows.ids[:, ::-1], logprobs=rows.logprobs[:, ::-1])
    packed = pack(turned, identity_of(rows).row_format, {})
    assert sorted(packed.arrays) == ["gold", "logprobs", "lse", "num_classes", "num_kept"]
    assert packed.arrays["logprobs"].dtype == np.float32
    assert packed.arrays["logprobs"].tolist() == rows.logprobs.tolist()
    assert unpack(packed).ids.tolist() == [[0, 1, 2]]


def test_rows_of_fewer_classes_are_filled_and_come_back():
    rows = rows_of(2, 5)
    packed = pack(rows, identity_of(rows).row_format, {})
    assert np.isnan(packed.arrays["logprobs"][0]).tolist() == [False, False, True, True, True]
    assert unpack(packed).logprobs.tolist() == rows.logprobs.tolist()


def test_a_row_that_does_not_keep_all_its_classes_is_refused():
    rows = build_rows([build_item("a", num_classes=9)], top_k=4)
    with pytest.raises(CacheError, match="row 0 keeps 4 of 9 classes; codec dense keeps all of them: raise top_k"):
        encode(rows, identity_of(rows, top_k=9).row_format, {})


def test_a_class_kept_twice_is_refused():
    rows = rows_of(3)
    with pytest.raises(CacheError, match="not finite in float32, or keeps a class twice"):
        encode(dataclasses.replace(rows, ids=np.array([[0, 0, 1]])), identity_of(rows).row_format, {})


def test_a_count_other_than_v_is_damage():
    rows = rows_of(5, 5)
    arrays = encode(rows, identity_of(rows).row_format, {})
    arrays["num_kept"][1] = 4
    with pytest.raises(CacheDamaged, match="num_kept 4 of 5 classes at row 1 is impossible"):
        check_arrays(arrays, identity_of(rows).row_format, {})
