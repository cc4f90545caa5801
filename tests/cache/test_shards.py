"""Arrays <-> the files of a zarr group, and shards that nobody should trust."""

import json
from concurrent.futures import ThreadPoolExecutor

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from kdcache.cache.codec import encode
from kdcache.cache.jsonio import to_json
from kdcache.cache.ragged import fill_value
from kdcache.cache.shards import from_files, to_files
from kdcache.core.errors import CacheDamaged, CacheError, CacheFormatError

from .conftest import build_item, build_rows, identity_of


def arrays_of(num_rows=6, *, total=None, top_k=5):
    items = [build_item(f"i{n}", num_classes=9) for n in range(num_rows)]
    rows = build_rows(items, top_k=top_k)
    return encode(rows, identity_of(rows).row_format, {}, num_rows=total)


def files_of(**changes):
    return to_files(arrays_of(**changes), chunk_rows=2, attributes={"teacher": "t", "block": "00000"})


def as_zarr(files):
    prototype = default_buffer_prototype()
    return zarr.open_group(MemoryStore({k: prototype.buffer.from_bytes(v) for k, v in files.items()}), mode="r")


@settings(max_examples=10)
@given(rows=st.integers(1, 7), chunk=st.sampled_from([1, 3, 8]), top_k=st.sampled_from([2, 6, 9]))
def test_zarr_and_our_reader_agree_bit_by_bit(rows, chunk, top_k):
    total = rows if rows <= chunk else -(-rows // chunk) * chunk
    arrays = arrays_of(rows, total=total, top_k=top_k)
    files = to_files(arrays, chunk_rows=chunk, attributes={"teacher": "t", "block": "0"})
    ours, theirs = from_files(files), as_zarr(files)
    assert sorted(ours) == sorted(arrays) == sorted(theirs.array_keys())
    for name, array in arrays.items():
        assert ours[name].dtype == array.dtype == theirs[name].dtype
        assert ours[name].tobytes() == array.tobytes() == theirs[name][...].tobytes()


def test_equal_arrays_give_equal_bytes_and_one_object_an_array():
    assert files_of() == files_of()
    assert sorted(name for name in files_of() if name.startswith("ids")) == ["ids/c.0.0", "ids/zarr.json"]
    assert as_zarr(files_of()).attrs["kdcache"] == {"teacher": "t", "block": "00000"}


@st.composite
def any_arrays(draw):
    """Arrays of each type and rank that codecs have, in one chunk or several."""
    rows, chunk = draw(st.sampled_from([(1, 1), (5, 8), (12, 4), (600, 200)]))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    shapes = {"ids": (3,), "gaps": (5,), "num_kept": (), "lse": (), "logprobs": (64,), "atoms": (5, 2), "moments": (2,)}
    types = dict.fromkeys(shapes, "uint16") | {"gaps": "uint8", "num_kept": "int32", "hidden": "int8"}
    types |= {"lse": "float32", "logprobs": "float16", "moments": "float32"}
    shapes["hidden"] = (16,)
    arrays = {
        name: random.integers(0, draw(st.sampled_from([2, 100])), size=(rows, *shape)).astype(types[name])
        for name, shape in shapes.items()
    }
    arrays["lse"][:] = np.nan
    return arrays, chunk


@settings(max_examples=12, deadline=None)
@given(case=any_arrays(), compressor=st.sampled_from(["lz4", "zstd"]))
def test_zarr_python_writes_the_same_bytes(case, compressor):
    arrays, chunk = case
    filters = {"atoms": ("bitshuffle", True), "lse": ("bitshuffle", False), "gaps": ("bitshuffle", True)}
    attributes = {"teacher": "t", "block": "00000"}
    ours = to_files(arrays, chunk_rows=chunk, attributes=attributes, compressor=compressor, filters=filters)
    theirs = {}
    group = zarr.create_group(MemoryStore(theirs), attributes={"kdcache": attributes})
    for name, array in arrays.items():
        shuffle, whole = filters.get(name, ("shuffle", False))
        blosc = BloscCodec(
            cname=compressor,
            clevel={"lz4": 9, "zstd": 3}[compressor],
            shuffle=shuffle,
            typesize=array[0].nbytes if whole else array.itemsize,
        )
        rows = len(array) if array[0].nbytes <= 8 else min(chunk, len(array))
        target = group.create_array(
            name,
            shape=array.shape,
            dtype=array.dtype,
            chunks=(rows, *array.shape[1:]),
            shards=array.shape,
            compressors=[blosc, Crc32cCodec()],
            fill_value=fill_value(array.dtype),
            chunk_key_encoding={"name": "default", "separator": "."},
            config={"write_empty_chunks": True},
        )
        target[...] = array
    assert sorted(ours) == sorted(theirs)
    for path, content in ours.items():
        their = theirs[path].to_bytes()
        assert content == (to_json(json.loads(their)) if path.endswith("zarr.json") else their), path


def test_threads_write_the_same_bytes_at_once():
    arrays = {"logprobs": np.random.default_rng(0).integers(0, 9, size=(4096, 64)).astype(np.float16)}

    def write(_):
        return to_files(arrays, chunk_rows=256, attributes={})

    with ThreadPoolExecutor(4) as pool:
        written = [files["logprobs/c.0.0"] for files in pool.map(write, range(16))]
    assert set(written) == {write(0)["logprobs/c.0.0"]}


def test_rows_that_are_no_multiple_of_a_chunk_are_refused():
    with pytest.raises(CacheError, match="array ids has 5 rows, which are no multiple of chunk_rows 2"):
        to_files({"ids": np.zeros((5, 9), np.uint16)}, chunk_rows=2, attributes={})


def test_an_unlabelled_block_is_not_a_hole():
    arrays = arrays_of()
    arrays["gold"][:] = np.nan
    files = to_files(arrays, chunk_rows=2, attributes={})
    assert np.isnan(from_files(files)["gold"]).all()


def with_index(shard, edit, *, chunks=3):
    """The shard with an edited index and a checksum that fits it."""
    body = len(shard) - 16 * chunks - 4
    index = np.frombuffer(shard, "<u8", 2 * chunks, body).reshape(-1, 2).copy()
    edit(index)
    raw = index.tobytes()
    return shard[:body] + raw + google_crc32c.value(raw).to_bytes(4, "little")


def with_chunk_header(shard, place, value):
    """The shard whose first chunk claims another size, with a checksum that fits."""
    index = np.frombuffer(shard, "<u8", 6, len(shard) - 52)
    length = int(index[1])
    body = bytearray(shard[: length - 4])
    body[place : place + 4] = value.to_bytes(4, "little")
    return bytes(body) + google_crc32c.value(bytes(body)).to_bytes(4, "little") + shard[length:]


def assign(row, column, value):
    def edit(index):
        index[row, column] = value

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: b"", "array logprobs: the shard has 0 bytes, too few for 3 chunks"),
        (lambda s: s[:-1], "array logprobs: the shard's index fails its checksum"),
        (lambda s: s + b"\0", "array logprobs: the shard's index fails its checksum"),
        (lambda s: s[:5] + bytes([s[5] ^ 1]) + s[6:], "array logprobs, chunk 0 fails its checksum"),
        (lambda s: with_index(s, assign(1, 0, 2**64 - 1)), "array logprobs, chunk 1 is missing"),
        (lambda s: with_index(s, assign(1, 0, 2**63)), "array logprobs, chunk 1 lies at 9223372036854775808"),
        (lambda s: with_index(s, assign(1, 1, 2**64 - 8)), "array logprobs, chunk 1 lies at "),
        (lambda s: with_index(s, assign(2, 1, 4)), "array logprobs: chunks overlap or leave a gap"),
        (lambda s: with_chunk_header(s, 4, 2**30), "array logprobs, chunk 0 claims 1,073,741,824 bytes from"),
        (lambda s: with_chunk_header(s, 12, 3), "array logprobs, chunk 0 claims 20 bytes from 3"),
    ],
)
def test_a_damaged_shard_names_array_and_chunk(damage, message):
    files = files_of()
    files["logprobs/c.0.0"] = damage(files["logprobs/c.0.0"])
    with pytest.raises(CacheDamaged, match=message):
        from_files(files)


