"""What every row must satisfy, and the alignment alarm."""

import dataclasses

import numpy as np
import pytest

from kdcache.cache.check import alarm, alignment, head_agrees, hidden_alignment
from kdcache.cache.codec import pack, unpack
from kdcache.cache.invariants import invariants, mass_slack
from kdcache.core.errors import CacheDamaged, CacheMismatch
from kdcache.core.types import IGNORE

from .conftest import build_head, build_hidden, build_item, build_rows, build_teacher, identity_of, tables_of


def rows_and_labels(*, top_k=4, num_classes=9, num_rows=12):
    item = build_item("a", num_rows=num_rows, num_classes=num_classes)
    return build_rows([item], top_k=top_k), item.labels_R.copy()


@pytest.mark.parametrize("top_k", [4, 9])
def test_a_teacher_s_rows_pass_before_and_after_the_codec(top_k):
    rows, labels = rows_and_labels(top_k=top_k)
    for these in (rows, unpack(pack(rows, identity_of(rows).row_format, {}))):
        invariants(these)
        alignment(these, labels)


def with_value(name, place, value):
    def edit(rows):
        array = getattr(rows, name).copy()
        array[place] = value
        return dataclasses.replace(rows, **{name: array})

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (with_value("ids", (1, 1), 9), "x: 1 of 12 rows keep a class outside 0 to V - 1 (row 1)"),
        (with_value("ids", (1, 1), -1), "x: 1 of 12 rows keep a class outside 0 to V - 1 (row 1)"),
        (lambda r: with_value("ids", (1, 1), r.ids[1, 0])(r), "x: 1 of 12 rows keep a class twice (row 1)"),
        (with_value("logprobs", (0, 0), np.nan), "have a log-probability that is not finite (row 0)"),
        (with_value("logprobs", (0, 0), 0.5), "have a log-probability above 0 (row 0)"),
        (with_value("logprobs", (0, 3), -0.01), "x: 1 of 12 rows are not in falling order (row 0)"),
        (with_value("lse", 11, np.inf), "have a logsumexp or tail moments that are not finite (row 11)"),
        (with_value("moments", (2, 1), np.nan), "have a logsumexp or tail moments that are not finite (row 2)"),
        (with_value("gold", 2, 1.0), "have a gold log-probability above 0 or infinite (row 2)"),
        (with_value("gold", 2, -np.inf), "have a gold log-probability above 0 or infinite (row 2)"),
        (with_value("atoms", (3, 0, 1), 5.0), "x: 1 of 12 rows have a mass further than 0.01 from 1 (row 3)"),
        (
            with_value("atoms", np.s_[:, 0, 1], 5.0),
            "12 of 12 rows have a mass further than 0.01 from 1 (row 0, 1, 2, 3, 4,",
        ),
    ],
)
def test_a_row_that_is_no_distribution_is_listed(edit, message):
    with pytest.raises(CacheDamaged) as caught:
        invariants(edit(rows_and_labels()[0]), what="x")
    assert message in str(caught.value)


def test_a_dense_row_needs_no_order_but_its_whole_mass():
    rows, _ = rows_and_labels(top_k=9)
    assert (np.diff(rows.logprobs) > 0).any()
    invariants(rows)
    with pytest.raises(CacheDamaged, match="have a mass further than"):
        invariants(with_value("logprobs", np.unravel_index(rows.logprobs.argmax(), rows.logprobs.shape), -9.0)(rows))


def test_no_rows_at_all_are_sound():
    rows, labels = rows_and_labels(num_rows=0)
    invariants(rows)
    alignment(rows, labels)


@pytest.mark.parametrize("top_k", [2, 9])
def test_labels_shifted_by_one_ring_the_alarm(top_k):
    rows, labels = rows_and_labels(top_k=top_k)
    with pytest.raises(CacheMismatch) as caught:
        alignment(rows, np.roll(labels, 1), what="rows of t_hs")
    message = str(caught.value)
    assert message.startswith("rows of t_hs do not fit their labels in ")
    assert "The rows are shifted (by one, often), reordered, or padding was counted" in message
    assert message.endswith("dump the teacher again over these items")
    assert "\n" not in message


def test_shifted_rows_of_fully_labelled_data_ring_the_alarm():
    rows, labels = rows_and_labels()
    labelled = np.where(labels == IGNORE, 0, labels)
    gold = np.array(
        [
            dict(zip(rows.ids[r].tolist(), rows.logprobs[r].tolist(), strict=True)).get(int(y), -50.0)
            for r, y in enumerate(labelled)
        ],
        np.float32,
    )
    fitting = dataclasses.replace(rows, gold=gold)
    alignment(fitting, labelled)
    with pytest.raises(CacheMismatch, match="do not fit their labels"):
        alignment(dataclasses.replace(fitting, gold=np.roll(gold, 1)), labelled)


def test_padding_that_was_counted_rings_the_alarm():
    rows, labels = rows_and_labels()
    with pytest.raises(CacheMismatch, match="12 rows, but 13 labels; every position that is not padding has one row"):
        alignment(rows, np.append(labels, IGNORE))
    with pytest.raises(CacheMismatch, match="label -100 of row 0 is not kept, but its gold log-probability is "):
        alignment(rows, np.full_like(labels, IGNORE))


