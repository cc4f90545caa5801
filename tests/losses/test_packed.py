"""Rows expanded on the device are those that the cache's own codecs decode."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kdcache.cache import codec
from kdcache.cache.codecs import rotation as numpy_rotation
from kdcache.core.errors import IncompatibleTargets
from kdcache.core.row_format import RowFormat
from kdcache.core.types import HiddenRows, PackedRows, SparseRows
from kdcache.losses import packed as packing
from kdcache.losses import rotation
from kdcache.losses.head import Head
from kdcache.losses.packed import PackedTargets, Teacher, read_head, unpack
from kdcache.losses.selection import select
from kdcache.losses.targets import HiddenTargets, Mixture, SparseTargets, from_rows, to_rows

R = 9


def _sparse_rows(classes: int, *, top_k: int, top_p: float = 1.0) -> SparseRows:
    logits = torch.randn(R, classes, generator=torch.Generator().manual_seed(classes)) * 2
    sizes = torch.full((R,), classes)
    sizes[2], sizes[5] = classes // 2, min(classes, 5)  # ragged, one of them with fewer classes than are kept
    targets = select(logits, torch.full((R,), -100), sizes, top_k=top_k, top_p=top_p)
    return to_rows(targets, rows_per_item=np.ones(R, dtype=np.int64))


def _pack(rows: SparseRows | HiddenRows, **settings: object) -> PackedRows:
    row_format = RowFormat.of(**settings)  # type: ignore[arg-type]
    generator = np.random.default_rng(0)
    shared: dict[str, np.ndarray] = {}
    if row_format.codec == "compact":
        shared = {"id_table": generator.permutation(row_format.num_classes).astype(np.int32)}
    if row_format.codec == "int8":
        mean = generator.normal(size=row_format.hidden_size).astype(np.float32)
        shared = {"mean": mean, "rotation_seed": np.array([7], dtype=np.int64)}
    return codec.pack(rows, row_format, shared)


@pytest.mark.parametrize("top_p", [1.0, 0.7])
@pytest.mark.parametrize("classes", [300, 70_000])
@pytest.mark.parametrize("name", ["fast", "compact"])
def test_sparse_rows_are_expanded_to_the_same_bits(name: str, classes: int, top_p: float) -> None:
    packed = _pack(_sparse_rows(classes, top_k=8, top_p=top_p), codec=name, num_classes=classes, top_k=8, top_p=top_p)
    found, decoded = unpack(packed, device="cpu"), codec.unpack(packed)
    assert isinstance(decoded, SparseRows)
    assert isinstance(found, SparseTargets)
    expected = from_rows(decoded)
    width = expected.ids_RK.shape[1]
    for field in ("num_kept_R", "num_classes_R", "lse_R", "gold_R", "moments_R2"):
        torch.testing.assert_close(getattr(found, field), getattr(expected, field), rtol=0, atol=0, equal_nan=True)
    assert found.ids_RK[:, :width].tolist() == expected.ids_RK.tolist()
    assert found.logprobs_RK[:, :width].tolist() == expected.logprobs_RK.tolist()
    torch.testing.assert_close(found.atoms_RN2, expected.atoms_RN2, rtol=2e-7, atol=1e-6)


def test_dense_rows_are_expanded_to_the_same_bits() -> None:
    packed = _pack(_sparse_rows(12, top_k=12), codec="dense", num_classes=12, top_k=12, num_atoms=0)
    found, decoded = unpack(packed, device="cpu"), codec.unpack(packed)
    assert isinstance(decoded, SparseRows)
    assert isinstance(found, SparseTargets)
    expected = from_rows(decoded)
    assert found.ids_RK.tolist() == expected.ids_RK.tolist()
    assert found.logprobs_RK.tolist() == expected.logprobs_RK.tolist()
    assert found.atoms_RN2.shape == (R, 0, 2)


def _hidden_rows(size: int) -> HiddenRows:
    generator = np.random.default_rng(1)
    return HiddenRows(
        row_ptr=np.arange(R + 1),
        hidden=(generator.normal(size=(R, size)) * generator.uniform(0.1, 9, size)).astype(np.float32),
        num_classes=np.full(R, 20, dtype=np.int32),
        lse=np.zeros(R, dtype=np.float32),
        gold=np.full(R, np.nan, dtype=np.float32),
    )


@pytest.mark.parametrize("size", [1, 6, 8, 48])
@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "int8"])
def test_hidden_vectors_are_expanded_to_the_same_numbers(name: str, size: int) -> None:
    settings = {"store": "hidden", "codec": name, "hidden_size": size}
    packed = _pack(_hidden_rows(size), **settings, num_classes=20, top_k=0, num_atoms=0)
    head = Head(weight_VD=torch.randn(20, size))
    found, decoded = unpack(packed, device="cpu", head=head), codec.unpack(packed)
    assert isinstance(found, HiddenTargets)
    assert isinstance(decoded, HiddenRows)
    np.testing.assert_array_equal(found.hidden_RD.float().numpy(), decoded.hidden)
    assert found.head.weight_VD.data_ptr() == head.weight_VD.data_ptr()
    with pytest.raises(IncompatibleTargets, match=r"logits only through their teacher's head; read it with Cache.head"):
        unpack(packed, device="cpu")


@pytest.mark.parametrize("size", [1, 2, 6, 64, 100])
def test_the_rotation_of_the_cache_is_undone_bit_by_bit(size: int) -> None:
    vectors = np.random.default_rng(size).normal(size=(4, size)).astype(np.float32)
    rotated = numpy_rotation.rotate(vectors, seed=3)
    found = rotation.rotate_back(torch.from_numpy(rotated), rotation.windows(size, seed=3, device="cpu")).numpy()
    np.testing.assert_array_equal(found, numpy_rotation.rotate_back(rotated, seed=3))
    np.testing.assert_allclose(found, vectors, atol=1e-5)


def test_a_head_is_read_in_float32_with_scale_and_cap() -> None:
    weight = torch.randn(5, 3).bfloat16()
    bits = weight.view(torch.int16).numpy().view(np.uint16)
    scale, cap = np.array([0.5], dtype=np.float32), np.array([30.0], dtype=np.float32)
    head = read_head({"weight": bits, "bias": np.ones(5, np.float16), "scale": scale, "soft_cap": cap})
    assert head.weight_VD.tolist() == weight.float().tolist()
    assert (head.scale, head.soft_cap) == (0.5, 30.0)
    assert head.bias_V is not None
    assert head.bias_V.dtype == torch.float32
    assert read_head({"weight": bits}).bias_V is None


def test_tables_and_head_go_to_a_device_once_and_two_teachers_make_a_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    share = packing.share
    monkeypatch.setattr(packing, "share", lambda *a: calls.append(a) or share(*a))
    rows = _pack(_hidden_rows(6), store="hidden", codec="int8", num_classes=20, top_k=0, hidden_size=6, num_atoms=0)
    teacher = Teacher(head={"weight": np.ones((20, 6), np.float32)})
    sparse = _pack(_sparse_rows(20, top_k=4), codec="compact", num_classes=20, top_k=4)
    both = PackedTargets(rows=(rows, sparse), teachers=(teacher, Teacher()), weight=0.25)
    mixture = both.to("cpu")
    again = PackedTargets(rows=(rows,), teachers=(teacher,)).to("cpu")
    assert isinstance(mixture, Mixture)
    assert mixture.weight == 0.25
    assert isinstance(again, HiddenTargets)
    assert len(calls) == 2


def test_arrays_that_cannot_be_written_to_are_copied() -> None:
    packed = _pack(_sparse_rows(300, top_k=8), codec="fast", num_classes=300, top_k=8)
    arrays = {name: array.copy() for name, array in packed.arrays.items()}
    for array in arrays.values():
        array.flags.writeable = False
    found = unpack(replace(packed, arrays=arrays), device="cpu")
    assert isinstance(found, SparseTargets)
    assert found.ids_RK.tolist() == unpack(packed, device="cpu").ids_RK.tolist()  # type: ignore[union-attr]
