"""RoBERTa, XLM-R and DistilBERT through dump and distil, in every task that an encoder has; rows whatever the batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from numpy.typing import NDArray
from transformers import AutoTokenizer, DistilBertConfig, RobertaConfig, XLMRobertaConfig

from kdcache.cache.reader import Cache
from kdcache.core.types import HiddenRows, Item, Rows
from kdcache.student.skip_layers import FAMILIES as KNOWN
from kdcache.teacher.opening import Opening, open_study
from kdcache.teacher.runner import Runner
from kdcache.training.run import load_run
from tests.test_pipeline_families import write_study as write_generator_study
from tests.tiny import call, read_records, refused, write_data, write_model, write_records, write_run
from tests.tiny_spans import NAMES, SECOND, write_ner, write_qa

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "type_vocab_size": 1,
    "pad_token_id": 0,
}
DISTIL = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 40}
ENCODERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "Roberta": (RobertaConfig, SMALL),
    "XLMRoberta": (XLMRobertaConfig, SMALL),
    "DistilBert": (DistilBertConfig, DISTIL),
}
CLASSES = {"classification": "SequenceClassification", "ner": "TokenClassification", "qa": "QuestionAnswering"}


def write_study(folder: Path, family: str, task: str) -> Path:
    """A random teacher with a head and a run file, in which the teacher's first layer makes the student."""
    write_model(folder / "base", words=[*NAMES["PER"], *NAMES["LOC"], *SECOND.values()])
    write_data(folder)
    tree = yaml.safe_load(write_run(folder).read_text())
    if task == "classification":  # texts of several lengths
        records = read_records(folder / "train.jsonl")
        write_records(
            folder / "train.jsonl", [{**r, "text": r["text"] + " the film" * (i % 4)} for i, r in enumerate(records)]
        )
    else:
        tree["dataset"] = {"ner": write_ner, "qa": write_qa}[task](folder)
    labels = tree["dataset"].get("labels", ["start", "end"])
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    tokenizer.model_input_names = ["input_ids", "attention_mask"]  # none of the three families has token types
    tokenizer.save_pretrained(folder / "teacher")
    config, settings = ENCODERS[family]
    torch.manual_seed(1)
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    model = getattr(transformers, f"{family}For{CLASSES[task]}")(config(vocab_size=len(tokenizer), **settings, **names))
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder / "teacher")
    tree["models"] = {
        "teacher": {"path": str(folder / "teacher")},
        "students": {"half": {"path": str(folder / "teacher"), "layers": 1}},
    }
    tree["student"] = {"epochs": 1, "batch_size": 16, "learning_rate": 0.003, "tau_t": 2}
    (folder / "run.yaml").write_text(yaml.safe_dump(tree))
    return folder / "run.yaml"


@pytest.mark.parametrize("task", CLASSES)
@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoder_is_dumped_and_distilled(tmp_path: Path, family: str, task: str):
    run = str(write_study(tmp_path, family, task))
    call("dump-teacher", run, "--device", "cpu", "--teacher", f"t={tmp_path / 'teacher'}")
    call("train-student", run, "--device", "cpu", "--teacher", "t")
    (result,) = (tmp_path / "out/students/half").glob("*/result.json")
    tree = json.loads(result.read_text())
    assert tree["counters"]["teacher_forwards"] == 0
    assert tree["scores"]["test"]["nll"]["value"] > 0
    model = getattr(transformers, f"{family}For{CLASSES[task]}").from_pretrained(result.parent / "selected")
    assert model.config.kdcache_layers["kept"] == [1]
    assert model.config.model_type in KNOWN
    cache = Cache.open(tmp_path / "out/cache")
    for item in cache.items(cache.plan.indices("train"))[:3]:
        assert sorted(item.inputs) == ["input_ids"]


def test_the_rows_of_questions_have_no_output_head_to_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = str(write_study(tmp_path, "Roberta", "qa"))
    options = ("--device", "cpu", "--teacher", f"t={tmp_path / 'teacher'}", "--set", "dump.store=hidden")
    error = refused(capsys, "dump-teacher", run, *options, code=6)
    assert "RobertaForQuestionAnswering" in error
    assert error.endswith("it is not the output head; store: topk needs no head")


def kept(opening: Opening, items: list[Item], batch_size: int, *, hidden: bool) -> dict[str, NDArray[np.float64]]:
    """Item -> what a cache would keep of it, a line a row, with the items batched as they are given."""
    job = replace(opening.job, config=replace(opening.config, batch_size=batch_size))
    runner = Runner(opening.teachers[0], job, with_hidden=hidden)
    found = {}
    for first in range(0, len(items), batch_size):
        part = items[first : first + batch_size]
        for arriving in runner.rows(part):
            uids = (part[i].uid for i in arriving.indices)
            found |= dict(zip(uids, lines(arriving.rows()), strict=True))
    return found


def lines(rows: Rows) -> Iterator[NDArray[np.float64]]:
    """Each item's rows: what entered the head, or the log-probabilities in class order; then lse and gold."""
    for begin, end in zip(rows.row_ptr[:-1], rows.row_ptr[1:], strict=True):
        parts = []
        for r in range(begin, end):
            if isinstance(rows, HiddenRows):
                values = rows.hidden[r]
            else:
                kept = rows.num_kept[r]
                values = rows.logprobs[r, :kept][np.argsort(rows.ids[r, :kept])]
            parts.append(np.concatenate([values, rows.lse[r : r + 1], rows.gold[r : r + 1]]))
        yield np.concatenate(parts).astype(np.float64)


@pytest.mark.parametrize(
    ("task", "family"),
    [*((task, family) for task in CLASSES for family in ENCODERS), ("translation", "mbart"), ("causal_lm", "llama")],
)
def test_padding_and_the_batch_never_change_a_row(tmp_path: Path, task: str, family: str):
    hidden = task not in CLASSES  # of a large vocabulary, what entered the head; else every log-probability
    if hidden:
        run, teacher = write_generator_study(tmp_path, family), tmp_path / "base"
    else:
        run, teacher = write_study(tmp_path, family, task), tmp_path / "teacher"
    store = ["dump.store=hidden", "dump.codec=float32"] if hidden else ["dump.top_k=64"]
    file = load_run(run, overrides=["dump.splits=[train]", *store])
    opening = open_study(file, teachers=[f"t={teacher}"], device="cpu")
    items = opening.data.items["train"][:40]
    assert len({item.num_tokens for item in items}) > 2
    mixed = [items[i] for i in np.random.default_rng(0).permutation(len(items))]
    by_length = sorted(items, key=lambda item: item.num_tokens)
    alone = kept(opening, items, 1, hidden=hidden)
    assert len(alone) == len(items)
    for order, batch_size in ((items, 32), (mixed, 32), (by_length, 32), (mixed, 7)):
        for uid, values in kept(opening, order, batch_size, hidden=hidden).items():
            np.testing.assert_allclose(values, alone[uid], rtol=0, atol=1e-5, err_msg=uid)
