"""Durable files and cautious reading: what a cache knows of a file system, and nothing of what the files mean.

A folder belongs to one writer and is never renamed. What others must agree on is published with `link`, which fails if
the name is taken: the first writer wins and a half-written file never has a name.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import xxhash

from kdcache.cache.jsonio import parse_json
from kdcache.core.errors import CacheDamaged, CacheError, CacheFormatError

JSON_BYTES = 1 << 20
"""Largest small JSON file (marker, commit record, teacher) that is read."""
MANIFEST_BYTES = 1 << 26
"""Largest manifest that is read."""
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}"
_SEGMENT, _PATH = re.compile(_NAME), re.compile(f"{_NAME}(?:/{_NAME})*")
_TEMPORARY = ".tmp-"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """What a committed file must be.

    Attributes:
        size: bytes.
        sha256: hex digest, for `verify`.
        xxh3: xxh3_64 hex digest, fast enough to be checked at every read.
    """

    size: int
    sha256: str
    xxh3: str

    @classmethod
    def of(cls, content: bytes) -> FileRecord:
        """The record of these bytes."""
        return cls(
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            xxh3=xxhash.xxh3_64_hexdigest(content),
        )


def check_name(name: str) -> str:
    """A name that may become a file or folder: letters, digits, `_ . + -`, not starting with a dot.

    Raises:
        CacheFormatError: anything else, so also `..`, slashes, drive letters and NUL.

    Example:
        >>> check_name("t_hs")
        't_hs'
    """
    if not _SEGMENT.fullmatch(name):
        raise CacheFormatError(
            f"{name!r} cannot name a part of a cache; "
            f"use letters, digits and _ . + -, at most 200, the first a letter or digit"
        )
    return name


def check_relative(path: str) -> str:
    """A relative path inside a cache, segments joined by `/`.

    Raises:
        CacheFormatError: it is absolute, leaves the cache or holds other characters than names do.
    """
    if len(path) > 1000 or not _PATH.fullmatch(path):
        raise CacheFormatError(f"{path[:200]!r} is no path inside a cache; nothing was opened")
    return path


@contextlib.contextmanager
def _explained(folder: Path, *, cleanup: Path | None = None) -> Iterator[None]:
    """Turn an OSError of a write into one line that says what to do; removes `cleanup` whatever went wrong."""
    try:
        yield
    except BaseException as error:
        if cleanup is not None:
            shutil.rmtree(cleanup, ignore_errors=True)
        if isinstance(error, OSError):
            _raise_write_error(error, folder)
        raise


def _raise_write_error(error: OSError, folder: Path) -> NoReturn:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        usage = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists()))
        raise CacheError(
            f"disk full while writing {folder} ({usage.free:,} bytes left): "
            f"free at least {max(usage.total // 100, 1 << 20):,} bytes, run the same command again: it continues"
        ) from None
    raise CacheError(f"cannot write {folder}: {error.strerror or error}; check the disk and its permissions") from None


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, durably; no error if it is there."""
    with _explained(folder):
        missing = [p for p in (folder, *folder.parents) if not p.exists()]
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            sync_folder(path.parent)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> dict[str, FileRecord]:
    """Write a new folder of files that only this writer knows, and make it durable.

    Args:
        folder: must not exist; its parent must.
        files: relative path -> content.

    Returns:
        Relative path -> record.

    Raises:
        CacheError: the disk is full or refuses; the folder is removed.
    """
    with _explained(folder, cleanup=folder):
        folder.mkdir()
        folders = {folder}
        for name, content in files.items():
            path = folder / check_relative(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            folders.update(p for p in path.parents if folder in (p, *p.parents))
            _write_new(path, content)
        for path in sorted(folders, reverse=True):
            sync_folder(path)
        sync_folder(folder.parent)
        return {name: FileRecord.of(content) for name, content in files.items()}


def remove_folder(folder: Path) -> None:
    """Remove a folder of our own that lost a race; leftovers do no harm."""
    shutil.rmtree(folder, ignore_errors=True)


def _write_new(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def publish_exclusive(path: Path, content: bytes) -> bool:
    """Give a file its name if nobody has it; readers see the whole file or none.

    Returns:
        True if this call published it; False if the name was taken (nothing is changed then).

    Raises:
        CacheError: the disk is full or refuses (a file system without hard links cannot hold a growing cache).
    """
    temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}")
    with _explained(path):
        try:
            _write_new(temporary, content)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            sync_folder(path.parent)
            return True
        finally:
            temporary.unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Whether a file is the leftover of an interrupted publication."""
    return name.startswith(_TEMPORARY)


def read_bytes(root: Path, name: str, *, limit: int) -> bytes:
    """Read a small file of a cache.

    Args:
        root: the cache.
        name: relative path.
        limit: bytes; a larger file is refused before anything is read.

    Raises:
        CacheDamaged: it is missing, no regular file, a symbolic link, or larger than `limit`.
    """
    path = root / check_relative(name)
    size = file_size(root, name)
    if size > limit:
        raise CacheDamaged(f"{path} has {size:,} bytes, more than the {limit:,} such a file may have")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(size + 1)
    except OSError as error:
        raise CacheDamaged(f"cannot read {path}: {error.strerror}") from None
    if len(content) != size:
        raise CacheDamaged(f"{path} changed while it was read: {len(content):,} bytes instead of {size:,}")
    return content


def file_size(root: Path, name: str, *, folders: set[str] | None = None) -> int:
    """Size of a regular file inside the cache; no part of its path below `root` may be a symbolic link.

    Args:
        root: the cache.
        name: relative path.
        folders: those known to be no links; they are not looked at again, and new ones are added.

    Raises:
        CacheDamaged: it is missing, no regular file, or behind a symbolic link.
    """
    path = f"{root}/{check_relative(name)}"
    folder, known = name.rpartition("/")[0], set() if folders is None else folders
    while folder and folder not in known:
        if os.path.islink(f"{root}/{folder}"):
            raise CacheDamaged(f"{root}/{folder} is a symbolic link; a cache holds none")
        known.add(folder)
        folder = folder.rpartition("/")[0]
    try:
        status = os.lstat(path)
    except OSError:
        raise CacheDamaged(f"{path} is missing; restore it, or dump this block again") from None
    if not stat.S_ISREG(status.st_mode):
        raise CacheDamaged(f"{path} is not a regular file; a cache holds no links, folders or devices in its place")
    return status.st_size


def read_json(root: Path, name: str, *, limit: int = JSON_BYTES) -> dict[str, Any]:
    """Read a JSON object of a cache; see `read_bytes` and `parse_json` for what is refused."""
    return parse_json(read_bytes(root, name, limit=limit), where=str(root / name))
