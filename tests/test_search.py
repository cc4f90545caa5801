"""`kdcache search` on the tiny study, by the command: what it trains, what it refuses, how it survives."""

from __future__ import annotations

import fcntl
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from kdcache.cli import main
from kdcache.core.config import plain
from kdcache.core.results import read_run, read_statistics
from kdcache.core.search_record import read_record
from kdcache.student import distill
from kdcache.student.plan import StudentConfig
from kdcache.student.search.placing import Machine
from kdcache.training.run import load_run
from tests.ends import wait_until
from tests.tiny import call, refused, run_tree

pytestmark = pytest.mark.slow

BLOCK = {"temperatures": [1, 4], "second_stage": False, "alphas": [0.5], "seeds": [0, 1], "complete": ["lazy"]}


@pytest.fixture
def run(study: Path, tmp_path: Path) -> Path:
    """A run file over the tiny study's cache, with a folder of its own and two steps a training."""
    return write_search(study, tmp_path)


def write_search(study: Path, folder: Path, **search: object) -> Path:
    tree = run_tree(study)
    tree["out"] = str(folder / "out")
    tree["student"] |= {"epochs": 1, "batch_size": 32, "cache": str(study / "out/cache")}
    tree["search"] = BLOCK | search
    (folder / "search.yaml").write_text(yaml.safe_dump(tree))
    return folder / "search.yaml"


def journal(run: Path, student: str = "half") -> list[dict[str, object]]:
    path = run.parent / f"out/search/{student}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def folders(run: Path) -> list[Path]:
    return sorted((run.parent / "out/students").glob("*/*"))


