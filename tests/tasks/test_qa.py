from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from kdcache.core.errors import ConfigError, DataError
from kdcache.core.types import IGNORE, Example, TaskSettings
from kdcache.metrics import evaluate
from kdcache.tasks import make
from kdcache.tasks.qa import LONGEST_ANSWER, best_span
from tests.readings import score

SETTINGS = TaskSettings(labels=(), max_length=10, metric="f1", overlap=2)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnop", "who"]


@pytest.fixture(scope="module")
def tokenizer():
    """Words of one letter, in BERT's frame."""
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def question(context="a b c d e f g h", answer="f g", uid="u", text="  who", **more):
    spans = [[context.index(answer), context.index(answer) + len(answer)]] if answer else []
    fields = {"question": text, "context": context, "answers": [answer] if answer else [], "spans": spans}
    return Example(uid=uid, fields={**fields, **more})


def encode(tokenizer, example, settings=SETTINGS, **more):
    return make("qa", settings).encode(example, tokenizer, **more)


def certain(item, start, end):
    """Logits that are sure of a span; of a window's own size."""
    logits = np.zeros((2, item.num_tokens), dtype=np.float32)
    logits[0, start], logits[1, end] = 9, 9
    return logits


def gold(item):
    return certain(item, *item.labels_R)


def test_windows_overlap_and_only_the_context_is_cut(tokenizer):
    items = encode(tokenizer, question())
    tokens = [" ".join(tokenizer.convert_ids_to_tokens(item.inputs["input_ids"].tolist())) for item in items]
    assert tokens == ["[CLS] who [SEP] a b c d e f [SEP]", "[CLS] who [SEP] e f g h [SEP]"]
    assert [item.uid for item in items] == ["u#0", "u#1"]
    assert items[1].inputs["token_type_ids"].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert sorted(items[0].inputs) == ["input_ids", "token_type_ids"]
    assert [item.classes_R.tolist() for item in items] == [[10, 10], [8, 8]]
    assert [item.positions_R.tolist() for item in items] == [[0, 1], [0, 1]]


def test_a_window_without_all_of_the_answer_points_at_the_classifier_token(tokenizer):
    assert [item.labels_R.tolist() for item in encode(tokenizer, question())] == [[0, 0], [4, 5]]
    assert [item.labels_R.tolist() for item in encode(tokenizer, question(answer="e f"))] == [[7, 8], [3, 4]]
    one = replace(SETTINGS, max_length=32)
    assert [item.labels_R.tolist() for item in encode(tokenizer, question(answer="a"), one)] == [[3, 3]]


def test_windows_without_the_answer_may_be_dropped_from_training_only(tokenizer):
    settings = replace(SETTINGS, empty_windows="drop")
    assert [item.uid for item in encode(tokenizer, question(), settings, train=True)] == ["u#1"]
    assert len(encode(tokenizer, question(), settings)) == 2
    assert len(encode(tokenizer, question(), train=True)) == 2
    unlabelled = encode(tokenizer, question(answer=""), settings, train=True)
    assert [item.labels_R.tolist() for item in unlabelled] == [[IGNORE, IGNORE]] * 2


def test_an_item_to_train_on_carries_no_text(tokenizer):
    assert [item.meta for item in encode(tokenizer, question(), train=True)] == [{"example": "u"}] * 2
    meta = encode(tokenizer, question(language="en"))[1].meta
    assert meta == {
        "example": "u",
        "answers": ["f g"],
        "text": "e f g h",
        "first": 3,
        "begins": [0, 2, 4, 6],
        "ends": [1, 3, 5, 7],
        "language": "en",
    }


def test_white_space_around_answer_and_context_changes_no_label(tokenizer):
    context = "  a \u00a0 b  c "
    fields = {"question": "who", "context": context, "answers": ["b"], "spans": [[4, 8]]}
    (item,) = encode(tokenizer, Example(uid="u", fields=fields))
    assert item.labels_R.tolist() == [4, 4]
    assert best_span(item, gold(item))[1] == "b"


def test_the_answer_is_the_best_span_over_the_windows(tokenizer):
    task = make("qa", SETTINGS)
    items = [*encode(tokenizer, question(uid="x")), *encode(tokenizer, question(uid="y", answer="b"))]
    logits = [gold(item) for item in items]
    scored = score(task, items, logits)
    assert scored.uids == ("x", "y")
    assert scored.statistics["squad"].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert scored.statistics["nll"][:, 1].tolist() == [4, 4], "two rows of two windows"
    logits[0] = 2 * certain(items[0], 3, 4)  # surer of another span in another window
    scored = score(task, items, logits)
    assert scored.statistics["squad"][0].tolist() == [0, 0, 1]
    scores = evaluate(scored.statistics, task.metrics())
    assert list(scores) == ["squad_f1", "squad_em", "nll", "brier", "ece"]
    assert scores["squad_em"].value == 0.5


