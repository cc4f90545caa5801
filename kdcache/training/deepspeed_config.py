"""The configuration that DeepSpeed gets: kdcache's own settings and a user's JSON, merged. Pure but for reading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdcache.core.errors import ConfigError
from kdcache.training.engine import EngineSettings

OWN_KEYS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "optimizer",
    "scheduler",
    "gradient_clipping",
    "bf16",
    "fp16",
)
"""Keys of a user's DeepSpeed JSON that contradict kdcache's own settings."""
CPU_BUCKET = 1_000_000


def read_user_json(path: Path | None) -> dict[str, Any]:
    """A user's own DeepSpeed configuration.

    Raises:
        ConfigError: unreadable, or it sets what kdcache's own settings decide.
    """
    if path is None:
        return {}
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the DeepSpeed configuration {path}: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold a JSON object of DeepSpeed settings")
    for key in OWN_KEYS:
        if key in tree:
            raise ConfigError(
                f"{path} sets {key}, which kdcache decides from batch_size, micro_batch_size, learning_rate, "
                f"max_grad_norm and precision; remove it there"
            )
    if not isinstance(tree.get("zero_optimization", {}), dict):
        raise ConfigError(f'{path}: zero_optimization must be an object, e.g. {{"stage": 2}}')
    return tree


def deepspeed_config(settings: EngineSettings, *, world_size: int, cpu: bool) -> dict[str, Any]:
    """The configuration given to DeepSpeed; pure.

    Raises:
        ConfigError: the user's own settings ask for another ZeRO stage.

    Example:
        >>> settings = EngineSettings(kind="deepspeed", micro_batch_size=8, accumulation=2, zero_stage=1, bf16=False,
        ...                           max_grad_norm=1.0, weight_decay=0.1, user={})
        >>> deepspeed_config(settings, world_size=2, cpu=True)["train_batch_size"]
        32
    """
    zero: dict[str, Any] = {"stage": settings.zero_stage}
    if cpu:
        zero |= {"reduce_bucket_size": CPU_BUCKET, "allgather_bucket_size": CPU_BUCKET}
    user = dict(settings.user)
    zero |= user.pop("zero_optimization", {})
    if settings.zero_stage not in (0, zero["stage"]):
        raise ConfigError(
            f"zero_stage = {settings.zero_stage}, but the DeepSpeed JSON sets stage {zero['stage']}; give one of them"
        )
    return {
        "train_batch_size": settings.micro_batch_size * settings.accumulation * world_size,
        "train_micro_batch_size_per_gpu": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.accumulation,
        "gradient_clipping": settings.max_grad_norm,
        "bf16": {"enabled": settings.bf16},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**12,
        **user,
    }
