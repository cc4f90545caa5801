"""The benchmarks of a GPU and of dumps run to their end at small sizes, and what they judge there holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.ends import HANGING

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def run(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", f"tools.{name}", *options)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGING, check=False)


def test_every_line_of_the_gpu_benchmark_runs_at_small_sizes() -> None:
    done = run("bench_gpu", "--small", "--no-tests")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert "0 limits missed" in done.stdout
    assert " | failed: " not in done.stdout
    for what in (
        "loss off the plain path",
        "gradient off the plain path",
        "loss over F.cross_entropy",
        "head + loss over linear + CE",
        "the same, hidden targets",
        "selection, k = 64",
        "ids unlike a stable sort",
        "dump to disk over the bare forward",
        "memory beside the model",
        "graphs | a CPU has none" if not torch.cuda.is_available() else "graphs",
        "step over the plain step, 1 M Llama, 2 x 12, V 16,500: topk fast | ",
        "step over the plain step, 1 M Llama, 2 x 12, V 16,500: hidden float16 | ",
        "peak memory over the plain step, 1 M Llama, 2 x 12, V 16,500: topk fast | ",
        "training of 20 steps over a plain one, BERT-1 x 16, 32 x 8 to 24 tokens: graph: auto | ",
        "training of 20 steps over a plain one, BERT-2 x 16, 32 x 8 to 24 tokens: graph: never | ",
        "recorded in it, BERT-2 x 16, 32 x 8 to 24 tokens | ",
        "largest relative difference of a loss, 40 steps of BERT-1 x 16, 32 x 8 to 24 tokens, float32: graphs",
        "2 students BERT-1 x 16 by search, 64 texts x 2 epochs, over plain fine-tunings",
        "BERT-1 x 16, 32 x 8 to 24 tokens: host time of a step, replayed as a graph",
        "BERT-1 x 16, 32 x 8 to 24 tokens: evaluation of 320 items by graphs over eager",
        "BERT-1 x 16, 32 x 8 to 24 tokens: 2 students, graphs on streams of their own",
        "step over the plain step, topk, engine: deepspeed",
        "first step, compile: true, language model",
        "first step, compile: true, BERT-2 x 16",
    ):
        assert any(line.startswith(f"| {what}") for line in lines), what


def test_the_benchmark_of_a_dump_runs_at_small_sizes() -> None:
    done = run("bench_dump", "--small")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "wall      topk fast over the road before" in done.stdout


def test_they_say_what_they_need() -> None:
    if not torch.cuda.is_available():
        done = run("bench_gpu")
        assert (done.returncode, done.stdout) == (2, "")
        assert "torch sees no CUDA device" in done.stderr
        done = run("bench_gpu_steps")
        assert (done.returncode, done.stdout) == (2, "")
        assert "torch sees no CUDA device" in done.stderr
    done = run("bench_dump")
    assert done.returncode == 2
    assert "give --model FOLDER, or --small" in done.stderr
