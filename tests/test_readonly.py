"""A test that changes what it shares with others fails by its own name, and nobody else does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ends import HANGING
from tests.readonly import snapshot

SUITE = """
import os
import shutil
import pytest
from tests.readonly import share

@pytest.fixture(scope="session")
def folder(request, tmp_path_factory):
    made = tmp_path_factory.mktemp("shared")
    (made / "kept.txt").write_text("kept")
    return share(request, made)

@pytest.fixture
def late(folder):
    (folder / "late.txt").touch()

def test_reads(folder): assert (folder / "kept.txt").read_text() == "kept"
def test_copies(folder, tmp_path): (shutil.copytree(folder, tmp_path / "copy") / "new.txt").touch()
def test_adds(folder): (folder / "new.txt").touch()
def test_reads_on(folder): assert (folder / "new.txt").is_file()
def test_rewrites(folder): (folder / "kept.txt").write_text("lost")
def test_changes_and_fails(folder):
    (folder / "kept.txt").unlink()
    assert False, "of its own"
def test_whose_fixture_adds(late): pass
def test_reads_last(folder): assert (folder / "late.txt").is_file()
def test_needs_nothing(): pass
"""


@pytest.mark.slow
def test_the_test_that_changed_a_shared_folder_is_the_one_that_fails(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_runtest_call\n")
    (tmp_path / "pytest.ini").touch()
    plain = {
        name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER")
    }  # pytest says more
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "-rf",
            "--tb=short",
            "test_suite.py",
        ],
        cwd=tmp_path,
        env={**plain, "PYTHONPATH": str(Path(__file__).parents[1]), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=HANGING,
    )
    failed = dict(line.rpartition("::")[2].split(" - ", 1) for line in found.stdout.splitlines() if "FAILED " in line)
    message = "shared folders are read-only, copy what you change: folder: "
    assert failed == {
        "test_adds": f"Failed: {message}new.txt",
        "test_rewrites": f"Failed: {message}kept.txt",
        "test_changes_and_fails": "AssertionError: of its own",
        "test_whose_fixture_adds": f"Failed: {message}late.txt",
    }, found.stdout
    assert found.stdout.count(f"{message}kept.txt") == 3, "the failed one says it too, beside its own error"


@pytest.mark.parametrize("change", ["size", "time", "folder"])
def test_a_snapshot_sees_every_kind_of_change(change: str, tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_text("1")
    before = snapshot(tmp_path)
    assert snapshot(tmp_path) == before
    if change == "size":
        (tmp_path / "a/b/file").write_text("22")
    elif change == "time":
        os.utime(tmp_path / "a/b/file", ns=(1, 1))
    else:
        (tmp_path / "a/c").mkdir()
    assert snapshot(tmp_path) != before
