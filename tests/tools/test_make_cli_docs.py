"""The command reference follows the commands."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from tools.make_cli_docs import HEAD, main, render, update


@click.group()
@click.version_option("1.2.3")
def small() -> None:
    """A small program."""


@small.command("train-it")
@click.argument("config")
@click.argument("runs", nargs=-1)
@click.option("--loss", type=click.Choice(["ce", "mse"]), default="ce", show_default=True, help="The distance.")
@click.option("--secret", hidden=True, help="Not shown.")
def train_it(**_: object) -> None:
    """Train it.

    \b
    Twice if need be.
    """


@small.command("ghost", hidden=True)
def ghost() -> None:
    """Not shown."""


@small.group("cache")
def cache() -> None:
    """Look into a cache."""


@cache.command("ls")
def ls() -> None:
    """List it."""


EXPECTED = (
    HEAD
    + r"""
## small

A small program.

```
small [OPTIONS] COMMAND [ARGS]...
```

| command | what it does |
|---|---|
| `small cache` | Look into a cache. |
| `small train-it` | Train it. |

| option | meaning |
|---|---|
| `--version` | Show the version and exit. |
| `--help` | Show this message and exit. |

## small cache

Look into a cache.

```
small cache [OPTIONS] COMMAND [ARGS]...
```

| command | what it does |
|---|---|
| `small cache ls` | List it. |

| option | meaning |
|---|---|
| `--help` | Show this message and exit. |

## small cache ls

List it.

```
small cache ls [OPTIONS]
```

| option | meaning |
|---|---|
| `--help` | Show this message and exit. |

## small train-it

Train it.

Twice if need be.

```
small train-it [OPTIONS] CONFIG [RUNS]...
```

| option | meaning |
|---|---|
| `--loss [ce\|mse]` | The distance. [default: ce] |
| `--help` | Show this message and exit. |
"""
)


def test_the_reference_of_a_small_program_is_exactly_this():
    assert render(small, "small") == EXPECTED


def test_update_writes_once_and_check_only_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    target = tmp_path / "docs" / "cli.md"
    target.parent.mkdir()
    assert update(target, "a", check=True) == 1
    assert capsys.readouterr().out == "docs/cli.md is out of date; run make docs and commit it\n"
    assert not target.exists()
    assert update(target, "a", check=False) == 0
    assert target.read_text() == "a"
    assert update(target, "a", check=True) == 0


def test_an_unknown_argument_is_refused(capsys: pytest.CaptureFixture[str]):
    assert main(["--chekc"]) == 2
    assert capsys.readouterr().out == "unknown arguments --chekc; allowed: --check\n"
