"""Bad settings, flags and files, through the commands: one line that says what, where and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import tiny
from tests.tiny import refused

CHANGED = " (with the command line's changes)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a run file, and no more."""
    tiny.write_run(tmp_path)
    return tmp_path


def rewrite(path: Path, place: str, value: Any) -> None:
    """Set `a.b` of a YAML file, or remove it where the value is null."""
    tree = yaml.safe_load(path.read_text())
    *blocks, key = place.split(".")
    node = tree
    for block in blocks:
        node = node[block]
    if value is None:
        del node[key]
    else:
        node[key] = value
    path.write_text(yaml.safe_dump(tree))


RUN_FILES = [
    ("studnt", {}, "unknown setting studnt in {run}; did you mean student?"),
    ("student.tau", 1, "unknown setting student.tau in {run}; did you mean student.tau_t?"),
    ("student", 3, "student in {run} must be a block of settings, not 3"),
    ("student.epochs", "three", "student.epochs in {run} is 'three'; allowed: a whole number"),
    ("student.epochs", True, "student.epochs in {run} is True; allowed: a whole number"),
    ("student.loss", "kl", "student.loss in {run} is 'kl'; allowed: one of ce, mse"),
    ("student.tau_s", "tide", "student.tau_s in {run} is 'tide'; allowed: a number, or one of tied"),
    ("out", [1], "out in {run} is [1]; allowed: the path of a folder"),
    ("dataset", "gone.yaml", "dataset: gone.yaml in {run} is not a file: {folder}/gone.yaml (paths are relative to"),
    ("dataset", 3, "dataset in {run} is 3; give a path to its YAML, or a block"),
    ("dataset", None, "{run} lacks dataset: give a path to its YAML, or a block"),
    ("dataset.colums", {}, "unknown setting dataset.colums in {run}; did you mean dataset.columns?"),
    ("dataset.labels", 3, "dataset.labels in {run} is 3; allowed: a list, e.g. [a, b]"),
    ("dataset.columns", ["text"], "dataset.columns in {run} is ['text']; allowed: a block of key: value"),
    ("dataset.name", None, "{run} lacks the setting dataset.name"),
    ("models", "gone.yaml", "models: gone.yaml in {run} is not a file: {folder}/gone.yaml"),
    ("models.students", 3, "models.students in {run} is 3; allowed: a block of key: value"),
    ("models.students.half", 3, "models.students.half in {run} must be a block of settings, not 3"),
    (
        "models.students.half.layers",
        "two",
        "models.students.half.layers in {run} is 'two'; allowed: a whole number, or",
    ),
    ("models.students.half.pth", "x", "models.students.half.pth in {run}; did you mean models.students.half.path?"),
    ("models.teacher", None, "{run} lacks the setting models.teacher"),
]


