"""Starts the tests of the kernels under Triton's interpreter, in a process of their own, on the CPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kdcache.losses import gpu

FOLDER = Path(__file__).parent / "gpu"


@pytest.mark.slow
@pytest.mark.skipif(not gpu.INSTALLED, reason="Triton is not installed, and runs on Linux only")
def test_the_kernels_pass_their_tests_under_the_interpreter_and_none_is_skipped() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(FOLDER), "-q", "-p", "no:xdist", "-p", "no:cacheprovider"],
        env={**environment, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=FOLDER.parents[2],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    last = done.stdout.strip().splitlines()[-1]
    found = re.fullmatch(r"(\d+) passed in .*", last)  # no word of tests that failed or were skipped
    assert found, last
    assert int(found[1]) > 0
