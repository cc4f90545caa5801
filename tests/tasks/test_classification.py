from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from kdcache.core.errors import ConfigError, DataError, TrainingError
from kdcache.core.types import IGNORE, Example, TaskSettings
from kdcache.metrics import evaluate
from kdcache.tasks import make
from tests.readings import score

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghij"]
TWO = TaskSettings(labels=("no", "yes"), max_length=8, metric="f1")
THREE = replace(TWO, labels=("no", "maybe", "yes"))


@pytest.fixture(scope="module")
def tokenizer():
    """Words of one letter, in BERT's frame."""
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def words(tokenizer, item):
    return tokenizer.convert_ids_to_tokens(item.inputs["input_ids"].tolist())


def example(uid="u", **fields):
    return Example(uid=uid, fields=fields)


def labelled_items(tokenizer, labels, settings=TWO):
    task = make("classification", settings)
    return [task.encode(example(str(i), text="a", label=label), tokenizer)[0] for i, label in enumerate(labels)]


def test_a_single_text_becomes_one_item_with_one_row(tokenizer):
    (item,) = make("classification", TWO).encode(example(text="a b", label="yes"), tokenizer)
    assert item.uid == "u"
    assert words(tokenizer, item) == ["[CLS]", "a", "b", "[SEP]"]
    assert sorted(item.inputs) == ["input_ids", "token_type_ids"]
    arrays = [*item.inputs.values(), item.positions_R, item.labels_R, item.classes_R]
    assert {array.dtype for array in arrays} == {np.dtype(np.int32)}
    assert (item.positions_R.tolist(), item.labels_R.tolist(), item.classes_R.tolist()) == ([0], [1], [2])
    assert item.meta == {}


def test_a_pair_is_told_apart_by_its_token_types(tokenizer):
    (item,) = make("classification", TWO).encode(example(text="a b", text_pair="c"), tokenizer)
    assert words(tokenizer, item) == ["[CLS]", "a", "b", "[SEP]", "c", "[SEP]"]
    assert item.inputs["token_type_ids"].tolist() == [0, 0, 0, 0, 1, 1]


def test_an_example_without_a_label_has_the_label_to_ignore(tokenizer):
    (item,) = make("classification", TWO).encode(example(text="a"), tokenizer)
    assert item.labels_R.tolist() == [IGNORE]


def test_the_longer_text_of_a_pair_is_cut_first_and_the_cut_is_noted(tokenizer):
    (item,) = make("classification", TWO).encode(example(text="a b c d e f g", text_pair="h"), tokenizer)
    assert words(tokenizer, item) == ["[CLS]", "a", "b", "c", "d", "[SEP]", "h", "[SEP]"]
    assert item.meta == {"truncated": True}


def test_a_text_that_just_fits_is_not_cut(tokenizer):
    (item,) = make("classification", TWO).encode(example(text="a b c d e f", language="de"), tokenizer)
    assert item.num_tokens == 8
    assert item.meta == {"language": "de"}


@pytest.mark.parametrize(
    ("fields", "limit", "message"),
    [
        (
            {"text": "a b c"},
            2,
            "max_length = 2 leaves no room for the text beside 2 special tokens; allowed: at least 3",
        ),
        (
            {"text": "a b", "text_pair": "c d"},
            4,
            "max_length = 4 leaves no room for the text beside 3 special tokens; allowed: at least 5",
        ),
    ],
)
def test_a_limit_without_room_for_text_is_refused(tokenizer, fields, limit, message):
    with pytest.raises(ConfigError) as error:
        make("classification", replace(TWO, max_length=limit)).encode(example(**fields), tokenizer)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "example u has None as its text; it must be text and not empty"),
        ({"text": " "}, "example u has ' ' as its text; it must be text and not empty"),
        ({"text": "a", "text_pair": 3}, "example u has 3 as its text_pair; it must be text and not empty"),
        ({"text": "a", "label": "YES"}, "example u has the label 'YES'; known: no, yes"),
    ],
)
def test_examples_that_cannot_be_encoded_are_refused(tokenizer, fields, message):
    with pytest.raises(DataError) as error:
        make("classification", TWO).encode(example(**fields), tokenizer)
    assert str(error.value) == message


