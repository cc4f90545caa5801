"""What a GPU's benchmark prints of a figure, and what its exit code says of the limits."""

from __future__ import annotations

import sys

import pytest

from tools import bench_gpu_search, bench_gpu_steps
from tools.bench_gpu_graphs import Rerunning, Timed
from tools.bench_gpu_steps import FULL, Steps, graphs_of
from tools.bench_table import Table


def test_a_figure_stands_beside_its_limit(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(judged=True)
    table.add("time", 0.5, 0.6)
    table.add("memory", 1.0, None, " GiB")
    assert capsys.readouterr().out == "| time | 0.5 | 0.6 | ok |\n| memory | 1 GiB |  |  |\n"
    assert table.end() == 0


def test_a_missed_limit_is_named_and_gives_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(judged=True)
    table.add("time", 0.7, 0.6)
    assert table.end() == 1
    out = capsys.readouterr().out
    assert "| time | 0.7 | 0.6 | MISSED |" in out
    assert out.endswith("1 limits missed\n  time\n")


@pytest.mark.parametrize(("value", "code"), [(4.0, 0), (3.9, 1)])
def test_a_limit_may_be_the_smallest_good_figure(value: float, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(judged=True)
    table.add("speed", value, 4, " x", at_least=True)
    assert table.end() == code
    assert "| >= 4 |" in capsys.readouterr().out


def test_small_sizes_judge_only_what_is_always_judged() -> None:
    table = Table(judged=False)
    table.add("time", 0.7, 0.6)
    assert not table.missed
    table.add("difference", 1e-3, 1e-6, always=True)
    assert table.missed == ["difference"]


@pytest.mark.parametrize("needed", [True, False])
def test_a_part_that_fails_is_a_line_and_the_others_go_on(needed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise RuntimeError("no\nmemory")

    table = Table(judged=True)
    table.part("steps", fails, needed=needed)
    table.part("others", lambda: table.say("graphs", "3"))
    out = capsys.readouterr().out
    assert "| steps | failed: RuntimeError: no memory | | |" in out
    assert "| graphs | 3 | | |" in out
    assert table.end() == int(needed)


def test_the_steps_alone_end_with_exit_code_1_where_a_limit_is_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def judged(steps: Steps) -> None:
        steps.table.add("difference", 1e-3, bench_gpu_steps.SAME, always=True)

    monkeypatch.setattr(Steps, "judged", judged)
    monkeypatch.setattr(sys, "argv", ["bench_gpu_steps", "--small", "--no-shown"])
    assert bench_gpu_steps.main() == 1
    assert "1 limits missed\n  difference" in capsys.readouterr().out


def test_what_has_no_limit_is_left_out_when_the_time_is_used_up(
    tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    Steps(sizes=FULL, device="cpu", table=Table(judged=True), folder=tmp_path).shown(until=0.0)  # type: ignore[arg-type]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(" left out: it takes about " in line for line in lines)


def test_the_full_sizes_are_those_that_the_limits_are_for() -> None:
    language, (small, large) = FULL.language, FULL.encoders
    assert (language.layers, language.width, language.heads, language.classes) == (12, 768, 12, 49_152)
    assert (language.batch, language.tokens, language.memory) == (32, 512, 0.60)
    assert language.limits == {"topk fast": 0.90, "hidden float16": 1.00}
    assert (small.layers, small.width, small.longest, small.limit) == (3, 384, 64, 0.30)
    assert (large.layers, large.width, large.longest, large.limit) == (12, 768, 128, 0.40)
    assert (FULL.equal, bench_gpu_steps.SAME, bench_gpu_steps.OFF) == (200, 1e-6, 1.15)
    assert (FULL.study.trainings, FULL.study.texts["train"], FULL.study.epochs) == (8, 3000, 3)
    assert bench_gpu_search.LIMIT == 4.0


def test_a_recorder_without_graphs_reruns_and_finds_what_comes_later_faster() -> None:
    timed, done = Timed(Rerunning()), []
    with timed.scope():
        replay = timed.record(lambda: done.append(1))
    assert not done
    replay()
    replay()
    assert done == [1, 1]
    times = [timed.seconds() for _ in range(4)]
    assert times[3] - times[2] < 0.9 * (times[1] - times[0])
    assert timed.told.startswith("1 recordings, ")


def test_the_reason_for_no_graph_is_told() -> None:
    assert graphs_of({"graphs": 3}) == "3"
    assert graphs_of({"graphs": 0, "why": "the device limits a step"}) == "none: the device limits a step"
