"""What a GPU should be asked of training steps: `python -m tools.bench_gpu_steps`, a part of `tools.bench_gpu`.

A step of a language model from a cache, and its memory, over a plain step on hard labels; whole trainings of encoders
as CUDA graphs, the recordings included, over plain eager ones on the same batches; whether graphs change a loss; a
search of eight students over eight plain fine-tunings. The plain side (`bench_step.PlainLoop`) has its batches padded
and page-locked before the clock runs, moved without waiting, and autocast to bfloat16, fused AdamW, clipping.

Then, shown and not judged, as far as `--seconds` allow: host time of a replayed step, evaluation by graphs, several
students' graphs on streams of their own (`bench_gpu_graphs.py`), DeepSpeed's engine, and `compile: true`. Prints a
table with ratio, limit and card; a missed limit gives exit code 1.

`--small` runs all of it at tiny sizes on whatever device there is, and judges agreement alone. A CPU has no graphs:
there a step that is "recorded" is run again; nor is anything compiled there, which would take minutes. The table says
so.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from kdcache.teacher.settings import DumpConfig
from kdcache.training.log import RunLog
from kdcache.training.recording import Graphs
from kdcache.training.shapes import grid_of
from tools import bench_dump, bench_gpu_graphs, bench_gpu_search, bench_losses
from tools.bench_dump import STORES, Case
from tools.bench_gpu_graphs import Timed, always, clock, recorder
from tools.bench_step import BLOCK, HARD, KD, Bench, PlainLoop, encoder, texts, turns
from tools.bench_table import Table, machine, parser

GIB = 1 << 30
OFF = 1.15
"""A training without graphs over a plain one."""
SAME = 1e-6
"""Relative difference of a loss as a graph and eager, on the same shapes in float32."""
SECONDS = 560
"""What is shown and not judged is left out where it would not end before."""
PLAIN = "plain PyTorch, hard labels"


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A language model, student and teacher alike.

    Attributes:
        layers: of a Llama.
        width: of it.
        heads: of it; a quarter as many for keys and values.
        inner: its inner width.
        classes: its vocabulary; the output head is the embedding.
        batch: items of a step.
        tokens: of an item.
        limits: store -> time over the plain step.
        memory: limit of the topk step's peak memory over that of the plain step.
        blocks: measured, of ten steps each.
    """

    layers: int
    width: int
    heads: int
    inner: int
    classes: int
    batch: int
    tokens: int
    limits: dict[str, float] = field(default_factory=lambda: {"topk fast": 0.90, "hidden float16": 1.00})
    memory: float = 0.60
    blocks: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """An encoder of two classes, and how long it trains.

    Attributes:
        layers: of a BERT.
        width: of it.
        heads: of it.
        longest: tokens of an item, which has 8 or more.
        items: of an epoch.
        epochs: of a training.
        limit: time of a training by graphs over a plain one.
        rounds: of all trainings.
    """

    layers: int
    width: int
    heads: int
    longest: int
    items: int
    epochs: int
    limit: float
    rounds: int

    @property
    def name(self) -> str:
        """For people."""
        return f"BERT-{self.layers} x {self.width}, 32 x 8 to {self.longest} tokens"

    @property
    def steps(self) -> int:
        """Of a training."""
        return self.items // 32 * self.epochs


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What is run.

    Attributes:
        language: the language model.
        encoders: small and large.
        equal: steps of which graph and eager losses are compared; a multiple of four.
        study: of the search.
        counts: students of the trial with several graphs.
        repeats: of what is shown.
    """

    language: Language
    encoders: tuple[Encoder, Encoder]
    equal: int
    study: bench_gpu_search.Study
    counts: tuple[int, ...]
    repeats: int


FULL = Sizes(
    language=Language(layers=12, width=768, heads=12, inner=3072, classes=49_152, batch=32, tokens=512),
    encoders=(
        Encoder(layers=3, width=384, heads=12, longest=64, items=3200, epochs=4, limit=0.30, rounds=2),
        Encoder(layers=12, width=768, heads=12, longest=128, items=3200, epochs=4, limit=0.40, rounds=1),
    ),
    equal=200,
    study=bench_gpu_search.FULL,
    counts=(2, 4, 8),
    repeats=5,
)
SMALL = Sizes(
    language=Language(layers=1, width=32, heads=4, inner=64, classes=16_500, batch=2, tokens=12, blocks=1),
    encoders=(
        Encoder(layers=1, width=16, heads=2, longest=24, items=320, epochs=2, limit=0.30, rounds=1),
        Encoder(layers=2, width=16, heads=2, longest=24, items=320, epochs=2, limit=0.40, rounds=1),
    ),
    equal=40,
    study=bench_gpu_search.SMALL,
    counts=(2,),
    repeats=1,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """All parts, over one folder and one table.

    Attributes:
        sizes: what is run.
        device: where.
        table: gets the lines.
        folder: for caches.
    """

    sizes: Sizes
    device: str
    table: Table
    folder: Path

    def judged(self) -> None:
        """What has a limit."""
        if self.device == "cpu":
            self.table.say("graphs", "a CPU has none: what should be recorded is run again, and its times say nothing")
        small, large = self.sizes.encoders
        part = self.table.part
        part("steps of a language model", self.language_model)
        part(f"trainings of {small.name}", partial(self.trainings, small))
        part(f"trainings of {large.name}", partial(self.trainings, large))
        part("losses as graphs and eager", self.equal)
        part("a search of several students", self.search)

    def shown(self, until: float) -> None:
        """What has none, until a time of `time.perf_counter`."""
        large = self.sizes.encoders[1]
        costs: dict[str, tuple[float, Callable[[], None]]] = {
            "host time and evaluation": (15, self.host),
            "several students' graphs in one process": (30, self.several),
            "engine: deepspeed": (40, self.deepspeed),
        }
        compiled: dict[str, Callable[[], Bench]] = {
            "compile: true, language model, topk": partial(self.language, "topk fast"),
            f"compile: true, {large.name}": partial(self.encoder, large),
        }
        for what, make in compiled.items():
            costs[what] = (90, partial(self.compiled, what, make, blocks=self.sizes.language.blocks))
        for what, (cost, run) in costs.items():
            if self.table.judged and time.perf_counter() + cost > until:
                self.table.say(what, f"left out: it takes about {cost} s, which are not left")
            else:
                self.table.part(what, run, needed=False)

    @property
    def compute(self) -> torch.dtype | None:
        """What the plain side's autocast computes in: as kdcache's `precision: auto`."""
        return torch.bfloat16 if self.device == "cuda" else None

    def now(self) -> float:
        """The time when the device is done."""
        return clock(self.device)

    # Language model

    def language_model(self) -> None:
        """Time of a step from both stores over a plain step, and peak memory of each alone."""
        size = self.sizes.language
        benches = {store: self.language(store) for store in size.limits}
        one = next(iter(benches.values()))
        trainings = {store: bench.begin(KD) for store, bench in benches.items()}
        runs = {PLAIN: one.plain(compute=self.compute), "hard labels by kdcache": one.cached(HARD)}
        runs |= {store: training.blocks() for store, training in trainings.items()}
        found = turns(runs, base=PLAIN, blocks=size.blocks, clock=self.now)
        records = {store: training.stepping.record() for store, training in trainings.items()}
        close(runs)
        del trainings
        count = sum(parameter.numel() for parameter in one.student.parameters())
        what = f"{count / 1e6:.0f} M Llama, {size.batch} x {size.tokens}, V {size.classes:,}"
        self.table.add(f"{PLAIN}: a step of {what}", found.pop(PLAIN)[0] * 1e3, None, " ms")
        for name, (_, ratio) in found.items():
            self.table.add(f"step over the plain step, {what}: {name}", ratio, size.limits.get(name))
        for store, record in records.items():
            self.table.say(f"graphs: {store}", graphs_of(record))
        plain = self.peak(lambda: one.plain(compute=self.compute))
        self.table.add(f"peak memory of the plain step, {what}", plain[0] / GIB, None, " GiB")
        for store, bench in benches.items():
            own = self.peak(partial(bench.cached, KD))
            limit = size.memory if store == "topk fast" else None
            self.table.add(f"peak memory over the plain step, {what}: {store}", own[0] / plain[0], limit)
            self.table.add(f"the same, as reserved from the device: {store}", own[1] / plain[1], None)

    def language(self, store: str) -> Bench:
        """A student, and the rows of a teacher of its form in a store; dumped once."""
        size = self.sizes.language
        form: dict[str, Any] = {name: getattr(size, name) for name in ("layers", "width", "heads", "inner", "classes")}
        student = bench_dump.llama(**form, tied=True, dtype=torch.float32, device="cpu")
        student.config.use_cache = False  # a training needs none, on neither side
        config = DumpConfig(batch_size=64, batch_tokens=32_768, block_tokens=64 * size.tokens)
        items = bench_dump.random_items(BLOCK * size.batch, size.tokens, size.classes)
        case = Case(model=student, items=items, config=config, dtype="bfloat16" if self.compute else "float32")
        root = self.folder / f"language {store}"
        if not root.exists():
            teacher = bench_dump.llama(
                **form, tied=True, dtype=self.compute or torch.float32, device=self.device, seed=1
            )
            bench_dump.dump(replace(case, model=teacher), STORES[store], root)
            bench_dump.forget()
        return Bench(student=student, case=case, root=root, batch_size=size.batch, device=self.device, settings={})

    def peak(self, begin: Callable[[], Iterator[None]]) -> tuple[float, float]:
        """The most bytes that ten steps hold, and that the process has reserved for them, with nothing else there."""
        release()
        before = torch.cuda.memory_allocated() if self.device == "cuda" else 0
        run = begin()
        next(run)  # the optimizer's moments are made
        self.now()
        if self.device == "cpu":
            found = (float(bench_losses.peak_bytes(run.__next__, "cpu")),) * 2
        else:
            release()
            torch.cuda.reset_peak_memory_stats()
            next(run)
            self.now()
            found = (float(torch.cuda.max_memory_allocated() - before), float(torch.cuda.max_memory_reserved()))
        close({"": run})
        del run
        release()
        return found

    # Encoders

    def trainings(self, shape: Encoder) -> None:
        """Whole trainings from the first step on, by graphs and without, each after a plain one."""
        bench = self.encoder(shape)
        batches = bench.batches(epochs=shape.epochs)
        self.plain_seconds(bench, batches[:20])  # what a process makes once is made
        self.cached_training(bench, epochs=1, graph="never")
        plain: list[float] = []
        ratios: dict[str, list[float]] = {"graph: auto": [], "graph: never": []}
        timed, record = recorder(self.device), {}
        for _ in range(shape.rounds):
            for setting in ratios:
                plain.append(self.plain_seconds(bench, batches))
                if setting == "graph: never":
                    ran = self.cached_training(bench, epochs=shape.epochs, graph="never")
                else:
                    timed = recorder(self.device)
                    ran = self.cached_training(bench, epochs=shape.epochs, timed=timed)
                    record = ran.record
                ratios[setting].append(ran.seconds / plain[-1])
        what = f"training of {shape.steps} steps over a plain one, {shape.name}"
        for setting, limit in (("graph: auto", shape.limit), ("graph: never", OFF)):
            self.table.add(f"{what}: {setting}", statistics.median(ratios[setting]), limit)
        self.table.add(f"plain: a step, {shape.name}", statistics.median(plain) / shape.steps * 1e3, None, " ms")
        self.table.say(f"recorded in it, {shape.name}", timed.told)
        self.table.say(f"graphs of its steps, {shape.name}", graphs_of(record))

    def encoder(self, shape: Encoder, *, dropout: float = 0.1, items: int = 0) -> Bench:
        """A student, and the rows of a teacher that is as the student begins."""
        form = {"layers": shape.layers, "width": shape.width, "heads": shape.heads, "longest": shape.longest}
        student = encoder(**form, dropout=dropout)
        case = Case(
            model=deepcopy(student).eval().to(self.device),
            items=texts(items or shape.items, shortest=8, longest=shape.longest),
            config=DumpConfig(),
            dtype="float32",
            task="classification",
            labels=("no", "yes"),
        )
        root = self.folder / f"encoder {shape.layers} {dropout:g} {len(case.items)}"
        if not root.exists():
            bench_dump.dump(case, DumpConfig(), root)
            bench_dump.forget()
        case = replace(case, model=student)
        return Bench(student=student, case=case, root=root, batch_size=32, device=self.device, settings={})

    def plain_seconds(self, bench: Bench, batches: list[Any]) -> float:
        """Seconds of a plain training."""
        loop = PlainLoop(bench.student, self.device, self.compute)
        began = self.now()
        for batch in batches:
            loop.step(batch)
        seconds = self.now() - began
        del loop
        release()
        return seconds

    def cached_training(
        self, bench: Bench, *, timed: Timed | None = None, padded: bool = False, **settings: Any
    ) -> Trained:
        """A training by kdcache with its log in a file; `padded` gives eager steps the shapes of graphs."""
        torch.manual_seed(0)
        graphs = None if timed is None else Graphs(timed)
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            with RunLog(Path(name)) as log:
                running = bench.begin(KD, log=log, graphs=graphs, evals_per_epoch=1, **settings)
                stepping = running.stepping
                if padded:
                    stepping.feed.grid = grid_of(stepping.engine.module)
                began = self.now()
                for _ in running.blocks():
                    pass
                seconds = self.now() - began
            lines = [json.loads(line) for line in (Path(name) / "log.jsonl").read_text().splitlines()]
        losses = torch.tensor([line["loss"] for line in lines if line["event"] == "step"], dtype=torch.float64)
        record = stepping.record()
        if graphs is not None:
            graphs.drop("measured")
        stepping.engine.close()
        del stepping, running
        release()
        return Trained(seconds=seconds, losses=losses, record=record)

    def equal(self) -> None:
        """Losses of the same training as graphs and eager: the same shapes, no dropout, float32."""
        shape = self.sizes.encoders[0]
        bench = self.encoder(shape, dropout=0.0, items=self.sizes.equal // 4 * 32)
        train = partial(self.cached_training, bench, epochs=4, precision="float32")
        eager = train(graph="never", padded=True).losses
        again = train(graph="never", padded=True).losses
        timed = recorder(self.device)
        graphs = train(timed=timed, graph=always(self.device)).losses
        what = f"largest relative difference of a loss, {len(eager)} steps of {shape.name}, float32"
        self.table.add(f"{what}: graphs and eager", float(((graphs - eager) / eager).abs().max()), SAME, always=True)
        self.table.add("the same: eager and eager once more", float(((again - eager) / eager).abs().max()), None)
        if not timed.taken:
            raise RuntimeError("nothing was recorded, so nothing was compared")

    # The rest

    def search(self) -> None:
        """See `bench_gpu_search`."""
        folder = self.folder / "study"
        folder.mkdir()
        bench_gpu_search.row(self.sizes.study, self.device, self.table, folder)
        release()

    def host(self) -> None:
        """Host time of a step, and evaluations, of the small encoder."""
        shape, repeats = self.sizes.encoders[0], self.sizes.repeats
        bench = self.encoder(shape)
        bench_gpu_graphs.host_time(bench, shape.name, self.table, batches=8, repeats=repeats)
        bench_gpu_graphs.evaluation(bench, shape.name, self.table, batches=8, repeats=repeats)
        release()

    def several(self) -> None:
        """The trial of several students at once."""
        shape, repeats = self.sizes.encoders[0], self.sizes.repeats
        counts, bench = self.sizes.counts, self.encoder(shape)
        bench_gpu_graphs.several(bench, shape.name, self.table, counts=counts, batches=6, repeats=repeats)
        release()

    def deepspeed(self) -> None:
        """The language model's step by DeepSpeed's engine."""
        if not find_spec("deepspeed"):
            self.table.say("engine: deepspeed", "left out: deepspeed is not installed")
            return
        bench = self.language("topk fast")
        what = "engine: deepspeed"
        plain, usual = bench.plain(compute=self.compute), bench.cached(KD)
        runs = {PLAIN: plain, "usual": usual, what: bench.cached(KD, engine="deepspeed")}
        found = turns(runs, base=PLAIN, blocks=max(1, self.sizes.language.blocks // 2), clock=self.now)
        close(runs)
        release()
        self.table.add(f"step over the plain step, topk, {what}", found[what][1], None)
        self.table.add(f"the same over kdcache's own engine, {what}", found[what][0] / found["usual"][0], None)

    def compiled(self, what: str, make: Callable[[], Bench], *, blocks: int) -> None:
        """The first step of a training whose body is compiled, apart, and those after it over plain steps."""
        if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang")):
            self.table.say(what, "left out: there is no C compiler (cc, gcc, clang, or what CC names)")
            return
        if self.device == "cpu":
            self.table.say(what, "nothing is compiled on a CPU, which would take minutes")
        with torch.compiler.set_stance("force_eager" if self.device == "cpu" else "default"):
            self._compiled(what, make(), blocks=blocks)
        release()

    def _compiled(self, what: str, bench: Bench, *, blocks: int) -> None:
        running = bench.begin(KD, compile=True)
        stepping = running.stepping
        ready = stepping.feed.ready(next(iter(running.steps.epoch(0))))
        stepping.engine.train(True)
        began = self.now()
        stepping.step(ready, 0.0)
        self.table.add(f"first step, {what}", self.now() - began, None, " s")
        runs = {PLAIN: bench.plain(compute=self.compute), what: running.blocks()}
        found = turns(runs, base=PLAIN, blocks=blocks, clock=self.now)
        self.table.add(f"step over the plain step, {what}", found[what][1], None)
        self.table.say(f"graphs, {what}", graphs_of(stepping.record()))
        close(runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A training that ended.

    Attributes:
        seconds: from its first step to the device's end.
        losses: of its steps, float64.
        record: what ran its steps.
    """

    seconds: float
    losses: torch.Tensor
    record: dict[str, Any]


