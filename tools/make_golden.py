"""Write the golden files of the cache format into tests/golden: for a new format, never to get a test green.

    python tools/make_golden.py [FOLDER]

`blocks.json`: codec -> array -> type, shape and bytes of a few rows, with what they decode to. `cache-1.0/`: a small
cache with a teacher of each codec. Folder names of a cache are random; everything else repeats.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache.cache.codec import pack, unpack
from kdcache.cache.codecs import CODECS
from kdcache.cache.layout import Marker, TeacherIdentity, make_plan
from kdcache.cache.ragged import pointers
from kdcache.cache.writer import CacheWriter
from kdcache.core.row_format import RowFormat
from kdcache.core.types import IGNORE, HiddenRows, Item, Rows, SparseRows

NUM_CLASSES, TOP_K, HIDDEN_SIZE, NUM_ATOMS = 70_000, 4, 6, 2
SMALL_CLASSES = 9
LABELS = ((8, IGNORE), (0, 3), (IGNORE, 5))
Arrays = Mapping[str, NDArray[Any]]


def make_items(num_classes: int) -> list[Item]:
    """Three items of two rows."""
    return [
        Item(
            uid=f"i{i}",
            inputs={"input_ids": np.array([7, 2000 + i, 30_000 - i], np.int32)},
            positions_R=np.array([0, 1], np.int32),
            labels_R=np.array(labels, np.int32),
            classes_R=np.array([num_classes, SMALL_CLASSES], np.int32),
            meta={"language": "de", "answers": ["ä"]},
        )
        for i, labels in enumerate(LABELS)
    ]


def make_head(num_classes: int) -> dict[str, NDArray[Any]]:
    """A head whose logits are small whole numbers times one half."""
    v, d = np.arange(num_classes)[:, None], np.arange(HIDDEN_SIZE)[None, :]
    weight = ((v * (d + 3) + d) % 7 - 3).astype(np.float32) / 2
    return {"weight": weight, "bias": (np.arange(num_classes) % 5).astype(np.float32) / 4}


def make_hidden(items: list[Item], head: Arrays) -> HiddenRows:
    """Hidden vectors of small fractions, with lse and gold of the head."""
    labels = np.concatenate([item.labels_R for item in items])
    classes = np.concatenate([item.classes_R for item in items])
    r, d = np.arange(len(labels))[:, None], np.arange(HIDDEN_SIZE)[None, :]
    hidden = (((r * 5 + d * 3) % 11 - 5) / 8).astype(np.float32)
    logits = hidden.astype(np.float64) @ head["weight"].T.astype(np.float64) + head["bias"]
    logits[np.arange(logits.shape[1]) >= classes[:, None]] = -np.inf
    lse = np.log(np.exp(logits).sum(axis=1))
    gold = logits[np.arange(len(labels)), np.maximum(labels, 0)] - lse
    return HiddenRows(
        row_ptr=pointers(np.array([item.num_rows for item in items])),
        hidden=hidden,
        num_classes=classes,
        lse=lse.astype(np.float32),
        gold=np.where(labels == IGNORE, np.nan, gold).astype(np.float32),
    )


def make_sparse(items: list[Item], head: Arrays, *, top_k: int) -> SparseRows:
    """The top-k of the same teacher; its tail as one atom of the right mass."""
    hidden = make_hidden(items, head)
    logits = hidden.hidden.astype(np.float64) @ head["weight"].T.astype(np.float64) + head["bias"]
    size = len(hidden.num_classes)
    ids, logprobs = np.zeros((size, top_k), np.int64), np.full((size, top_k), -np.inf, np.float32)
    num_kept, atoms, moments = [], [], []
    for r, num_classes in enumerate(hidden.num_classes.tolist()):
        row = logits[r, :num_classes] - float(hidden.lse[r])
        kept = np.argsort(-row, kind="stable")[:top_k]
        tail = np.delete(row, kept)
        num_kept.append(len(kept))
        ids[r, : len(kept)], logprobs[r, : len(kept)] = kept, row[kept]
        first = [np.log(np.exp(tail).mean()), np.log(len(tail))] if len(tail) else [0, -np.inf]
        atoms.append([first, *[[0, -np.inf]] * (NUM_ATOMS - 1)])
        moments.append([tail.mean(), tail.var()] if len(tail) else [0, 0])
    return SparseRows(
        row_ptr=hidden.row_ptr,
        ids=ids,
        logprobs=logprobs,
        num_kept=np.array(num_kept),
        num_classes=hidden.num_classes,
        lse=hidden.lse,
        atoms=np.array(atoms, np.float32),
        moments=np.array(moments, np.float32),
        gold=hidden.gold,
    )


def make_teacher(store: str, codec: str, num_classes: int) -> tuple[TeacherIdentity, dict[str, NDArray[Any]]]:
    """Identity and tables."""
    sparse = store == "topk"
    identity = TeacherIdentity(
        name=f"{codec}",
        source="models/golden",
        weight_digest="a1b2c3d4",
        row_format=RowFormat.of(
            num_classes=num_classes,
            store=store,
            codec=codec,
            compressor="zstd" if codec in ("compact", "int8") else "lz4",
            top_k=0 if not sparse else num_classes if codec == "dense" else TOP_K,
            hidden_size=0 if sparse else HIDDEN_SIZE,
            num_atoms=NUM_ATOMS,
        ),
        score={"f1": 0.9},
    )
    tables: dict[str, NDArray[Any]] = {}
    if codec == "compact":
        tables["id_table"] = ((np.arange(num_classes) * 11 + 1) % num_classes).astype(np.int32)
    if codec == "int8":
        tables = {"mean": np.arange(HIDDEN_SIZE, dtype=np.float32) / 16, "rotation_seed": np.array([7], np.int64)}
    return identity, tables


def make_rows(identity: TeacherIdentity, items: list[Item], head: Arrays) -> Rows:
    """The rows of a store."""
    if identity.row_format.store == "hidden":
        return make_hidden(items, head)
    return make_sparse(items, head, top_k=identity.row_format.top_k)


def golden_blocks() -> dict[str, Any]:
    """codec -> `arrays` (type, shape, bytes) and `decoded` (name -> bytes)."""
    blocks = {}
    for store, codec in CODECS:
        num_classes = SMALL_CLASSES if codec == "dense" else NUM_CLASSES if store == "topk" else 50
        identity, tables = make_teacher(store, codec, num_classes)
        rows = make_rows(identity, make_items(num_classes)[:2], make_head(num_classes))
        packed = pack(rows, identity.row_format, tables)
        decoded = unpack(packed)
        if isinstance(decoded, SparseRows):
            values = {"ids": decoded.ids[decoded.kept], "logprobs": decoded.logprobs[decoded.kept]}
        else:
            values = {"hidden": decoded.hidden}
        blocks[codec] = {
            "arrays": {name: _to_tree(array) for name, array in sorted(packed.arrays.items())},
            "decoded": {name: _to_tree(array) for name, array in values.items()},
        }
    return blocks


def _to_tree(array: NDArray[Any]) -> dict[str, Any]:
    return {"dtype": array.dtype.name, "shape": list(array.shape), "hex": array.tobytes().hex()}


def write_cache(root: Path) -> None:
    """A cache with a teacher of each codec that has fewer or as many classes as it keeps."""
    num_classes = 24
    items, head = make_items(num_classes), make_head(num_classes)
    plan = make_plan({"train": items}, block_tokens=100, chunk_rows=2)
    marker = Marker(
        dataset_name="toy",
        dataset_digest="3f2a9c0011223344",
        task="classification",
        tokenizer_name="bert",
        tokenizer_digest="77aa",
        labels=(),
        chunk_rows=2,
        uuid="0" * 32,
        created_by="kdcache golden",
    )
    writer = CacheWriter.open(root, marker, plan, items=lambda block: items[block.start : block.stop])
    for block in writer.pending_items():
        writer.write_items(block, items[block.start : block.stop])
    for store, codec in CODECS:
        identity, tables = make_teacher(store, codec, num_classes)
        writer.add_teacher(identity, shared=tables, head=head if store == "hidden" else {})
        for block in writer.pending(identity.name):
            writer.write_rows(identity.name, block, make_rows(identity, items[block.start : block.stop], head))
    writer.seal()


def main() -> None:
    """Write both."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "tests" / "golden"
    shutil.rmtree(folder / "cache-1.0", ignore_errors=True)
    write_cache(folder / "cache-1.0")
    (folder / "blocks.json").write_text(json.dumps(golden_blocks(), indent=1) + "\n")


if __name__ == "__main__":
    main()
