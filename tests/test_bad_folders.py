"""Runs, disks and folders that commands cannot use: one line on stderr, an exit code, and nothing half-written."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdcache.core.configuration import Configuration
from kdcache.demo.ratings import RATINGS
from tests import tiny
from tests.report.conftest import write, write_grid
from tests.tiny import call, refused


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Nine finished runs."""
    return write_grid(tmp_path / "runs")


def compare(capsys: pytest.CaptureFixture[str], runs: Path, *options: object, code: int = 8) -> str:
    return refused(capsys, "compare", runs, "--out", runs.parent / "report", *options, code=code)


def test_compare_needs_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no finished run (none there or up to two levels below)" in compare(capsys, tmp_path / "empty")
    error = compare(capsys, tmp_path / "gone")
    assert error == f"{tmp_path / 'gone'} is not a folder; give run folders, or a folder that holds them"
    assert not (tmp_path / "report").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "{",
            "is damaged: Expecting property name enclosed in double quotes: line 1 column 2 (char 1); leave it out, or",
        ),
        ("[]", "is not a kdcache result of format 1; leave it out, or train the run again"),
        ('{"format": 9}', "is not a kdcache result of format 1; leave it out, or train the run again"),
        ('{"format": 1}', "lacks the setting key; leave it out, or train the run again"),
        ("\xff", "can't decode byte 0xff in position 0: invalid start byte; leave it out, or train the run again"),
    ],
)
def test_compare_names_a_broken_result(
    content: str, message: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = min(runs.glob("*/result.json"))
    broken.write_text(content, encoding="latin-1")
    error = compare(capsys, runs, "--strict")
    assert error.startswith(f"--strict: {broken}")
    assert message in error
    assert not (runs.parent / "report").exists()
    call("compare", str(runs), "--out", str(runs.parent / "report"), "--resamples", "100")
    said = capsys.readouterr().out.replace("\n", "")
    assert str(broken.parent) in said  # left out by name, the other eight are compared
    assert said.startswith("8 runs, ")


def test_compare_refuses_runs_of_two_test_sets(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(runs / "other", Configuration(teacher="t_hs", tau_t=2.0), 0.8, num_examples=200)
    error = compare(capsys, runs)
    assert f" and {runs / 'other'} (mrpc, small) were scored on different test examples (" in error
    assert error.endswith("); compare runs of one test set")


def test_compare_refuses_settings_that_give_no_interval(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = compare(capsys, runs, "--resamples", 3, code=2)
    assert error == "resamples = 3 is too few for an interval; give at least 100"
    assert compare(capsys, runs, "--seed", -3, code=2) == "seed = -3 is negative; give a seed >= 0"


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """`small_disk(bytes)`: from now on no file may grow larger, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("command", "size", "code", "message"),
    [
        ("train-teacher", 300, 8, "cannot write {out}/teacher/log.jsonl: File too large; free space there, or choose"),
        ("train-teacher", 3000, 6, "cannot write the checkpoint {out}/teacher/checkpoints/0.01/t_hs: "),
        ("dump-teacher", 300, 4, "cannot write {out}/cache/kdcache.json: File too large; check the disk and its perm"),
        ("dump-teacher", 3000, 4, "cannot write {out}/cache/plan.parquet: File too large; check the disk and its perm"),
        (
            "train-student",
            300,
            8,
            "/config.json: File too large; free space there, or choose another folder with --out",
        ),
        ("train-student", 3000, 6, "cannot write the checkpoint {out}/students/half/ce-t-hs-tau-4-4-seed0-"),
    ],
)
def test_a_full_disk_ends_a_stage_and_the_same_command_goes_on(
    command: str,
    size: int,
    code: int,
    message: str,
    study: Path,
    tmp_path: Path,
    small_disk: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    given = {
        "train-teacher": [],
        "dump-teacher": ["--teacher", f"t_hs={study / 'out/teacher/selected/t_hs'}"],
        "train-student": ["--cache", str(study / "out/cache")],
    }
    arguments = [command, str(study / "run.yaml"), "--device", "cpu", "--out", str(out), *given[command]]
    small_disk(size)
    error = refused(capsys, *arguments, code=code)
    small_disk(resource.RLIM_INFINITY)
    assert message.format(out=out) in error
    finished = {"train-teacher": "teacher.json", "dump-teacher": "cache/manifests/*", "train-student": "result.json"}
    assert list(out.rglob(finished[command])) == []
    assert list(out.rglob(".*.tmp*")) == []
    tiny.call(*arguments)
    assert len(list(out.rglob(finished[command]))) == 1


def test_a_full_disk_ends_a_comparison(
    runs: Path, small_disk: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    small_disk(300)
    error = compare(capsys, runs, "--resamples", 200)
    small_disk(resource.RLIM_INFINITY)
    out = runs.parent / "report"
    assert error == f"cannot write the report to {out}: File too large; give another folder with --out"
    assert not (out / "report.html").exists()


@pytest.mark.parametrize(
    ("command", "code"), [("train-teacher", 2), ("dump-teacher", 2), ("train-student", 2), ("compare", 8), ("demo", 74)]
)
def test_an_out_folder_that_cannot_be_is_refused(
    command: str, code: int, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("mine")
    run = [study / "run.yaml", "--device", "cpu"]
    given = {
        "train-teacher": run,
        "dump-teacher": [*run, "--teacher", f"t_hs={study / 'out/teacher/selected/t_hs'}"],
        "train-student": [*run, "--cache", study / "out/cache"],
        "compare": [write_grid(tmp_path / "runs") if command == "compare" else ""],
        "demo": ["--device", "cpu", "--data", tmp_path],
    }
    error = refused(capsys, command, *given[command], "--out", blocked, code=code)
    assert str(blocked) in error
    assert "--out" in error
    assert blocked.read_text() == "mine"


def test_a_dump_into_a_folder_of_something_else_is_refused(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/letter.txt").write_text("mine")
    teacher = f"t_hs={study / 'out/teacher/selected/t_hs'}"
    run = (study / "run.yaml", "--device", "cpu", "--out", tmp_path, "--teacher", teacher)
    error = refused(capsys, "dump-teacher", *run, code=2)
    assert error == f"{tmp_path}/cache exists and is not a kdcache cache; dump into a new or empty folder"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            "gone",
            "no file or folder {data}; give the source distribution of vaderSentiment==3.3.2, or leave out --data",
        ),
        (
            "empty",
            "{data} holds no " + RATINGS + "; give the source distribution of vaderSentiment==3.3.2, or its data",
        ),
        ("file", "the source distribution has sha256 e3b0c44298fc1c14"),
    ],
)
def test_the_demo_refuses_data_that_are_not_its_own(
    data: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    options = ("--out", tmp_path / "demo", "--device", "cpu", "--data", tmp_path / data)
    assert message.format(data=tmp_path / data) in refused(capsys, "demo", *options, code=3)
    assert [path for path in (tmp_path / "demo").rglob("*") if path.is_file()] == []
