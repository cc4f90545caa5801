"""The command line, in the order of the pipeline. A command parses, calls one function, prints.

Heavy imports stand inside the commands, so that `--help` costs nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import shell_complete

from kdcache.core.errors import LaunchError
from kdcache.ending import end
from kdcache.options import (
    PATH,
    check_dump_flags,
    device_option,
    launch_options,
    run_options,
    search_options,
    search_overrides,
)
from kdcache.version import __version__

if TYPE_CHECKING:
    from kdcache.training.launch import Launch
    from kdcache.training.run import RunFile


COMPLETE = "_KDCACHE_COMPLETE"
"""Set by a shell that wants completions, or its script for them: click's protocol."""


class Ordered(click.Group):
    """A group that lists its commands in the order of the pipeline."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in order of definition."""
        return list(self.commands)


@click.group(cls=Ordered, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="kdcache")
@click.option(
    "--local_rank", type=int, hidden=True, help="Given by the DeepSpeed launcher; the environment says it too."
)
def cli(local_rank: int | None) -> None:
    """Distil from a teacher that has already left the room.

    Run the teacher once (dump-teacher), then train students under any distillation configuration from what it left
    (train-student), and compare them (compare). Start with: kdcache demo
    """


@cli.command()
@click.option("--quick", is_flag=True, help="Fewer texts and configurations: under 3 minutes, and a weaker teacher.")
@click.option("--out", type=PATH, default=Path("runs/demo"), show_default=True, help="Where everything goes.")
@click.option("--data", type=PATH, help="Source distribution or folder with the ratings, instead of a download.")
@device_option
def demo(quick: bool, out: Path, data: Path | None, device: str) -> None:
    """The whole pipeline on real, human-rated texts, in minutes on a laptop."""
    from kdcache import demo as demo_module

    demo_module.run(out=out, quick=quick, source=data, device=device, say=click.echo)


@cli.command("train-teacher")
@run_options
@launch_options
def train_teacher(config: Path, **options: Any) -> None:
    """Fine-tune a teacher and keep its two checkpoints, t_hs and t_ll.

    t_hs has the highest validation score, t_ll the lowest validation loss. Settings: the block `teacher:` of CONFIG.
    """
    file, launch = _load(config, options), _launch(options)
    if _launched(launch):
        return
    from kdcache.teacher import finetune

    result = finetune.run(file, device=launch.device)
    if _first():
        click.echo(finetune.summary(result, file))


@cli.command("dump-teacher")
@run_options
@click.option("--teacher", "teachers", multiple=True, metavar="NAME=PATH", help="A checkpoint to run; repeatable.")
@device_option
@click.option("--dry-run", is_flag=True, help="Print rows, bytes, FLOPs and hours; write nothing.")
@click.option("--speed", type=float, metavar="TOKENS", help="With --dry-run: tokens a second, instead of a trial.")
@click.option("--fidelity", type=int, metavar="N", help="Print what each store loses on N items; write nothing.")
@click.option("--grid", metavar="LOSS:TAU_T:TAU_S,...", help="With --fidelity: configurations, e.g. ce:2:1,ce:4:tied.")
@click.option("--student", help="With --fidelity: a student of the models file, instead of noise.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run or --fidelity: for machines.")
def dump_teacher(config: Path, teachers: tuple[str, ...], device: str, **options: Any) -> None:
    """Run each teacher checkpoint once and keep what any distillation needs.

    Without --teacher these are t_hs and t_ll of train-teacher. Interrupted, the same command continues. Settings: the
    block `dump:` of CONFIG. Before it is paid for, --dry-run says what it costs and --fidelity what it keeps.
    """
    asked = {name: options.pop(name) for name in ("dry_run", "speed", "fidelity", "grid", "student", "as_json")}
    check_dump_flags(asked)
    file = _load(config, options)
    if asked["dry_run"]:
        from kdcache.teacher import preview

        estimate = preview.run(file, teachers=teachers, device=device, speed=asked["speed"])
        click.echo(preview.as_json(estimate) if asked["as_json"] else preview.text(estimate))
    elif asked["fidelity"] is not None:
        from kdcache.student import skip_layers
        from kdcache.teacher import advice, examine

        report = examine.run(
            file,
            num_items=asked["fidelity"],
            build_student=skip_layers.build,
            teachers=teachers,
            device=device,
            grid=asked["grid"],
            student=asked["student"],
        )
        click.echo(advice.as_json(report) if asked["as_json"] else advice.text(report))
    else:
        from kdcache.teacher import dump

        click.echo(dump.run(file, teachers=teachers, device=device).summary(file))


@cli.command("train-student")
@run_options
@click.option("--student", help="Name of a student in the models file.")
@click.option("--teacher", help="Name of a teacher in the cache: t_hs, t_ll, ...; t_hs+t_ll mixes two.")
@click.option("--teacher-weight", "teacher_weight", help="Of the first teacher of a mixture, in [0, 1].")
@click.option("--loss", help="Distance to the teacher: ce, mse, reverse_kl or jsd.")
@click.option("--jsd-beta", "jsd_beta", help="The teacher's share in jsd's mixture, inside (0, 1).")
@click.option("--tau-t", "tau_t", help="Temperature of the teacher's logits.")
@click.option("--tau-s", "tau_s", help="Temperature of the student's logits: a number, or tied.")
@click.option("--alpha", help="Weight of the teacher in [0, 1]; 0 is hard labels only.")
@click.option("--seed", help="Of initialisation and order.")
@click.option("--cache", help="Folder of the cache, instead of the study's own.")
@launch_options
def train_student(config: Path, **options: Any) -> None:
    """Train a student on one configuration, from the cache; no teacher is loaded.

    Flags override the block `student:` of CONFIG. A run that has finished is not repeated.
    """
    names = ("student", "teacher", "teacher_weight", "loss", "jsd_beta", "tau_t", "tau_s", "alpha", "seed", "cache")
    given = {name: options.pop(name) for name in names}
    flags = [f"student.{name}={value}" for name, value in given.items() if value is not None]
    options["overrides"] = (*options["overrides"], *flags)
    file, launch = _load(config, options), _launch(options)
    if _launched(launch):
        return
    from kdcache.student import distill
    from kdcache.student.plan import StudentConfig

    result, folder = distill.run(file, file.block("student", StudentConfig), device=launch.device)
    if _first():
        click.echo(distill.summary(result, folder))