def test_a_search_says_what_it_found_and_leaves_what_compare_needs(
    run: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    call("search", str(run), "--device", "cpu")
    lines = capsys.readouterr().out.splitlines()
    assert sum("best 0." in line for line in lines) == len(folders(run))
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [
        *("loss", "teacher", "tau_s", "alpha", "best", "baseline")
    ]
    assert lines[-1] == f"next: kdcache compare {run.parent}/out/students"
    record = read_record(run.parent / "out/search/half.json")
    assert (record.design, record.student, record.seeds) == ("greedy", "half", (0, 1))
    assert record.space.temperatures == (1.0, 4.0)
    assert record.teachers == {"t_hs": "t_hs", "t_ll": "t_hs"}  # one checkpoint, so t_ll's runs are t_hs's
    recorded = read_run(folders(run)[0]).extra
    auto = {"precision": "float32", "engine": request.config.getoption("--engine")}  # what it is on a CPU
    assert {**record.training, **auto} == recorded["training"]
    assert record.model == recorded["model"]
    outcome = record.outcome
    assert outcome is not None
    assert [pair["choice"] for pair in outcome["pairs"]] == ["loss", "teacher", "tau_s", "alpha"]
    assert {Path(path) for path in outcome["runs"].values()} == set(folders(run))
    events = [line["event"] for line in journal(run)]
    assert events == ["started", "finished"] * len(folders(run))

    call("search", str(run), "--device", "cpu")
    assert len(journal(run)) == len(events)  # nothing was trained again
    assert capsys.readouterr().out.count("there already") == len(folders(run))


def test_a_training_of_a_search_is_that_of_train_student_bit_for_bit(run: Path, tmp_path: Path) -> None:
    call("search", str(run), "--device", "cpu", "--seeds", "0")
    for number, folder in enumerate(folders(run)):
        config = json.loads((folder / "config.json").read_text())
        config["cache"] = Path(config["cache"])
        alone = tmp_path / f"alone{number}"
        file = load_run(run, out=alone)
        _, other = distill.run(file, StudentConfig(**config), device="cpu")
        assert other.name == folder.name
        assert read_run(other).scores == read_run(folder).scores
        for split in ("validation", "test"):
            ours, theirs = (read_statistics(place, split)[1] for place in (folder, other))
            assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
        ours, theirs = (load_file(place / "selected/model.safetensors") for place in (folder, other))
        assert all(ours[name].equal(theirs[name]) for name in ours)


def test_dry_run_counts_and_writes_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("search", str(run), "--device", "cpu", "--dry-run")
    out = capsys.readouterr().out
    assert not (run.parent / "out").exists()
    assert "how long they take is not known before the first has finished" in out
    least, most = (int(word) for word in out.splitlines()[-2].split()[1:4:2])
    call("search", str(run), "--device", "cpu")
    assert least <= len(folders(run)) <= most
    capsys.readouterr()
    call("search", str(run), "--device", "cpu", "--dry-run")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [f"  half: {len(folders(run))} trainings, 0 of them to do", "to do: nothing"]
    call("search", str(run), "--device", "cpu", "--dry-run", "--seeds", "0,1,2")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("to do: ")
    assert last.endswith(f"with --jobs 1, from {len(folders(run))} that have finished")
    call("search", str(run), "--device", "cpu", "--dry-run", "--seeds", "0,1,2", "--jobs", "2")
    assert " with --jobs 2, from " in capsys.readouterr().out.splitlines()[-1]


def test_weights_are_deleted_where_they_are_not_wanted(run: Path) -> None:
    call("search", str(run), "--device", "cpu", "--set", "search.keep_checkpoints=false", "--seeds", "0")
    assert folders(run)
    assert not list((run.parent / "out").rglob("*.safetensors"))


@pytest.fixture
def two_students(study: Path, tmp_path: Path) -> Path:
    """A search of `half` and of `broken`, whose weights are not numbers."""
    run = write_search(study, tmp_path, seeds=[0], complete=[])
    shutil.copytree(study / "base", tmp_path / "broken")
    path = tmp_path / "broken/model.safetensors"
    save_file({name: value * float("nan") for name, value in load_file(path).items()}, path, {"format": "pt"})
    tree = yaml.safe_load(run.read_text())
    tree["models"]["students"]["broken"] = {"path": str(tmp_path / "broken"), "layers": 2}
    run.write_text(yaml.safe_dump(tree))
    return run


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_training_that_fails_is_named_and_the_other_student_is_searched(
    two_students: Path, jobs: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["search", str(two_students), "--device", "cpu", "--jobs", jobs])
    error = capfd.readouterr().err.splitlines()[-1]
    assert end.value.code == 7
    # hard labels and both temperatures of Hinton's cell fail, and end its search; the other student's six go on
    failed = ("hard labels", "ce t_hs tau 1/1", "ce t_hs tau 4/4")
    assert "3 of 9 trainings failed: broken " in error
    assert all(f"broken {label} seed 0" in error for label in failed)
    assert error.count("the loss is nan at step 1 of 2") == 1
    assert error.endswith("the same command tries them again")
    half, broken = (read_record(two_students.parent / f"out/search/{name}.json") for name in ("half", "broken"))
    assert half.outcome is not None
    assert broken.outcome is None
    assert sorted(line["event"] for line in journal(two_students, "broken")) == ["failed"] * 3 + ["started"] * 3


def test_failures_that_are_skipped_end_a_search_that_names_them(
    two_students: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["search", str(two_students), "--device", "cpu", "--student", "broken", "--set", "search.on_error=skip"])
    assert end.value.code == 7
    record = read_record(two_students.parent / "out/search/broken.json")
    assert record.outcome is not None
    assert record.outcome["best"]["score"] is None
    assert len(record.failed) == 8  # two of them are t_ll's, whose checkpoint is t_hs's
    shown = capsys.readouterr()
    assert "6 of 6 trainings failed" in shown.err
    assert "baseline hard labels failed" in shown.out


def test_jobs_and_one_process_find_the_same(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    call("search", str(run), "--device", "cpu", "--jobs", "2", "--seeds", "0")
    call("search", str(run), "--device", "cpu", "--seeds", "0", "--out", str(run.parent / "one"))
    assert final(run, "out") == final(run, "one")


def test_a_search_that_shares_a_gpu_finds_the_same_and_says_how_many_share_it(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    call("search", str(run), "--device", "cpu", "--seeds", "0", "--out", str(run.parent / "one"))
    if torch.cuda.is_available():
        pytest.skip("the workers would use the GPU; tests/test_gpu.py has this test there")
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls, device: Machine(gpus=1, cores=2)))
    capsys.readouterr()
    call("search", str(run), "--seeds", "0", "--jobs-per-gpu", "auto")
    said = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("--jobs-per-gpu auto, after half ")
    ]
    assert len(said) == 1
    assert said[0].endswith(
        ": 1 on each GPU, 1 at once, since the training did not measure its steps and its memory on the GPU"
    )
    call("search", str(run), "--seeds", "0", "--jobs-per-gpu", "2", "--out", str(run.parent / "two"))
    assert final(run, "out") == final(run, "two") == final(run, "one")
    capsys.readouterr()
    call("search", str(run), "--seeds", "0,1", "--jobs-per-gpu", "2", "--dry-run")
    assert " with --jobs 2 on 1 GPU (the most if sharing wins nothing), from " in capsys.readouterr().out
    call("search", str(run), "--seeds", "0,1", "--jobs-per-gpu", "auto", "--dry-run")
    assert " with --jobs 1 (less if --jobs-per-gpu auto takes more), from " in capsys.readouterr().out


