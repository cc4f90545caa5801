"""kdcache: run the teacher once, distil from what it left.

    cache = kdcache.open("runs/mrpc/cache", teacher="t_ll")
    for batch in cache.loader(split="train", batch_size=32, seed=0): ...
    loss = kdcache.Objective(loss="ce", tau_t=4, tau_s=1)(student_logits, batch.targets, batch.labels).total

Names are loaded when they are first used, so that `import kdcache` costs nothing.
"""

from typing import TYPE_CHECKING, Any

from kdcache.version import __version__

if TYPE_CHECKING:
    from kdcache.api import Batch, CacheDataset, EpochSampler, Objective, TeacherCache, open  # noqa: A004

__all__ = ["Batch", "CacheDataset", "EpochSampler", "Objective", "TeacherCache", "__version__", "open"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'kdcache' has no attribute {name!r}; it has {', '.join(__all__)}")
    from kdcache import api

    return getattr(api, name)
