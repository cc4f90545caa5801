"""Eight students by `kdcache search` over eight plain fine-tunings, one after the other; see `bench_gpu_steps.py`.

The study is written here: texts of random words, a random BERT as teacher and another as student. The search is the
command's own, in this process, with its reading of the study, its evaluations, recordings and files. The plain side has
what one would write at its best: texts tokenised, padded and page-locked before the clock runs, the same batches in the
same order, the model built once and copied, autocast, fused AdamW, clipping, an evaluation after each epoch with the
best weights kept on the device, and these on the test split.
"""

from __future__ import annotations

import json
import random
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.nn import functional
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
)

from kdcache.cache.loader import Loader
from kdcache.cache.reader import Cache
from kdcache.core.types import Item
from kdcache.student.search.run import How
from kdcache.student.search.run import run as search
from kdcache.teacher import dump
from kdcache.training.batch import collate
from kdcache.training.forward import length_batches
from kdcache.training.models import ModelSource, load_tokenizer
from kdcache.training.run import RunFile, load_run, prepare
from kdcache.training.steps import CachedSteps
from tools.bench_gpu_graphs import clock
from tools.bench_step import VOCABULARY, PlainBatch, PlainLoop, inputs_of, pinned
from tools.bench_table import Table

LIMIT = 4.0
"""Times as fast as one plain fine-tuning after the other."""
LABELS = ("no", "yes")
BATCH, EVALUATED = 32, 64
"""Items of a step, and of a forward pass in an evaluation."""
WORDS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What is searched.

    Attributes:
        texts: split -> how many.
        longest: words of a text, at most.
        layers: of teacher and student.
        width: of both.
        heads: of both.
        temperatures: one training each; hard labels are one more.
        seeds: each trains all of them.
        epochs: of a training.
    """

    texts: dict[str, int]
    longest: int
    layers: int
    width: int
    heads: int
    temperatures: tuple[float, ...]
    seeds: tuple[int, ...]
    epochs: int = 3

    @property
    def trainings(self) -> int:
        """Of the search."""
        return (len(self.temperatures) + 1) * len(self.seeds)


FULL = Study(
    texts={"train": 3000, "validation": 1000, "test": 1000},
    longest=62,
    layers=3,
    width=384,
    heads=12,
    temperatures=(1.0, 2.0, 4.0),
    seeds=(0, 1),
)
SMALL = Study(
    texts={"train": 64, "validation": 24, "test": 24},
    longest=14,
    layers=1,
    width=16,
    heads=2,
    temperatures=(2.0,),
    seeds=(0,),
    epochs=2,
)


def row(study: Study, device: str, table: Table, folder: Path) -> None:
    """The judged line, and what it is made of."""
    file = written(study, folder)
    dump.run(file, teachers=[f"t_hs={folder / 'teacher'}"], device=device)
    plain = Plain(study, file, device)
    plain.train()  # what a process makes once is made
    began = clock(device)
    for _ in range(study.trainings):
        plain.train()
    middle = clock(device)
    search(file, How(jobs=1, device=device), lambda _: None)
    ours = clock(device) - middle
    results = [json.loads(path.read_text()) for path in file.students_folder.glob("*/*/result.json")]
    if len(results) != study.trainings:
        raise RuntimeError(f"the search trained {len(results)} students, not {study.trainings}")
    theirs = middle - began
    student = f"BERT-{study.layers} x {study.width}"
    what = f"{study.trainings} students {student} by search, {study.texts['train']:,} texts x {study.epochs} epochs"
    table.add(f"{what}, over plain fine-tunings one after the other", theirs / ours, LIMIT, " x", at_least=True)
    table.say("its seconds: search, plain", f"{ours:.1f}, {theirs:.1f}")
    steps = [result["extra"]["step"] for result in results]
    table.say("graphs of each training's steps", ", ".join(str(step["graphs"]) for step in steps))
    for why in sorted({step["why"] for step in steps if "why" in step}):
        table.say("no graphs", why)


def written(study: Study, folder: Path) -> RunFile:
    """Texts, models and a run file."""
    words = [f"w{number}" for number in range(WORDS)]
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=study.width,
        num_hidden_layers=study.layers,
        num_attention_heads=study.heads,
        intermediate_size=4 * study.width,
    )
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    teacher = BertForSequenceClassification(BertConfig.from_dict({**config.to_dict(), **names}))
    for name, model in (("teacher", teacher), ("student", BertModel(config))):
        model.save_pretrained(folder / name)
        _tokenizer(words).save_pretrained(folder / name)
    generator = random.Random(0)
    for split, count in study.texts.items():
        lines = []
        for number in range(count):
            text = " ".join(generator.choices(words, k=generator.randint(6, study.longest)))
            lines.append(json.dumps({"id": f"{split}{number}", "text": text, "label": generator.choice(LABELS)}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "run.yaml").write_text(yaml.safe_dump(_tree(study, folder)))
    return load_run(folder / "run.yaml")


def _tokenizer(words: list[str]) -> Any:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def _tree(study: Study, folder: Path) -> dict[str, Any]:
    """The run file: one cell of the search's space at some temperatures, and hard labels, each under every seed."""
    return {
        "out": str(folder / "out"),
        "dataset": {
            "name": "words",
            "task": "classification",
            "files": {split: str(folder / f"{split}.jsonl") for split in study.texts},
            "columns": {"text": "text", "label": "label", "id": "id"},
            "labels": list(LABELS),
            "max_length": study.longest + 2,
        },
        "models": {
            "teacher": {"path": str(folder / "teacher")},
            "students": {"small": {"path": str(folder / "student")}},
        },
        "student": {
            "epochs": study.epochs,
            "batch_size": BATCH,
            "eval_batch_size": EVALUATED,
            "learning_rate": 1e-4,
        },
        "search": {
            "design": "greedy",
            "order": [],
            "temperatures": list(study.temperatures),
            "second_stage": False,
            "alphas": [],
            "hard": True,
            "seeds": list(study.seeds),
            "replicate": "all",
        },
    }


