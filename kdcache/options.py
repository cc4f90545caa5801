"""Options that several commands share: the run file and its changes, the device, the processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)


def _number_or_auto(context: click.Context, parameter: click.Parameter, value: str | None) -> int | str | None:
    """A whole number, or `auto` as it is."""
    try:
        return value if value in (None, "auto") else int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a whole number nor auto") from None


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


run_options = _options(
    click.argument("config", type=PATH),
    click.option("--set", "overrides", multiple=True, metavar="BLOCK.KEY=VALUE", help="Change a setting; repeatable."),
    click.option("--out", type=PATH, help="Folder of the study, instead of the file's `out:`."),
    click.option("--data-root", type=PATH, help="Where relative data paths start, instead of KDCACHE_DATA."),
)
device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where to compute."
)
launch_options = _options(
    device_option,
    click.option("--num-gpus", type=int, help="Processes on this machine, one a GPU."),
    click.option("--num-procs", type=int, help="Processes with --device cpu."),
    click.option("--num-nodes", type=int, help="Machines of the hostfile to use."),
    click.option("--hostfile", type=PATH, help="DeepSpeed hostfile, for several machines."),
)
search_options = _options(
    click.option("--design", help="greedy or factorial."),
    click.option("--student", "students", multiple=True, help="Name of a student in the models file; repeatable."),
    click.option("--complete", metavar="LIST", help="Also train what compare needs: of lazy,stable,random."),
    click.option("--seeds", metavar="LIST", help="E.g. 0,1,2: the first one searches, the others repeat."),
    click.option(
        "--jobs",
        type=int,
        help="Trainings at once, over all GPUs or on the CPU. [default: 1, or what --jobs-per-gpu gives]",
    ),
    click.option(
        "--jobs-per-gpu",
        callback=_number_or_auto,
        metavar="N|auto",
        help="Trainings at once on each GPU, and use all GPUs; auto decides by the first training. [default: 1]",
    ),
    click.option("--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Where."),
)


def check_dump_flags(asked: dict[str, Any]) -> None:
    """Refuse flags that the command would ignore."""
    dry, faithful = asked["dry_run"], asked["fidelity"] is not None
    if dry and faithful:
        raise click.UsageError("--dry-run and --fidelity are two reports; ask for one at a time")
    for name, needs, there in (
        ("speed", "--dry-run", dry),
        ("grid", "--fidelity N", faithful),
        ("student", "--fidelity N", faithful),
        ("as_json", "--dry-run or --fidelity N", dry or faithful),
    ):
        if asked[name] not in (None, False) and not there:
            raise click.UsageError(f"--{name.removeprefix('as_')} means something only with {needs}")


def search_overrides(options: Mapping[str, Any]) -> list[str]:
    """The settings that flags of `search` change."""
    students = options["students"]
    flags = [f"search.students=[{', '.join(students)}]"] if students else []
    flags += [f"search.{name}=[{options[name]}]" for name in ("complete", "seeds") if options[name] is not None]
    return flags + ([f"search.design={options['design']}"] if options["design"] is not None else [])
