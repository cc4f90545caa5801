"""Workers that share a GPU, in real processes: where each trains, what is trained again alone, how many there are.

Their trainings are made up, and so are the GPUs: a worker that never asks CUDA for anything needs none.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from kdcache.student.plan import StudentConfig
from kdcache.student.search.driver import Job, Report
from kdcache.student.search.jobs import out_of_memory
from kdcache.student.search.packing import Probe
from kdcache.student.search.placing import Machine, Places
from kdcache.student.search.workers import Workers
from tests.ends import wait_until

pytestmark = pytest.mark.slow

PROBE = Probe(graphs=False, seconds=0.02, busy=0.006, peak_bytes=1, total_bytes=100)
SHORT = "CUDA out of memory. Tried to allocate 2.00 GiB"


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeUp:
    """A recipe and bench whose trainings leave files: `<label>.begun` with the GPU and process, and `<label>.ended`.

    A label says what its training does: it waits for `<label>.go` if it begins with `held`; `greedy` runs out of memory
    where another has begun and not ended, `hopeless` always, `broken` fails otherwise.
    """

    folder: Path
    probe: Probe | None = None

    def bench(self) -> MadeUp:
        """It is its own."""
        return self

    def train(self, job: Job) -> Report:
        """Do as the label says."""
        mine = self.folder / f"{job.label}.begun"
        attempt = len(mine.read_text().splitlines()) if mine.exists() else 0
        (self.folder / f"{job.label}.ended").unlink(missing_ok=True)
        with mine.open("a") as file:
            file.write(json.dumps([os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid(), time.monotonic()]) + "\n")
        try:
            if job.label.startswith("held") or (attempt == 0 and job.label[:6] in ("greedy", "hopele")):
                wait_until((self.folder / f"{job.label}.go").exists)
            self._fail(job.label)
        except (torch.OutOfMemoryError, ValueError) as error:
            return Report(job=job, value=None, error=str(error), out_of_memory=out_of_memory(error))
        finally:
            (self.folder / f"{job.label}.ended").write_text(str(time.monotonic()))
        return Report(job=job, value=1.0, probe=self.probe)

    def _fail(self, label: str) -> None:
        begun = {path.stem for path in self.folder.glob("*.begun")}
        running = begun - {path.stem for path in self.folder.glob("*.ended")} - {label}
        if label.startswith("hopeless") or (label.startswith("greedy") and running):
            raise torch.OutOfMemoryError(SHORT)
        if label.startswith("broken"):
            raise ValueError("the loss is nan")


class Shop:
    """Workers over made-up trainings, and what they said and left."""

    def __init__(self, folder: Path, places: Places, probe: Probe | None = None) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self.started: list[str] = []
        self.workers = Workers(
            MadeUp(folder=folder, probe=probe),  # type: ignore[arg-type]
            places=places,
            started=lambda job: self.started.append(job.label),
            say=self.lines.append,
        )

    def submit(self, *labels: str) -> None:
        """Queue trainings."""
        for label in labels:
            self.workers.submit(Job(config=StudentConfig(student="a"), folder=self.folder / label, label=label))

    def wait(self) -> Report:
        """The next report."""
        return self.workers.wait()

    def begun(self, label: str) -> list[tuple[str | None, int, float]]:
        """GPU, process and moment of each time that a training began."""
        path = self.folder / f"{label}.begun"
        return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    def go(self, *labels: str) -> None:
        """Let trainings go on that have begun."""
        for label in labels:
            wait_until(lambda name=label: bool(self.begun(name)))  # type: ignore[misc]
        for label in labels:
            (self.folder / f"{label}.go").touch()


def places(*, gpus: int, slots: int, most: int | None = None) -> Places:
    return Places(machine=Machine(gpus=gpus, cores=8), slots=slots, most=most or slots)


Open = Callable[..., Shop]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens a shop, which is closed at the end."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    opened: list[Shop] = []

    def open_one(places: Places, probe: Probe | None = None) -> Shop:
        opened.append(Shop(tmp_path, places, probe))
        return opened[-1]

    yield open_one
    for one in opened:
        one.workers.close()


def test_trainings_are_spread_over_the_gpus_and_go_where_the_fewest_are(shop: Open) -> None:
    two = shop(places(gpus=2, slots=4))
    two.submit("held a", "held b", "held c", "held d")
    two.go("held a", "held b", "held c", "held d")
    for _ in range(4):
        assert two.wait().value == 1.0
    assert [two.begun(f"held {name}")[0][0] for name in "abcd"] == ["0", "1", "0", "1"]
    two.submit("held e", "held f")
    two.go("held e", "held f")
    two.wait(), two.wait()
    assert {two.begun(f"held {name}")[0][0] for name in "ef"} == {"0", "1"}
    assert len({two.begun(f"held {name}")[0][1] for name in "abcdef"}) == 4  # processes stay


def test_a_training_without_memory_beside_others_runs_once_more_alone(shop: Open) -> None:
    one = shop(places(gpus=1, slots=2))
    one.submit("held a", "greedy", "later")
    wait_until(lambda: bool(one.begun("held a")))  # the other process may have started first
    one.go("greedy")

    def release() -> None:
        wait_until(lambda: bool(one.lines))
        time.sleep(0.2)  # in which `later` would begin
        one.go("held a")

    threading.Thread(target=release).start()
    reports = {report.job.label: report for report in (one.wait(), one.wait(), one.wait())}
    assert {label: report.value for label, report in reports.items()} == {"held a": 1.0, "greedy": 1.0, "later": 1.0}
    assert one.lines == [
        "greedy ran out of memory while other trainings shared its GPU; it is trained once more, alone there. "
        "Fewer at once (--jobs-per-gpu) would spare that"
    ]
    first, second = one.begun("greedy")
    assert first[1] == second[1]  # the process that has read everything
    assert second[2] > float((one.folder / "held a.ended").read_text())
    assert one.begun("later")[0][2] > float((one.folder / "greedy.ended").read_text())
    assert one.started == ["held a", "greedy", "later"]


def test_a_process_that_waits_holds_memory_and_is_ended_before_another_is_alone(shop: Open) -> None:
    """It has a context of CUDA, and perhaps an engine that it keeps."""
    one = shop(places(gpus=1, slots=2))
    one.submit("held a", "quick")
    assert one.wait().job.label == "quick"  # its process waits from now on
    one.submit("hopeless")
    one.go("held a")
    one.go("hopeless")
    idle = one.begun("quick")[0][1]
    reports = {report.job.label: report for report in (one.wait(), one.wait())}
    assert reports["hopeless"].error == SHORT
    assert [pid for _, pid, _ in one.begun("hopeless")] == [idle, idle]
    other = one.begun("held a")[0][1]
    with pytest.raises(ProcessLookupError):
        os.kill(other, 0)
    one.submit("hopeless alone")  # beside a process that only waits it would be repeated; now there is none
    one.go("hopeless alone")
    assert one.wait().error == SHORT
    assert len(one.begun("hopeless alone")) == 1


def test_a_training_without_memory_alone_has_failed(shop: Open) -> None:
    one = shop(places(gpus=0, slots=2))
    one.submit("held a", "hopeless")
    one.go("held a", "hopeless")
    reports = {report.job.label: report for report in (one.wait(), one.wait())}
    assert (reports["hopeless"].value, reports["hopeless"].error) == (None, SHORT)
    assert [len(one.begun(label)) for label in ("held a", "hopeless")] == [1, 2]
    assert one.lines == [
        "hopeless ran out of memory while other trainings shared its machine; it is trained once more, alone there. "
        "Fewer at once (--jobs) would spare that"
    ]
    one.submit("hopeless again")  # nothing beside it: no second time
    one.go("hopeless again")
    assert one.wait().error == SHORT
    assert len(one.begun("hopeless again")) == len(one.lines) == 1


def test_two_without_memory_run_one_after_the_other_and_other_gpus_go_on(shop: Open) -> None:
    two = shop(places(gpus=2, slots=4))
    two.submit("hopeless a", "held b", "hopeless c", "broken d", "quick e", "quick f")
    two.go("hopeless a", "hopeless c")
    ended = [two.wait().job.label for _ in range(5)]  # GPU 1 trained on while GPU 0 was held
    assert set(ended) == {"broken d", "quick e", "quick f", "hopeless a", "hopeless c"}
    two.go("held b")
    assert two.wait().job.label == "held b"
    assert len(two.begun("broken d")) == 1  # its failure has nothing to do with memory
    starts = sorted((two.begun(label)[1][2], label) for label in ("hopeless a", "hopeless c"))
    assert starts[1][0] > float((two.folder / f"{starts[0][1]}.ended").read_text())
    assert [len(two.begun(f"hopeless {name}")) for name in "ac"] == [2, 2]


def test_auto_grows_after_the_first_training_that_measured_itself(shop: Open) -> None:
    auto = shop(places(gpus=2, slots=2, most=16), PROBE)
    names = [f"held {name}" for name in "abcdef"]
    auto.submit("broken", "first", *names)
    assert [auto.workers.slots, len(auto.workers._workers)] == [2, 2]
    assert {auto.wait().job.label, auto.wait().job.label} == {"broken", "first"}
    assert auto.workers.slots == 6
    assert auto.lines == [
        "--jobs-per-gpu auto, after first: 3 on each GPU, 6 at once, since "
        "a step takes 20.00 ms and keeps the GPU busy for 6.00 ms (3 fit), a training takes 0.0 GB of 0.0 GB (90 fit), "
        "there are 4 cores for each GPU (4 fit), and 8 is the most"
    ]
    auto.go(*names)  # all of them run at once
    for _ in names:
        assert auto.wait().value == 1.0
    assert sorted(auto.begun(name)[0][0] or "" for name in names) == ["0", "0", "0", "1", "1", "1"]
    assert len(auto.lines) == 1
    processes = {auto.begun(name)[0][1] for name in [*names, "broken", "first"]}
    assert len(processes) == 6  # those that were there stay


def test_auto_stays_at_one_a_gpu_where_nothing_is_measured_and_says_so_once(shop: Open) -> None:
    auto = shop(places(gpus=1, slots=1, most=8))
    auto.submit("first", "second")
    auto.wait(), auto.wait()
    assert auto.workers.slots == 1
    assert auto.lines == [
        "--jobs-per-gpu auto, after first: 1 on each GPU, 1 at once, since "
        "the training did not measure its steps and its memory on the GPU"
    ]
