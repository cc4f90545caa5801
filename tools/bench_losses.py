"""Time and memory of the losses beside the naive way: `python tools/bench_losses.py [--device cuda]`.

1. Sparse loss, forward + backward, over `F.cross_entropy` on the same float32 logits: 4,096 rows x 50k classes, k = 64.
2. Chunked head + loss, peak extra memory over the naive way (4,096 rows x 131,072 classes x 512).

Times are medians of interleaved runs in one process; memory is the largest sum of live allocations (CPU: counted by the
allocator's own events; CUDA: `max_memory_allocated`) above what was there before. Prints ratio and limit, exits 1 where
a limit is missed. On a machine that others use, set OMP_WAIT_POLICY=passive: else threads that wait for a descheduled
sibling spin, and the more often an implementation meets, the longer.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from kdcache.losses.head import Head
from kdcache.losses.objective import Objective
from kdcache.losses.selection import select
from kdcache.losses.targets import SparseTargets

LIMITS = {"cpu": {"time": 0.6, "memory": 0.4}, "cuda": {"time": 0.5, "memory": 1.0}}
FUSED_LIMIT = 1 / 15
SELECT_ROWS = 128
Function = Callable[[], object]

SPARSE: Mapping[str, Objective] = {
    "ce (1,1) uniform": Objective(tau_t=1.0),
    "ce (2,1) uniform": Objective(tau_t=2.0, tau_s=1.0),
    "ce (2,2) bucket": Objective(tau_t=2.0, tail="bucket"),
    "ce (2,1) alpha .5": Objective(tau_t=2.0, tau_s=1.0, alpha=0.5),
    "mse": Objective(loss="mse"),
    "reverse_kl": Objective(loss="reverse_kl", tail="bucket"),
    "jsd": Objective(loss="jsd", tail="bucket"),
    "hard labels": Objective(teacher=None, alpha=0),
}
JUDGED = "ce (1,1) uniform"
"""The row that the limits are for; the others stand beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One size, on one device.

    Attributes:
        logits_RV: of a student.
        targets: of a teacher, k = 64.
        labels_R: gold classes.
    """

    logits_RV: Tensor
    targets: SparseTargets
    labels_R: Tensor


def make_case(rows: int, classes: int, device: str) -> Case:
    """Logits of noise; the teacher's are made a chunk at a time, so that they are never all there."""
    generator = torch.Generator(device=device).manual_seed(0)
    labels_R = torch.randint(0, classes, (rows,), generator=generator, device=device)
    parts = []
    for start in range(0, rows, SELECT_ROWS):
        labels = labels_R[start : start + SELECT_ROWS]
        teacher = torch.randn(len(labels), classes, generator=generator, device=device) * 2
        parts.append(select(teacher, labels, torch.full_like(labels, classes), top_k=64))
    names = SparseTargets.__dataclass_fields__
    targets = SparseTargets(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})
    logits_RV = torch.randn(rows, classes, generator=generator, device=device) * 2
    return Case(logits_RV=logits_RV, targets=targets, labels_R=labels_R)


def cross_entropy(case: Case) -> None:
    """The yardstick."""
    functional.cross_entropy(case.logits_RV.detach().requires_grad_(), case.labels_R).backward()  # type: ignore[no-untyped-call]


def sparse(case: Case, objective: Objective) -> None:
    """The same step with an objective; hard labels have no teacher."""
    leaf = case.logits_RV.detach().requires_grad_()
    objective(leaf, case.targets if objective.alpha else None, case.labels_R).total.backward()  # type: ignore[no-untyped-call]


def naive_head(hidden_RD: Tensor, weight_VD: Tensor, labels_R: Tensor) -> None:
    """Head and loss with all logits held."""
    hidden, weight = hidden_RD.detach().requires_grad_(), weight_VD.detach().requires_grad_()
    functional.cross_entropy(functional.linear(hidden, weight), labels_R).backward()  # type: ignore[no-untyped-call]


def chunked_head(hidden_RD: Tensor, weight_VD: Tensor, case: Case, objective: Objective) -> None:
    """Head and loss in chunks."""
    hidden, weight = hidden_RD.detach().requires_grad_(), weight_VD.detach().requires_grad_()
    losses = objective.from_hidden(hidden, Head(weight_VD=weight), case.targets, case.labels_R)
    losses.total.backward()  # type: ignore[no-untyped-call]


