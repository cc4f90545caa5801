"""A study of 40 classes and a random BERT that is its teacher: enough classes for every store, no training."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

NUM_CLASSES = 40
HIDDEN = 16
SPLITS = {"train": 40, "validation": 10}
WORDS = [f"w{i}" for i in range(30)]


def write_study(folder: Path, *, num_classes: int = NUM_CLASSES) -> Path:
    """`teacher/`, the data and `run.yaml`; returns the run file."""
    labels = [f"c{i}" for i in range(num_classes)]
    write_teacher(folder / "teacher", labels)
    generator = random.Random(0)
    for split, count in SPLITS.items():
        lines = [
            {
                "id": f"{split}{i}",
                "text": " ".join(generator.choices(WORDS, k=generator.randint(2, 9))),
                "label": generator.choice(labels),
            }
            for i in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = {
        "out": str(folder / "out"),
        "dataset": {
            "name": "forty",
            "task": "classification",
            "files": {split: str(folder / f"{split}.jsonl") for split in SPLITS},
            "columns": {"text": "text", "label": "label", "id": "id"},
            "labels": labels,
            "max_length": 16,
        },
        "models": {
            "teacher": {"path": str(folder / "teacher")},
            "students": {
                "same": {"path": str(folder / "teacher")},
                "half": {"path": str(folder / "teacher"), "layers": 1},
            },
        },
        "dump": {"batch_size": 8, "block_tokens": 80},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return folder / "run.yaml"


def write_teacher(folder: Path, labels: list[str]) -> None:
    """A BERT of 2 layers x 16 whose logits spread over some nats, and its tokenizer."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    model = BertForSequenceClassification(config)
    for parameter in model.bert.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.3)  # wide enough that a text's words reach its first token
    nn.init.normal_(model.classifier.weight, std=0.8)
    nn.init.normal_(model.classifier.bias, std=0.3)
    model.save_pretrained(folder)