def test_ray_trains_the_same_runs(run: Path) -> None:
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "kdcache", "search", str(run), "--device", "cpu", "--executor", "ray"]
    ended = subprocess.run([*command, "--seeds", "0"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    events: dict[object, list[object]] = {}
    for line in journal(run):
        events.setdefault(line["run"], []).append(line["event"])
    assert list(events.values()) == [["started", "finished"]] * len(folders(run))
    call("search", str(run), "--device", "cpu", "--seeds", "0", "--out", str(run.parent / "one"))
    assert final(run, "out") == final(run, "one")


def final(run: Path, out: str) -> dict[str, object]:
    """The final table, without the place of the runs."""
    record = read_record(run.parent / out / "search/half.json")
    assert record.outcome is not None
    runs = {label: Path(path).name for label, path in record.outcome["runs"].items()}
    return {**plain(record), "outcome": {**record.outcome, "runs": runs}}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def _killed(command: list[str], run: Path, moment: random.Random) -> Iterator[tuple[Path, int, bytes]]:
    """Start a search, kill it while it trains; what had finished by then."""
    before = len(journal(run))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wanted = before + moment.randint(1, 6)
    wait_until(lambda: len(journal(run)) >= wanted or process.poll() is not None)
    time.sleep(moment.random() * 0.4)
    workers = children(process.pid) if process.poll() is None else []
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: all(gone(worker) for worker in workers))
    for path in (run.parent / "out/students").glob("*/*/result.json"):
        yield path, path.stat().st_mtime_ns, path.read_bytes()


def test_a_search_killed_at_five_random_moments_ends_with_the_same_table_and_repeats_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [sys.executable, "-m", "kdcache", "search", str(run), "--device", "cpu"]
    subprocess.run([*command, "--out", str(run.parent / "whole")], check=True, capture_output=True)
    moment = random.Random(5)
    finished: dict[Path, tuple[int, bytes]] = {}
    for jobs in ("1", "2", "1", "2", "1"):
        for path, when, content in _killed([*command, "--jobs", jobs], run, moment):
            assert finished.setdefault(path, (when, content)) == (when, content)
    subprocess.run(command, check=True, capture_output=True)
    assert all((path.stat().st_mtime_ns, path.read_bytes()) == there for path, there in finished.items())
    assert final(run, "out") == final(run, "whole")
    begun: dict[object, int] = {}
    ended: set[object] = set()
    for line in journal(run):
        if line["event"] == "started":
            assert line["run"] not in ended
            begun[line["run"]] = begun.get(line["run"], 0) + 1
        else:
            ended.add(line["run"])
    assert set(begun) == {path.name for path in folders(run)}
    assert sum(begun.values()) <= len(begun) + 7  # each kill cut off at most as many as ran side by side
    assert finished, "no kill came after a training had finished"


def test_two_searches_of_one_study_do_not_run_at_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = run.parent / "out/search"
    place.mkdir(parents=True)
    with (place / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        message = refused(capsys, "search", run, "--device", "cpu", code=8)
    assert message == f"another search runs in {run.parent}/out; wait for it, or choose another --out"


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (
            ("--design", "random"),
            "(with the command line's changes) is 'random'; allowed: one of greedy, factorial",
            2,
        ),
        (("--student", "third"), "no student is called 'third'; the models file has half", 2),
        (("--complete", "lazy,all"), "is 'all'; allowed: one of lazy, stable, random", 2),
        (("--seeds", "a"), "search.seeds[0] in {run} (with the command line's changes) is 'a'", 2),
        (("--set", "search.taus=[1]"), "unknown setting search.taus", 2),
        (("--set", "search.learning_rates=[2]"), "learning_rate = 2.0 must lie between 0 and 1", 2),
        (("--set", "student.kd_scale=none"), "student.kd_scale = none: a search compares at tau_s^2", 2),
        (("--set", "student.cache=nowhere"), "nowhere", 2),
        (("--set", "student.cache=null"), "run kdcache dump-teacher {run} first", 2),
        (("--jobs", "0"), "--jobs 0: give at least 1", 9),
        (("--jobs", "2", "--executor", "ray"), "--jobs is for --executor local", 9),
        (("--jobs-per-gpu", "0"), "--jobs-per-gpu 0: give at least 1, or auto", 9),
        (("--jobs-per-gpu", "2"), "--jobs-per-gpu 2: --device cpu uses no GPU; use --jobs N for N trainings at", 9),
        (("--jobs-per-gpu", "auto", "--executor", "ray"), "--jobs-per-gpu is for --executor local; Ray gives", 9),
        (("--jobs-per-gpu", "all"), "'--jobs-per-gpu': 'all' is neither a whole number nor auto", 2),
        (("--set", "models.students={}"), "the models file names no student", 2),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(
    arguments: tuple[str, ...], message: str, code: int, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = refused(capsys, "search", run, "--device", "cpu", *arguments, code=code)
    assert message.format(run=run) in found
    assert not (run.parent / "out").exists()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_dataset_without_the_splits_is_refused(split: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = yaml.safe_load(run.read_text())
    del tree["dataset"]["files"][split]
    run.write_text(yaml.safe_dump(tree))
    found = refused(capsys, "search", run, "--device", "cpu", code=2)
    assert found.startswith(f"dataset tiny has no {split} split; a search ")


def test_a_cache_without_one_of_the_teachers_is_refused(
    study: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = f"t_hs={study / 'out/teacher/selected/t_hs'}"
    call("dump-teacher", str(run), "--device", "cpu", "--teacher", teacher)
    found = refused(capsys, "search", run, "--device", "cpu", "--set", "student.cache=null", code=4)
    assert "has no teacher 't_ll'; it has t_hs" in found


def test_data_without_labels_are_searched_without_hard_labels(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = yaml.safe_load(run.read_text())
    path = tmp_path / "train.jsonl"
    records = [json.loads(line) for line in Path(tree["dataset"]["files"]["train"]).read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in r.items() if k != "label"}) + "\n" for r in records))
    tree["dataset"] = {**tree["dataset"], "unlabelled": ["train"]}
    tree["dataset"]["files"]["train"] = str(path)
    del tree["student"]["cache"]
    run.write_text(yaml.safe_dump(tree))
    call("dump-teacher", str(run), "--device", "cpu", *_teachers(run))
    refusal = refused(capsys, "search", run, "--device", "cpu", code=5)
    assert "needs labels, but no item of the cache's train split has one" in refusal
    assert refusal.endswith("or leave them out (search.order, search.temperatures, search.alphas, search.hard)")
    alone = ("--set", "search.alphas=[]", "--set", "search.order=[loss]")
    call("search", str(run), "--device", "cpu", "--seeds", "0", "--set", "search.hard=false", *alone)
    record = read_record(run.parent / "out/search/half.json")
    assert record.outcome is not None
    assert record.outcome["hard"] is None
    assert not record.space.hard
    assert all(read_run(folder).configuration.alpha == 1 for folder in folders(run))


def test_losses_that_the_cache_gives_only_approximately_are_all_named(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("dump-teacher", str(run), "--device", "cpu", "--set", "dump.top_k=1", *_teachers(run))
    found = refused(capsys, "search", run, "--device", "cpu", "--set", "student.cache=null", code=5)
    assert "configurations of this search cannot be trained from the cache: ce t_hs tau 4/4, " in found
    assert "mse t_hs tau 1/1" in found
    assert "ce t_hs tau 1/1," not in found
    assert "Dump with store: hidden" in found
    assert "or leave them out (search.order, search.temperatures, search.alphas, search.hard)" in found
    assert not (run.parent / "out/students").exists()


def _teachers(run: Path) -> list[str]:
    base = Path(yaml.safe_load(run.read_text())["models"]["teacher"]["path"]).parent / "out/teacher/selected"
    return [part for name in ("t_hs", "t_ll") for part in ("--teacher", f"{name}={base / name}")]
