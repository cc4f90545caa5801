"""Rows are target tokens; the decoder gets the target shifted by one; texts are written, then scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    MBart50Tokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
)

from kdcache.core.errors import ConfigError, DataError, ModelError
from kdcache.core.types import Example, TaskSettings
from kdcache.metrics import evaluate
from kdcache.tasks import make
from kdcache.tasks.base import Writing
from kdcache.training.batch import collate, read_rows
from kdcache.training.models import ModelSource, load_tokenizer, tokenizer_digest
from tests.readings import score
from tests.tiny import write_model
from tests.tiny_text import CODES, write_mbart

SETTINGS = TaskSettings(
    labels=(), max_length=40, metric="bleu", source_language=CODES[0], target_language=CODES[1], beams=3
)
TASK = make("translation", SETTINGS)
PAIRS = [("der hund", "the dog"), ("der mann sieht der hund", "the man sees the dog"), ("rot", "red red red")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mbart(tmp_path_factory.mktemp("mbart"))


@pytest.fixture
def tokenizer(folder: Path):
    return load_tokenizer(ModelSource(path=str(folder)))


def pair(source="der hund", target="the dog", uid="u") -> Example:
    return Example(uid=uid, fields={"source": source, "target": target})


def items_of(tokenizer, task=TASK, **kwargs):
    return [i for n, (s, t) in enumerate(PAIRS) for i in task.encode(pair(s, t, f"u{n}"), tokenizer, **kwargs)]


def test_mbart_gets_the_codes_behind_the_source_and_before_the_target(tokenizer):
    (item,) = TASK.encode(pair(), tokenizer)
    tokens = tokenizer.convert_ids_to_tokens
    source, fed, said = (tokens(ids.tolist()) for ids in (*item.inputs.values(), item.labels_R))
    assert source[-2:] == ["</s>", "de_DE"]
    assert fed[0] == "en_XX"
    assert said[-1] == "</s>"
    assert fed[1:] == said[:-1]
    assert "".join(said[:-1]).replace("▁", " ").strip() == "the dog"
    assert item.positions_R.tolist() == list(range(len(said)))
    assert set(item.classes_R.tolist()) == {len(tokenizer)}
    assert item.meta == {"reference": "the dog"}
    assert TASK.encode(pair(), tokenizer, train=True)[0].meta == {}


def test_the_shift_is_the_models_own_but_for_the_code_after_the_end(folder, tokenizer):
    model = MBartForConditionalGeneration.from_pretrained(folder)
    (item,) = TASK.encode(pair(), tokenizer)
    labels = tokenizer(text_target="the dog", return_tensors="pt")["input_ids"]
    shifted = model.prepare_decoder_input_ids_from_labels(labels)
    assert shifted[0, :-1].tolist() == item.inputs["decoder_input_ids"].tolist()
    assert labels[0, :-1].tolist() == item.labels_R.tolist()


def test_the_tokenizers_digest_does_not_depend_on_the_language_at_hand(folder, tokenizer):
    before = tokenizer_digest(tokenizer)
    TASK.encode(pair(), tokenizer)
    assert tokenizer_digest(tokenizer) == before
    assert tokenizer_digest(AutoTokenizer.from_pretrained(folder)) != before, "the start of a target decides rows too"


def test_mbart_50_has_the_code_before_both_texts_and_is_forced_to_say_it():
    core = MBart50Tokenizer()
    special = [core.convert_ids_to_tokens(i) for i in range(4)]
    words = ["▁the", "▁dog", "▁der", "▁hund", "▁"]
    vocab = [*((t, 0.0) for t in special), *((w, -2.0) for w in words), ("de_DE", 0.0), ("en_XX", 0.0), ("<mask>", 0.0)]
    tokenizer = MBart50Tokenizer(vocab=vocab, src_lang="de_DE", tgt_lang="en_XX")
    tokenizer.decoder_start = tokenizer.eos_token_id
    (item,) = TASK.encode(pair(), tokenizer)
    tokens = tokenizer.convert_ids_to_tokens
    assert tokens(item.inputs["input_ids"].tolist()) == ["de_DE", "▁der", "▁hund", "</s>"]
    assert tokens(item.inputs["decoder_input_ids"].tolist()) == ["</s>", "en_XX", "▁the", "▁dog"]
    assert tokens(item.labels_R.tolist()) == ["en_XX", "▁the", "▁dog", "</s>"]
    torch.manual_seed(0)
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    model = MBartForConditionalGeneration(MBartConfig(vocab_size=len(tokenizer), **sizes, **heads)).eval()
    asked = {}
    model.generate = lambda **kwargs: asked.update(kwargs) or torch.zeros(1, 1, dtype=torch.int64)
    TASK.write(model, collate([item], pad_token_id=1).inputs, Writing(tokenizer=tokenizer, final=True, synced=False))
    assert asked["decoder_start_token_id"] == tokenizer.eos_token_id
    assert asked["forced_bos_token_id"] == tokenizer.convert_tokens_to_ids("en_XX")


def test_other_tokenizers_take_the_start_from_the_model(tmp_path: Path):
    tokenizer = AutoTokenizer.from_pretrained(write_model(tmp_path, words=["hund", "dog"]))
    plain = make("translation", replace(SETTINGS, source_prefix="warm "))
    with pytest.raises(ModelError, match=r"^nothing says which token starts a target: .* no decoder_start_token_id;"):
        plain.encode(pair(), tokenizer)
    tokenizer.decoder_start = 7
    (item,) = plain.encode(pair("hund", "the dog"), tokenizer)
    assert item.inputs["input_ids"].tolist() == tokenizer("warm hund")["input_ids"]
    assert item.labels_R.tolist() == tokenizer("the dog")["input_ids"]
    assert item.inputs["decoder_input_ids"].tolist() == [7, *item.labels_R.tolist()[:-1]]


def test_pairs_that_are_too_long_are_left_out_or_refused(tokenizer):
    long = pair("der hund " * 20, "the dog")
    assert TASK.encode(long, tokenizer) == []
    strict = make("translation", replace(SETTINGS, too_long="refuse"))
    with pytest.raises(DataError, match=r"^example u has \d+ tokens on one side, max_length is 40; raise it, shorten "):
        strict.encode(long, tokenizer)
    lengths = TASK.lengths([pair(), long], tokenizer)
    assert lengths[0] <= 40 < lengths[1]
    assert TASK.lengths([], tokenizer).tolist() == []


def test_each_sequence_is_padded_by_its_own_length(tokenizer):
    items = items_of(tokenizer)
    batch = collate(items, pad_token_id=1)
    for part in ("", "decoder_"):
        lengths = [len(item.inputs[f"{part}input_ids"]) for item in items]
        assert batch.inputs[f"{part}input_ids"].shape == (3, max(lengths))
        assert batch.inputs[f"{part}attention_mask"].sum(dim=1).tolist() == lengths
        assert (batch.inputs[f"{part}input_ids"][batch.inputs[f"{part}attention_mask"] == 0] == 1).all()
    assert max(len(i.inputs["input_ids"]) for i in items) != max(len(i.inputs["decoder_input_ids"]) for i in items)


def test_a_row_does_not_depend_on_its_batch(folder, tokenizer):
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    items = items_of(tokenizer)
    with torch.no_grad():
        together = collate(items, pad_token_id=1)
        rows = read_rows(TASK, model(**together.inputs), together)
        alone = [collate([item], pad_token_id=1) for item in items]
        each = torch.cat([read_rows(TASK, model(**batch.inputs), batch) for batch in alone])
    torch.testing.assert_close(rows, each, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_what_is_written_is_the_models_own_search(folder, tokenizer):
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    items = items_of(tokenizer)
    batch = collate(items, pad_token_id=1)
    for final, beams in ((False, 1), (True, 3)):
        texts = TASK.write(model, batch.inputs, Writing(tokenizer=tokenizer, final=final, synced=False))
        for item, text in zip(items, texts, strict=True):
            ids = torch.from_numpy(item.inputs["input_ids"].astype(np.int64))[None]
            start = tokenizer.convert_tokens_to_ids("en_XX")
            alone = model.generate(
                input_ids=ids, num_beams=beams, decoder_start_token_id=start, max_new_tokens=40, do_sample=False
            )
            assert text == tokenizer.decode(alone[0], skip_special_tokens=True)
        assert TASK.details(final=final) == {"beams": beams, "length_penalty": 1.0}


def test_references_score_1_and_certain_rows_have_no_loss(tokenizer):
    items = items_of(tokenizer)
    certain = [np.eye(len(tokenizer), dtype=np.float32)[item.labels_R] * 40 for item in items]
    scores = evaluate(score(TASK, items, certain, [t for _, t in PAIRS]).statistics, TASK.metrics())
    assert list(scores) == ["bleu", "chrf", "nll", "accuracy", "brier", "ece"]
    assert scores["accuracy"].value == 1
    assert scores["chrf"].value == pytest.approx(1)
    assert scores["nll"].value == pytest.approx(0, abs=1e-9)
    with pytest.raises(
        DataError, match=r"^item u0 was encoded for training and has no reference; score another split$"
    ):
        score(TASK, items_of(tokenizer, train=True), certain, [""] * 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ("a", "b")}, r"^labels has 2 classes, but those of translation are the vocabulary; leave it out$"),
        (
            {"metric": "f1"},
            r"^metric = 'f1' does not score translations; allowed: bleu, chrf, nll, accuracy, brier, ece$",
        ),
        ({"beams": 0}, r"^beams = 0 finds nothing; it must be at least 1, which is greedy$"),
        ({"target_language": None}, r"^only source_language = 'de_DE' is given; give the other language too$"),
    ],
)
def test_wrong_settings_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        make("translation", replace(SETTINGS, **change))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (
            (None, None),
            r"^source_language is not given, but MBartTokenizer puts a language code to every text; give one",
        ),
        (
            ("de_DE", "en_US"),
            r"^target_language = 'en_US' is no language code of MBartTokenizer; give one of its codes,",
        ),
    ],
)
def test_a_tokenizer_with_codes_needs_languages_that_it_has(tokenizer, codes, message):
    task = make("translation", replace(SETTINGS, source_language=codes[0], target_language=codes[1]))
    with pytest.raises(ConfigError, match=message):
        task.encode(pair(), tokenizer)


def test_empty_text_is_refused(tokenizer):
    with pytest.raises(DataError, match=r"^example u has ' ' as its target; it must be text and not empty$"):
        TASK.encode(pair(target=" "), tokenizer)
