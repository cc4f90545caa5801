"""Durable files and cautious reading."""

import errno
import os
import threading

import pytest

from kdcache.cache import store
from kdcache.cache.store import (
    FileRecord,
    check_name,
    check_relative,
    file_size,
    is_temporary,
    make_folder,
    publish_exclusive,
    read_bytes,
    read_json,
    remove_folder,
    write_folder,
)
from kdcache.core.errors import CacheDamaged, CacheError, CacheFormatError


def test_the_first_of_many_threads_publishes_and_the_file_is_whole(tmp_path):
    target, won = tmp_path / "record.json", []

    def publish(number):
        if publish_exclusive(target, f"{number}".encode() * 1000):
            won.append(number)

    threads = [threading.Thread(target=publish, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert target.read_bytes() == f"{won[0]}".encode() * 1000
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_a_folder_is_written_with_its_records(tmp_path):
    records = write_folder(tmp_path / "block", {"a/zarr.json": b"{}", "b": b""})
    assert (tmp_path / "block" / "a" / "zarr.json").read_bytes() == b"{}"
    assert records["b"] == FileRecord(
        size=0,
        sha256="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        xxh3="2d06800538d394c2",
    )
    remove_folder(tmp_path / "block")
    assert not (tmp_path / "block").exists()


def failing(code):
    def fsync(descriptor):
        raise OSError(code, os.strerror(code))

    return fsync


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_how_to_go_on_and_leaves_nothing(tmp_path, monkeypatch, code):
    monkeypatch.setattr(store.os, "fsync", failing(code))
    with pytest.raises(CacheError) as caught:
        write_folder(tmp_path / "block", {"a": b"1"})
    assert str(caught.value).startswith(f"disk full while writing {tmp_path / 'block'} (")
    assert "free at least" in str(caught.value)
    assert str(caught.value).endswith("bytes, run the same command again: it continues")
    with pytest.raises(CacheError, match="disk full while writing"):
        publish_exclusive(tmp_path / "record", b"1")
    assert list(tmp_path.iterdir()) == []


def test_another_refusal_of_the_disk_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CacheError, match="file/folder: Not a directory; check the disk and its permissions"):
        make_folder(tmp_path / "file" / "folder")
    monkeypatch.setattr(store.os, "fsync", failing(errno.EIO))
    with pytest.raises(CacheError, match=r"cannot write .*block: Input/output error; check the disk"):
        write_folder(tmp_path / "block", {"a": b"1"})


def test_an_interrupt_removes_the_own_folder_and_goes_on(tmp_path, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(store.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "block", {"a": b"1"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a//b", "a/../b", "C:/x", "a\\b", "a\0b", "", ".hidden", "a/./b", "x" * 1001, "a\n"]
)
def test_a_path_that_leaves_the_cache_is_refused_before_any_open(path, tmp_path):
    with pytest.raises(CacheFormatError, match="is no path inside a cache; nothing was opened"):
        check_relative(path)
    with pytest.raises(CacheFormatError):
        read_bytes(tmp_path, path, limit=10)


def test_a_name_is_no_path():
    assert check_name("t_hs-2.b") == "t_hs-2.b"
    with pytest.raises(CacheFormatError, match="'a/b' cannot name a part of a cache; use letters, digits"):
        check_name("a/b")


def test_symbolic_links_folders_and_missing_files_are_refused(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "alias").symlink_to(tmp_path / "real" / "file")
    with pytest.raises(CacheDamaged, match=r"link is a symbolic link; a cache holds none"):
        file_size(tmp_path, "link/file")
    with pytest.raises(CacheDamaged, match="alias is not a regular file"):
        read_bytes(tmp_path, "alias", limit=10)
    with pytest.raises(CacheDamaged, match="real is not a regular file"):
        file_size(tmp_path, "real")
    with pytest.raises(CacheDamaged, match="gone is missing; restore it, or dump this block again"):
        file_size(tmp_path, "gone")
    assert read_bytes(tmp_path, "real/file", limit=10) == b"x"


def test_a_file_over_the_limit_is_refused_unread(tmp_path):
    with (tmp_path / "big.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(CacheDamaged, match=r"big.json has 1,073,741,824 bytes, more than the 1,048,576"):
        read_json(tmp_path, "big.json")


def test_json_is_read_by_its_relative_name(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"a": [1]}')
    assert read_json(tmp_path, "a.json") == {"a": [1]}


def test_leftovers_of_a_publication_are_known_by_name():
    assert is_temporary(".tmp-0011")
    assert not is_temporary("00000.json")