def peak_bytes(function: Function, device: str) -> int:
    """Largest sum of live allocations during a call, above what was there before."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    live = peak = 0
    for event in sorted(_allocations(profiler), key=lambda event: event[0]):
        live += event[1]
        peak = max(peak, live)
    return peak


def _allocations(profiler: profile) -> list[tuple[int, int]]:
    """(time, bytes) of each allocation, negative where memory is given back."""
    found = []
    pending = list(profiler.profiler.kineto_results.experimental_event_tree())  # type: ignore[union-attr]
    while pending:
        event = pending.pop()
        pending += event.children
        if event.tag.name == "Allocation":
            found.append((event.start_time_ns, event.extra_fields.alloc_size))
    return found


def seconds(function: Function, device: str) -> float:
    """Wall seconds of a call."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1e3
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def time_ratios(functions: Mapping[str, Function], base: Function, device: str, repeats: int) -> dict[str, float]:
    """Median of (time / time of `base` beside it), each pair run back to back after one warm-up."""
    base()
    found: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            before, own, after = seconds(base, device), seconds(function, device), seconds(base, device)
            found[name].append(2 * own / (before + after))
    return {name: statistics.median(ratios) for name, ratios in found.items()}


def show(what: str, ratio: float, limit: float | None, detail: str = "") -> bool:
    """Print a line; whether the limit is kept."""
    good = limit is None or ratio <= limit
    bar = "" if limit is None else f"   limit {limit:.3f}   {'ok' if good else 'MISSED'}"
    print(f"{what:<44} {ratio:7.3f}{bar}   {detail}")
    return good


def bench_sparse(args: argparse.Namespace) -> bool:
    """Sparse losses over `F.cross_entropy`."""
    case, limits = make_case(args.rows, args.classes, args.device), LIMITS[args.device]
    names = list(SPARSE) if args.all else [JUDGED]
    functions: dict[str, Function] = {name: lambda o=SPARSE[name]: sparse(case, o) for name in names}  # type: ignore[misc]

    def base() -> None:
        cross_entropy(case)

    print(f"\n{args.rows:,} rows x {args.classes:,} classes, k = 64, {args.threads} threads, {args.device}")
    times = time_ratios(functions, base, args.device, args.repeats)
    good = [show(f"time      {name}", times[name], limits["time"] if name == JUDGED else None) for name in names]
    naive = peak_bytes(base, args.device)
    for name in names:
        own = peak_bytes(functions[name], args.device)
        limit = limits["memory"] if name == JUDGED else None
        good.append(show(f"memory    {name}", own / naive, limit, f"{own / 1e6:,.0f} of {naive / 1e6:,.0f} MB"))
    return all(good)


def bench_head(args: argparse.Namespace) -> bool:
    """Chunked head + loss over the naive way."""
    classes, size = args.head_classes, args.hidden_size
    generator = torch.Generator(device=args.device).manual_seed(1)
    hidden_RD = torch.randn(args.head_rows, size, generator=generator, device=args.device)
    weight_VD = torch.randn(classes, size, generator=generator, device=args.device) / size**0.5
    case = make_case(args.head_rows, classes, args.device)
    case = Case(logits_RV=torch.empty(0), targets=case.targets, labels_R=case.labels_R)
    print(f"\n{args.head_rows:,} rows x {classes:,} classes x {size}, hard labels and k = 64 together, {args.device}")
    objective = Objective(tau_t=2.0, tau_s=1.0, alpha=0.5)
    own = peak_bytes(lambda: chunked_head(hidden_RD, weight_VD, case, objective), args.device)
    naive = peak_bytes(lambda: naive_head(hidden_RD, weight_VD, case.labels_R), args.device)
    detail = f"{own / 1e6:,.0f} of {naive / 1e6:,.0f} MB; the weight's gradient is {weight_VD.nbytes / 1e6:,.0f} MB"
    return show("memory    chunked head + loss", own / naive, FUSED_LIMIT, detail)


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=sorted(LIMITS), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--classes", type=int, default=50_257)
    parser.add_argument("--head-rows", type=int, default=4096)
    parser.add_argument("--head-classes", type=int, default=131_072)
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--all", action="store_true", help="All losses, not only the one that the limits are for.")
    parser.add_argument("--only", choices=("sparse", "head"), help="One of the two benchmarks.")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    good = True
    if args.only != "head":
        good &= bench_sparse(args)
    if args.only != "sparse":
        good &= bench_head(args)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