def test_models_are_loaded_with_the_names_of_the_classes():
    task = make("classification", THREE)
    assert task.auto_class == "AutoModelForSequenceClassification"
    assert task.settings is THREE
    assert task.model_kwargs() == {
        "num_labels": 3,
        "id2label": {0: "no", 1: "maybe", 2: "yes"},
        "label2id": {"no": 0, "maybe": 1, "yes": 2},
    }


def test_rows_are_the_logits_of_the_model():
    logits = torch.arange(6.0).reshape(3, 2)
    rows = make("classification", TWO).rows(SimpleNamespace(logits=logits), torch.zeros(3, 2, dtype=torch.int64))
    assert torch.equal(rows, logits)


def test_f1_is_binary_for_two_classes_and_macro_for_more_with_the_others_beside_it():
    assert make("classification", TWO).metrics() == (
        "f1_binary", "f1_macro", "f1_weighted", "accuracy", "nll", "brier", "ece",
    )  # fmt: skip
    assert make("classification", THREE).metrics() == ("f1_macro", "f1_weighted", "accuracy", "nll", "brier", "ece")
    by_nll = make("classification", replace(THREE, metric="nll")).metrics()
    assert by_nll == ("nll", "f1_macro", "f1_weighted", "accuracy", "brier", "ece")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            replace(THREE, metric="f1_binary"),
            "metric = 'f1_binary' does not score 3 classes; "
            "allowed: f1, f1_macro, f1_weighted, accuracy, nll, brier, ece",
        ),
        (
            replace(TWO, metric="bleu"),
            "metric = 'bleu' does not score 2 classes; "
            "allowed: f1, f1_binary, f1_macro, f1_weighted, accuracy, nll, brier, ece",
        ),
        (
            replace(TWO, labels=("only",)),
            "labels has 1 classes; classification needs at least 2, in class order",
        ),
    ],
)
def test_settings_that_cannot_be_scored_are_refused(settings, message):
    with pytest.raises(ConfigError) as error:
        make("classification", settings)
    assert str(error.value) == message


def test_scores_are_those_of_scikit_learn(tokenizer):
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=60)
    logits = rng.normal(size=(60, 3)).astype(np.float32)
    items = labelled_items(tokenizer, [THREE.labels[i] for i in labels], THREE)
    task = make("classification", THREE)
    statistics = score(task, items, list(logits[:, None, :])).statistics
    assert {name: len(values) for name, values in statistics.items()} == dict.fromkeys(statistics, 60)
    scores = evaluate(statistics, task.metrics())
    predictions = logits.argmax(axis=1)
    probs = np.exp(logits.astype(np.float64))
    probs /= probs.sum(axis=1, keepdims=True)
    assert scores["f1_macro"].value == pytest.approx(f1_score(labels, predictions, average="macro"))
    assert scores["f1_weighted"].value == pytest.approx(f1_score(labels, predictions, average="weighted"))
    assert scores["accuracy"].value == pytest.approx(accuracy_score(labels, predictions))
    assert scores["nll"].value == pytest.approx(log_loss(labels, probs))
    assert list(scores) == list(task.metrics())


def test_statistics_stand_in_the_order_of_the_items(tokenizer):
    items = labelled_items(tokenizer, ["no", "yes"])
    logits = [np.array([[3, 0]], dtype=np.float32), np.array([[3, 0]], dtype=np.float32)]
    assert score(make("classification", TWO), items, logits).statistics["accuracy"].tolist() == [[1, 1], [0, 1]]


ROW = np.zeros((1, 2), dtype=np.float32)


@pytest.mark.parametrize(
    ("labels", "logits", "kind", "message"),
    [
        ([], [], DataError, "there are 0 items to score; a split needs at least one"),
        (
            ["no", None],
            [ROW, ROW],
            DataError,
            "1 of 2 items have no label, the first is 1; only labelled items can be scored: label them, "
            "or score another split",
        ),
        (
            ["no"],
            [np.array([[np.nan, 0]], dtype=np.float32)],
            TrainingError,
            "the logits of item 0 are not finite ([nan, 0.0]); the model has diverged: lower the learning rate, "
            "or train in bf16 or fp32",
        ),
    ],
)
def test_what_would_give_a_wrong_average_is_refused(tokenizer, labels, logits, kind, message):
    items = labelled_items(tokenizer, labels)
    with pytest.raises(kind) as error:
        score(make("classification", TWO), items, logits)
    assert str(error.value) == message
