"""Small caches with teachers whose rows are exact by construction.

Shape suffixes: R rows  V classes  K kept  N atoms.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest

from kdcache.cache.layout import Marker, Plan, TeacherIdentity, chunk_rows_for, make_plan
from kdcache.cache.ragged import concatenate, pointers
from kdcache.cache.writer import CacheWriter
from kdcache.core.row_format import RowFormat
from kdcache.core.types import IGNORE, NUM_ATOMS, HiddenRows, Item, SparseRows

FORMAT = [f.name for f in fields(RowFormat)]


def build_item(uid: str, *, num_tokens: int = 5, num_rows: int = 1, num_classes: int = 3, seed: int = 0) -> Item:
    """An item with random tokens; every third row has no label."""
    random = np.random.default_rng([seed, sum(map(ord, uid)), num_tokens])
    labels = random.integers(num_classes, size=num_rows).astype(np.int32)
    labels[2::3] = IGNORE
    return Item(
        uid=uid,
        inputs={
            "input_ids": random.integers(30000, size=num_tokens).astype(np.int32),
            "attention_mask": np.ones(num_tokens, np.int32),
        },
        positions_R=np.arange(num_rows, dtype=np.int32),
        labels_R=labels,
        classes_R=np.full(num_rows, num_classes, np.int32),
        meta={"language": "de", "answers": ["ä"]},
    )


def build_rows(items: Sequence[Item], *, top_k: int = 64, seed: int = 0, float16: bool = True) -> SparseRows:
    """A random teacher's rows; the tail is one atom with the tail's mass."""
    random = np.random.default_rng(seed)
    return concatenate([_item_rows(item, random, top_k, float16) for item in items])


def _item_rows(item: Item, random: np.random.Generator, top_k: int, float16: bool) -> SparseRows:
    columns: dict[str, list[np.ndarray]] = {n: [] for n in ("ids", "logprobs", "lse", "atoms", "moments", "gold")}
    for num_classes, label in zip(item.classes_R.tolist(), item.labels_R.tolist(), strict=True):
        logits = random.normal(size=num_classes).astype(np.float32) * 2
        lse = np.float32(np.log(np.exp(logits.astype(np.float64)).sum()))
        logprobs = (logits - lse).astype(np.float32)
        if float16 and top_k < num_classes:
            logprobs = logprobs.astype(np.float16).astype(np.float32)
        dense = top_k >= num_classes
        ids = np.arange(num_classes) if dense else np.argsort(-logprobs, kind="stable")[:top_k]
        tail = np.delete(logprobs.astype(np.float64), ids)
        atoms = np.tile(np.array([0.0, -np.inf], np.float32), (NUM_ATOMS, 1))
        if len(tail):
            atoms[0] = np.log(np.exp(tail).sum() / len(tail)), np.log(len(tail))
        columns["ids"].append(ids.astype(np.int64))
        columns["logprobs"].append(logprobs[ids])
        columns["lse"].append(np.array([lse]))
        columns["atoms"].append(atoms[None])
        columns["moments"].append(np.array([[tail.mean(), tail.var()] if len(tail) else [0, 0]], np.float32))
        columns["gold"].append(np.array([np.nan if label == IGNORE else logprobs[label]], np.float32))
    empty = {
        "atoms": np.zeros((0, NUM_ATOMS, 2), np.float32),
        "moments": np.zeros((0, 2), np.float32),
    }
    nothing = np.zeros(0, np.float32)
    kept = np.array([len(part) for part in columns["ids"]], dtype=np.int64)
    padded = {
        "ids": pad(columns.pop("ids"), fill=0, dtype=np.int64),
        "logprobs": pad(columns.pop("logprobs"), fill=-np.inf, dtype=np.float32),
    }
    joined = {name: np.concatenate([empty.get(name, nothing), *parts]) for name, parts in columns.items()}
    if item.num_rows and (item.classes_R <= top_k).all():
        joined["atoms"] = joined["atoms"][:, :0]
    return SparseRows(
        row_ptr=np.array([0, item.num_rows]),
        num_kept=kept,
        num_classes=item.classes_R,
        **padded,
        **joined,
    )


def pad(parts: Sequence[np.ndarray], *, fill: float, dtype: type) -> np.ndarray:
    """Entries of each row as [R, K], K that of the longest row."""
    matrix = np.full((len(parts), max(map(len, parts), default=0)), fill, dtype)
    for row, part in zip(matrix, parts, strict=True):
        row[: len(part)] = part
    return matrix


def identity_of(rows: SparseRows, *, codec: str = "fast", **changes: object) -> TeacherIdentity:
    """A teacher that these rows could be of."""
    values = {
        "num_classes": int(rows.num_classes.max(initial=1)),
        "top_k": max(int(rows.num_kept.max(initial=1)), 1),
        "num_atoms": max(rows.atoms.shape[1], 1),
        "codec": codec,
    }
    return build_teacher(**{**values, **changes})


def tables_of(identity: TeacherIdentity, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Tables that fit a teacher's codec."""
    random = np.random.default_rng(seed)
    if identity.row_format.codec == "compact":
        return {"id_table": random.permutation(identity.row_format.num_classes).astype(np.int32)}
    if identity.row_format.codec == "int8":
        mean = random.normal(size=identity.row_format.hidden_size).astype(np.float32)
        return {"mean": mean, "rotation_seed": np.array([7], np.int64)}
    return {}


