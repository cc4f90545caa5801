"""Skip-layer initialisation: a student that keeps some layers of a pretrained model, weights copied bit for bit.

Embeddings, norms and the kept layers come from the *pretrained* checkpoint, and so does a language model's head; any
other task head is fresh, from the seed. The fine-tuned teacher is never opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

from kdcache.core.errors import ConfigError, ModelError
from kdcache.training.models import StackLayers, StudentSource, load_config, load_model, resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A run of layers, and how a model family names it.

    Attributes:
        name: `layers`, or of an encoder-decoder `encoder` and `decoder`.
        layers: pattern of the layers' parameters; group 1 is the prefix, 2 the index, 3 the rest. The whole model's
            names begin with `model.` where the backbone's do not.
        depth: the configuration's field for the number of layers.
        first: pattern of what only the first layer has, which the student's first layer gets from there; null for none.
    """

    name: str
    layers: str
    depth: str
    first: str | None = None


ENCODER = (Stack(name="layers", layers=r"^(encoder\.layer\.)(\d+)(\..*)$", depth="num_hidden_layers"),)
DISTILBERT = (Stack(name="layers", layers=r"^(transformer\.layer\.)(\d+)(\..*)$", depth="n_layers"),)
BART = (
    Stack(name="encoder", layers=r"^((?:model\.)?encoder\.layers\.)(\d+)(\..*)$", depth="encoder_layers"),
    Stack(name="decoder", layers=r"^((?:model\.)?decoder\.layers\.)(\d+)(\..*)$", depth="decoder_layers"),
)
_BIAS = r"\.SelfAttention\.relative_attention_bias\."
T5 = (
    Stack(name="encoder", layers=r"^(encoder\.block\.)(\d+)(\..*)$", depth="num_layers", first=_BIAS),
    Stack(name="decoder", layers=r"^(decoder\.block\.)(\d+)(\..*)$", depth="num_decoder_layers", first=_BIAS),
)
LLAMA = (Stack(name="layers", layers=r"^((?:model\.)?layers\.)(\d+)(\..*)$", depth="num_hidden_layers"),)

FAMILIES = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta"), ENCODER),
    "distilbert": DISTILBERT,
    **dict.fromkeys(("bart", "mbart", "marian"), BART),
    "t5": T5,
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma"), LLAMA),
}
"""`model_type` -> its stacks of layers."""
PER_LAYER = ("layer_types", "no_rope_layers")
"""Lists of a configuration with one value a layer (Qwen, SmolLM3)."""


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


def remap(state: dict[str, Tensor], kept: Sequence[int], stack: Stack) -> dict[str, Tensor]:
    """A model's weights with a stack's kept layers renumbered and the others gone; pure."""
    number = {old: new for new, old in enumerate(kept)}
    result = {}
    for name, value in state.items():
        match = re.match(stack.layers, name)
        if match is None:
            result[name] = value
        elif stack.first is not None and re.search(stack.first, name):
            result[f"{match[1]}0{match[3]}"] = value
        elif int(match[2]) in number:
            result[f"{match[1]}{number[int(match[2])]}{match[3]}"] = value
    return result


def build(source: StudentSource, auto_class: str, *, seed: int, **head: Any) -> Any:
    """A student model, in float32.

    A language model's head is part of what was pretrained, and copied too.

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
    stacks = FAMILIES.get(config.model_type)
    if stacks is None:
        raise ModelError(
            f"{source.path} is a {config.model_type!r} model, whose layers kdcache cannot skip; it knows "
            f"{', '.join(sorted(FAMILIES))}. Give a checkpoint of the wanted size and leave out layers"
        )
    chosen = _chosen(source, config, stacks)
    for stack in stacks:
        setattr(config, stack.depth, len(chosen[stack.name]))
    names = {"kept" if name == "layers" else name: list(kept) for name, kept in chosen.items()}
    config.kdcache_layers = {"source": source.path, **names}
    _cut_lists(config, chosen)
    model = getattr(transformers, auto_class).from_config(config, dtype=torch.float32)
    whole = model.get_output_embeddings() is not None
    pretrained = load_model(source, auto_class if whole else "AutoModel")
    student = model if whole else model.base_model
    given = pretrained.state_dict()
    for stack in stacks:
        given = remap(given, chosen[stack.name], stack)
    wanted = student.state_dict()
    missing = [name for name in wanted if name not in given]
    if missing:
        raise ModelError(f"{resolve(source.path)} lacks {missing[0]}, which the student needs")
    student.load_state_dict({name: given[name] for name in wanted})
    if whole:
        model.generation_config = pretrained.generation_config
    return model.eval()


def _chosen(source: StudentSource, config: Any, stacks: Sequence[Stack]) -> dict[str, tuple[int, ...]]:
    """Stack -> the layers it keeps."""
    layers = source.layers
    if isinstance(layers, StackLayers) and len(stacks) == 1:
        raise ConfigError(f"layers of a {config.model_type!r} model are one stack; give a number or a list")
    chosen = {}
    for stack in stacks:
        wanted = getattr(layers, stack.name) if isinstance(layers, StackLayers) else layers
        chosen[stack.name] = kept_layers(getattr(config, stack.depth), wanted, source.scheme)
    return chosen


def _cut_lists(config: Any, chosen: Mapping[str, Sequence[int]]) -> None:
    """Leave the kept layers' values in a configuration's lists with one a layer."""
    for name in PER_LAYER:
        values = getattr(config, name, None)
        if isinstance(values, list) and "layers" in chosen and len(values) > max(chosen["layers"]):
            setattr(config, name, [values[i] for i in chosen["layers"]])
