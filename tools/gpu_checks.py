"""Everything that a machine with a GPU should be asked, in one call: `python -m tools.gpu_checks [--data-root FOLDER]`.

Runs the tests marked `gpu`, the loss benchmark on the device, the quick demo on GPU and CPU side by side, and, with
data, two of the nine real runs; prints a table with the card's name, the exit code, the seconds and the last line of
each. It needs what `make test` installs, and stops nowhere: a failure is a line of the table and the exit code 1.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A command and what it shows."""

    what: str
    command: tuple[str, ...]
    limit: int = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How it ended: exit code (None: over its limit), seconds, last line."""

    what: str
    code: int | None
    seconds: float
    last: str


def checks(out: Path, data_root: Path | None) -> list[Check]:
    """What is run, short ones first."""
    python = sys.executable
    found = [
        Check(what="tests marked gpu", command=(python, "-m", "pytest", "-q", "--no-cov", "-m", "gpu", "tests")),
        Check(what="losses against F.cross_entropy", command=(python, "tools/bench_losses.py", "--device", "cuda")),
    ]
    for device in ("cuda", "cpu"):
        demo = (python, "-m", "kdcache", "demo", "--quick", "--device", device, "--out", str(out / device))
        found.append(Check(what=f"quick demo, {device}", command=demo))
    if data_root is not None:
        for name in ("wikigold", "multi30k_de-en"):
            command = (python, "-m", "tools.run_all_tasks", name, "--device", "cuda", "--data-root", str(data_root))
            found.append(Check(what=f"{name} end to end", command=command))
    return found


def run(check: Check) -> Ended:
    """Run a check, within its limit."""
    began = time.monotonic()
    try:
        done = subprocess.run(check.command, capture_output=True, text=True, timeout=check.limit, check=False)
    except subprocess.TimeoutExpired:
        return Ended(what=check.what, code=None, seconds=float(check.limit), last=f"over {check.limit} s")
    lines = (done.stdout if done.returncode == 0 else done.stderr or done.stdout).strip().splitlines()
    last = lines[-1] if lines else "no output"
    return Ended(what=check.what, code=done.returncode, seconds=time.monotonic() - began, last=last)


def main() -> int:
    """Run every check and print the table; 1 if one failed, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--data-root", type=Path, default=os.environ.get("KDCACHE_DATA"))
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        print("torch sees no CUDA device; run this on a machine with one", file=sys.stderr)
        return 2
    card = torch.cuda.get_device_name()
    print(f"{card}, torch {torch.__version__}\n\n| check | exit | seconds | last line |\n|---|---|---|---|")
    ended = []
    for check in checks(asked.out, asked.data_root and Path(asked.data_root)):
        ended.append(run(check))
        one = ended[-1]
        print(f"| {one.what} | {'–' if one.code is None else one.code} | {one.seconds:.0f} | {one.last} |", flush=True)
    return 0 if all(one.code == 0 for one in ended) else 1


if __name__ == "__main__":
    sys.exit(main())
