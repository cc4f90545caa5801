"""Tiny models of seven families with items of their tasks, and caches of their teachers, as tests of steps use them.

I items  R rows  V classes
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    MBartConfig,
    MBartForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaForTokenClassification,
    XLMRobertaConfig,
    XLMRobertaForQuestionAnswering,
)

from kdcache.cache.layout import chunk_rows_for, make_plan
from kdcache.cache.loader import Loader
from kdcache.cache.reader import Cache
from kdcache.core.types import IGNORE, Item, TaskSettings
from kdcache.losses.objective import Objective
from kdcache.tasks import make
from kdcache.training.batch import RowReader, collate
from kdcache.training.steps import CachedSteps, TrainStep
from tests.cache.conftest import Toy, build_marker

VOCABULARY = 50
HARD = Objective(teacher=None, alpha=0)
KD = Objective(teacher="t_hs", tau_t=2.0, tau_s=1.5, alpha=0.6, tail="bucket")
FAMILIES = ("bert", "distilbert", "roberta", "xlm-r", "llama", "qwen2", "mbart")
STORES: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "dense": {"codec": "dense", "top_k": VOCABULARY},
    "fast": {"codec": "fast", "top_k": 5},
    "compact": {"codec": "compact", "top_k": 5},
    "hidden": {},
}
"""What a teacher's rows are stored as; `none` has no teacher. Rows of two or three classes are dense in all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A student and what it learns from.

    Attributes:
        model: of transformers, always with the same weights.
        task: reads its rows.
        items: of several lengths.
        pad_token_id: of its tokenizer.
    """

    model: Any
    task: RowReader
    items: tuple[Item, ...]
    pad_token_id: int

    def steps(
        self, folder: Path, store: str, *, batch_size: int = 4, micro_batch_size: int | None = None
    ) -> CachedSteps:
        """Steps from a cache that is made in a folder, with random rows of one teacher."""
        chunk_rows = chunk_rows_for(self.items)
        splits = {"train": list(self.items), "test": list(self.items[:1])}
        plan = make_plan(splits, block_tokens=200, chunk_rows=chunk_rows)
        toy = Toy(items=splits, plan=plan, marker=build_marker(chunk_rows))
        if store == "hidden":
            toy.dump_hidden(folder / "cache", codec="float16", hidden_size=6)
        else:
            toy.dump(folder / "cache", **{"codec": "fast", "top_k": 5, **STORES[store]})
        teachers = () if store == "none" else ("t_hs",)
        loader = Loader(
            Cache.open(folder / "cache"),
            split="train",
            teachers=teachers,
            batch_size=batch_size,
            micro_batch_size=micro_batch_size or batch_size,
            seed=0,
        )
        return CachedSteps(loader=loader, teachers=teachers, pad_token_id=self.pad_token_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Steps of four texts with hard labels, all of the length that is named.

    Attributes:
        lengths: of each step, in tokens.
        label: of the texts of the last step; 2 is wrong.
    """

    lengths: tuple[int, ...]
    label: int = 1

    @property
    def num_steps(self) -> int:
        """Steps of an epoch."""
        return len(self.lengths)

    def epoch(self, epoch: int) -> Iterator[TrainStep]:
        """The steps of an epoch."""
        random = np.random.default_rng(epoch)
        for index, length in enumerate(self.lengths):
            texts = [_text(f"{i}", length, random) for i in range(4)]
            for text in texts:
                text.labels_R[:] = self.label if index == len(self.lengths) - 1 else text.labels_R
            batches = (collate(texts, pad_token_id=0),)
            yield TrainStep(epoch=epoch, index=index, batches=batches, num_rows=4, num_labels=4)


def build(family: str, *, dropout: float = 0.0, count: int = 24, longest: int = 40) -> Case:
    """The case of a family.

    Args:
        family: of `FAMILIES`.
        dropout: of its hidden vectors.
        count: of items.
        longest: tokens of an item, at most; the model takes 64.
    """
    random = np.random.default_rng(0)
    lengths = random.integers(4, longest + 1, count).tolist()
    builders: dict[str, tuple[Callable[[float], Any], Callable[..., Item], str]] = {
        "bert": (_bert, _text, "classification"),
        "distilbert": (_distilbert, _text, "classification"),
        "roberta": (_roberta, _tagged, "ner"),
        "xlm-r": (_xlm_roberta, _window, "qa"),
        "llama": (_llama, _next_tokens, "causal_lm"),
        "qwen2": (_qwen2, _next_tokens, "causal_lm"),
        "mbart": (_mbart, _pair, "translation"),
    }
    model, item, task = builders[family]
    torch.manual_seed(0)
    return Case(
        model=model(dropout),
        task=make(task, _SETTINGS[task]),
        items=tuple(item(f"item{i}", length, random) for i, length in enumerate(lengths)),
        pad_token_id=0 if family in ("bert", "distilbert", "llama", "qwen2") else 1,
    )


