"""What a training step from a cache costs beside plain PyTorch: CPU time of the whole process, on this machine's CPU.

    python -m tools.bench_step                     # a tiny student: what is measured is the host's work
    python -m tools.bench_step --lm DIR            # and steps of a packaged language model (see tools/bench_dump.py)

The plain step is what one would write: forward, `F.cross_entropy`, backward, clipping, fused AdamW, over batches of the
same items that were padded before the clock ran. kdcache's step reads its items and its teacher's rows from a cache.
Both run in blocks of steps that take turns, in one process; figures are medians of the ratios of neighbouring blocks.
DeepSpeed's engine, which trained everything before, stands beside. A missed limit gives exit code 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

from kdcache.cache.loader import Loader
from kdcache.cache.reader import Cache
from kdcache.core.types import Item
from kdcache.losses.objective import Objective
from kdcache.teacher.settings import DumpConfig
from kdcache.training.engine import decay_groups
from kdcache.training.log import RunLog
from kdcache.training.loop import fit
from kdcache.training.settings import TrainingConfig, engine_settings
from kdcache.training.start import build
from kdcache.training.steppers import stepper
from kdcache.training.steps import CachedSteps, TrainStep
from kdcache.training.world import World
from tools import lm
from tools.bench_dump import Case, dump
from tools.lm_rows import next_token_item

LIMIT = 1.15
"""CPU time of kdcache's step over that of a plain step."""
SLOWER = 1.05
"""Wall time of a language model's step over that by DeepSpeed's engine, which trained it before; 5 % for the clock."""
BLOCK = 10
"""Steps that are timed together."""
HARD = Objective(teacher=None, alpha=0.0)
KD = Objective(tau_t=2.0, alpha=0.5)
VOCABULARY = 30_522
"""MiniLM's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A student, and the cache that it learns from.

    Attributes:
        student: of transformers; each run trains a copy.
        case: the teacher's: items and task.
        root: folder of the cache.
        batch_size: items of a step.
        device: where it trains.
        settings: more settings of the training.
    """

    student: Any
    case: Case
    root: Path
    batch_size: int
    device: str
    settings: Mapping[str, Any]

    @property
    def world(self) -> World:
        """This process alone."""
        return World(rank=0, size=1, device=torch.device(self.device))

    def steps(self, objective: Objective) -> CachedSteps:
        """Steps from the cache."""
        teachers = ("t",) if objective.alpha > 0 else ()
        loader = Loader(
            Cache.open(self.root),
            split="train",
            teachers=teachers,
            batch_size=self.batch_size,
            micro_batch_size=self.batch_size,
            seed=0,
        )
        return CachedSteps(loader=loader, teachers=teachers, pad_token_id=0)

    def cached(self, objective: Objective, **settings: Any) -> Iterator[None]:
        """kdcache's own loop; each `next` runs a block of steps."""
        steps = self.steps(objective)
        blocks = max(1, steps.num_steps // BLOCK)
        config = TrainingConfig(
            batch_size=self.batch_size, epochs=1000, evals_per_epoch=blocks, **{**self.settings, **settings}
        )
        engine = build(deepcopy(self.student), engine_settings(config, self.world), self.world)
        task = self.case.job(DumpConfig()).task
        log = RunLog(None)
        stepping = stepper(engine, objective, rows=task, pad_token_id=0, config=config, log=log)
        for _ in fit(stepping, steps, config=config, log=log):
            yield

    def plain(self, *, compute: torch.dtype | None = None) -> Iterator[None]:
        """A loop of one's own with hard labels; each `next` runs a block of steps."""
        model = deepcopy(self.student).to(self.device).train()
        optimizer = torch.optim.AdamW(decay_groups(model, 0.1), lr=2e-5, fused=True)
        batches = [inputs_of(step) for step in self.steps(HARD).epoch(0)]
        token = torch.autocast(self.device, compute or torch.bfloat16, enabled=compute is not None)
        number = 0
        while True:
            for _ in range(BLOCK):
                inputs, labels = ({n: t.to(self.device) for n, t in part.items()} for part in batches[number])
                number = (number + 1) % len(batches)
                with token:
                    logits = model(**inputs).logits
                    if logits.ndim == 3:
                        logits = logits[:, :-1].flatten(0, 1)
                    loss = functional.cross_entropy(logits, labels["labels"], ignore_index=-100)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            yield


def inputs_of(step: TrainStep) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The model's arguments and the labels of a step, as a plain loop has them: a label a token for language models."""
    (batch,) = step.batches
    if len(batch.labels_R) == len(batch.inputs["input_ids"]):
        return batch.inputs, {"labels": batch.labels_R}
    masked = batch.inputs["input_ids"].masked_fill(batch.inputs["attention_mask"] == 0, -100)
    return batch.inputs, {"labels": masked[:, 1:].flatten()}


def encoder(*, layers: int, width: int, heads: int, longest: int, vocabulary: int = VOCABULARY) -> Any:
    """A random BERT with two classes."""
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            max_position_embeddings=max(512, longest),
        )
    )