def test_a_label_without_gold_or_beyond_the_classes_rings_the_alarm():
    rows, labels = rows_and_labels()
    with pytest.raises(CacheMismatch, match="its gold log-probability is nan"):
        alignment(rows, np.where(labels == IGNORE, 0, labels))
    labels[0] = 9
    with pytest.raises(CacheMismatch, match="label 9 of row 0"):
        alignment(with_value("gold", 0, -60.0)(rows), labels)


def test_the_slack_is_one_float16_unit_and_what_is_given():
    rows, labels = rows_and_labels(top_k=9)
    off = with_value("gold", 0, rows.gold[0] - np.float32(0.02))(rows)
    with pytest.raises(CacheMismatch):
        alignment(off, labels)
    alignment(off, labels, extra_R=np.full(12, 0.03))


def hidden_case(codec="float32", **changes):
    head = build_head(num_classes=50, hidden_size=16)
    item = build_item("a", num_rows=12, num_classes=50)
    identity = build_teacher(store="hidden", codec=codec, top_k=0, hidden_size=16, num_classes=50, **changes)
    return build_hidden([item], head), item.labels_R.copy(), head, identity


@pytest.mark.parametrize("codec", ["float32", "float16", "bfloat16", "int8"])
def test_hidden_rows_pass_the_alarm_after_their_codec_and_shifted_labels_do_not(codec):
    rows, labels, head, identity = hidden_case(codec)
    packed = pack(rows, identity.row_format, tables_of(identity))
    alarm(packed, labels, identity=identity, head=head)
    with pytest.raises(CacheMismatch, match=r"the rows do not fit their labels in \d+ of 12 rows: label "):
        alarm(packed, np.roll(labels, 1), identity=identity, head=head)
    with pytest.raises(CacheMismatch, match="12 rows, but 11 labels"):
        alarm(packed, labels[1:], identity=identity, head=head)
    with pytest.raises(CacheMismatch, match="label 50 of row 0 is not kept"):
        alarm(packed, np.where(np.arange(12) == 0, 50, labels), identity=identity, head=head)


def test_the_alarm_of_hidden_rows_is_sharp_where_nothing_is_rounded():
    rows, labels, head, identity = hidden_case()
    off = dataclasses.replace(rows, gold=rows.gold + np.float32(0.01))
    with pytest.raises(CacheMismatch):
        hidden_alignment(off, labels, head=head, identity=identity)
    _, _, _, coarse = hidden_case(dtype="bfloat16")
    hidden_alignment(off, labels, head=head, identity=coarse)


def test_scale_and_soft_cap_of_a_head_count():
    rows, labels, head, identity = hidden_case()
    head = {**head, "scale": np.array([0.5], np.float32), "soft_cap": np.array([3.0], np.float32)}
    logits = 3 * np.tanh(0.5 * (rows.hidden.astype(np.float64) @ head["weight"].T + head["bias"]) / 3)
    lse = np.log(np.exp(logits).sum(axis=1))
    gold = np.where(labels == IGNORE, np.nan, logits[np.arange(12), np.maximum(labels, 0)] - lse)
    capped = dataclasses.replace(rows, lse=lse.astype(np.float32), gold=gold.astype(np.float32))
    hidden_alignment(capped, labels, head=head, identity=identity)
    head_agrees(capped, head, identity=identity)
    with pytest.raises(CacheMismatch):
        hidden_alignment(rows, labels, head=head, identity=identity)


def test_another_head_is_noticed():
    rows, _, head, identity = hidden_case()
    head_agrees(rows, head, identity=identity)
    with pytest.raises(CacheDamaged, match=r"x: row 0 has a logsumexp of .* through the head that is stored; the"):
        head_agrees(rows, {**head, "weight": head["weight"][::-1]}, identity=identity, what="x")


def test_a_hidden_row_that_is_not_finite_is_listed():
    rows, _, _, _ = hidden_case()
    invariants(rows)
    broken = dataclasses.replace(rows, hidden=np.where(np.arange(12)[:, None] == 4, np.nan, rows.hidden))
    with pytest.raises(CacheDamaged, match=r"1 of 12 rows have a hidden vector or logsumexp that is not finite"):
        invariants(broken)


def test_compact_rows_have_half_a_step_more_slack():
    rows, labels = rows_and_labels(top_k=4, num_classes=9)
    identity = identity_of(rows, codec="compact")
    packed = pack(rows, identity.row_format, tables_of(identity))
    alarm(packed, labels, identity=identity, head=None)
    assert mass_slack(identity.row_format) == 2e-2
    assert mass_slack(identity_of(rows).row_format) == 1e-2
    invariants(unpack(packed), mass_slack=mass_slack(identity.row_format))
    with pytest.raises(CacheMismatch):
        alarm(packed, np.roll(labels, 1), identity=identity, head=None)
    off = dataclasses.replace(rows, gold=rows.gold - np.float32(0.04))
    with pytest.raises(CacheMismatch):
        alarm(pack(off, identity.row_format, tables_of(identity)), labels, identity=identity, head=None)
