"""Marker, teachers, signatures."""

import json

import pytest

from kdcache.cache.layout import Marker, TeacherIdentity, cache_signature, signature
from kdcache.core.errors import CacheDamaged, CacheError, CacheFormatError

from .conftest import build_marker, build_teacher


def tree(marker=None, **changes):
    return {**json.loads((marker or build_marker()).to_json()), **changes}


def test_a_marker_comes_back_with_the_keys_of_a_later_minor():
    marker = build_marker()
    assert Marker.from_tree(tree(marker), where="x") == marker
    later = Marker.from_tree(tree(marker, minor=7, colour="red"), where="x")
    assert (later.minor, later.extra) == (7, {"colour": "red"})
    assert json.loads(later.to_json())["colour"] == "red"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "zarr"}, "x is not the marker of a kdcache cache"),
        (
            {"major": 2, "created_by": "kdcache 9.1"},
            "x is format 2.0, written by kdcache 9.1; kdcache .* reads format 1: ",
        ),
        ({"major": 2, "created_by": "kdcache 9.1"}, "read it with kdcache 9.1 or later"),
        (
            {"reader_features": ["hidden"], "created_by": "kdcache 1.4"},
            "needs the reader feature 'hidden', which kdcache",
        ),
        ({"reader_features": ["hidden"], "created_by": "kdcache 1.4"}, "read it with kdcache 1.4 or later"),
    ],
)
def test_what_this_version_cannot_read_says_which_can(changes, message):
    with pytest.raises(CacheFormatError, match=message):
        Marker.from_tree(tree(**changes), where="x")


@pytest.mark.parametrize("changes", [{"labels": "no"}, {"labels": [1]}, {"chunk_rows": True}, {"uuid": 3}])
def test_a_field_of_another_type_is_damage(changes):
    with pytest.raises(CacheDamaged, match=f"x: {next(iter(changes))} is "):
        Marker.from_tree(tree(**changes), where="x")


def test_a_missing_field_is_damage():
    value = tree()
    del value["task"]
    with pytest.raises(CacheDamaged, match="x lacks task"):
        Marker.from_tree(value, where="x")


def test_uuid_and_version_do_not_make_another_cache():
    assert build_marker().differences(build_marker(created_by="kdcache 9")) == {}
    assert build_marker().differences(build_marker(task="ner")) == {"task": ("classification", "ner")}


def test_a_teacher_comes_back_and_tolerates_unknown_keys():
    teacher = build_teacher(score={"f1": 0.9, "nll": 1})
    value = json.loads(teacher.to_json())
    assert TeacherIdentity.from_tree({**value, "colour": 1}, where="x") == teacher
    del value["role"]
    with pytest.raises(CacheDamaged, match="x lacks role"):
        TeacherIdentity.from_tree(value, where="x")
    with pytest.raises(CacheDamaged, match="x: score is "):
        TeacherIdentity.from_tree({**value, "role": "user", "score": {"f1": "high"}}, where="x")


def test_a_teachers_json_is_flat():
    # Literal on purpose: caches of format 1.0 have these bytes.
    teacher = build_teacher(codec="compact", top_k=8, top_p=0.5)
    assert teacher.to_json() == (
        b'{"aliases":[],"codec":"compact","compressor":"lz4","dtype":"float32","hidden_size":0,"name":"t_hs","num_atoms":5,'
        b'"num_classes":1000,"role":"user","score":{"f1":0.9},"source":"models/roberta-large","store":"topk","top_k":8,'
        b'"top_p":0.5,"weight_digest":"a1b2c3d4"}\n'
    )