def test_items_of_an_example_need_not_stand_side_by_side(tokenizer):
    task = make("qa", SETTINGS)
    items = [*encode(tokenizer, question(uid="x")), *encode(tokenizer, question(uid="y", answer="b"))]
    mixed = [items[i] for i in (0, 2, 1, 3)]
    scored = score(task, mixed, [gold(item) for item in mixed])
    assert scored.uids == ("x", "y")
    assert scored.statistics["squad"].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_a_span_lies_in_the_context_in_order_and_is_not_too_long(tokenizer):
    settings = replace(SETTINGS, max_length=99)
    long = " ".join("a" for _ in range(LONGEST_ANSWER + 5))
    (item,) = encode(tokenizer, question(context=long, answer="a"), settings)
    logits = certain(item, 3, 3 + LONGEST_ANSWER)  # one too long
    logits[1, 3 + LONGEST_ANSWER - 1] = 1
    assert len(best_span(item, logits)[1].split()) == LONGEST_ANSWER
    assert best_span(item, logits)[0] == 10
    assert best_span(item, logits, longest=LONGEST_ANSWER + 1)[0] == 18
    logits = certain(item, 0, 1)  # the classifier token and the question are no answers
    logits[0, 5], logits[1, 4] = 5, 4  # the end before the start
    logits[1, 6] = 2
    assert best_span(item, logits) == (7, "a a")


def test_a_window_in_which_no_pair_is_possible_has_no_answer(tokenizer):
    settings = replace(SETTINGS, max_length=99)
    (item,) = encode(tokenizer, question(context=" ".join("ab" * 25), answer="b"), settings)
    logits = np.zeros((2, item.num_tokens), dtype=np.float32)
    logits[0, 33:] = 1  # the 20 best starts are the last, the 20 best ends the first
    logits[1, 3:23] = 1
    assert best_span(item, logits) == (-np.inf, "")
    scored = score(make("qa", settings), [item], [logits])
    assert scored.statistics["squad"].tolist() == [[0, 0, 1]]


def test_mlqa_compares_by_the_examples_language(tokenizer):
    settings = replace(SETTINGS, max_length=32, normalize="mlqa")
    task = make("qa", settings)
    example = question(context="a der b", answer="b", language="de")
    (item,) = encode(tokenizer, example, settings)
    scored = score(task, [item], [certain(item, 4, 5)])  # "der b"
    assert scored.statistics["mlqa"].tolist() == [[1, 1, 1]]
    assert task.metrics()[0] == "mlqa_f1"
    (item,) = encode(tokenizer, question(context="a der b", answer="b"), settings)
    with pytest.raises(DataError, match=r"^normalize: mlqa needs the language of every example; give language, or col"):
        score(task, [item], [gold(item)])


def test_rows_are_the_start_and_the_end_of_each_window():
    outputs = SimpleNamespace(start_logits=torch.tensor([[1, 2], [3, 4]]), end_logits=torch.tensor([[5, 6], [7, 8]]))
    rows = make("qa", SETTINGS).rows(outputs, torch.tensor([[0, 0], [0, 1], [1, 1]]))
    assert rows.tolist() == [[1, 2], [5, 6], [7, 8]]


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (question(text="  "), "example u has '  ' as its question; it must be text and not empty"),
        (question(context=" ", answer=""), "example u has ' ' as its context; it must be text and not empty"),
        (
            question(text="a b c d e"),
            "example u: its question of 5 tokens leaves 2 of max_length = 10 for the context, but windows overlap by "
            "2; raise max_length, lower overlap, or shorten the question",
        ),
    ],
)
def test_a_bad_question_is_refused_in_one_line(tokenizer, example, message: str):
    with pytest.raises(DataError) as error:
        encode(tokenizer, example)
    assert str(error.value) == message


def test_examples_without_golds_are_refused(tokenizer):
    task = make("qa", SETTINGS)
    unlabelled = encode(tokenizer, question(answer=""))
    with pytest.raises(DataError, match=r"^2 of 2 items have no label, the first is u#0; only labelled items"):
        score(task, unlabelled, [np.zeros((2, item.num_tokens), np.float32) for item in unlabelled])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ("a",)}, "labels has 1 classes, but those of qa are the tokens; leave labels out"),
        ({"longest_answer": 0}, "longest_answer = 0 allows no answer; it must be at least 1"),
        ({"overlap": -1}, "overlap = -1 is no number of tokens; it must be at least 0"),
        (
            {"metric": "mlqa_f1"},
            "metric = 'mlqa_f1' does not score answers normalised as squad; allowed: f1, squad_f1, squad_em, nll, "
            "brier, ece",
        ),
    ],
)
def test_bad_settings_are_refused_in_one_line(change, message: str):
    with pytest.raises(ConfigError) as error:
        make("qa", replace(SETTINGS, **change))
    assert str(error.value) == message
