"""The arrays of a block as a zarr v3 group in memory, written and read by a short program of our own.

One shard an array. Inner chunks are blosc (lz4 or zstd) and crc32c; so is the index at the shard's end, but for blosc.
The reader accepts exactly this and checks every size before it allocates: zarr-python would return the fill value for
a deleted or emptied shard, and takes milliseconds for a row; it writes a chunk in the time that ten take here. A test
holds both to the same bytes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import google_crc32c
import numcodecs.blosc
import numpy as np
from numpy.typing import NDArray

from kdcache.cache.codecs.base import SHUFFLED, Arrays, Filter
from kdcache.cache.jsonio import parse_json
from kdcache.cache.shard_json import Blosc, array_json, group_json
from kdcache.cache.store import JSON_BYTES
from kdcache.core.errors import CacheDamaged, CacheError, CacheFormatError
from kdcache.core.row_format import COMPRESSOR, COMPRESSORS

GROUP = "zarr.json"
LARGEST_ARRAY = 1 << 33
"""Bytes an array of one block may decode to."""
SMALL_ROW = 8
"""Bytes a row up to which an array is one chunk."""
_DTYPES = ("uint8", "uint16", "int8", "int32", "float16", "float32")
_CODECS = ("bytes", "blosc", "crc32c")
_SPARSE = ("ids", "ids_high", "logprobs", "first", "gaps", "gap_shift", "atoms", "atom_shift", "moments")
_NAMES = frozenset((*_SPARSE, "num_kept", "num_classes", "lse", "gold", "hidden", "scale"))
_SHUFFLES = {"shuffle": numcodecs.blosc.SHUFFLE, "bitshuffle": numcodecs.blosc.BITSHUFFLE}
_LEVELS = {"lz4": 9, "zstd": 3}
_LARGEST_TYPE = 255
NO_FILTERS: Mapping[str, Filter] = MappingProxyType({})
_BLOSC_HEADER = 16
_CRC = 4
_MISSING = 2**64 - 1

# Each call compresses on its own, without a lock, and without the interpreter's: blosc's own threads would write blocks
# in the order in which they finish, so that equal arrays gave other bytes. zarr-python sets the same.
numcodecs.blosc.use_threads = False


def array_files(name: str, dimensions: int) -> tuple[str, str]:
    """Metadata and shard of an array inside its block's folder.

    Example:
        >>> array_files("lse", 1)
        ('lse/zarr.json', 'lse/c.0')
    """
    return f"{name}/zarr.json", f"{name}/c" + ".0" * dimensions


def to_files(
    arrays: Arrays,
    *,
    chunk_rows: int,
    attributes: Mapping[str, str],
    compressor: str = COMPRESSOR,
    filters: Mapping[str, Filter] = NO_FILTERS,
) -> dict[str, bytes]:
    """The files of a zarr v3 group that holds these arrays. Safe to call from several threads.

    Args:
        arrays: all with the same first length R; R is at most `chunk_rows` or a multiple of it.
        chunk_rows: rows of an inner chunk; arrays of up to `SMALL_ROW` bytes a row have one chunk.
        attributes: of the group, which say what it is.
        compressor: `lz4` or `zstd`.
        filters: array -> how its bytes are turned first; `SHUFFLED` by default.

    Returns:
        Relative path -> content; equal arrays give equal bytes.

    Raises:
        CacheError: rows that chunks cannot be cut from.
    """
    files = {GROUP: group_json(attributes)}
    for name, array in arrays.items():
        rows, blosc = _chunk_rows(array, chunk_rows), _blosc(array, compressor, filters.get(name, SHUFFLED))
        if len(array) % rows:
            raise CacheError(f"array {name} has {len(array)} rows, which are no multiple of chunk_rows {rows}")
        metadata, shard = array_files(name, array.ndim)
        files[metadata] = array_json(array, chunk_rows=rows, blosc=blosc)
        files[shard] = _shard(array, chunk_rows=rows, blosc=blosc)
    return dict(sorted(files.items()))


def _blosc(array: NDArray[Any], compressor: str, filter_: Filter) -> Blosc:
    shuffle, whole_rows = filter_
    size = array[0].nbytes if whole_rows and array[0].nbytes <= _LARGEST_TYPE else array.itemsize
    return Blosc(cname=compressor, clevel=_LEVELS[compressor], shuffle=shuffle, typesize=size)


def _shard(array: NDArray[Any], *, chunk_rows: int, blosc: Blosc) -> bytes:
    """Chunks one after another, each with its checksum, and their (offset, length) behind them with its own."""
    stored = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    parts, index, end = [], [], 0
    for start in range(0, len(stored), chunk_rows):
        chunk: bytes = numcodecs.blosc.compress(
            stored[start : start + chunk_rows],
            blosc.cname.encode(),
            blosc.clevel,
            _SHUFFLES[blosc.shuffle],
            numcodecs.blosc.AUTOBLOCKS,
            blosc.typesize,
        )
        parts += [chunk, _checksum(chunk)]
        index += [end, len(chunk) + _CRC]
        end += len(chunk) + _CRC
    table = np.array(index, dtype="<u8").tobytes()
    return b"".join([*parts, table, _checksum(table)])


def _checksum(content: bytes) -> bytes:
    return int(google_crc32c.value(content)).to_bytes(_CRC, "little")


def _chunk_rows(array: NDArray[Any], chunk_rows: int) -> int:
    """A few bytes a row are one chunk for the whole block: the cost of a chunk would outweigh them."""
    return len(array) if array[0].nbytes <= SMALL_ROW else min(chunk_rows, len(array))


def from_files(files: Mapping[str, bytes], *, verified: bool = False) -> dict[str, NDArray[Any]]:
    """The arrays of a group that `to_files` wrote.

    Args:
        files: relative path -> content.
        verified: the bytes are known to be those committed (their digests were compared); the chunks' checksums, which
            say the same of parts of them, are then not computed again.

    Raises:
        CacheDamaged: a file is missing, cut, grown, or fails a checksum; array and chunk are named.
        CacheFormatError: a codec, type or layout outside those this version reads.
    """
    names = {path.partition("/")[0] for path in files if "/" in path}
    unknown = sorted(names - _NAMES)
    if unknown:
        raise CacheFormatError(f"array {unknown[0]!r} is unknown to this version of kdcache")
    return {name: _read_array(name, files, verified=verified) for name in sorted(names)}


def _read_array(name: str, files: Mapping[str, bytes], *, verified: bool) -> NDArray[Any]:
    metadata = files.get(f"{name}/zarr.json")
    if metadata is None or len(metadata) > JSON_BYTES:
        raise CacheDamaged(f"array {name} has no readable zarr.json")
    shape, chunk_rows, dtype = _layout(name, metadata)
    shard = files.get(array_files(name, len(shape))[1])
    if shard is None:
        raise CacheDamaged(f"array {name} has no shard")
    num_chunks = shape[0] // chunk_rows
    chunk_bytes = chunk_rows * math.prod(shape[1:]) * dtype.itemsize
    ranges = _read_index(name, shard, num_chunks)
    array = np.empty(shape, dtype=dtype)
    target = array.reshape(num_chunks, -1).view(np.uint8)
    view = memoryview(shard)
    for number, (start, length) in enumerate(ranges):
        chunk = view[start : start + length]
        _check_chunk(f"array {name}, chunk {number}", chunk, chunk_bytes, verified=verified)
        try:
            numcodecs.blosc.decompress(chunk[:-_CRC], target[number])
        except (RuntimeError, ValueError) as error:
            raise CacheDamaged(f"array {name}, chunk {number} cannot be decompressed: {error}") from None
    return array


@functools.lru_cache(maxsize=1024)
def _layout(name: str, metadata: bytes) -> tuple[tuple[int, ...], int, np.dtype[Any]]:
    """`_checked_layout` of a zarr.json; the blocks of a cache repeat a few of them."""
    return _checked_layout(name, parse_json(metadata, where=f"{name}/zarr.json"))


def _checked_layout(name: str, tree: Mapping[str, Any]) -> tuple[tuple[int, ...], int, np.dtype[Any]]:
    """Shape, rows of a chunk and type, or an error for anything that `to_files` does not write."""
    shape = tree.get("shape")
    if tree.get("zarr_format") != 3 or tree.get("node_type") != "array" or tree.get("data_type") not in _DTYPES:
        raise CacheFormatError(f"array {name} is no zarr v3 array of a type that kdcache reads: {', '.join(_DTYPES)}")
    dtype = np.dtype(tree["data_type"]).newbyteorder("<")
    if not isinstance(shape, list) or not 1 <= len(shape) <= 3 or not all(_is_size(n) for n in shape):
        raise CacheDamaged(
            f"array {name} has the shape {str(shape)[:80]}; one to three sizes from 1 to 2^31 are possible"
        )
    if math.prod(shape) * dtype.itemsize > LARGEST_ARRAY:
        raise CacheDamaged(f"array {name} of shape {shape} is over {LARGEST_ARRAY:,} bytes; nothing was allocated")
    chunk = _checked_codecs(name, tree, shape)
    if not isinstance(chunk, list) or len(chunk) != len(shape) or chunk[1:] != shape[1:]:
        raise CacheFormatError(
            f"array {name} has chunks {str(chunk)[:80]} in shards of {shape}; chunks must be whole rows"
        )
    if not _is_size(chunk[0]) or shape[0] % chunk[0]:
        raise CacheDamaged(f"array {name} has chunks of {str(chunk[0])[:80]} rows, which do not divide {shape[0]}")
    return tuple(shape), chunk[0], dtype


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31


def _checked_codecs(name: str, tree: Mapping[str, Any], shape: list[int]) -> Any:
    """Shape of the inner chunks, if the codecs are those of the whitelist."""
    codecs = tree.get("codecs")
    match codecs, tree.get("chunk_grid"), tree.get("chunk_key_encoding"):
        case (
            [{"name": "sharding_indexed", "configuration": dict(sharding)}],
            {"name": "regular", "configuration": {"chunk_shape": list(grid)}},
            {"name": "default", "configuration": {"separator": "."}},
        ) if grid == shape:
            pass
        case _:
            raise CacheFormatError(f"array {name} is not one shard as kdcache writes it: codecs {str(codecs)[:120]}")
    inner: Any = sharding.get("codecs")
    index: Any = sharding.get("index_codecs")
    index_names = _codec_names(index)
    if sharding.get("index_location", "end") != "end" or index_names != ["bytes", "crc32c"]:
        raise CacheFormatError(f"array {name} has an index coded by {index_names}; allowed: bytes, crc32c, at the end")
    names = _codec_names(inner)
    if names != list(_CODECS):
        raise CacheFormatError(f"array {name} is coded by {', '.join(names)}; allowed: {', '.join(_CODECS)}")
    compressor = inner[1].get("configuration", {}).get("cname")
    if compressor not in COMPRESSORS:
        raise CacheFormatError(
            f"array {name} is compressed by {str(compressor)[:40]}; allowed: {', '.join(COMPRESSORS)}"
        )
    for codec in (inner[0], index[0]):
        if codec.get("configuration", {"endian": "little"}).get("endian", "little") != "little":
            raise CacheFormatError(f"array {name} is not little-endian")
    return sharding.get("chunk_shape")


def _codec_names(codecs: Any) -> list[str]:
    if not isinstance(codecs, list) or not all(isinstance(c, dict) for c in codecs):
        return []
    return [str(c.get("name"))[:40] for c in codecs if isinstance(c.get("configuration", {}), dict)]


def _read_index(name: str, shard: bytes, num_chunks: int) -> list[tuple[int, int]]:
    """(offset, length) of each chunk; they must tile the shard up to its index."""
    body = len(shard) - 16 * num_chunks - _CRC
    if body < 0:
        raise CacheDamaged(f"array {name}: the shard has {len(shard):,} bytes, too few for {num_chunks:,} chunks")
    if google_crc32c.value(shard[body:-_CRC]) != int.from_bytes(shard[-_CRC:], "little"):
        raise CacheDamaged(f"array {name}: the shard's index fails its checksum")
    table = np.frombuffer(shard, dtype="<u8", count=2 * num_chunks, offset=body).reshape(-1, 2)
    ranges = [(int(start), int(length)) for start, length in table]
    for number, (start, length) in enumerate(ranges):
        if start == _MISSING:
            raise CacheDamaged(f"array {name}, chunk {number} is missing")
        if length > body or start > body - length:
            raise CacheDamaged(f"array {name}, chunk {number} lies at {start} + {length}, outside {body} bytes of data")
    if sum(length for _, length in ranges) != body:
        raise CacheDamaged(f"array {name}: chunks overlap or leave a gap")
    return ranges


def _check_chunk(what: str, chunk: memoryview, size: int, *, verified: bool) -> None:
    """Checksum, and the sizes that its frame claims: a frame that claims another size is never expanded."""
    body = chunk[:-_CRC]
    if len(body) < _BLOSC_HEADER:
        raise CacheDamaged(f"{what} fails its checksum")
    if not verified and google_crc32c.value(bytes(body)) != int.from_bytes(chunk[-_CRC:], "little"):
        raise CacheDamaged(f"{what} fails its checksum")
    decoded, encoded = int.from_bytes(body[4:8], "little"), int.from_bytes(body[12:16], "little")
    if decoded != size or encoded != len(body):
        raise CacheDamaged(
            f"{what} claims {decoded:,} bytes from {encoded:,}; it must give {size:,} from {len(body):,}"
        )
