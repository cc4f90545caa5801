"""Commit records, manifests and finding them."""

import json

import pytest

from kdcache.cache.catalog import committed, newest_manifest, read_commits, read_marker, read_teacher, teacher_names
from kdcache.cache.records import Manifest, record_from_tree, record_to_json
from kdcache.core.errors import CacheDamaged


def test_records_and_manifests_come_back_as_they_were(sealed, toy):
    for record in read_commits(sealed, "t_hs", toy.plan).values():
        assert record_from_tree(json.loads(record_to_json(record)), where="x") == record
    manifest = newest_manifest(sealed)
    assert Manifest.from_tree(json.loads(manifest.to_json()), where="x") == manifest
    assert manifest.signature == "kdcache1|toy@3f2a|roberta-large@0000:t_hs+roberta-large@0000:t_ll|topk64|items15"


def test_a_manifest_s_digest_does_not_depend_on_its_number(sealed):
    tree = json.loads(newest_manifest(sealed).to_json())
    assert Manifest.from_tree({**tree, "number": 9}, where="x").digest == tree["digest"]


def test_a_record_with_another_digest_is_damage(sealed, toy):
    path = sealed / "commits" / "t_hs" / "00000.json"
    path.write_text(path.read_text().replace('"forwards":6', '"forwards":7'))
    with pytest.raises(CacheDamaged, match="does not have the digest it says; remove it and run the same dump again"):
        read_commits(sealed, "t_hs", toy.plan)


def test_a_record_filed_under_another_block_is_damage(sealed, toy):
    folder = sealed / "commits" / "t_hs"
    (folder / "00000.json").write_bytes((folder / "00001.json").read_bytes())
    with pytest.raises(CacheDamaged, match="is the record of block '00001' of 't_hs'"):
        read_commits(sealed, "t_hs", toy.plan)


def test_a_record_of_a_block_that_is_not_planned_is_damage(sealed, toy):
    folder = sealed / "commits" / "t_hs"
    (folder / "00009.json").write_bytes((folder / "00001.json").read_bytes())
    with pytest.raises(CacheDamaged, match="has a commit of t_hs for block 00009, which is not in its plan"):
        read_commits(sealed, "t_hs", toy.plan)


def test_an_identity_in_another_teacher_s_folder_is_damage(sealed):
    source, target = (sealed / "teachers" / name / "teacher.json" for name in ("t_hs", "t_ll"))
    target.write_bytes(source.read_bytes())
    with pytest.raises(CacheDamaged, match=r"t_ll/teacher\.json is the identity of 't_hs'"):
        read_teacher(sealed, "t_ll")


def test_an_empty_folder_has_nothing(tmp_path):
    assert (teacher_names(tmp_path), committed(tmp_path, "items"), newest_manifest(tmp_path)) == ((), set(), None)
    (tmp_path / "manifests").mkdir()
    assert newest_manifest(tmp_path) is None


@pytest.mark.parametrize("file", ["kdcache.json", "teachers/t_hs/teacher.json", "manifests/000001.json"])
def test_whichever_key_is_not_there_is_named_with_what_to_do(file, sealed):
    tree = json.loads((sealed / file).read_text())
    for key in tree.keys() - {"format", "major", "digest"}:  # these three say first that it is something else
        (sealed / file).write_text(json.dumps({name: value for name, value in tree.items() if name != key}))
        with pytest.raises(CacheDamaged) as caught:
            read_marker(sealed), newest_manifest(sealed), read_teacher(sealed, "t_hs")
        assert str(caught.value).startswith(f"{sealed / file} lacks {key}, which kdcache ")
        assert str(caught.value).endswith("run kdcache dump-teacher CONFIG again")
