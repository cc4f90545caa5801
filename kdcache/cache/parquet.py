"""Parquet bytes -> a table, in the caller's thread alone."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq


def read_table(content: bytes) -> pa.Table:
    """Read a table whose pages have checksums.

    Not by `pq.read_table`, which scans in threads of Arrow's. One of them may be the last to let go of Python's bytes,
    and if Python is exiting by then, that aborts the process: exit code 134, though the work is done
    (https://github.com/apache/arrow/issues/34314).

    Raises:
        pyarrow.ArrowException, OSError: not Parquet, or a page fails its checksum.
    """
    with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
        return file.read(use_threads=False)