def edited(files, name, edit):
    tree = json.loads(files[f"{name}/zarr.json"])
    edit(tree)
    return {**files, f"{name}/zarr.json": json.dumps(tree).encode()}


def setting(path, value):
    def edit(tree):
        for key in path[:-1]:
            tree = tree[key]
        tree[path[-1]] = value

    return edit


INNER = ("codecs", 0, "configuration", "codecs")


@pytest.mark.parametrize(
    ("edit", "kind", "message"),
    [
        (setting((*INNER, 1, "name"), "gzip"), CacheFormatError, "lse is coded by bytes, gzip, crc32c; allowed: bytes"),
        (
            setting((*INNER, 1, "configuration", "cname"), "zlib"),
            CacheFormatError,
            "lse is compressed by zlib; allowed",
        ),
        (setting((*INNER, 0, "configuration", "endian"), "big"), CacheFormatError, "array lse is not little-endian"),
        (setting(INNER, []), CacheFormatError, "array lse is coded by ; allowed: bytes, blosc, crc32c"),
        (setting(("codecs", 0, "configuration", "index_codecs"), []), CacheFormatError, "has an index coded by"),
        (setting(("codecs", 0, "name"), "zstd"), CacheFormatError, "array lse is not one shard as kdcache writes it"),
        (setting(("codecs",), 7), CacheFormatError, "array lse is not one shard"),
        (
            setting(("data_type",), "complex64"),
            CacheFormatError,
            "array lse is no zarr v3 array of a type that kdcache",
        ),
        (setting(("zarr_format",), 2), CacheFormatError, "array lse is no zarr v3 array"),
        (setting(("shape",), [2**45]), CacheDamaged, "array lse has the shape"),
        (setting(("shape",), [-1]), CacheDamaged, "array lse has the shape"),
        (setting(("shape",), [2**30, 2**30]), CacheDamaged, "is over 8,589,934,592 bytes; nothing was allocated"),
        (
            setting(("codecs", 0, "configuration", "chunk_shape"), [4]),
            CacheDamaged,
            "has chunks of 4 rows, which do not",
        ),
        (setting(("codecs", 0, "configuration", "chunk_shape"), 4), CacheFormatError, "chunks must be whole rows"),
    ],
)
def test_metadata_outside_the_whitelist_is_refused_before_allocation(edit, kind, message):
    with pytest.raises(kind, match=message):
        from_files(edited(files_of(), "lse", edit))


def test_missing_and_unknown_arrays_are_named():
    files = files_of()
    with pytest.raises(CacheFormatError, match="array 'payload' is unknown to this version"):
        from_files({**files, "payload/zarr.json": b"{}"})
    del files["lse/c.0"]
    with pytest.raises(CacheDamaged, match="array lse has no shard"):
        from_files(files)
    del files["gold/zarr.json"]
    with pytest.raises(CacheDamaged, match=r"array gold has no readable zarr\.json"):
        from_files(files)


def test_a_frame_that_cannot_be_expanded_is_damage():
    files = files_of()
    shard = files["ids/c.0.0"]
    files["ids/c.0.0"] = with_chunk_header(shard, 0, 0xFFFFFFFF)
    with pytest.raises(CacheDamaged, match="array ids, chunk 0 cannot be decompressed"):
        from_files(files)