def test_scores_and_source_do_not_make_another_teacher_but_weights_do():
    assert build_teacher().differences(build_teacher(score={}, source="elsewhere")) == {}
    assert build_teacher().differences(build_teacher(weight_digest="ff")) == {"weight_digest": ("a1b2c3d4", "ff")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "items"}, "a teacher cannot be called items"),
        ({"name": "../x"}, "'../x' cannot name a part of a cache"),
        ({"role": "best"}, "role of teacher t_hs is 'best'; allowed: t_hs, t_ll, user"),
        ({"store": "dense"}, "store is 'dense'; allowed: topk, hidden"),
        ({"codec": "int8"}, "codec is 'int8'; allowed with store topk: fast, compact, dense"),
        ({"codec": "dense"}, "codec is 'dense' with top_k 64 of 1000 classes; dense keeps all classes"),
        ({"compressor": "gzip"}, "compressor is 'gzip'; allowed: lz4, zstd"),
        ({"top_p": 0.0}, "top_p is 0; allowed: above 0, at most 1"),
        ({"top_p": 1.5}, r"top_p is 1\.5; allowed: above 0, at most 1"),
        ({"hidden_size": 8}, "hidden_size is 8; set it to 0 for store topk"),
        ({"num_classes": 0}, r"num_classes is 0; allowed: 1 to 2\^31 - 1"),
        ({"num_classes": 2**31}, r"num_classes is 2147483648; allowed: 1 to 2\^31 - 1"),
        (
            {"store": "hidden", "codec": "int8"},
            "hidden_size is 0; store hidden needs hidden_size of at least 1 and top_k 0",
        ),
        (
            {"store": "hidden", "codec": "int8", "hidden_size": 8, "top_k": 64},
            "top_k is 64; store hidden needs hidden_size of at least 1 and top_k 0",
        ),
        (
            {"store": "hidden", "codec": "fast"},
            "codec is 'fast'; allowed with store hidden: float16, bfloat16, int8, float32",
        ),
        ({"aliases": ("t_hs",)}, "teacher t_hs has a name twice: t_hs, t_hs"),
        ({"top_k": 0}, "top_k is 0; it must be at least 1"),
    ],
)
def test_an_impossible_teacher_is_refused(changes, message):
    with pytest.raises(CacheError, match=message):
        build_teacher(**changes)


def test_codec_settings_are_part_of_a_teacher_and_stand_in_its_identity():
    # A reader that took them from its own settings would read another cache.
    teacher = build_teacher(codec="compact", compressor="zstd", top_p=0.98)
    assert TeacherIdentity.from_tree(json.loads(teacher.to_json()), where="x") == teacher
    assert build_teacher().differences(build_teacher(codec="compact")) == {"codec": ("fast", "compact")}
    assert build_teacher().differences(build_teacher(top_p=0.9)) == {"top_p": (1.0, 0.9)}


@pytest.mark.parametrize("codec", ["fast", "compact", "dense"])
def test_a_teacher_that_keeps_all_classes_is_dense(codec):
    assert build_teacher(num_classes=64, codec=codec).row_format.codec == "dense"
    assert build_teacher(num_classes=65).row_format.codec == "fast"


def test_an_identity_that_contradicts_itself_is_damage():
    value = json.loads(build_teacher().to_json())
    with pytest.raises(CacheDamaged, match="x: codec is 'int8'; allowed with store topk"):
        TeacherIdentity.from_tree({**value, "codec": "int8"}, where="x")
    with pytest.raises(CacheDamaged, match="x: top_p is 'all', not float"):
        TeacherIdentity.from_tree({**value, "top_p": "all"}, where="x")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "topk64"),
        ({"codec": "compact"}, "topk64"),
        ({"top_p": 0.98}, "topk64p0.98"),
        ({"store": "hidden", "codec": "int8", "top_k": 0, "hidden_size": 4}, "hidden-int8"),
        ({"store": "hidden", "codec": "bfloat16", "top_k": 0, "hidden_size": 4}, "hidden-bfloat16"),
    ],
)
def test_the_signature_says_what_is_kept_of_a_row(changes, word):
    teacher = build_teacher(**changes)
    line = signature(build_marker(), teacher, split="train", num_items=11)
    assert line == f"kdcache1|toy@3f2a.train|roberta-large@a1b2:t_hs|{word}|items11"
    assert f"|{word}|" in cache_signature(build_marker(), [teacher], num_items=11)


def test_a_score_that_is_not_a_number_is_refused():
    with pytest.raises(CacheError, match="NaN or infinity cannot be stored"):
        build_teacher(score={"ece": float("nan")}).to_json()


def test_the_signature_names_data_teacher_store_and_size():
    teacher = build_teacher("t_ll", source="hub/roberta-large/")
    line = signature(build_marker(), teacher, split="train", num_items=11)
    assert line == "kdcache1|toy@3f2a.train|roberta-large@a1b2:t_ll|topk64|items11"


def test_the_signature_of_a_cache_joins_its_teachers():
    teachers = [build_teacher(), build_teacher("t_ll", weight_digest="00ff")]
    line = cache_signature(build_marker(), teachers, num_items=15)
    assert line == "kdcache1|toy@3f2a|roberta-large@a1b2:t_hs+roberta-large@00ff:t_ll|topk64|items15"
    assert cache_signature(build_marker(), [], num_items=15) == "kdcache1|toy@3f2a|none|items|items15"
