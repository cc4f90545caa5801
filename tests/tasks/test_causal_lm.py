"""Every token but the first is predicted once; of dialogues only the answers are."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from kdcache.core.errors import ConfigError, DataError
from kdcache.core.types import Example, TaskSettings
from kdcache.metrics import evaluate
from kdcache.tasks import make
from kdcache.training.batch import collate, read_rows
from kdcache.training.models import ModelSource, load_tokenizer
from tests.readings import score
from tests.tiny_text import write_llama

SETTINGS = TaskSettings(labels=(), max_length=16, metric="nll", packing="padded")
PADDED = make("causal_lm", SETTINGS)
PACKED = make("causal_lm", replace(SETTINGS, packing=None))
TALK = make("causal_lm", replace(SETTINGS, max_length=60))
TEXTS = ["the dog", "the man sees the red dog the man calls the dog the child calls the man", "red"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path):
    return load_tokenizer(ModelSource(path=str(folder)))


def example(uid="u", **fields) -> Example:
    return Example(uid=uid, fields=fields)


def encode(task, tokenizer, texts=TEXTS):
    items = [item for n, text in enumerate(texts) for item in task.encode(example(f"u{n}", text=text), tokenizer)]
    return task.arrange(items, tokenizer)


def predicted(item):
    """(token before, token) of each row."""
    ids = item.inputs["input_ids"]
    assert [int(ids[p + 1]) for p in item.positions_R] == item.labels_R.tolist()
    return [(int(ids[p]), int(ids[p + 1])) for p in item.positions_R]


def test_padded_texts_end_with_the_end_and_long_ones_are_cut_without_loss(tokenizer):
    items = encode(PADDED, tokenizer)
    assert [item.uid for item in items][:2] == ["u0", "u1#0"]
    assert all(item.num_tokens <= 16 for item in items)
    for n, text in enumerate(TEXTS):
        ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        mine = [item for item in items if item.uid.partition("#")[0] == f"u{n}"]
        assert [pair for item in mine for pair in predicted(item)] == list(itertools.pairwise(ids))


def test_packed_texts_predict_every_token_but_the_first_once(tokenizer):
    items = encode(PACKED, tokenizer)
    ids = [token for text in TEXTS for token in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    assert [pair for item in items for pair in predicted(item)] == list(itertools.pairwise(ids))
    assert {item.num_tokens for item in items[:-1]} == {16}
    assert items[0].uid == "u0@0"
    assert all(item.uid.startswith("u1@") for item in items[1:-1])
    assert len({item.uid for item in items}) == len(items)
    assert encode(PACKED, tokenizer, []) == []


def test_only_the_answer_to_a_prompt_is_learned(tokenizer):
    (item,) = TALK.encode(example(prompt="der hund", response="the dog"), tokenizer)
    asked = tokenizer("der hund")["input_ids"]
    said = [*tokenizer("the dog", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert item.inputs["input_ids"].tolist() == [*asked, *said]
    assert item.labels_R.tolist() == said
    assert item.positions_R[0] == len(asked) - 1
    assert TALK.arrange([item], tokenizer) == [item], "answers are not packed"


def test_only_what_the_assistant_says_is_learned(tokenizer):
    said = [("system", "rot"), ("user", "der hund"), ("assistant", "the dog"), ("user", "rot"), ("assistant", "red")]
    messages = [{"role": role, "content": content} for role, content in said]
    (item,) = TALK.encode(example(messages=messages), tokenizer)
    assert tokenizer.decode(item.labels_R) == " the dog </s> red </s>"
    assert tokenizer.decode(item.inputs["input_ids"]) == tokenizer.apply_chat_template(messages, tokenize=False)
    assert item.positions_R.min() > 0


def test_dialogues_that_cannot_be_learned_are_refused(tokenizer, folder: Path):
    user, answer = {"role": "user", "content": "rot"}, {"role": "assistant", "content": "red"}
    with pytest.raises(
        DataError, match=r"^example u has no message of the role 'assistant'; there is nothing to learn$"
    ):
        TALK.encode(example(messages=[user]), tokenizer)
    long = [user, {**answer, "content": "red " * 60}]
    assert TALK.encode(example(messages=long), tokenizer) == []
    strict = make("causal_lm", replace(SETTINGS, too_long="refuse"))
    with pytest.raises(DataError, match=r"^example u has \d+ tokens, max_length is 16; raise it, shorten the example"):
        strict.encode(example(messages=long), tokenizer)
    other = load_tokenizer(ModelSource(path=str(folder)))
    other.chat_template = "{% for m in messages %}{{ m['content'] }}{% if loop.last %}!{% endif %}{% endfor %}"
    with pytest.raises(
        DataError, match=r"^message 1 of example u is not told by the chat template as it was asked for"
    ):
        TALK.encode(example(messages=[user, answer, user]), other)
    other.chat_template = None
    with pytest.raises(
        DataError, match=r"^example u is a dialogue, but the tokenizer has no chat template; use prompt"
    ):
        TALK.encode(example(messages=[user, answer]), other)


def test_a_row_does_not_depend_on_its_batch_and_padded_classes_are_none(folder, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    items = encode(PADDED, tokenizer)
    with torch.no_grad():
        together = collate(items, pad_token_id=2)
        rows = read_rows(PADDED, model(**together.inputs), together)
        alone = [collate([item], pad_token_id=2) for item in items]
        each = torch.cat([read_rows(PADDED, model(**batch.inputs), batch) for batch in alone])
    torch.testing.assert_close(rows, each, rtol=0, atol=1e-5)
    assert rows.shape == (sum(item.num_rows for item in items), len(tokenizer))
    assert model.config.vocab_size == len(tokenizer) + 5


def test_nll_perplexity_and_accuracy_are_over_tokens(tokenizer):
    items = encode(PADDED, tokenizer)
    random = np.random.default_rng(0)
    logits = [random.normal(size=(item.num_rows, len(tokenizer))).astype(np.float32) for item in items]
    scores = evaluate(score(PADDED, items, logits).statistics, PADDED.metrics())
    flat, labels = torch.from_numpy(np.concatenate(logits)), np.concatenate([item.labels_R for item in items])
    wanted = torch.nn.functional.cross_entropy(flat.double(), torch.from_numpy(labels).long())
    assert list(scores) == ["nll", "perplexity", "accuracy", "brier", "ece"]
    assert scores["nll"].value == pytest.approx(float(wanted), rel=1e-9)
    assert scores["perplexity"].value == pytest.approx(float(wanted.exp()), rel=1e-9)
    assert scores["accuracy"].value == pytest.approx(float((flat.argmax(1).numpy() == labels).mean()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ("a", "b")}, r"^labels has 2 classes, but those of causal_lm are the vocabulary; leave it out$"),
        ({"metric": "bleu"}, r"^metric = 'bleu' does not score a language model; allowed: nll, perplexity, accuracy, "),
        ({"max_length": 1}, r"^max_length = 1 leaves no token to predict; allowed: at least 2$"),
    ],
)
def test_wrong_settings_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        make("causal_lm", replace(SETTINGS, **change))
