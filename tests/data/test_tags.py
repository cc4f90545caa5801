from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.core.errors import DataError
from kdcache.data.tags import to_iob2
from kdcache.metrics.entities import entities

TAGS = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
SENTENCES = st.lists(st.lists(TAGS, min_size=1, max_size=10), min_size=1, max_size=5)


def convert(*sentences, scheme="auto"):
    return to_iob2(sentences, scheme=scheme, places=[f"sentence {i}" for i in range(len(sentences))])


def iob1(tags):
    """What CoNLL-2003 writes: B- only right after an entity of the same type."""
    return [
        "I" + tag[1:] if tag.startswith("B-") and not (i and tags[i - 1][2:] == tag[2:]) else tag
        for i, tag in enumerate(tags)
    ]


@given(sentences=SENTENCES)
def test_iob1_of_any_sentence_becomes_iob2_with_the_same_entities(sentences):
    valid = to_iob2(sentences, scheme="iob1", places=[""] * len(sentences))
    assert [entities(tags) for tags in valid] == [entities(tags) for tags in sentences]
    assert convert(*valid) == convert(*valid, scheme="iob2") == valid
    assert convert(*[iob1(tags) for tags in valid]) == valid


def test_a_split_that_mixes_both_schemes_is_refused_and_iob1_reads_it():
    mixed = [["O", "B-PER"], ["I-LOC", "I-LOC"]]
    with pytest.raises(DataError) as error:
        convert(*mixed)
    assert str(error.value) == (
        "two tag schemes are mixed: an entity begins with 'I-LOC' at word 0 of sentence 1, and with 'B-PER' at word 1 "
        "of sentence 0; correct the tags, or set scheme: iob1, which reads each I- that begins an entity as B-"
    )
    assert convert(*mixed, scheme="iob1") == [["O", "B-PER"], ["B-LOC", "I-LOC"]]


def test_an_entity_that_begins_with_i_is_no_iob2():
    with pytest.raises(DataError) as error:
        convert(["B-PER", "I-LOC"], scheme="iob2")
    assert str(error.value) == (
        "word 1 of sentence 0 has the tag 'I-LOC' where an entity begins, which IOB2 writes with B-; correct it, or "
        "set scheme: iob1"
    )
