"""Run a function on several gloo ranks of this machine, forked from a server that has imported torch and DeepSpeed.

A run costs one to two seconds instead of the launcher's dozen; ranks meet in a file, so no port can be taken; the
exception of a rank reaches pytest with its traceback.
"""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.forkserver
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.multiprocessing

from kdcache.core.leaving import leave
from kdcache.training.start import start
from kdcache.training.world import barrier

PRELOAD = [
    "torch",
    "kdcache.training.zero",
    "kdcache.training.loop",
    "transformers.models.bert.modeling_bert",
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.runtime.superoffload.superoffload_stage3",
    "deepspeed.runtime.zero.muon.muon_optimizer",
]
"""What the fork server imports once; the last three are what DeepSpeed imports late, and slowly (4 s), under ZeRO."""


def run_ranks(function: Callable[..., Any], *arguments: Any, size: int) -> list[Any]:
    """`function(world, *arguments)` on each of `size` ranks; what they return, in rank order.

    Args:
        function: of a module, so that it can be pickled; its first argument is the rank's `World`.
        arguments: picklable.
        size: number of ranks; one runs in a process of its own as well.

    Raises:
        torch.multiprocessing.ProcessRaisedException: a rank failed; its traceback is the message.
    """
    _start_server()
    with tempfile.TemporaryDirectory(prefix="kdcache-ranks-") as name:
        folder = Path(name)
        torch.multiprocessing.start_processes(
            _rank, args=(size, folder, function, arguments), nprocs=size, start_method="forkserver"
        )
        return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(size)]


def _start_server() -> None:
    """Start the fork server without CUDA, whatever this machine has; a second call does nothing."""
    multiprocessing.set_forkserver_preload(PRELOAD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("DS_ACCELERATOR", "cpu")
        patch.setenv("OMP_NUM_THREADS", "1")
        multiprocessing.forkserver.ensure_running()


def _rank(rank: int, size: int, folder: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    gc.freeze()  # what the server imported is never garbage: DeepSpeed's collections would walk it all
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    world = start("cpu", init_method=f"file://{folder}/rendezvous")
    result = function(world, *arguments)
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(result))
    barrier(world)  # a rank that leaves first would close the others' sockets
    leave(0)  # one that failed has no exit of Python: a forked process ends at once