@cli.command()
@run_options
@search_options
@click.option("--dry-run", is_flag=True, help="Print the plan, the number of trainings and a time; write nothing.")
@device_option
def search(config: Path, **options: Any) -> None:
    """Search for the best configuration of each student, from the cache.

    Settings: the blocks `search:` and `student:` of CONFIG. What has finished is never trained again.
    """
    options["overrides"] += tuple(search_overrides(options))
    file = _load(config, options)
    from kdcache.student.search import run as search_run

    how = search_run.How(**{name: options[name] for name in ("jobs", "jobs_per_gpu", "executor", "device")})
    (search_run.dry_run if options["dry_run"] else search_run.run)(file, how, click.echo)


@cli.command()
@click.argument("runs", nargs=-1, type=PATH, required=True)
@click.option("--out", type=PATH, default=Path("runs/compare"), show_default=True, help="Folder of the report.")
@click.option("--resamples", type=int, default=10_000, show_default=True, help="Bootstrap resamples of test examples.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of bootstrap and simulations.")
@click.option(
    "--baseline",
    default="hard",
    show_default=True,
    help="What to compare with: hard, worst, or a label.",
)
@click.option(
    "--family", multiple=True, metavar="LABEL", help="Declare a comparison with the baseline beforehand; repeatable."
)
@click.option("--rope", type=float, default=0.5, show_default=True, help="Gains within this many per cent are equal.")
@click.option("--noise-sd", type=float, help="Noise between seeds, % of the score, where no seeds were replicated.")
@click.option("--against-published", is_flag=True, help="Set the paper's numbers beside these.")
@click.option("--strict", is_flag=True, help="Fail where a run would be left out.")
@click.option("--json", "as_json", is_flag=True, help="Print compare.json, for machines.")
def compare(runs: tuple[Path, ...], out: Path, resamples: int, seed: int, as_json: bool, **asked: Any) -> None:
    """Compare runs: gains, intervals, what each choice did; tables and an HTML report.

    RUNS are run folders of train-student or search, or folders that contain them: of a student, of a study, of several
    studies. Of exactly two it also says whether the second is better than the first.
    """
    from kdcache.report.compare import compare as compare_runs
    from kdcache.report.options import Options

    found = compare_runs(runs, out=out, resamples=resamples, seed=seed, options=Options(**asked))
    click.echo(found.json() if as_json else found.terminal())


@cli.command()
@click.argument("target", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@click.option("--tokenizer", help="Of a dataset: count tokens with this one (folder, package:NAME/folder or Hub id).")
@click.option("--data-root", type=PATH, help="Where relative data paths start, instead of KDCACHE_DATA.")
def inspect(target: Path, as_json: bool, tokenizer: str | None, data_root: Path | None) -> None:
    """What is in a cache (a folder), or in a dataset (its YAML)."""
    if target.is_dir():
        from kdcache.describe.cache import cache_text

        click.echo(cache_text(target, as_json=as_json))
        return
    from kdcache.describe.dataset import dataset_text

    click.echo(dataset_text(target, tokenizer=tokenizer, data_root=data_root, as_json=as_json))


def _load(config: Path, options: dict[str, Any]) -> RunFile:
    from kdcache.training.run import load_run

    return load_run(
        config, overrides=options.pop("overrides"), out=options.pop("out"), data_root=options.pop("data_root")
    )


def _launch(options: dict[str, Any]) -> Launch:
    from kdcache.training.launch import Launch

    return Launch(**options)


def _launched(launch: Launch) -> bool:
    """Start processes where several were asked for, and end with their exit code; False: this process does the work."""
    from kdcache.training import launch as launching

    gpus = 0
    if launch.num_gpus is not None:
        import torch

        gpus = torch.cuda.device_count()
    launching.check(launch, gpus_here=gpus)
    if not launching.needs_launcher(launch, os.environ):
        return False
    arguments = click.get_current_context().find_root().obj or sys.argv[1:]
    code = launching.run(launch, arguments, gpus_here=gpus)
    if code:
        raise LaunchError(f"the processes ended with exit code {code}; their messages stand above")
    return True


def _first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _run(arguments: Sequence[str]) -> int:
    """What `cli.main` does, without its own end, which takes every broken pipe for a reader of our output that left."""
    asked = os.environ.get(COMPLETE)
    if asked:
        return shell_complete(cli, {}, "kdcache", COMPLETE, asked)
    try:
        with cli.make_context("kdcache", list(arguments), obj=arguments) as context:
            cli.invoke(context)
    except click.exceptions.Exit as done:  # --help, --version
        return done.exit_code
    return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: errors end in one line and their own exit code."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # threads before fork would only warn
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    end(lambda: _run(given))
