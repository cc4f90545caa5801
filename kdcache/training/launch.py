"""From `--num-gpus 8` to processes: the DeepSpeed launcher's command, and running it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcache.core.errors import LaunchError

ENDING = (signal.SIGINT, signal.SIGTERM)
LOOK_SECONDS = 0.5
END_SECONDS = 2.0
"""How long processes that were told to end may take; it is short, since a run that is cut off loses nothing by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What was asked for on the command line.

    Attributes:
        device: `auto`, `cpu` or `cuda`.
        num_gpus: GPUs of each node; null is one process.
        num_procs: processes on the CPU; null is one.
        num_nodes: machines, from the hostfile.
        hostfile: `name slots=8` lines, as DeepSpeed reads it.
    """

    device: str = "auto"
    num_gpus: int | None = None
    num_procs: int | None = None
    num_nodes: int | None = None
    hostfile: Path | None = None

    @property
    def processes(self) -> int:
        """Processes on this machine."""
        return self.num_gpus or self.num_procs or 1


def check(launch: Launch, *, gpus_here: int) -> None:
    """Refuse what cannot be had.

    Raises:
        LaunchError: more GPUs than there are, processes without `--device cpu`, ...
    """
    for flag, value in (("--num-gpus", launch.num_gpus), ("--num-procs", launch.num_procs)):
        if value is not None and value < 1:
            raise LaunchError(f"{flag} {value}: give at least 1")
    if launch.num_gpus and (launch.num_procs or launch.device == "cpu"):
        raise LaunchError("--num-gpus is for GPUs, --device cpu --num-procs N for the CPU; give one of them")
    if launch.num_procs and launch.device != "cpu":
        raise LaunchError("--num-procs is for --device cpu; on GPUs give --num-gpus")
    if launch.hostfile is not None and not launch.hostfile.is_file():
        raise LaunchError(f"no hostfile {launch.hostfile}; it lists one `name slots=8` a line")
    if launch.num_gpus and launch.hostfile is None and launch.num_gpus > gpus_here:
        raise LaunchError(
            f"--num-gpus {launch.num_gpus}: this machine shows {gpus_here} CUDA devices; "
            f"use --device cpu --num-procs {launch.num_gpus} to run on the CPU"
        )


def needs_launcher(launch: Launch, environment: Mapping[str, str]) -> bool:
    """Whether processes must be started: not for one, and not where a launcher already did."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return False
    return launch.processes > 1 or launch.hostfile is not None


def command(launch: Launch, arguments: Sequence[str], *, port: int, python: str = sys.executable) -> list[str]:
    """The DeepSpeed launcher's command line; pure.

    Args:
        launch: what was asked for.
        arguments: kdcache's own, e.g. `["train-student", "config.yaml"]`, without the launch options.
        port: a free one on the first machine.
        python: the interpreter.

    Example:
        >>> command(Launch(num_gpus=2), ["train-student", "a.yaml"], port=29501, python="python")[:6]
        ['python', '-m', 'deepspeed.launcher.runner', '--num_gpus', '2', '--master_port']
    """
    line = [python, "-m", "deepspeed.launcher.runner", "--num_gpus", str(launch.processes), "--master_port", str(port)]
    if launch.num_nodes is not None:
        line += ["--num_nodes", str(launch.num_nodes)]
    if launch.hostfile is not None:
        line += ["--hostfile", str(launch.hostfile)]
    return [*line, "--no_local_rank", "--module", "kdcache", *arguments]


OPTIONS = ("--num-gpus", "--num-procs", "--num-nodes", "--hostfile")
"""Options that concern the launcher alone."""


def without_options(arguments: Sequence[str]) -> list[str]:
    """A command line without the launcher's own options; pure.

    Example:
        >>> without_options(["train-student", "a.yaml", "--num-procs", "2", "--device=cpu", "--num-nodes=1"])
        ['train-student', 'a.yaml', '--device=cpu']
    """
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in OPTIONS:
            skip = True
        elif argument.partition("=")[0] not in OPTIONS:
            kept.append(argument)
    return kept


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(launch: Launch, arguments: Sequence[str], *, gpus_here: int) -> int:
    """Start the processes and wait; their exit code.

    They form a process group of their own. An interruption (SIGINT) or SIGTERM ends all of them, and then this process.

    Raises:
        LaunchError: what was asked for cannot be had.
        KeyboardInterrupt: when they have ended.
    """
    check(launch, gpus_here=gpus_here)
    environment = dict(os.environ)
    if launch.device == "cpu":
        threads = max(1, (os.cpu_count() or 1) // launch.processes)
        environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    line = command(launch, without_options(arguments), port=free_port())
    with _signals_kept() as kept:
        process = subprocess.Popen(line, env=environment, process_group=0)
        while process.poll() is None and not kept:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_SECONDS)
        if kept:
            _end_group(process)
    if signal.SIGTERM in kept:
        os.kill(os.getpid(), signal.SIGTERM)  # what sent it sees that it had its effect
    if kept:
        raise KeyboardInterrupt
    return process.returncode


@contextlib.contextmanager
def _signals_kept() -> Iterator[list[int]]:
    """The signals that would end this process, kept in a list for as long as it must end others first."""
    kept: list[int] = []
    heeded = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGINT
    before = {number: signal.signal(number, lambda number, _: kept.append(number)) for number in heeded}
    try:
        yield kept
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process, which leads a group, and all that it has started: by SIGTERM, after some seconds by SIGKILL."""
    deadline = time.monotonic() + END_SECONDS
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            process.poll()
            os.killpg(process.pid, 0)  # raises when the last one is gone
            time.sleep(LOOK_SECONDS / 10)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
