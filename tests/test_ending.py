"""How a command ends where a pipe breaks: 0 if the reader of its output has left, an error for any other pipe."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path

import pytest

from kdcache.core.errors import RunError
from kdcache.ending import BUG, end
from tests.ends import HANGING

CACHE = Path(__file__).parent / "golden/cache-1.0"
BROKEN = "kdcache: error: BrokenPipeError: [Errno 32] Broken pipe (not expected; KDCACHE_DEBUG=1 shows where)\n"
WORKER = "r, w = os.pipe(); os.close(r); os.write(w, b'job')"
"""A broken pipe that is not our output."""


def left(*command: str, streams: tuple[str, ...] = ("stdout",)) -> tuple[int, str]:
    """Exit code and what can still be read of a command, the reader of whose streams left before it wrote."""
    reader, writer = os.pipe()
    os.close(reader)
    where = {name: writer if name in streams else subprocess.PIPE for name in ("stdout", "stderr")}
    try:
        done = subprocess.run([sys.executable, *command], text=True, timeout=HANGING, check=False, **where)
    finally:
        os.close(writer)
    return done.returncode, (done.stdout or "") + (done.stderr or "")


def ended(statement: str) -> tuple[str, str]:
    """A Python command that ends as `statement` does."""
    return "-c", f"import os\nfrom kdcache.ending import end\ndef command():\n    {statement}\nend(command)"


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--version",), ("train-student", "--help"), ("inspect", str(CACHE))])
def test_a_reader_that_left_ends_a_command_with_0_and_in_silence(arguments: tuple[str, ...]) -> None:
    assert left("-m", "kdcache", *arguments) == (0, "")


@pytest.mark.slow
def test_head_takes_the_first_line_of_a_command() -> None:
    line = f"set -o pipefail; '{sys.executable}' -m kdcache inspect '{CACHE}' | head -n 1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=HANGING, check=False)
    assert (done.returncode, done.stdout.count("\n"), done.stderr) == (0, 1, "")


@pytest.mark.parametrize("statement", ["print('unread')", "print('unread', flush=True)", "print('unread ' * 10**5)"])
def test_so_does_one_that_left_before_python_wrote_what_it_holds(statement: str) -> None:
    assert left(*ended(statement)) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("streams", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_an_error_keeps_its_code_though_nobody_reads_it(streams: tuple[str, ...]) -> None:
    arguments = ("inspect", str(CACHE.parent))
    code, said = left("-m", "kdcache", *arguments, streams=streams)
    assert code == left("-m", "kdcache", *arguments, streams=())[0] != 0
    assert ("kdcache: error: " in said) == ("stderr" not in streams)
    assert "BrokenPipe" not in said


def test_any_other_pipe_that_breaks_is_an_error_with_its_line_and_code() -> None:
    assert left(*ended(WORKER), streams=()) == (BUG, BROKEN)


def test_it_is_one_too_where_the_output_is_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = Pipe()
    theirs.close()
    with pytest.raises(SystemExit) as done:
        end(lambda: ours.send("job"))
    ours.close()
    assert (done.value.code, capsys.readouterr().err) == (BUG, BROKEN)


def test_debugging_shows_where_it_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCACHE_DEBUG", "1")
    code, said = left(*ended(WORKER), streams=())
    assert code == BUG
    assert said.startswith("Traceback ")
    assert "in command\n" in said
    assert said.endswith(BROKEN)


def test_a_command_ends_as_it_says_where_there_are_no_streams_at_all() -> None:
    for statement, code in (("print('unread'); return 3", 3), ("raise OSError('no space')", 74)):
        script = f"import sys\nsys.stdout = sys.stderr = None\n{ended(statement)[1]}"
        assert left("-c", script, streams=()) == (code, "")


@pytest.mark.parametrize(("terminal", "before"), [(True, "\n"), (False, "")])
def test_an_interruption_stands_on_a_line_of_its_own(
    terminal: bool, before: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with pytest.raises(SystemExit) as done:
        end(interrupted)
    error = "kdcache: error: interrupted; the same command continues or starts again\n"
    assert (done.value.code, capsys.readouterr().err) == (130, before + error)


def test_the_number_that_a_command_returns_is_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    for returned, code in ((4, 4), (None, 0), ("text", 0)):
        with pytest.raises(SystemExit) as done:
            end(lambda returned=returned: returned)
        assert done.value.code == code
    with pytest.raises(SystemExit) as done:
        end(_refuses)
    assert (done.value.code, capsys.readouterr().err) == (8, "kdcache: error: no run\n")


def _refuses() -> None:
    raise RunError("no run")


@pytest.mark.parametrize(
    ("asked", "words", "position", "expected"),
    [
        ("bash_source", "", "0", "_kdcache_completion() {"),
        ("bash_complete", "kdcache train-s", "1", "plain,train-student"),
        ("bash_complete", "kdcache search --jo", "2", "plain,--jobs"),
    ],
)
def test_shells_complete_commands_and_options(asked: str, words: str, position: str, expected: str) -> None:
    told = {"_KDCACHE_COMPLETE": asked, "COMP_WORDS": words, "COMP_CWORD": position}
    done = subprocess.run(
        [sys.executable, "-m", "kdcache"],
        env={**os.environ, **told},
        capture_output=True,
        text=True,
        timeout=HANGING,
        check=False,
    )
    assert done.stdout.splitlines()[0] == expected
