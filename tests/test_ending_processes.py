"""How a command ends that has joined a process group: it leaves it, and ends within seconds of its last line."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from kdcache.ending import BUG
from tests.ends import END_SECONDS, Command, Ended, wait_until

pytestmark = pytest.mark.slow

JOINED = """
import atexit, sys, time
from pathlib import Path
import torch
from kdcache.core.errors import RunError
from kdcache.ending import end
from kdcache.training.start import start
from kdcache.training.world import barrier
from kdcache.training.zero import join
def command():
    world = start("cpu", init_method=sys.argv[1] if len(sys.argv) > 1 else None)
    join(world)
    atexit.register(lambda: print("a group is there:", torch.distributed.is_initialized(), flush=True))
    print("joined", flush=True)
    {}
end(command)
"""
"""A command that joins a group; Python's exit says before all else whether it is still there."""
WITHOUT = "a group is there: False"
INTERRUPTION = "kdcache: error: interrupted; the same command continues or starts again"


def joined(statement: str, *arguments: str, **more: str) -> Command:
    return Command(sys.executable, "-c", JOINED.format(statement), *arguments, more=more)


@pytest.mark.parametrize(
    ("statement", "code", "said"),
    [
        ("return 0", 0, ()),
        ("sys.exit(3)", 3, ()),
        ("raise RunError('no run')", 8, ("kdcache: error: no run",)),
        (
            "1 / 0",
            BUG,
            ("kdcache: error: ZeroDivisionError: division by zero (not expected; KDCACHE_DEBUG=1 shows where)",),
        ),
    ],
)
def test_a_command_leaves_its_group_and_ends_however_its_work_went(
    statement: str, code: int, said: tuple[str, ...], tmp_path: Path
) -> None:
    found = joined(statement, TMPDIR=str(tmp_path)).end()
    assert (found.code, found.lines) == (code, ("joined", *said, WITHOUT))
    assert found.seconds < END_SECONDS
    assert not list(tmp_path.glob("kdcache-*")), "where it met nobody else"


def test_an_interruption_leaves_the_group_too() -> None:
    # Many short sleeps: Python sees a signal between two steps, and one just before a long sleep only after it.
    command = joined("while True: time.sleep(0.1)")
    command.says("joined")
    command.send(signal.SIGINT)
    found = command.end()
    assert (found.code, found.lines) == (130, ("joined", INTERRUPTION, WITHOUT))
    assert found.seconds < END_SECONDS


def test_a_termination_ends_a_command_at_once() -> None:
    command = joined("while True: time.sleep(0.1)")
    command.says("joined")
    command.send(signal.SIGTERM)
    found = command.end()
    assert (found.code, found.lines) == (-signal.SIGTERM, ("joined",))
    assert found.seconds < END_SECONDS


def two_ranks(first: str, second: str, meeting: Path) -> list[Ended]:
    """Both of two processes, which do one thing each once they have met."""
    ranks = [
        joined(statement, f"file://{meeting}", RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
        for rank, statement in enumerate((first, second))
    ]
    return [rank.end() for rank in ranks]


def test_all_processes_of_a_command_end_where_all_succeed(tmp_path: Path) -> None:
    for found in two_ranks("barrier(world)", "barrier(world); time.sleep(1)", tmp_path / "meeting"):
        assert (found.code, found.lines) == (0, ("joined", WITHOUT))
        assert found.seconds < END_SECONDS


def test_all_processes_of_a_command_end_where_one_fails_and_another_waits_for_it(tmp_path: Path) -> None:
    waits, fails = two_ranks("barrier(world)", "raise RunError('no run')", tmp_path / "meeting")
    assert (fails.code, fails.lines) == (8, ("joined", "kdcache: error (rank 1): no run"))
    assert waits.code == BUG
    assert len(waits.lines) == 2
    assert waits.lines[1].startswith("kdcache: error: RuntimeError: ")
    assert max(waits.seconds, fails.seconds) < END_SECONDS


def training(name: str, study: Path, out: Path, *options: str) -> Command:
    """A command that trains from the tiny study's cache, on the CPU."""
    given = [str(study / "run.yaml"), "--out", str(out), "--set", f"student.cache={study / 'out/cache'}"]
    return Command(sys.executable, "-m", "kdcache", name, *given, "--device", "cpu", *options)


@pytest.mark.parametrize(
    ("setting", "code", "last"),
    [("epochs=1", 0, "next: kdcache compare "), ("weight_decay=1e38", 7, "kdcache: error: the loss is nan ")],
)
def test_a_training_has_ended_seconds_after_its_last_line(
    setting: str, code: int, last: str, study: Path, tmp_path: Path
) -> None:
    found = training("train-student", study, tmp_path, "--set", f"student.{setting}").end()
    assert found.code == code, found.lines
    assert found.lines[-1].lstrip().startswith(last), found.lines
    assert found.seconds < END_SECONDS


@pytest.mark.parametrize(
    ("number", "code", "lines"), [(signal.SIGINT, 130, [INTERRUPTION]), (signal.SIGTERM, -signal.SIGTERM, [])]
)
def test_who_ends_a_command_ends_all_processes_that_it_started(
    number: signal.Signals, code: int, lines: list[str], study: Path, tmp_path: Path
) -> None:
    options = ("--num-procs", "2", "--set", "student.epochs=100000")
    command = training("train-student", study, tmp_path, *options)

    def trains() -> bool:
        assert command.process.poll() is None
        return any('"step"' in log.read_text() for log in tmp_path.glob("students/half/*/log.jsonl"))

    wait_until(trains)
    command.send(number)
    found = command.end()
    assert found.code == code, found.lines
    assert [line for line in found.lines if line.startswith("kdcache: error")] == lines
    assert found.seconds < END_SECONDS, "what still trains keeps the output open"


def test_the_workers_of_a_search_leave_their_groups_and_end(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meetings").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "meetings"))
    short = ("--set", "search.temperatures=[1]", "--set", "search.second_stage=false", "--set", "student.epochs=1")
    found = training("search", study, tmp_path / "out", "--jobs", "2", *short).end()
    assert found.code == 0, found.lines
    assert len(list((tmp_path / "out/students").glob("half/*/result.json"))) > 1
    assert found.seconds < END_SECONDS
    assert not list((tmp_path / "meetings").glob("kdcache-*")), "who leaves its group removes the place it met at"