def graphs_of(record: Mapping[str, Any]) -> str:
    """How many graphs a stepper's record counts, or why there are none."""
    count = record.get("graphs", 0)
    return str(count) if count else f"none: {record.get('why', 'no GPU')}"


def close(runs: dict[str, Iterator[None]]) -> None:
    """End trainings, and let go of them."""
    for run in runs.values():
        run.close()  # type: ignore[attr-defined]  # they are generators
    runs.clear()


def release() -> None:
    """Give back memory that nobody holds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> int:
    """Run everything and print the table; 1 if a limit is missed, 2 without a GPU."""
    options = parser(__doc__, seconds=SECONDS)
    options.add_argument("--no-shown", action="store_true", help="Leave out what has no limit.")
    args = options.parse_args()
    until = time.perf_counter() + args.seconds
    found = machine(small=args.small)
    if found is None:
        return 2
    device, name = found
    print(f"{name}{', small sizes' if args.small else ''}\n", flush=True)
    table = Table(judged=not args.small)
    table.begin()
    with tempfile.TemporaryDirectory(dir=args.out) as folder:
        steps = Steps(sizes=SMALL if args.small else FULL, device=device, table=table, folder=Path(folder))
        steps.judged()
        if not args.no_shown:
            steps.shown(until)
    return table.end()


if __name__ == "__main__":
    sys.exit(main())