class Plain:
    """Fine-tunings on hard labels as one would write them.

    Args:
        study: how long one is.
        file: of the study, whose cache gives the order of the texts.
        device: where.
    """

    def __init__(self, study: Study, file: RunFile, device: str) -> None:
        self._device, self._compute = device, torch.bfloat16 if device == "cuda" else None
        path = Path(file.path).parent / "student"
        self._model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=len(LABELS))
        tokenizer = load_tokenizer(ModelSource(path=str(path)))
        cache = Cache.open(file.cache_folder)
        loader = Loader(
            cache, split="train", teachers=(), batch_size=BATCH, micro_batch_size=BATCH, seed=0, with_rows=False
        )
        steps = CachedSteps(loader=loader, teachers=(), pad_token_id=tokenizer.pad_token_id)
        self._epochs = [[pinned(inputs_of(step), device) for step in steps.epoch(n)] for n in range(study.epochs)]
        splits = ("validation", "test")
        items = prepare(file, tokenizer, encode=splits, digest_of=splits).items
        self._validation, self._test = ([*self._batches(items[split])] for split in splits)

    def train(self) -> tuple[float, float]:
        """Fine-tune once: accuracy and log-likelihood of the best weights on the test split."""
        loop = PlainLoop(self._model, self._device, self._compute)
        best: tuple[float, float] = (-1.0, 0.0)
        weights: dict[str, torch.Tensor] = {}
        for batches in self._epochs:
            for batch in batches:
                loop.step(batch)
            score = self._scored(loop, self._validation)
            if score > best:
                best, weights = score, deepcopy(loop.model.state_dict())
            loop.model.train()
        loop.model.load_state_dict(weights)
        return self._scored(loop, self._test)

    @torch.no_grad()
    def _scored(self, loop: PlainLoop, batches: list[PlainBatch]) -> tuple[float, float]:
        """Accuracy and mean log-likelihood; the device is waited for once."""
        loop.model.eval()
        right, likely, count = [], [], 0
        for batch in batches:
            inputs, labels = loop.moved(batch)
            with loop.autocast:
                logits = loop.model(**inputs).logits.float()
            right.append((logits.argmax(dim=1) == labels).sum())
            likely.append(-functional.cross_entropy(logits, labels, reduction="sum"))
            count += len(labels)
        found = torch.stack([torch.stack(right).sum(), torch.stack(likely).sum()]).tolist()
        return found[0] / count, found[1] / count

    def _batches(self, items: list[Item]) -> list[PlainBatch]:
        """The batches of an evaluation, as kdcache makes them."""
        batches = [collate([items[i] for i in indices], pad_token_id=0) for indices in length_batches(items, EVALUATED)]
        return [pinned((batch.inputs, batch.labels_R), self._device) for batch in batches]