def texts(count: int, *, shortest: int, longest: int, vocabulary: int = VOCABULARY) -> list[Item]:
    """Items of two classes, of lengths between two."""
    random = np.random.default_rng(0)
    return [
        Item(
            uid=f"{i}",
            inputs={"input_ids": random.integers(5, vocabulary, int(length)).astype(np.int32)},
            positions_R=np.zeros(1, np.int32),
            labels_R=random.integers(0, 2, 1).astype(np.int32),
            classes_R=np.array([2], np.int32),
        )
        for i, length in enumerate(random.integers(shortest, longest + 1, count))
    ]


def turns(runs: Mapping[str, Iterator[None]], *, base: str, blocks: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Seconds of a step of each run, and the median of its ratios to the base's blocks before and after."""
    for run in runs.values():
        next(run)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(blocks):
        for name, run in runs.items():
            began = clock()
            next(run)
            taken[name].append((clock() - began) / BLOCK)
    ratio = {
        name: statistics.median(one / own for one, own in zip(seconds, taken[base], strict=True))
        for name, seconds in taken.items()
    }
    return {name: (statistics.median(seconds), ratio[name]) for name, seconds in taken.items()}


def show(found: Mapping[str, tuple[float, float]], limits: Mapping[str, float]) -> bool:
    """Print a table; whether all limits are kept."""
    good = True
    for name, (seconds, ratio) in found.items():
        limit = limits.get(name)
        verdict = "" if limit is None else f"   limit {limit:.2f}   {'ok' if ratio <= limit else 'MISSED'}"
        good &= limit is None or ratio <= limit
        print(f"  {name:<38} {seconds * 1e3:9.2f} ms a step {ratio:7.2f}{verdict}", flush=True)
    return good


def tiny(folder: Path, blocks: int) -> bool:
    """The host's work: a student that computes next to nothing."""
    model = encoder(layers=3, width=16, heads=2, longest=40)
    case = Case(
        model=deepcopy(model).eval(),
        items=texts(1280, shortest=24, longest=40),
        config=DumpConfig(),
        dtype="float32",
        task="classification",
        labels=("a", "b"),
    )
    dump(case, DumpConfig(), folder)
    bench = Bench(student=model, case=case, root=folder, batch_size=32, device="cpu", settings={})
    print("a step of BERT, 3 layers of 16, MiniLM's vocabulary, 32 x 24 to 40 tokens; CPU time", flush=True)
    plain = "plain PyTorch, hard labels"
    runs = {
        plain: bench.plain(),
        "kdcache, hard labels": bench.cached(HARD),
        "kdcache, distillation": bench.cached(KD),
        "DeepSpeed's engine, hard labels": bench.cached(HARD, engine="deepspeed"),
        "DeepSpeed's engine, distillation": bench.cached(KD, engine="deepspeed"),
    }
    found = turns(runs, base=plain, blocks=blocks, clock=time.process_time)
    return show(found, {"kdcache, hard labels": LIMIT, "kdcache, distillation": LIMIT})


def language_model(place: Path, folder: Path) -> bool:
    """Steps of a real language model from top-64 rows of its own."""
    tokenizer, model = lm.load(place)
    tokens = lm.sequences(tokenizer, count=40, length=128)
    items: Sequence[Item] = [next_token_item(f"{i}", row, model.config.vocab_size) for i, row in enumerate(tokens)]
    case = Case(model=model, items=items, config=DumpConfig(batch_size=4), dtype="float32")
    dump(case, DumpConfig(), folder)
    bench = Bench(student=model, case=case, root=folder, batch_size=4, device="cpu", settings={})
    print("a step of the language model, 4 x 128 tokens, top-64 rows; wall time", flush=True)
    before, now = "DeepSpeed's engine, distillation", "kdcache, distillation"
    runs = {before: bench.cached(KD, engine="deepspeed"), now: bench.cached(KD)}
    found = turns(runs, base=before, blocks=2, clock=time.perf_counter)
    return show(found, {now: SLOWER})


def main() -> int:
    """Run it, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lm", type=Path, help="Folder of a causal language model.")
    parser.add_argument("--blocks", type=int, default=12, help="Blocks of ten steps of each run.")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        good = tiny(folder / "tiny", args.blocks)
        if args.lm is not None:
            good &= language_model(args.lm, folder / "lm")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