_SETTINGS = {
    "classification": TaskSettings(labels=("bad", "good"), max_length=64, metric="f1"),
    "ner": TaskSettings(labels=("O", "B-PER", "I-PER"), max_length=64, metric="f1"),
    "qa": TaskSettings(labels=(), max_length=64, metric="f1"),
    "causal_lm": TaskSettings(labels=(), max_length=64, metric="nll"),
    "translation": TaskSettings(labels=(), max_length=64, metric="nll"),
}
_ENCODER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def _encoder(dropout: float, **more: Any) -> dict[str, Any]:
    own = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": 0.0, "vocab_size": VOCABULARY}
    return {**_ENCODER, **own, "max_position_embeddings": 64, **more}


def _bert(dropout: float) -> Any:
    return BertForSequenceClassification(BertConfig(**_encoder(dropout, num_labels=2)))


def _distilbert(dropout: float) -> Any:
    sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 64}
    shares = {"dropout": dropout, "attention_dropout": 0.0, "seq_classif_dropout": dropout}
    return DistilBertForSequenceClassification(DistilBertConfig(vocab_size=VOCABULARY, num_labels=2, **sizes, **shares))


def _roberta(dropout: float) -> Any:
    more = _encoder(dropout, num_labels=3, pad_token_id=1, max_position_embeddings=66)
    return RobertaForTokenClassification(RobertaConfig(**more))


def _xlm_roberta(dropout: float) -> Any:
    more = _encoder(dropout, num_labels=2, pad_token_id=1, max_position_embeddings=66)
    return XLMRobertaForQuestionAnswering(XLMRobertaConfig(**more))


def _decoder(dropout: float) -> dict[str, Any]:
    more = {"num_key_value_heads": 1, "vocab_size": VOCABULARY, "attention_dropout": dropout}
    return {**_ENCODER, **more, "max_position_embeddings": 64, "pad_token_id": 0}


def _llama(dropout: float) -> Any:
    return LlamaForCausalLM(LlamaConfig(**_decoder(dropout)))


def _qwen2(dropout: float) -> Any:
    return Qwen2ForCausalLM(Qwen2Config(**_decoder(dropout)))


def _mbart(dropout: float) -> Any:
    sides = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in _SIDE.items()}
    more = {"d_model": 16, "max_position_embeddings": 64, "pad_token_id": 1, "vocab_size": VOCABULARY}
    return MBartForConditionalGeneration(MBartConfig(dropout=dropout, attention_dropout=0.0, **sides, **more))


_SIDE = {"layers": 2, "attention_heads": 2, "ffn_dim": 32}


def _ids(length: int, random: np.random.Generator) -> Any:
    return random.integers(5, VOCABULARY, size=length).astype(np.int32)


def _item(uid: str, inputs: dict[str, Any], positions: Any, labels: Any, num_classes: int) -> Item:
    return Item(
        uid=uid,
        inputs=inputs,
        positions_R=np.asarray(positions, np.int32),
        labels_R=np.asarray(labels, np.int32),
        classes_R=np.full(len(labels), num_classes, np.int32),
    )


def _text(uid: str, length: int, random: np.random.Generator) -> Item:
    return _item(uid, {"input_ids": _ids(length, random)}, [0], random.integers(2, size=1), 2)


def _tagged(uid: str, length: int, random: np.random.Generator) -> Item:
    """A row at every second token; every third is without a label."""
    positions = np.arange(1, length, 2)
    labels = random.integers(3, size=len(positions))
    labels[::3] = IGNORE
    return _item(uid, {"input_ids": _ids(length, random)}, positions, labels, 3)


def _window(uid: str, length: int, random: np.random.Generator) -> Item:
    return _item(uid, {"input_ids": _ids(length, random)}, [0, 1], random.integers(length, size=2), length)


def _next_tokens(uid: str, length: int, random: np.random.Generator) -> Item:
    ids = _ids(length, random)
    return _item(uid, {"input_ids": ids}, np.arange(length - 1), ids[1:], VOCABULARY)


def _pair(uid: str, length: int, random: np.random.Generator) -> Item:
    target = _ids(int(random.integers(3, 20)), random)
    inputs = {"input_ids": _ids(length, random), "decoder_input_ids": np.r_[3, target[:-1]].astype(np.int32)}
    return _item(uid, inputs, np.arange(len(target)), target, VOCABULARY)
