"""How a command ends: one line on stderr and an exit code of its own, whatever went wrong."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

from kdcache.core.errors import KDCacheError

BUG = 70
"""Exit code of an error that kdcache did not expect (EX_SOFTWARE)."""
DISK = 74
"""Exit code where the disk refuses, which no stage foresaw (EX_IOERR)."""
INTERRUPTED = 130


def end(command: Callable[[], Any]) -> None:
    """Run a command and end the process: with its code, or with the line and code of its error."""
    try:
        code = command()
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        _fail(_usage(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted; the same command continues or starts again", INTERRUPTED)
    except KDCacheError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone, e.g. `| head`
        sys.exit(0)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        _fail(f"{what}; check the path and the space on its disk, or choose another folder with --out", DISK)
    except Exception as error:
        if os.environ.get("KDCACHE_DEBUG"):
            traceback.print_exc()
        _fail(f"{type(error).__name__}: {error} (not expected; KDCACHE_DEBUG=1 shows where)", BUG)


def _usage(error: click.ClickException) -> str:
    """One line in place of click's three."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context is not None else "kdcache"
    return f"{error.format_message().rstrip('.')}; see {path} --help"


def _fail(message: str, code: int) -> None:
    rank = os.environ.get("RANK", "0")
    where = "" if rank == "0" else f" (rank {rank})"
    click.echo(f"kdcache: error{where}: {' '.join(message.split())}", err=True)
    sys.exit(code)
