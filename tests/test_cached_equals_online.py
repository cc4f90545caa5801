"""The same student, seed and batches give the same loss at every step, with the teacher in memory and from a cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kdcache.cache.reader import Cache
from kdcache.core.types import Item
from tools import online
from tools.lm_rows import next_token_item
from tools.online import Kept, Schedule

pytestmark = pytest.mark.slow

V, LENGTH, NUM_ITEMS = 300, 12, 40
STORES = (
    Kept(name="dense", store="topk", codec="fast", top_k=V),
    Kept(name="float32", store="hidden", codec="float32"),
    Kept(name="float16", store="hidden", codec="float16"),
)
LARGEST = {"dense": 1e-5, "float32": 1e-5, "float16": 1e-3}
SCHEDULE = Schedule(steps=50)


def llama(layers: int, *, seed: int) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.2,  # logits that spread over some nats
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def teacher() -> Any:
    return llama(2, seed=0)


@pytest.fixture(scope="module")
def student() -> Any:
    return llama(1, seed=1)


@pytest.fixture(scope="module")
def items() -> Sequence[Item]:
    tokens_IT = np.random.default_rng(0).zipf(1.5, size=(NUM_ITEMS, LENGTH)).clip(max=V) - 1
    return [next_token_item(f"{i}", tokens_T, V) for i, tokens_T in enumerate(tokens_IT)]


@pytest.fixture(scope="module")
def cache(teacher: Any, items: Sequence[Item], tmp_path_factory: pytest.TempPathFactory) -> Cache:
    root: Path = tmp_path_factory.mktemp("cache")
    return online.write_cache(root, teacher, items, STORES)


@pytest.fixture(scope="module")
def wanted(teacher: Any, student: Any, items: Sequence[Item]) -> dict[str, list[float]]:
    return {
        name: online.train_online(configuration, student, teacher, items, SCHEDULE)
        for name, configuration in online.configurations().items()
    }


@pytest.mark.parametrize("store", LARGEST)
@pytest.mark.parametrize("name", online.configurations())
def test_cached_distillation_has_the_online_loss_at_every_step(
    name: str, store: str, cache: Cache, student: Any, wanted: dict[str, list[float]]
) -> None:
    found = online.train_cached(online.configurations()[name], student, cache, store, SCHEDULE)
    assert len(found) == SCHEDULE.steps
    assert online.largest_difference(found, wanted[name]) <= LARGEST[store]


@pytest.mark.parametrize("name", online.configurations())
def test_the_student_of_the_comparison_learns(name: str, wanted: dict[str, list[float]]) -> None:
    assert wanted[name][-1] < wanted[name][0]


def test_another_seed_gives_other_losses(cache: Cache, student: Any, wanted: dict[str, list[float]]) -> None:
    configuration = online.configurations()["ce untied"]
    other = online.train_cached(configuration, student, cache, "float32", Schedule(steps=3, seed=1))
    assert online.largest_difference(other, wanted["ce untied"][:3]) > 1e-3
