"""Translation and language modelling small enough for a test: random models, tokenizers trained on made-up texts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MBartConfig,
    MBartForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from tests.tiny import call, write_records
from tools.small_mbart import make_tokenizer

SIZES = {"train": 80, "validation": 16, "test": 16}
WORDS = {"der": "the", "hund": "dog", "mann": "man", "kind": "child", "sieht": "sees", "ruft": "calls", "rot": "red"}
CODES = ("de_DE", "en_XX")
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} </s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def sentences(generator: random.Random) -> tuple[str, str]:
    """A sentence of made-up German and its translation, word by word."""
    words = ["der", generator.choice(["hund", "mann", "kind"]), generator.choice(["sieht", "ruft"]), "der"]
    words += generator.choices(["hund", "mann", "kind", "rot"], k=generator.randint(1, 3))
    return " ".join(words), " ".join(WORDS[word] for word in words)


def write_mbart(
    folder: Path, *, layers: int = 2, width: int = 32, texts: Sequence[str] = (), vocab_size: int = 60
) -> Path:
    """An mBART of 2 + 2 layers x 32 and a tokenizer with its language codes, trained on texts or the made-up words."""
    words = texts or [word for word in (*WORDS, *WORDS.values()) for _ in range(9)]
    tokenizer = make_tokenizer(words, num_pieces=vocab_size, source=CODES[0], target=CODES[1])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = MBartConfig(
        vocab_size=len(tokenizer),
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=2 * width,
        decoder_ffn_dim=2 * width,
        max_position_embeddings=128,
        dropout=0.0,
        decoder_start_token_id=tokenizer.convert_tokens_to_ids(CODES[1]),
        forced_eos_token_id=None,
    )
    MBartForConditionalGeneration(config).save_pretrained(folder)
    return folder


def write_llama(folder: Path, *, layers: int = 2, padding: int = 5) -> Path:
    """A Llama of 2 layers x 32 with a padded vocabulary, and a tokenizer with a chat template."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<user>", "<assistant>", "<system>"]
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    backend.train_from_iterator([" ".join([*WORDS, *WORDS.values()]) for _ in range(9)], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + padding,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=64,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_translation(folder: Path, *, seed: int = 0) -> dict[str, Any]:
    """Line-aligned files of made-up German and its translation."""
    generator = random.Random(seed)
    for split, count in SIZES.items():
        pairs = [sentences(generator) for _ in range(count)]
        for i, code in enumerate(("de", "en")):
            (folder / f"{split}.{code}").write_text("".join(f"{pair[i]}\n" for pair in pairs))
    return {
        "name": "tiny-translation",
        "task": "translation",
        "format": "lines",
        "files": {split: [str(folder / f"{split}.{code}") for code in ("de", "en")] for split in SIZES},
        "columns": {"source": 1, "target": 2},
        "source_language": CODES[0],
        "target_language": CODES[1],
        "metric": "bleu",
        "max_length": 48,
        "beams": 2,
    }


def write_texts(folder: Path, *, seed: int = 0) -> dict[str, Any]:
    """Plain text, a sentence a line, to be packed."""
    generator = random.Random(seed)
    for split, count in SIZES.items():
        (folder / f"{split}.txt").write_text("".join(f"{sentences(generator)[1]}\n" for _ in range(count)))
    return {
        "name": "tiny-text",
        "task": "causal_lm",
        "files": {split: str(folder / f"{split}.txt") for split in SIZES},
        "columns": {"text": 1},
        "metric": "nll",
        "max_length": 24,
        "packing": "packed",
    }


def write_dialogues(folder: Path, *, seed: int = 0) -> dict[str, Any]:
    """JSON lines of questions and answers."""
    generator = random.Random(seed)
    for split, count in SIZES.items():
        records = []
        for i in range(count):
            source, target = sentences(generator)
            said = [{"role": "user", "content": source}, {"role": "assistant", "content": target}]
            records.append({"id": f"{split}{i}", "messages": said})
        write_records(folder / f"{split}.jsonl", records)
    return {
        "name": "tiny-dialogues",
        "task": "causal_lm",
        "files": {split: str(folder / f"{split}.jsonl") for split in SIZES},
        "columns": {"messages": "messages", "id": "id"},
        "metric": "nll",
        "max_length": 60,
    }


DATASETS = {"translation": write_translation, "text": write_texts, "dialogues": write_dialogues}


def write_text_study(folder: Path, kind: str, *, epochs: int = 6) -> Path:
    """A folder as `tests.tiny.write_study` makes it, of generated text: a teacher, in `out/cache` its topk rows and in
    `out/hidden/cache` its hidden ones."""
    (write_mbart if kind == "translation" else write_llama)(folder / "base")
    training = {"epochs": 2, "batch_size": 16, "learning_rate": 0.005}
    run = {
        "out": str(folder / "out"),
        "dataset": DATASETS[kind](folder),
        "models": {
            "teacher": {"path": str(folder / "base")},
            "students": {"half": {"path": str(folder / "base"), "layers": 1}},
        },
        "teacher": {**training, "epochs": epochs, "learning_rate": 0.01, "weight_decay": 0.0, "evals_per_epoch": 1},
        "dump": {"top_k": 16, "batch_size": 8},
        "student": {**training, "tau_t": 2},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run, allow_unicode=True))
    path = str(folder / "run.yaml")
    call("train-teacher", path, "--device", "cpu")
    call("dump-teacher", path, "--device", "cpu")
    names = [f"{role}={folder / 'out/teacher/selected' / role}" for role in ("t_hs", "t_ll")]
    options = [word for name in names for word in ("--teacher", name)]
    hidden = ["--set", "dump.store=hidden", "--set", "dump.codec=float32", "--set", "dump.top_k=null"]
    call("dump-teacher", path, "--device", "cpu", "--out", str(folder / "out/hidden"), *hidden, *options)
    return folder
