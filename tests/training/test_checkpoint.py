"""A checkpoint is whole or it is the older one."""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kdcache.core.errors import ModelError
from kdcache.training import checkpoint
from tests.tiny import write_model
from tests.training import small


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tokenizer"))


def save(folder: Path, tokenizer_folder: Path, *, bias: float = 0.0) -> dict[str, torch.Tensor]:
    model = small.build_bert()
    state = model.state_dict() | {"classifier.bias": torch.full((2,), bias)}
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    checkpoint.save(folder, model=model, state=state, tokenizer=tokenizer)
    return state


def test_a_checkpoint_is_loaded_as_it_was_given_with_its_tokenizer(tmp_path: Path, tokenizer_folder: Path):
    state = save(tmp_path / "best", tokenizer_folder, bias=7.0)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "best").state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert AutoTokenizer.from_pretrained(tmp_path / "best")("the film").input_ids == [2, 4, 5, 3]


def test_a_later_checkpoint_replaces_the_older_and_leaves_nothing_else(tmp_path: Path, tokenizer_folder: Path):
    save(tmp_path / "best", tokenizer_folder)
    before = checkpoint.weight_digest(tmp_path / "best")
    save(tmp_path / "best", tokenizer_folder, bias=1.0)
    assert checkpoint.weight_digest(tmp_path / "best") != before
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may grow beyond 4 kB: what a full disk looks like to a writer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_cannot_be_written_leaves_the_older_one(
    tmp_path: Path, tokenizer_folder: Path, request: pytest.FixtureRequest
):
    save(tmp_path / "best", tokenizer_folder)
    before = checkpoint.weight_digest(tmp_path / "best")
    request.getfixturevalue("small_disk")
    with pytest.raises(ModelError, match=r"cannot write the checkpoint \S+/best: .*File too large.*; free space there"):
        save(tmp_path / "best", tokenizer_folder, bias=1.0)
    assert checkpoint.weight_digest(tmp_path / "best") == before
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_file_in_the_way_is_named(tmp_path: Path, tokenizer_folder: Path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ModelError, match=r"cannot write the checkpoint \S+/out/best: Not a directory"):
        save(tmp_path / "out" / "best", tokenizer_folder)


def test_the_older_folder_comes_back_where_the_newer_cannot_take_its_place(tmp_path: Path):
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "weights").write_text("old")
    with pytest.raises(FileNotFoundError):
        checkpoint.replace_folder(tmp_path / "nowhere", tmp_path / "best")
    assert (tmp_path / "best" / "weights").read_text() == "old"


def test_a_digest_is_that_of_the_weight_files_in_name_order_and_of_nothing_else(tmp_path: Path):
    (tmp_path / "b.safetensors").write_bytes(b"two")
    (tmp_path / "a.safetensors").write_bytes(b"one")
    inner = hashlib.sha256(b"one").digest() + hashlib.sha256(b"two").digest()
    wanted = hashlib.sha256(inner).hexdigest()[:16]
    assert checkpoint.weight_digest(tmp_path) == wanted
    (tmp_path / "config.json").write_text("{}")
    assert checkpoint.weight_digest(tmp_path) == wanted


def test_a_folder_without_safetensors_has_no_digest(tmp_path: Path):
    with pytest.raises(ModelError, match=r"holds no safetensors weights; save the teacher with save_pretrained"):
        checkpoint.weight_digest(tmp_path)
