"""`kdcache search` on a tiny study: every trial once, a killed search goes on, workers and Ray give the same."""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.tiny import call, refused

SEARCH = {"temperatures": [1, 4], "second_stage": False, "alphas": [0.5], "complete": ["lazy"]}


@pytest.fixture
def small(study: Path) -> Path:
    """The tiny study with two students and a short search; the run file."""
    tree = yaml.safe_load((study / "run.yaml").read_text())
    tree["models"]["students"]["quarter"] = {"path": str(study / "base"), "layers": 1}
    tree["student"]["epochs"] = 1
    tree["search"] = SEARCH
    tree["out"] = str(study / "out")
    (study / "search.yaml").write_text(yaml.safe_dump(tree))
    shutil.rmtree(study / "out/students", ignore_errors=True)
    return study / "search.yaml"


def finished(run: Path) -> dict[str, str]:
    """Run folder -> its key and scores."""
    found = {}
    for path in sorted((run.parent / "out/students").glob("*/*/result.json")):
        tree = json.loads(path.read_text())
        found[f"{path.parent.parent.name}/{path.parent.name}"] = json.dumps([tree["key"], tree["scores"]])
    return found


def test_a_search_trains_each_configuration_once_and_says_what_won(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("search", str(small), "--device", "cpu")
    first = finished(small)
    assert "half: " in (said := capsys.readouterr().out)
    assert "quarter: " in said
    assert f"{len(first)} trained now, 0 were there" in said
    tree = json.loads((small.parent / "out/search.json").read_text())
    assert (tree["design"], tree["seeds"], tree["space"]["temperatures"]) == ("greedy", [0], [1.0, 4.0])
    call("search", str(small), "--device", "cpu")
    assert f"0 trained now, {len(first)} were there" in capsys.readouterr().out
    assert finished(small) == first


def test_trials_in_one_process_score_as_alone_and_share_what_they_can(small: Path) -> None:
    call("search", str(small), "--device", "cpu", "--student", "half", "--set", "search.complete=[]")
    together = finished(small)
    shutil.rmtree(small.parent / "out/students")
    call("train-student", str(small), "--device", "cpu", "--student", "half", "--loss", "mse", "--tau-t", "1")
    alone = finished(small)
    assert len(alone) == 1
    (name,) = alone
    assert together[name] == alone[name]


def test_two_workers_find_what_one_process_finds(small: Path) -> None:
    call("search", str(small), "--device", "cpu", "--student", "half")
    one = finished(small)
    shutil.rmtree(small.parent / "out/students")
    call("search", str(small), "--device", "cpu", "--student", "half", "--jobs", "2")
    assert finished(small).keys() == one.keys()


@pytest.mark.slow
def test_ray_tasks_write_the_same_run_folders(small: Path) -> None:
    pytest.importorskip("ray")
    call("search", str(small), "--device", "cpu", "--student", "half")
    one = finished(small)
    shutil.rmtree(small.parent / "out/students")
    call("search", str(small), "--device", "cpu", "--student", "half", "--executor", "ray")
    assert finished(small).keys() == one.keys()


@pytest.mark.slow
def test_a_search_killed_at_random_moments_ends_with_the_same_runs_and_repeats_none(small: Path) -> None:
    call("search", str(small), "--device", "cpu")
    whole = finished(small)
    shutil.rmtree(small.parent / "out/students")
    generator = random.Random(5)
    command = [sys.executable, "-m", "kdcache", "search", str(small), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    written: dict[str, int] = {}
    for _ in range(5):
        before = len(finished(small))
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 120
        while len(finished(small)) == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(generator.uniform(0, 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for name in finished(small):
            stamp = (small.parent / "out/students" / name / "result.json").stat().st_mtime_ns
            assert written.setdefault(name, stamp) == stamp, name
    call("search", str(small), "--device", "cpu")
    assert finished(small) == whole
    for name, stamp in written.items():
        assert (small.parent / "out/students" / name / "result.json").stat().st_mtime_ns == stamp


def test_a_dry_run_counts_trainings_and_writes_nothing(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("search", str(small), "--dry-run", "--student", "half")
    said = capsys.readouterr().out
    # hard 1, CE t_hs 2, MSE t_hs 1; then CE: t_ll 2, tau_s 1, alpha 1, lazy's MSE t_ll 1; or MSE: 1, 1, 1, CE t_ll 1
    assert "half: 8 to 9 trainings; 0 have finished, so there is no estimate of the time" in said
    assert not (small.parent / "out/students").exists()
    call("train-student", str(small), "--device", "cpu", "--student", "half", "--alpha", "0")
    capsys.readouterr()
    call("search", str(small), "--dry-run", "--student", "half", "--jobs", "2")
    assert "1 have finished" in (said := capsys.readouterr().out)
    assert "min more with 2 at once" in said


def test_what_the_cache_refuses_is_refused_before_anything_trains(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(
        capsys, "search", small, "--device", "cpu", "--set", "search.temperatures=[1,4]", "--student", "x", code=2
    )
    assert said == "no student is called 'x'; the models file has half, quarter"
    said = refused(capsys, "search", small, "--set", "search.temprature=[1]", code=2)
    assert "temprature" in said
    assert "temperatures" in said
    said = refused(capsys, "search", small, "--device", "cpu", "--jobs", "0", code=9)
    assert said == "--jobs 0: give at least 1"
    assert not (small.parent / "out/students").exists()


def test_a_search_without_a_cache_says_what_makes_one(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "search", small, "--out", small.parent / "elsewhere", code=2)
    assert "no cache in" in said
    assert "dump-teacher" in said


def num_models() -> int:
    """BERTs that this process holds; by name, since looking at some objects of torch warns."""
    return sum(type(o).__name__ == "BertModel" for o in gc.get_objects())


def test_an_earlier_training_s_weights_are_freed_before_the_next_one(small: Path) -> None:
    gc.collect()
    before = num_models()
    call("search", str(small), "--device", "cpu", "--student", "half", "--set", "search.complete=[]")
    # the last training's trained and selected model may still wait for the collector; those of 8 trials may not
    assert num_models() - before <= 2


def test_cells_that_a_sparse_cache_refuses_are_all_named_and_nothing_trains(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, selected = small.parent / "sparse", small.parent / "out/teacher/selected"
    teachers = [f"--teacher={role}={selected / role}" for role in ("t_hs", "t_ll")]
    call("dump-teacher", str(small), "--device", "cpu", "--out", str(out), "--set", "dump.top_k=1", *teachers)
    said = refused(capsys, "search", small, "--device", "cpu", "--out", out, code=5)
    assert "mse t_hs tau 4/1" in said
    assert "mse t_ll tau 1/1" in said
    assert "store: hidden" in said
    assert not (out / "students").exists()
    call("search", str(small), "--out", str(out), "--dry-run", "--set", "search.order=[teacher]")
