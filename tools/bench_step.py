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
from collections.abc import Callable, Generator, Mapping, Sequence
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
from kdcache.tasks.base import Task
from kdcache.teacher.settings import DumpConfig
from kdcache.training.engine import decay_groups
from kdcache.training.log import RunLog
from kdcache.training.loop import fit
from kdcache.training.recording import Graphs
from kdcache.training.settings import TrainingConfig, engine_settings
from kdcache.training.start import build
from kdcache.training.steppers import Kept, stepper
from kdcache.training.stepping import Stepper
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
PlainBatch = tuple[dict[str, torch.Tensor], torch.Tensor]
"""A model's arguments, and labels."""
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

    @property
    def task(self) -> Task:
        """Reads the rows of the student's outputs."""
        return self.case.job(DumpConfig()).task

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
            prefetch=0,
        )
        return CachedSteps(loader=loader, teachers=teachers, pad_token_id=0)

    def begin(
        self, objective: Objective, *, log: RunLog | None = None, graphs: Graphs | None = None, **settings: Any
    ) -> Running:
        """A training by kdcache, before its first step.

        Args:
            objective: the loss.
            log: gets the steps; default: nobody does.
            graphs: where its steps are recorded; default: what the settings and the device say.
            settings: more settings of the training.
        """
        steps = self.steps(objective)
        common = {"batch_size": self.batch_size, "epochs": 1000, "evals_per_epoch": max(1, steps.num_steps // BLOCK)}
        config = TrainingConfig(**{**common, **self.settings, **settings})
        engine = build(deepcopy(self.student), engine_settings(config, self.world), self.world)
        log = log or RunLog(None)
        stepping = stepper(
            engine,
            objective,
            rows=self.task,
            pad_token_id=0,
            config=config,
            log=log,
            kept=None if graphs is None else Kept(graphs=graphs),
        )
        return Running(stepping=stepping, steps=steps, config=config, log=log)

    def cached(self, objective: Objective, **settings: Any) -> Generator[None, None, None]:
        """kdcache's own loop; each `next` runs a block of steps."""
        return self.begin(objective, **settings).blocks()

    def plain(self, *, compute: torch.dtype | None = None) -> Generator[None, None, None]:
        """A loop of one's own with hard labels; each `next` runs a block of steps."""
        loop, batches, number = PlainLoop(self.student, self.device, compute), self.batches(epochs=1), 0
        while True:
            for _ in range(BLOCK):
                loop.step(batches[number])
                number = (number + 1) % len(batches)
            yield

    def batches(self, *, epochs: int) -> list[PlainBatch]:
        """The steps' batches for a loop of one's own: padded, and in page-locked memory where the device is CUDA."""
        steps = self.steps(HARD)
        return [pinned(inputs_of(step), self.device) for epoch in range(epochs) for step in steps.epoch(epoch)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A training by kdcache.

    Attributes:
        stepping: runs its steps.
        steps: from the cache.
        config: its settings.
        log: gets what happens.
    """

    stepping: Stepper
    steps: CachedSteps
    config: TrainingConfig
    log: RunLog

    def blocks(self) -> Generator[None, None, None]:
        """Train; each `next` goes on to the next pause for an evaluation."""
        for _ in fit(self.stepping, self.steps, config=self.config, log=self.log):
            yield


class PlainLoop:
    """What one would write: forward, `F.cross_entropy`, backward, clipping, fused AdamW.

    Args:
        student: of transformers; it trains a copy.
        device: where.
        compute: the type of autocast; null: none.
    """

    def __init__(self, student: Any, device: str, compute: torch.dtype | None) -> None:
        self.model = deepcopy(student).to(device).train()
        self._optimizer = torch.optim.AdamW(decay_groups(self.model, 0.1), lr=2e-5, fused=True)
        self._device = device
        self.autocast = torch.autocast(device, compute or torch.bfloat16, enabled=compute is not None)

    def step(self, batch: PlainBatch) -> None:
        """One step on hard labels."""
        inputs, labels = self.moved(batch)
        with self.autocast:
            logits = self.model(**inputs).logits.flatten(0, -2)
            loss = functional.cross_entropy(logits, labels, ignore_index=-100)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def moved(self, batch: PlainBatch) -> PlainBatch:
        """A batch on the device; nobody waits for it."""
        inputs, labels = batch
        there = {name: tensor.to(self._device, non_blocking=True) for name, tensor in inputs.items()}
        return there, labels.to(self._device, non_blocking=True)


def inputs_of(step: TrainStep) -> PlainBatch:
    """The model's arguments and the labels of a step, as a plain loop has them.

    Of a language model: labels that are moved by one token, so that no logits are copied, and no mask where there is
    nothing to mask, which lets the attention be causal alone.
    """
    (batch,) = step.batches
    tokens_BL, mask_BL = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    if len(batch.labels_R) == len(tokens_BL):
        return batch.inputs, batch.labels_R
    labels_BL = torch.full_like(tokens_BL, -100)
    labels_BL[:, :-1] = tokens_BL.masked_fill(mask_BL == 0, -100)[:, 1:]
    inputs = {name: tensor for name, tensor in batch.inputs.items() if name != "attention_mask" or not mask_BL.all()}
    return inputs, labels_BL.flatten()


def pinned(batch: PlainBatch, device: str) -> PlainBatch:
    """A batch whose memory is page-locked, where it goes to CUDA."""
    inputs, labels = batch
    if device == "cpu":
        return batch
    return {name: tensor.pin_memory() for name, tensor in inputs.items()}, labels.pin_memory()


def encoder(
    *, layers: int, width: int, heads: int, longest: int, vocabulary: int = VOCABULARY, dropout: float = 0.1
) -> Any:
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
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
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


def turns(
    runs: Mapping[str, Generator[None, None, None]], *, base: str, blocks: int, clock: Callable[[], float]
) -> dict[str, Any]:
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


def tiny(folder: Path, blocks: int, *, compiled: bool) -> bool:
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
    if compiled:
        runs["kdcache, distillation, compiled"] = bench.cached(KD, compile=True)
    found = turns(runs, base=plain, blocks=blocks, clock=time.process_time)
    for run in runs.values():
        run.close()
    return show(found, {"kdcache, hard labels": LIMIT, "kdcache, distillation": LIMIT})


def language_model(place: Path, folder: Path) -> bool:
    """Steps of a real language model from top-64 rows of its own."""
    tokenizer, model = lm.load(place)
    tokens = lm.sequences(tokenizer, count=40, length=128)
    items: Sequence[Item] = [next_token_item(f"{i}", row, model.config.vocab_size) for i, row in enumerate(tokens)]
    case = Case(model=model, items=items, config=DumpConfig(batch_size=4), dtype="float32")
    dump(case, DumpConfig(), folder)
    bench = Bench(student=model, case=case, root=folder, batch_size=2, device="cpu", settings={})
    print("a step of the language model, 2 x 128 tokens, top-64 rows; wall time", flush=True)
    before, now = "DeepSpeed's engine, distillation", "kdcache, distillation"
    runs = {before: bench.cached(KD, engine="deepspeed"), now: bench.cached(KD)}
    found = turns(runs, base=before, blocks=2, clock=time.perf_counter)
    for run in runs.values():
        run.close()
    return show(found, {now: SLOWER})


def main() -> int:
    """Run it, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lm", type=Path, help="Folder of a causal language model.")
    parser.add_argument(
        "--compile", action="store_true", help="A row with torch.compile, which takes minutes to begin."
    )
    parser.add_argument("--blocks", type=int, default=12, help="Blocks of ten steps of each run.")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        good = tiny(folder / "tiny", args.blocks, compiled=args.compile)
        if args.lm is not None:
            good &= language_model(args.lm, folder / "lm")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
