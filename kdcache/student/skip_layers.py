"""Skip-layer initialisation: a student that keeps some layers of a pretrained model, weights copied bit for bit.

Embeddings, norms and the kept layers come from the *pretrained* checkpoint; the task head is fresh, from the seed. The
fine-tuned teacher is never opened.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

from kdcache.core.errors import ConfigError, ModelError
from kdcache.training.models import StudentSource, load_config, load_model, resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How a model family names its layers.

    Attributes:
        layers: pattern of the layers' parameters in the backbone; group 1 is the prefix, 2 the index, 3 the rest.
        depth: the configuration's field for the number of layers.
    """

    layers: str
    depth: str


FAMILIES = {
    "bert": Family(layers=r"^(encoder\.layer\.)(\d+)(\..*)$", depth="num_hidden_layers"),
    "roberta": Family(layers=r"^(encoder\.layer\.)(\d+)(\..*)$", depth="num_hidden_layers"),
    "xlm-roberta": Family(layers=r"^(encoder\.layer\.)(\d+)(\..*)$", depth="num_hidden_layers"),
    "distilbert": Family(layers=r"^(transformer\.layer\.)(\d+)(\..*)$", depth="n_layers"),
}
"""`model_type` -> how to truncate it."""


def kept_layers(total: int, layers: int | Sequence[int] | None, scheme: str) -> tuple[int, ...]:
    """Which of `total` layers a student keeps, from 0.

    `even`: layer i of n copies `floor((i + 1) total / n) - 1`, so the top layer is kept.

    Raises:
        ConfigError: more layers than there are, none, or a list that is not increasing.

    Example:
        >>> kept_layers(12, 4, "even"), kept_layers(12, 2, "first"), kept_layers(12, 2, "last")
        ((2, 5, 8, 11), (0, 1), (10, 11))
    """
    if layers is None:
        return tuple(range(total))
    if not isinstance(layers, int):
        kept = tuple(layers)
        if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= total:
            raise ConfigError(f"layers: {list(kept)} must be increasing layer numbers from 0 to {total - 1}")
        return kept
    if not 1 <= layers <= total:
        raise ConfigError(f"layers: {layers} cannot be kept of a model with {total}; give 1 to {total}")
    if scheme == "first":
        return tuple(range(layers))
    if scheme == "last":
        return tuple(range(total - layers, total))
    return tuple((i + 1) * total // layers - 1 for i in range(layers))


def remap(state: dict[str, Tensor], kept: Sequence[int], pattern: str) -> dict[str, Tensor]:
    """A backbone's weights with the kept layers renumbered and the others gone; pure."""
    number = {old: new for new, old in enumerate(kept)}
    result = {}
    for name, value in state.items():
        match = re.match(pattern, name)
        if match is None:
            result[name] = value
        elif int(match[2]) in number:
            result[f"{match[1]}{number[int(match[2])]}{match[3]}"] = value
    return result


def build(source: StudentSource, auto_class: str, *, seed: int, **head: Any) -> Any:
    """A student model, in float32.

    Args:
        source: the pretrained checkpoint and the layers to keep.
        auto_class: class with the task's head; the task names it.
        seed: of the fresh head.
        head: `num_labels`, ... for the configuration.

    Returns:
        The model; `config.kdcache_layers` records which layers it kept.

    Raises:
        ModelError: a family that cannot be truncated, or weights that do not fit.
        ConfigError: layers that are not there.
    """
    torch.manual_seed(seed)
    if source.layers is None:
        return load_model(source, auto_class, **head)
    config = load_config(source, **head)
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ModelError(
            f"{source.path} is a {config.model_type!r} model, whose layers kdcache cannot skip; it knows "
            f"{', '.join(sorted(FAMILIES))}. Give a checkpoint of the wanted size and leave out layers"
        )
    kept = kept_layers(getattr(config, family.depth), source.layers, source.scheme)
    backbone = load_model(source, "AutoModel")
    setattr(config, family.depth, len(kept))
    config.kdcache_layers = {"source": source.path, "kept": list(kept)}
    model = getattr(transformers, auto_class).from_config(config, dtype=torch.float32)
    wanted = model.base_model.state_dict()
    given = remap(backbone.state_dict(), kept, family.layers)
    missing = [name for name in wanted if name not in given]
    if missing:
        raise ModelError(f"{resolve(source.path)} lacks {missing[0]}, which the student needs")
    model.base_model.load_state_dict({name: given[name] for name in wanted})
    return model.eval()
