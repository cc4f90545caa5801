"""`zarr.json` of a group and of its arrays, as zarr-python writes them but for its indents; a test holds both together.

Every array is one shard of blosc chunks with crc32c, its index at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache.cache.jsonio import to_json
from kdcache.cache.ragged import fill_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Blosc:
    """How blosc compresses the chunks of an array.

    Attributes:
        cname: `lz4` or `zstd`.
        clevel: 1 to 9.
        shuffle: `shuffle` or `bitshuffle`.
        typesize: bytes that are turned together.
    """

    cname: str
    clevel: int
    shuffle: str
    typesize: int


def group_json(attributes: Mapping[str, str]) -> bytes:
    """Metadata of a group that says what it is."""
    return to_json({"attributes": {"kdcache": dict(attributes)}, "node_type": "group", "zarr_format": 3})


def array_json(array: NDArray[Any], *, chunk_rows: int, blosc: Blosc) -> bytes:
    """Metadata of an array.

    Args:
        array: what is stored.
        chunk_rows: rows of a chunk.
        blosc: of its chunks.
    """
    fill = fill_value(array.dtype)
    as_bytes: dict[str, Any] = {"name": "bytes"}
    if array.itemsize > 1:
        as_bytes["configuration"] = {"endian": "little"}
    compressed = {
        "blocksize": 0,
        "clevel": blosc.clevel,
        "cname": blosc.cname,
        "shuffle": blosc.shuffle,
        "typesize": blosc.typesize,
    }
    checksum = {"name": "crc32c"}
    sharding = {
        "chunk_shape": [chunk_rows, *array.shape[1:]],
        "codecs": [as_bytes, {"configuration": compressed, "name": "blosc"}, checksum],
        "index_codecs": [{"configuration": {"endian": "little"}, "name": "bytes"}, checksum],
        "index_location": "end",
    }
    return to_json(
        {
            "attributes": {},
            "chunk_grid": {"configuration": {"chunk_shape": list(array.shape)}, "name": "regular"},
            "chunk_key_encoding": {"configuration": {"separator": "."}, "name": "default"},
            "codecs": [{"configuration": sharding, "name": "sharding_indexed"}],
            "data_type": array.dtype.name,
            "fill_value": "NaN" if np.isnan(fill) else int(fill),
            "node_type": "array",
            "shape": list(array.shape),
            "storage_transformers": [],
            "zarr_format": 3,
        }
    )
