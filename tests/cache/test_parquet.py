"""Parquet is read in the caller's thread: a thread that is left behind would abort the process when Python exits."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.ends import HANGING

THREADS = """
import os
import pyarrow as pa
import pyarrow.parquet as pq
from kdcache.cache.parquet import read_table
sink = pa.BufferOutputStream()
pq.write_table(pa.table({name: list(range(99)) for name in "abc"}), sink, write_page_checksum=True)
content = bytes(sink.getvalue())
before = len(os.listdir("/proc/self/task"))
assert READ.num_rows == 99
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("read", "none"), [("read_table(content)", True), ("pq.read_table(pa.BufferReader(content))", False)]
)
def test_a_table_is_read_without_threads_of_arrow_s(read: str, none: bool) -> None:
    command = [sys.executable, "-c", THREADS.replace("READ", read)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGING)
    assert (int(done.stdout) == 0) == none, "the other way shows that threads would be seen"
