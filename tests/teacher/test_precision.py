"""What a teacher runs in: settled when its dump begins, recorded, and kept by whoever continues."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kdcache.cache.reader import Cache
from kdcache.core.errors import KDCacheError
from kdcache.teacher import checkpoints, dump
from kdcache.teacher.checkpoints import compute_type
from kdcache.teacher.settings import DumpConfig
from kdcache.training import checkpoint
from kdcache.training.run import load_run

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, Path]:
    """Checkpoints of 12 numbers in several types."""
    folders = {}
    for name, dtypes in {
        "float32": (torch.float32, torch.float32),
        "bfloat16": (torch.bfloat16, torch.bfloat16),
        "float16": (torch.float16, torch.float32),
    }.items():
        folders[name] = tmp_path / name
        folders[name].mkdir()
        tensors = {
            "encoder.a": torch.ones(8, dtype=dtypes[0]),
            "encoder.embed_tokens.b": torch.ones(4, dtype=dtypes[1]),
        }
        save_file(tensors, folders[name] / "model.safetensors")
    return folders


def test_the_size_of_a_checkpoint_is_read_from_its_headers(stored: dict[str, Path]) -> None:
    sizes = {name: checkpoint.size(folder) for name, folder in stored.items()}
    assert {(size.parameters, size.encoder) for size in sizes.values()} == {(12, 8)}
    assert [size.sixteen_bits for size in sizes.values()] == [False, True, True]


@pytest.mark.parametrize(
    ("name", "device", "billion", "expected"),
    [
        ("float32", CPU, 12, "float32"),
        ("bfloat16", CPU, 12, "float32"),
        ("float32", CUDA, 13, "float32"),
        ("float32", CUDA, 12, "bfloat16"),
        ("bfloat16", CUDA, 13, "bfloat16"),
        ("float16", CUDA, 13, "bfloat16"),
    ],
)
def test_auto_is_settled_by_device_type_and_size(
    stored: dict[str, Path],
    name: str,
    device: torch.device,
    billion: int,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoints, "BILLION", billion)
    assert compute_type(DumpConfig(), stored[name], device, recorded=None) == expected
    for recorded in ("float32", "bfloat16"):
        assert compute_type(DumpConfig(), stored[name], device, recorded=recorded) == recorded
        asked = DumpConfig(precision="float32")
        assert compute_type(asked, stored[name], device, recorded=recorded) == "float32"


def test_a_dump_that_continues_keeps_what_it_began_with(
    forty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*settings: str) -> dump.DumpResult:
        file = load_run(forty, overrides=[f"dump.{s}" for s in ("top_k=8", *settings)], out=tmp_path)
        return dump.run(file, teachers=[f"t={forty.parent / 'teacher'}"], device="cpu")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert not run("precision=bfloat16").sealed
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    assert run().sealed  # auto on a CPU would have been float32
    assert Cache.open(tmp_path / "cache").teacher("t").dtype == "bfloat16"
    with pytest.raises(KDCacheError, match=r"whose dtype is 'bfloat16', this one's is 'float32'"):
        run("precision=float32")


def test_weights_of_another_checkpoint_under_the_name_do_not_count(forty: Path, tmp_path: Path) -> None:
    file = load_run(forty, overrides=["dump.top_k=8", "dump.precision=bfloat16"], out=tmp_path)
    dump.run(file, teachers=[f"t={forty.parent / 'teacher'}"], device="cpu")
    (name, weights), dtype = next(iter(checkpoints.recorded_types(tmp_path / "cache").items()))
    assert (name, dtype) == ("t", "bfloat16")
    assert weights == checkpoint.weight_digest(forty.parent / "teacher")
    assert checkpoints.recorded_types(tmp_path / "nowhere") == {}
