"""Folders that tests share are read-only: a test that changes one fails, by its own name."""

from __future__ import annotations

from pathlib import Path

import pytest

Snapshot = dict[str, tuple[int, int]]
_shared: dict[str, tuple[Path, Snapshot]] = {}
"""Fixture -> its folder, and what is in it."""


def snapshot(folder: Path) -> Snapshot:
    """Every file's size and time of change in nanoseconds, and every folder."""
    found: Snapshot = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[str(path.relative_to(folder))] = (0, 0) if path.is_dir() else (status.st_size, status.st_mtime_ns)
    return found


def share(request: pytest.FixtureRequest, folder: Path) -> Path:
    """A fixture's folder, which no test may change from now on."""
    assert request.fixturename is not None
    _shared[request.fixturename] = (folder, snapshot(folder))
    return folder


def changed(fixtures: list[str]) -> str:
    """What is other than it was in the folders of these fixtures, in words; it is told once, and nothing is empty."""
    told = []
    for name in sorted(set(fixtures) & set(_shared)):
        folder, before = _shared[name]
        now = snapshot(folder)
        paths = {path for path in before.keys() | now.keys() if before.get(path) != now.get(path)}
        told += [f"{name}: {path}" for path in sorted(paths)]
        _shared[name] = (folder, now)
    return f"shared folders are read-only, copy what you change: {', '.join(told)}" if told else ""
