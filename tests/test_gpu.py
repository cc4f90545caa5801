"""On a GPU: every command succeeds, and ends. They run in processes of their own, since it is their ends that hung."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from kdcache.core.results import read_run
from tests.ends import END_SECONDS, Command, Ended
from tests.tiny import write_data, write_model, write_run

pytestmark = pytest.mark.gpu

HANGING = 100.0
"""Less than elsewhere: time on a GPU is dear, and nothing else runs there."""


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study's folder, before anything ran."""
    folder = tmp_path_factory.mktemp("gpu")
    write_model(folder / "base")
    write_data(folder)
    write_run(folder)
    return folder


@pytest.fixture(scope="module")
def trained(untrained: Path) -> dict[str, Ended]:
    """How `train-teacher` and `dump-teacher` ended."""
    return {name: ended(untrained, name) for name in ("train-teacher", "dump-teacher")}


def ended(folder: Path, name: str, *options: str) -> Ended:
    """Run a command on the GPU."""
    command = (sys.executable, "-m", "kdcache", name, str(folder / "run.yaml"), "--device", "cuda")
    return Command(*command, *options, hanging=HANGING).end()


@pytest.mark.parametrize("name", ["train-teacher", "dump-teacher"])
def test_a_teacher_is_trained_and_dumped(trained: dict[str, Ended], name: str) -> None:
    assert trained[name].code == 0, trained[name].lines
    assert trained[name].seconds < END_SECONDS, trained[name].lines


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("train-student", ()),
        ("search", ("--set", "search.temperatures=[1]", "--set", "search.second_stage=false")),
    ],
)
def test_students_train_from_its_cache(
    trained: dict[str, Ended], untrained: Path, name: str, options: tuple[str, ...]
) -> None:
    assert trained["dump-teacher"].code == 0
    found = ended(untrained, name, *options)
    assert found.code == 0, found.lines
    assert found.seconds < END_SECONDS, found.lines


def searched(study: Path, out: Path, *options: str) -> Ended:
    """Search on one GPU, so that what is trained depends on no score."""
    settings = ("temperatures=[1]", "second_stage=false", "alphas=[]", "design=factorial")
    sets = [f"search.{setting}" for setting in settings]
    sets += ["student.precision=float32", f"student.cache={study / 'out/cache'}"]
    command = [sys.executable, "-m", "kdcache", "search", str(study / "run.yaml"), "--device", "cuda"]
    command += ["--out", str(out), *(word for one in sets for word in ("--set", one)), *options]
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return Command(*command, more={"CUDA_VISIBLE_DEVICES": first}, hanging=2 * HANGING).end()


def table(out: Path) -> dict[str, float]:
    """Run -> validation score."""
    runs = {path.parent.name: read_run(path.parent) for path in out.glob("students/half/*/result.json")}
    return {name: run.scores["validation"][run.metric].value for name, run in runs.items()}


def test_two_trainings_share_a_gpu_and_the_search_finds_the_same(
    trained: dict[str, Ended], untrained: Path, tmp_path: Path
) -> None:
    assert trained["dump-teacher"].code == 0
    alone = searched(untrained, tmp_path / "alone")
    assert alone.code == 0, alone.lines
    shared = searched(untrained, tmp_path / "shared", "--jobs-per-gpu", "2")
    assert shared.code == 0, shared.lines
    assert shared.seconds < END_SECONDS, shared.lines
    lines = (tmp_path / "shared/search/half.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines[:2]] == ["started", "started"]
    assert table(tmp_path / "shared")
    # 24 examples, and sums on a GPU in no fixed order: one or two may fall on the other side
    assert table(tmp_path / "shared") == pytest.approx(table(tmp_path / "alone"), abs=0.1)


def test_a_search_that_chooses_how_many_share_a_gpu_says_why(
    trained: dict[str, Ended], untrained: Path, tmp_path: Path
) -> None:
    assert trained["dump-teacher"].code == 0
    found = searched(untrained, tmp_path, "--jobs-per-gpu", "auto", "--jobs", "3")
    assert found.code == 0, found.lines
    said = [line for line in found.lines if line.startswith("--jobs-per-gpu auto, after half ")]
    assert said, found.lines
    assert " on each GPU, " in said[0]


def test_a_training_that_fails_ends_too(trained: dict[str, Ended], untrained: Path) -> None:
    assert trained["dump-teacher"].code == 0
    found = ended(untrained, "train-student", "--set", "student.weight_decay=1e38")
    assert found.code == 7, found.lines
    assert found.lines[-1].startswith("kdcache: error: the loss is nan ")
    assert found.seconds < END_SECONDS, found.lines


@pytest.mark.parametrize(("way", "code"), [("pass", 0), ("raise SystemExit(3)", 3)])
def test_a_script_of_one_s_own_that_trains_ends(way: str, code: int) -> None:
    """It has no end of ours: Python's exit leaves the group."""
    script = "import torch\nfrom kdcache.training.start import start\nfrom kdcache.training.zero import join\n"
    script += "join(start('cuda'))\n"
    script += f"torch.distributed.all_reduce(torch.ones(1, device='cuda'))\nprint('summed', flush=True)\n{way}"
    found = Command(sys.executable, "-c", script, hanging=HANGING).end()
    assert found.code == code, found.lines
    assert found.seconds < END_SECONDS, found.lines
