"""How a command ends: one line on stderr and an exit code of its own, whatever went wrong."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

import click

from kdcache.core.errors import KDCacheError
from kdcache.core.leaving import leave

BUG = 70
"""Exit code of an error that kdcache did not expect (EX_SOFTWARE)."""
DISK = 74
"""Exit code where the disk refuses, which no stage foresaw (EX_IOERR)."""
INTERRUPTED = 130


def end(command: Callable[[], Any]) -> NoReturn:
    """Run a command and end the process: with its code, or with the line and code of its error.

    A reader that leaves our output, as `| head` does, is no error: the command ends with code 0. Any other pipe that
    breaks, e.g. to a worker, is one.

    Args:
        command: returns an exit code, or anything else for 0.
    """
    try:
        code = command()
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a reader that has gone is no error
        _leave(code if isinstance(code, int) else 0)
    except SystemExit as asked:
        leave(asked.code if isinstance(asked.code, int) else int(asked.code is not None))
        raise
    except click.ClickException as error:
        _fail(_usage(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        if sys.stderr is not None and sys.stderr.isatty():
            click.echo(err=True)  # ends the terminal's own ^C
        _fail("interrupted; the same command continues or starts again", INTERRUPTED)
    except KDCacheError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError as error:
        if _unread(sys.stdout) or _unread(sys.stderr):
            _leave(0)
        _unexpected(error)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        _fail(f"{what}; check the path and the space on its disk, or choose another folder with --out", DISK)
    except Exception as error:
        _unexpected(error)


def _usage(error: click.ClickException) -> str:
    """One line in place of click's three."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context is not None else "kdcache"
    return f"{error.format_message().rstrip('.')}; see {path} --help"


def _unexpected(error: Exception) -> NoReturn:
    if os.environ.get("KDCACHE_DEBUG"):
        traceback.print_exception(error)
    _fail(f"{type(error).__name__}: {error} (not expected; KDCACHE_DEBUG=1 shows where)", BUG)


def _fail(message: str, code: int) -> NoReturn:
    rank = os.environ.get("RANK", "0")
    where = "" if rank == "0" else f" (rank {rank})"
    with contextlib.suppress(BrokenPipeError):  # nobody reads the line; the code still tells
        click.echo(f"kdcache: error{where}: {' '.join(message.split())}", err=True)
    _leave(code)


def _unread(stream: TextIO | None) -> bool:
    """Whether a stream is a pipe whose reader has gone. Asked of the pipe itself: an error does not say which broke."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # type: ignore[union-attr]  # None where the process has no such stream
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # none, or not a file: a test's or a notebook's, which cannot break
        return False


def _leave(code: int) -> NoReturn:
    """Exit, from no process group. Else NCCL would keep the process.

    What nobody reads any more is dropped, or Python's own last flush would complain and change the code.
    """
    for stream in (sys.stdout, sys.stderr):
        if _unread(stream):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    leave(code)
    sys.exit(code)
