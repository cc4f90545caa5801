"""Model families that generate go through dump and distillation: tiny random models are the teachers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    LlamaConfig,
    MarianConfig,
    MBartConfig,
    Qwen2Config,
    T5Config,
)

from kdcache.cache.reader import Cache
from tests.tiny import call
from tests.tiny_text import write_dialogues, write_llama, write_mbart, write_translation

pytestmark = pytest.mark.slow

BART: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
LLAMA: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "bart": (BartConfig, {**BART, "decoder_start_token_id": 2}),
    "marian": (MarianConfig, {**BART, "decoder_start_token_id": 0}),
    "mbart": (MBartConfig, {**BART, "pad_token_id": 1, "bos_token_id": 0}),
    "t5": (T5Config, T5),
    "llama": (LlamaConfig, LLAMA),
    "qwen2": (Qwen2Config, {**LLAMA, "tie_word_embeddings": True}),
}


def write_study(folder: Path, family: str) -> Path:
    """A random teacher, its student and a run file."""
    config, settings = FAMILIES[family]
    seq2seq = family in ("bart", "marian", "mbart", "t5")
    (write_mbart if family == "mbart" else write_llama)(folder / "base", layers=1)
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    torch.manual_seed(1)
    auto = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    model = auto.from_config(config(vocab_size=len(tokenizer) + 8, **settings))
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder / "base")
    dataset = (write_translation if seq2seq else write_dialogues)(folder)
    run = {
        "out": str(folder / "out"),
        "dataset": {**dataset, "max_length": 60, "limit": {"train": 16, "validation": 4, "test": 4}},
        "models": {
            "teacher": {"path": str(folder / "base")},
            "students": {"half": {"path": str(folder / "base"), "layers": 1}},
        },
        "student": {"epochs": 1, "batch_size": 8, "learning_rate": 0.003, "tau_t": 2},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run, allow_unicode=True))
    return folder / "run.yaml"


@pytest.mark.parametrize("store", ["topk", "hidden"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_dumped_and_distilled(tmp_path: Path, family: str, store: str):
    run = str(write_study(tmp_path, family))
    change = ["--set", f"dump.store={store}", *(["--set", "dump.codec=float32"] if store == "hidden" else [])]
    call("dump-teacher", run, "--device", "cpu", "--teacher", f"t={tmp_path / 'base'}", *change)
    call("train-student", run, "--device", "cpu", "--teacher", "t", "--set", "student.precision=float32")
    cache = Cache.open(tmp_path / "out/cache")
    items = cache.items(cache.plan.indices("train"))
    if family == "bart":
        assert {int(item.inputs["decoder_input_ids"][0]) for item in items} == {2}
    if family in ("marian", "t5"):
        assert {int(item.inputs["decoder_input_ids"][0]) for item in items} == {0}
    if family == "mbart":
        code = AutoTokenizer.from_pretrained(tmp_path / "base").convert_tokens_to_ids("en_XX")
        assert {int(item.inputs["decoder_input_ids"][0]) for item in items} == {code}
    (result,) = (tmp_path / "out/students/half").glob("*/result.json")
    tree = json.loads(result.read_text())
    assert tree["counters"]["teacher_forwards"] == 0
    assert tree["scores"]["test"]["nll"]["value"] > 0
