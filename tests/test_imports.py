"""The layers hold, a broken layer is caught, and the README's tree is the tree on disk."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cache.conftest import build_toy
from tests.ends import HANGING
from tests.report.conftest import write_grid

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "kdcache"
LAYERS = "one way through the house"
LIGHT = "no torch where a laptop reads results"


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return subprocess.run([sys.executable, "-c", command], cwd=folder, capture_output=True, text=True, timeout=HANGING)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package and its contracts, to break."""
    shutil.copytree(PACKAGE, tmp_path / "kdcache", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "setup.cfg", tmp_path)
    return tmp_path


def test_the_contracts_hold():
    done = lint_imports(REPOSITORY)
    assert done.returncode == 0, done.stdout
    assert f"{LAYERS} KEPT" in done.stdout
    assert f"{LIGHT} KEPT" in done.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract", "chain"),
    [
        ("report/planted.py", "import torch", LIGHT, "kdcache.report.planted -> torch (l.1)"),
        ("core/planted.py", "import kdcache.losses", LAYERS, "kdcache.core.planted -> kdcache.losses (l.1)"),
        ("teacher/planted.py", "import kdcache.student", LAYERS, "kdcache.teacher.planted -> kdcache.student (l.1)"),
    ],
)
def test_a_planted_import_breaks_the_contract_that_names_it(
    copy: Path, file: str, line: str, contract: str, chain: str
):
    (copy / "kdcache" / file).write_text(f"{line}\n")
    done = lint_imports(copy)
    assert done.returncode == 1
    assert f"{contract} BROKEN" in done.stdout
    assert chain in done.stdout


def test_torch_by_way_of_another_folder_is_caught_too(copy: Path):
    (copy / "kdcache" / "metrics" / "planted.py").write_text("import kdcache.core.planted\n")
    (copy / "kdcache" / "core" / "planted.py").write_text("import transformers\n")
    done = lint_imports(copy)
    assert f"{LIGHT} BROKEN" in done.stdout
    assert "kdcache.metrics.planted -> kdcache.core.planted (l.1)" in done.stdout


def test_a_new_folder_needs_a_place_in_the_layers(copy: Path):
    (copy / "kdcache" / "planted").mkdir()
    (copy / "kdcache" / "planted" / "__init__.py").write_text("")
    done = lint_imports(copy)
    assert done.returncode == 1
    assert "kdcache.planted" in done.stdout


def tree_paths(text: str) -> set[str]:
    """Paths named by the first tree block of a Markdown text; folders end in a slash.

    A line is an indent of four columns a level, a branch, names one space apart, two spaces or more, words.
    """
    block = re.search(r"^```\n(\S+/)\n((?:[│├└ ].*\n)+)```$", text, flags=re.MULTILINE)
    if block is None:
        return set()
    folders: list[str] = []
    paths: set[str] = set()
    for line in block[2].splitlines():
        entry = re.fullmatch(r"((?:[│ ]   )*)[├└]── (\S+(?: \S+)*)(?:  .*)?", line)
        if entry is None:
            raise ValueError(f"the tree's line {line!r} is not: indent, branch, names, two spaces, words")
        depth, names = len(entry[1]) // 4, entry[2].split(" ")
        paths |= {"".join([*folders[:depth], name]) for name in names}
        folders = [*folders[:depth], names[-1]]
    return paths


def test_the_tree_parser_reads_names_folders_and_words():
    text = "words\n```\nhouse/\n├── a.md b.cfg   two files\n├── docs/ .ci/\n└── pkg/\n    ├── x.py  x, of course\n"
    text += "    ├── core/\n    │   └── y.py z.py\n    └── last.py\n```\n"
    assert tree_paths(text) == {
        *("a.md", "b.cfg", "docs/", ".ci/", "pkg/", "pkg/x.py", "pkg/core/", "pkg/core/y.py", "pkg/core/z.py"),
        "pkg/last.py",
    }
    assert tree_paths("no tree") == set()
    with pytest.raises(ValueError, match=r"the tree's line '├─ a.md' is not"):
        tree_paths("```\nhouse/\n├─ a.md\n```\n")


def modules_on_disk() -> set[str]:
    """Files of the package and their folders; `__init__.py` goes without saying."""
    silent = ("__init__.py", "py.typed")
    files = [p for p in PACKAGE.rglob("*") if p.is_file() and p.name not in silent and "__pycache__" not in p.parts]
    relative = [file.relative_to(REPOSITORY) for file in files]
    return {str(file) for file in relative} | {f"{file.parent}/" for file in relative}


def test_the_readme_names_every_module_and_no_other():
    named = {path for path in tree_paths((REPOSITORY / "README.md").read_text()) if path.startswith("kdcache/")}
    assert named - modules_on_disk() == set(), "README names what is not on disk"
    assert modules_on_disk() - named == set(), "on disk, but not in README's tree"


def test_the_readme_names_every_top_folder_and_only_what_exists():
    named = {path for path in tree_paths((REPOSITORY / "README.md").read_text()) if not path.startswith("kdcache/")}
    assert {path for path in named if not (REPOSITORY / path).exists()} == set()
    assert {"configs/", "docs/", "tests/", "tools/", ".ci/"} - named == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", ["kdcache", "kdcache.core.results", "kdcache.cache", "kdcache.metrics", "kdcache.report"]
)
def test_reading_results_imports_no_torch(module: str):
    assert heavy_imports(f"import {module}") == "[]"


def heavy_imports(code: str) -> str:
    """Which of the heavy packages a fresh interpreter has loaded after `code`; the last line that it prints."""
    ask = "import sys; print([n for n in ('torch', 'transformers', 'deepspeed', 'datasets') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{ask}"], capture_output=True, text=True, timeout=HANGING)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def command(*arguments: object) -> str:
    """Code that runs a command which must succeed."""
    given = [str(argument) for argument in arguments]
    run = f"from kdcache.cli import main\ntry:\n    main({given!r})\nexcept SystemExit as end:\n"
    return f"{run}    assert not end.code, end.code"


def test_help_loads_nothing_heavy():
    assert heavy_imports(command("--help")) == "[]"
    assert heavy_imports(command("train-student", "--help")) == "[]"


@pytest.mark.slow
def test_compare_loads_no_torch(tmp_path: Path):
    runs = write_grid(tmp_path / "runs")
    assert heavy_imports(command("compare", runs, "--out", tmp_path / "report", "--resamples", 100)) == "[]"
    assert (tmp_path / "report/report.html").is_file()


@pytest.mark.slow
def test_inspecting_a_cache_loads_no_torch(tmp_path: Path):
    build_toy().dump(tmp_path / "cache")
    assert heavy_imports(command("inspect", tmp_path / "cache")) == "[]"


@pytest.mark.slow
def test_a_heavy_import_would_be_seen():
    assert heavy_imports("import transformers") == "['transformers']"


@pytest.mark.parametrize("start", [[sys.executable, "-m", "kdcache"], [str(Path(sys.executable).with_name("kdcache"))]])
def test_the_module_and_the_console_script_show_the_commands_in_order(start: list[str]):
    done = subprocess.run([*start, "--help"], capture_output=True, text=True, timeout=HANGING)
    assert (done.returncode, done.stderr) == (0, "")
    shown = re.findall(r"^  (\w[\w-]*) +\S", done.stdout.split("Commands:")[1], flags=re.M)
    assert shown == ["demo", "train-teacher", "dump-teacher", "train-student", "search", "compare", "inspect"]