def build_head(*, num_classes: int, hidden_size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A random output head with a bias."""
    random = np.random.default_rng(seed)
    return {
        "weight": random.normal(size=(num_classes, hidden_size)).astype(np.float32),
        "bias": random.normal(size=num_classes).astype(np.float32),
    }


def build_hidden(items: Sequence[Item], head: dict[str, np.ndarray], *, seed: int = 0) -> HiddenRows:
    """Random hidden vectors, with the logsumexp and gold log-probabilities that a head gives them."""
    random = np.random.default_rng(seed)
    sizes = [item.num_rows for item in items]
    labels = np.concatenate([np.zeros(0, np.int32), *(item.labels_R for item in items)])
    classes = np.concatenate([np.zeros(0, np.int32), *(item.classes_R for item in items)])
    hidden = random.normal(size=(sum(sizes), head["weight"].shape[1])).astype(np.float32)
    logits = hidden.astype(np.float64) @ head["weight"].T.astype(np.float64) + head["bias"]
    logits[np.arange(logits.shape[1]) >= classes[:, None]] = -np.inf
    lse = np.log(np.exp(logits).sum(axis=1))
    gold = logits[np.arange(len(labels)), np.maximum(labels, 0)] - lse
    return HiddenRows(
        row_ptr=pointers(np.array(sizes, np.int64)),
        hidden=hidden,
        num_classes=classes,
        lse=lse.astype(np.float32),
        gold=np.where(labels == IGNORE, np.nan, gold).astype(np.float32),
    )


def build_marker(chunk_rows: int = 4096, **changes: object) -> Marker:
    """A marker of the toy dataset."""
    values = {
        "dataset_name": "toy",
        "dataset_digest": "3f2a9c0011223344",
        "task": "classification",
        "tokenizer_name": "bert",
        "tokenizer_digest": "77aa",
        "labels": ("no", "maybe", "yes"),
        "chunk_rows": chunk_rows,
    }
    return Marker(**{**values, **changes})  # type: ignore[arg-type]


def build_teacher(name: str = "t_hs", **changes: object) -> TeacherIdentity:
    """A teacher's identity; `changes` are of its own fields and of its row format's."""
    values = {"name": name, "source": "models/roberta-large", "weight_digest": "a1b2c3d4", "score": {"f1": 0.9}}
    kept = {"num_classes": 1000, **{name: changes.pop(name) for name in FORMAT if name in changes}}
    return TeacherIdentity(**{**values, **changes}, row_format=RowFormat.of(**kept))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Toy:
    """A dataset and the plan of its cache."""

    items: dict[str, list[Item]]
    plan: Plan
    marker: Marker

    @property
    def flat(self) -> list[Item]:
        """Items in the order of the plan."""
        return [item for group in self.items.values() for item in group]

    def writer(self, root: Path) -> CacheWriter:
        """Open a writer."""
        return CacheWriter.open(root, self.marker, self.plan, items=lambda b: self.flat[b.start : b.stop])

    def dump(
        self, root: Path, *, teachers: Sequence[str] = ("t_hs",), top_k: int = 64, **changes: object
    ) -> CacheWriter:
        """Write everything and seal; `changes` are of the teachers' identities."""
        writer = self.writer(root)
        for block in writer.pending_items():
            writer.write_items(block, self.flat[block.start : block.stop])
        for number, name in enumerate(teachers):
            values = {"top_k": top_k, "num_classes": self.num_classes, "weight_digest": f"{number:08x}"}
            identity = build_teacher(name, **{**values, **changes})
            writer.add_teacher(identity, shared=tables_of(identity))
            for block in writer.pending(name):
                items = self.flat[block.start : block.stop]
                writer.write_rows(name, block, build_rows(items, top_k=top_k, seed=number * 1000 + block.start))
        writer.seal()
        return writer

    def dump_hidden(self, root: Path, *, codec: str, hidden_size: int = 12) -> dict[str, np.ndarray]:
        """Write a teacher of store hidden, seal, and return its head."""
        writer = self.writer(root)
        for block in writer.pending_items():
            writer.write_items(block, self.flat[block.start : block.stop])
        head = build_head(num_classes=self.num_classes, hidden_size=hidden_size)
        identity = build_teacher(
            store="hidden", codec=codec, top_k=0, hidden_size=hidden_size, num_classes=self.num_classes
        )
        writer.add_teacher(identity, shared=tables_of(identity), head=head)
        for block in writer.pending(identity.name):
            rows = build_hidden(self.flat[block.start : block.stop], head, seed=block.start)
            writer.write_rows(identity.name, block, rows)
        writer.seal()
        return head

    @property
    def num_classes(self) -> int:
        """The largest V of any row."""
        return max(int(item.classes_R.max(initial=1)) for item in self.flat)


def build_toy(
    *, train: int = 11, test: int = 4, num_rows: int = 1, num_classes: int = 3, block_tokens: int = 30
) -> Toy:
    """Items of several lengths in two splits."""
    items = {
        split: [
            build_item(f"{split}{i}", num_tokens=3 + (7 * i) % 5, num_rows=num_rows, num_classes=num_classes)
            for i in range(count)
        ]
        for split, count in (("train", train), ("test", test))
    }
    chunk_rows = chunk_rows_for([item for group in items.values() for item in group])
    plan = make_plan(items, block_tokens=block_tokens, chunk_rows=chunk_rows)
    return Toy(items=items, plan=plan, marker=build_marker(chunk_rows))


@pytest.fixture
def toy() -> Toy:
    """15 classified items in two splits and several blocks."""
    return build_toy()


@pytest.fixture
def make_toy() -> Callable[..., Toy]:
    """`build_toy`, for tests that need another shape."""
    return build_toy


@pytest.fixture
def sealed(toy: Toy, tmp_path: Path) -> Path:
    """A sealed cache of `toy` with two dense teachers."""
    toy.dump(tmp_path / "cache", teachers=("t_hs", "t_ll"))
    return tmp_path / "cache"
