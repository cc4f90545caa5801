from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from kdcache.core.errors import ConfigError, DataError, ModelError
from kdcache.core.types import IGNORE, Example, TaskSettings
from kdcache.metrics import evaluate
from kdcache.tasks import make
from kdcache.tasks.base import check_fast
from tests.readings import score

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
SETTINGS = TaskSettings(labels=LABELS, max_length=8, metric="f1")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "an", "##na", "ben", "saw", "ro", "##me", "."]


@pytest.fixture(scope="module")
def tokenizer():
    """WordPiece in BERT's frame."""
    core = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


def byte_level(*, add_prefix_space: bool):
    """A byte-level BPE as RoBERTa's."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    core.train_from_iterator(["anna saw rome", "ben saw rome", "anna saw ben"] * 9, trainer)
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    core.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return PreTrainedTokenizerFast(tokenizer_object=core, cls_token="<s>", sep_token="</s>", pad_token="</s>")


def example(words, tags=None, uid="u", **more):
    return Example(uid=uid, fields={"words": words, **({} if tags is None else {"tags": tags}), **more})


def encode(tokenizer, *args, settings=SETTINGS, **more):
    (item,) = make("ner", settings).encode(example(*args, **more), tokenizer)
    return item


def test_the_first_token_of_a_word_is_its_row_and_carries_its_tag(tokenizer):
    item = encode(tokenizer, ["Anna", "saw", "Rome"], ["B-PER", "O", "B-LOC"])
    tokens = tokenizer.convert_ids_to_tokens(item.inputs["input_ids"].tolist())
    assert tokens == ["[CLS]", "an", "##na", "saw", "ro", "##me", "[SEP]"]
    assert item.positions_R.tolist() == [1, 3, 4]
    assert item.labels_R.tolist() == [1, 0, 3]
    assert item.classes_R.tolist() == [5, 5, 5]
    assert item.meta == {}
    assert "attention_mask" not in item.inputs


def test_words_beyond_the_limit_are_lost_and_remembered(tokenizer):
    item = encode(tokenizer, ["anna", "saw", "rome", "ben", "rome"], ["B-PER", "O", "B-LOC", "B-PER", "B-LOC"])
    assert item.num_tokens == 8
    assert item.positions_R.tolist() == [1, 3, 4, 6]
    assert item.meta == {"words": [0, 1, 2, 3], "tags": [1, 0, 3, 1, 3], "truncated": True}


def test_a_word_without_a_token_becomes_the_unknown_token(tokenizer):
    item = encode(tokenizer, ["anna", "\u200b", "ben"], ["B-PER", "O", "B-PER"])
    tokens = tokenizer.convert_ids_to_tokens(item.inputs["input_ids"].tolist())
    assert tokens == ["[CLS]", "an", "##na", "[UNK]", "ben", "[SEP]"]
    assert item.labels_R.tolist() == [1, 0, 1]
    assert item.meta == {}


def test_a_tokenizer_of_bytes_sees_every_word_after_a_space():
    words = ["anna", "saw", "'s", "rome"]
    plain, spaced = byte_level(add_prefix_space=False), byte_level(add_prefix_space=True)
    settings = replace(SETTINGS, max_length=20)
    ours, theirs = encode(plain, words, settings=settings), encode(spaced, words, settings=settings)
    assert ours.inputs["input_ids"].tolist() == theirs.inputs["input_ids"].tolist()
    assert ours.positions_R.tolist() == theirs.positions_R.tolist()
    within = plain(" anna saw", add_special_tokens=False)["input_ids"]
    assert ours.inputs["input_ids"].tolist()[1 : len(within) + 1] == within
    pieces = pre_tokenizers.Sequence([pre_tokenizers.Digits(), plain.backend_tokenizer.pre_tokenizer])
    plain.backend_tokenizer.pre_tokenizer = pieces  # as newer models split: one step of several
    assert encode(plain, words, settings=settings).inputs["input_ids"].tolist() == ours.inputs["input_ids"].tolist()
    assert make("ner", settings).lengths([example(words)], plain).tolist() == [ours.num_tokens]


def test_an_unlabelled_sentence_has_no_labels_and_keeps_its_language(tokenizer):
    item = encode(tokenizer, ["ben"], language="nl")
    assert item.labels_R.tolist() == [IGNORE]
    assert item.meta == {"language": "nl"}
    with pytest.raises(DataError, match=r"^1 of 1 items have no label, the first is u; only labelled items can be "):
        score(make("ner", SETTINGS), [item], [np.zeros((1, 5), np.float32)])


def logits_of(item, classes):
    """One row a word, certain of its class."""
    return (np.eye(5, dtype=np.float32)[classes] * 9)[: item.num_rows]


def test_gold_tags_score_one_and_lost_words_are_missed(tokenizer):
    task = make("ner", SETTINGS)
    whole = encode(tokenizer, ["anna", "saw", "rome"], ["B-PER", "O", "B-LOC"], uid="a")
    cut = encode(tokenizer, ["anna", "saw", "rome", "ben", "rome"], ["B-PER", "O", "B-LOC", "B-PER", "B-LOC"], uid="b")
    items = [whole, cut]
    scored = score(task, items, [logits_of(item, item.labels_R) for item in items])
    assert scored.uids == ("a", "b")
    assert scored.statistics["entities"].tolist() == [[2, 2, 2], [3, 3, 4]]
    assert scored.statistics["accuracy"].tolist() == [[3, 3], [4, 4]]
    scores = evaluate(scored.statistics, task.metrics())
    assert next(iter(scores)) == "entity_f1"
    assert scores["entity_precision"].value == 1
    assert scores["entity_recall"].value == pytest.approx(5 / 6)
    assert scores["accuracy"].value == 1
    assert scores["nll"].value == pytest.approx(np.log(1 + 4 * np.exp(-9)))


def test_an_entity_that_the_limit_cuts_is_missed(tokenizer):
    item = encode(tokenizer, ["anna"] * 2 + ["rome"] * 2, ["O", "O", "B-LOC", "I-LOC"])
    assert item.num_rows == 3
    scored = score(make("ner", SETTINGS), [item], [logits_of(item, item.labels_R)])
    assert scored.statistics["entities"].tolist() == [[0, 1, 1]]


def test_rows_are_read_at_their_tokens():
    outputs = SimpleNamespace(logits=torch.arange(24).reshape(2, 4, 3))
    rows = make("ner", SETTINGS).rows(outputs, torch.tensor([[1, 0], [0, 3], [1, 2]]))
    assert rows.tolist() == [[12, 13, 14], [9, 10, 11], [18, 19, 20]]


@pytest.mark.parametrize(
    ("words", "tags", "message"),
    [
        (None, None, "example u has None as its words; it must be a list and not empty"),
        ([], [], "example u has [] as its words; it must be a list and not empty"),
        (["a", ""], None, "word 1 of example u is ''; it must be text and not empty"),
        (["a", "b"], ["O"], "example u has 2 words and 1 tags; give each word one"),
        (
            ["a", "b"],
            ["O", "B-ORG"],
            "word 1 of example u, 'b', has the tag 'B-ORG'; known: O, B-PER, I-PER, B-LOC, I-LOC",
        ),
    ],
)
def test_a_bad_sentence_is_refused_in_one_line(tokenizer, words, tags, message: str):
    with pytest.raises(DataError) as error:
        encode(tokenizer, words, tags)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"labels": ("B-PER", "I-PER")},
            "labels of a ner dataset are O, B-TYPE and I-TYPE, but there is no 'O'; correct labels",
        ),
        (
            {"labels": ("O", "PER")},
            "labels of a ner dataset are O, B-TYPE and I-TYPE, but there is 'PER' among them; correct labels",
        ),
        (
            {"metric": "squad_f1"},
            "metric = 'squad_f1' does not score entities; allowed: f1, entity_f1, entity_precision, entity_recall, "
            "accuracy, nll, brier, ece",
        ),
    ],
)
def test_bad_settings_are_refused_in_one_line(change, message: str):
    with pytest.raises(ConfigError) as error:
        make("ner", replace(SETTINGS, **change))
    assert str(error.value) == message


def test_no_room_for_a_word_and_a_slow_tokenizer_are_refused(tokenizer):
    with pytest.raises(ConfigError) as error:
        encode(tokenizer, ["anna"], settings=replace(SETTINGS, max_length=2))
    assert str(error.value) == "max_length = 2 leaves no room for a word beside 2 special tokens; allowed: at least 3"
    with pytest.raises(ModelError, match=r"^object is a slow tokenizer, which cannot tell why; use a model with a "):
        check_fast(object(), why="why")