@pytest.mark.parametrize(("place", "value", "message"), RUN_FILES)
def test_36_a_run_file_is_refused(
    place: str, value: Any, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(folder / "run.yaml", place, value)
    error = refused(capsys, "train-student", folder / "run.yaml", "--device", "cpu", code=2)
    assert message.format(run=folder / "run.yaml", folder=folder) in error
    assert sorted(path.name for path in folder.iterdir()) == ["run.yaml"]


@pytest.mark.parametrize(
    ("command", "place", "value", "message"),
    [
        ("train-teacher", "teacher.learning_rates", 1e-5, "teacher.learning_rates in {run} is 1e-05; allowed: a list"),
        ("train-teacher", "teacher.epoch", 1, "unknown setting teacher.epoch in {run}; did you mean teacher.epochs?"),
        ("dump-teacher", "dump", {"splits": "train"}, "dump.splits in {run} is 'train'; allowed: a list, e.g. [a, b]"),
        ("dump-teacher", "dump", {"topk": 3}, "unknown setting dump.topk in {run}; did you mean dump.top_k?"),
    ],
)
def test_36_each_stage_reads_its_own_block(
    command: str, place: str, value: Any, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(folder / "run.yaml", place, value)
    error = refused(capsys, command, folder / "run.yaml", "--device", "cpu", code=2)
    assert message.format(run=folder / "run.yaml") in error


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("labls", ["a"], "unknown setting labls in {path}; did you mean labels?"),
        ("labels", 3, "labels in {path} is 3; allowed: a list, e.g. [a, b]"),
        ("max_length", "long", "max_length in {path} is 'long'; allowed: a whole number"),
        ("columns.labl", "x", "{path}: unknown setting columns.labl in the dataset; did you mean columns.label?"),
        ("files.test", "gone.jsonl", "gone.jsonl; relative files start at the folder of the YAML; set --data-root or"),
    ],
)
def test_36_a_datasets_yaml_is_refused(
    place: str,
    value: Any,
    message: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KDCACHE_DATA", raising=False)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load((folder / "run.yaml").read_text())["dataset"]))
    rewrite(path, place, value)
    error = refused(capsys, "inspect", path, code=3 if place == "files.test" else 2)
    assert message.format(path=path) in error


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("student", {}, "unknown setting student in {path}; did you mean students?"),
        ("students", ["half"], "students in {path} is ['half']; allowed: a block of key: value"),
        ("students.half.layers", [1, "x"], "students.half.layers in {path} is [1, 'x']; allowed: a whole number"),
        ("teacher.path", None, "{path} lacks the setting teacher.path"),
    ],
)
def test_36_a_models_yaml_is_refused(
    place: str, value: Any, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load((folder / "run.yaml").read_text())["models"]))
    rewrite(path, place, value)
    rewrite(folder / "run.yaml", "models", "models.yaml")
    error = refused(capsys, "train-student", folder / "run.yaml", code=2)
    assert message.format(path=path) in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "student"), "--set student: write --set block.key=value"),
        (("--set", "=3"), "--set =3: write --set block.key=value"),
        (("--set", "student.epochs=[1"), "--set student.epochs=[1: '[1' is not a YAML value"),
        (("--set", "student.epochs=[1]"), "student.epochs in {changed} is [1]; allowed: a whole number"),
        (("--set", "student.learning_rate="), "student.learning_rate in {changed} is None; allowed: a number"),
        (("--set", "student.tau=1"), "unknown setting student.tau in {changed}; did you mean student.tau_t?"),
        (("--set", "student.tau_t.x=1"), "--set student.tau_t.x=1: tau_t is a value (4), not a block"),
        (("--set", "studen.tau_t=1"), "unknown setting studen in --set; did you mean student?"),
        (("--set", "dataset.labls=[a]"), "unknown setting dataset.labls in {changed}; did you mean dataset.labels?"),
        (("--set", "dataset.labels=3"), "dataset.labels in {changed} is 3; allowed: a list, e.g. [a, b]"),
        (("--set", "models.student={}"), "unknown setting models.student in {changed}; did you mean models.students?"),
        (("--tau-t", "hot"), "student.tau_t in {changed} is 'hot'; allowed: a number"),
        (
            ("--tau-t", "0"),
            "{changed}: student: tau_t = 0.0 is not a temperature; it must be > 0 (or `tied` for tau_s)",
        ),
        (("--alpha", "2"), "{changed}: student: alpha = 2.0 is outside [0, 1]; 0 is hard labels only, 1 the teacher"),
        (("--loss", "kl"), "student.loss in {changed} is 'kl'; allowed: one of ce, mse"),
        (("--seed", "-1"), "{changed}: student: seed = -1 must not be negative"),
        (("--student", "nobody"), "no student is called 'nobody'; the models file has half"),
        (
            (),
            "no cache in {folder}/out/cache; run kdcache dump-teacher {run} first, or name one with "
            "--set student.cache=PATH",
        ),
        (("--alph", "1"), "No such option '--alph'. (Did you mean one of: '--alpha', "),
        (
            ("--device", "tpu"),
            "Invalid value for '--device': 'tpu' is not one of 'auto', 'cpu', 'cuda'; see kdcache train-",
        ),
    ],
)
def test_36_a_flag_is_refused(
    options: tuple[str, ...], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder / "run.yaml"
    error = refused(capsys, "train-student", run, *options, code=2)
    assert message.format(run=run, folder=folder, changed=f"{run}{CHANGED}") in error
    assert sorted(path.name for path in folder.iterdir()) == ["run.yaml"]


@pytest.mark.parametrize("command", ["train-teacher", "dump-teacher", "train-student", "inspect"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read {path}: No such file or directory; check the path"),
        (b"a: [1", "{path} is not valid YAML: while parsing a flow sequence"),
        (b"\xff\xfe\x00", "{path} is not UTF-8 text; a config is a YAML file"),
        (b"- 1", "{path} must hold settings (key: value), not list"),
        (b"", "{path} must hold settings (key: value), not NoneType"),
        (b"name: 1\nname: 2", "{path}, line 2: the key 'name' stands twice; keep one"),
        (b"a: !!python/object/apply:os.getcwd []", "{path} is not valid YAML: could not determine a constructor"),
    ],
)
def test_36_a_file_that_is_no_config_is_refused_by_every_command(
    command: str, content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    assert message.format(path=path) in refused(capsys, command, path, code=2)


def test_a_folder_is_no_config_and_no_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, "train-student", tmp_path, code=2)
    assert error == f"cannot read {tmp_path}: Is a directory; check the path"
    error = refused(capsys, "inspect", tmp_path, code=2)
    assert error == f"{tmp_path} is not a kdcache cache: it has no kdcache.json; give the folder a dump wrote"


@pytest.mark.parametrize("command", ["train-teacher", "dump-teacher", "train-student", "inspect", "compare"])
def test_a_command_without_its_argument_says_where_help_is(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, command, code=2)
    assert error.startswith("Missing argument '")
    assert error.endswith(f"'; see kdcache {command} --help")


def test_a_command_that_does_not_exist_says_where_help_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "train", code=2) == "No such command 'train'; see kdcache --help"


@pytest.mark.parametrize("teacher", ["x", "=x", "x="])
def test_a_teacher_without_name_or_path_is_refused(
    teacher: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(capsys, "dump-teacher", folder / "run.yaml", "--teacher", teacher, code=2)
    assert error == f"--teacher {teacher}: write --teacher NAME=PATH"


def test_a_dump_without_a_teacher_says_how_to_get_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, "dump-teacher", folder / "run.yaml", code=2)
    assert error == (
        f"no finished teacher in {folder}/out/teacher; run kdcache train-teacher {folder}/run.yaml, "
        f"or give a checkpoint with --teacher NAME=PATH"
    )
    error = refused(capsys, "dump-teacher", folder / "run.yaml", "--teacher", f"x={folder}/gone", code=6)
    assert error.startswith(f"no model in {folder}/gone: it has no config.json; check the path")
