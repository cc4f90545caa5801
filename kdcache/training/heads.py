"""A model's output head: which module it is, what follows it, and the vectors that enter it. Proven, never assumed.

The store `hidden` keeps what enters the head; logits come back through `losses.head.Head`. Whether a model's last layer
is such a head shows on the first batch: the head's logits must be the model's own.

R rows  V classes  D hidden size
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdcache.core.errors import ModelError
from kdcache.losses.head import Head
from kdcache.tasks.base import Task

TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}
"""What a model runs in -> largest difference between its logits and the head's, relative to the largest logit. A model
in half precision rounds its own logits; the head's are computed in float32."""
LARGE_VOCABULARY = 16_384
"""Classes from which on a head is split off unasked; below, the logits of a batch are small."""
PROOF_ROWS = 512
"""Rows of the first batch that the proof computes again, spread evenly."""
INSTEAD = "store: topk needs no head"
_FACTORS = {"logit_scale": 1, "logits_scaling": -1, "lm_head_multiplier": 1}
"""Settings that multiply (1) or divide (-1) a language model's logits: Cohere; Granite; Falcon-H1."""
_SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Settings that cap them: Gemma 2 and 3; RecurrentGemma; xLSTM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSpec:
    """A model's head.

    Attributes:
        head: how logits come from what enters it; true classes only.
        module: the model's own layer, whose input is captured.
        path: the module's name in the model, for messages.
    """

    head: Head
    module: nn.Linear
    path: str

    @property
    def hidden_size(self) -> int:
        """D."""
        return int(self.head.weight_VD.shape[1])


def split(model: Any, *, num_classes: int) -> HeadSpec:
    """The head of a model: its output embeddings, else the last linear layer of its task head.

    What a model does to the vector before that layer (T5's factor `d_model ** -0.5`, a dense layer, a norm) is part of
    the captured vector; what it does to the logits afterwards (`final_logits_bias`, a scale, a soft cap) is read from
    the model. `prove` shows whether that was all.

    Args:
        model: of transformers.
        num_classes: the true V; further columns are padding of the vocabulary and cut off.

    Raises:
        ModelError: no linear layer gives that many classes.
    """
    embeddings = model.get_output_embeddings()
    is_lm_head = isinstance(embeddings, nn.Linear)
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if is_lm_head:
        path = next((name for name, module in linears.items() if module is embeddings), "the output embeddings")
        module = embeddings
    elif linears:
        path, module = list(linears.items())[-1]
    else:
        raise ModelError(f"{type(model).__name__} has no linear layer that could be its output head; {INSTEAD}")
    if module.out_features < num_classes:
        raise ModelError(
            f"the last layer of {type(model).__name__}, {path}, gives {module.out_features:,} values, but rows have "
            f"{num_classes:,} classes: it is not the output head; {INSTEAD}"
        )
    head = Head(
        weight_VD=module.weight.detach()[:num_classes],
        bias_V=_bias(model, module, num_classes, is_lm_head=is_lm_head),
        scale=_scale(model) if is_lm_head else 1.0,
        soft_cap=_soft_cap(model) if is_lm_head else None,
    )
    return HeadSpec(head=head, module=module, path=path)


def live(model: Any, spec: HeadSpec) -> Head:
    """The same head with the model's own parameters, through which gradients flow.

    Args:
        model: that was split; its weights are whole.
        spec: of it.
    """
    num_classes, module = spec.head.num_classes, spec.module
    bias_V = None if module.bias is None else module.bias[:num_classes]
    added = getattr(model, "final_logits_bias", None)
    if isinstance(added, Tensor) and module is model.get_output_embeddings():
        added_V = added.reshape(-1)[:num_classes].to(module.weight.dtype)
        bias_V = added_V if bias_V is None else bias_V + added_V
    weight_VD = module.weight if len(module.weight) == num_classes else module.weight[:num_classes]
    return Head(weight_VD=weight_VD, bias_V=bias_V, scale=spec.head.scale, soft_cap=spec.head.soft_cap)


def _bias(model: Any, module: nn.Linear, num_classes: int, *, is_lm_head: bool) -> Tensor | None:
    """The layer's bias and the one that BART, mBART and Marian add to its output."""
    parts = [] if module.bias is None else [module.bias.detach()[:num_classes].float()]
    added = getattr(model, "final_logits_bias", None)
    if is_lm_head and isinstance(added, Tensor):
        parts.append(added.detach().reshape(-1)[:num_classes].float())
    return torch.stack(parts).sum(dim=0) if parts else None


def _scale(model: Any) -> float:
    config, scale = model.config.get_text_config(), 1.0
    for name, power in _FACTORS.items():
        value = getattr(config, name, None)
        if isinstance(value, int | float) and value > 0:
            scale *= float(value) ** power
    return scale


def _soft_cap(model: Any) -> float | None:
    config = model.config.get_text_config()
    values = (getattr(config, name, None) for name in _SOFT_CAPS)
    return next((float(value) for value in values if isinstance(value, int | float) and value > 0), None)


@contextmanager
def capture(spec: HeadSpec, *, through: bool = True) -> Iterator[list[Tensor]]:
    """What enters the head during forward passes, one tensor a call; the hook is removed at the end.

    Args:
        spec: the head.
        through: whether it goes on through the head. Without, the head runs over nothing, and the model's logits are
            of no item.

    Example:
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        >>> model = BertForMaskedLM(BertConfig(vocab_size=11, **sizes))
        >>> with capture(split(model, num_classes=11)) as captured:
        ...     _ = model(input_ids=torch.zeros(2, 3, dtype=torch.int64))
        >>> captured[0].shape
        torch.Size([2, 3, 8])
    """
    captured: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden = args[0] if args else next(iter(kwargs.values()))
        captured.append(hidden)
        return (args, kwargs) if through else ((hidden[:0],), {})

    hook = spec.module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield captured
    finally:
        hook.remove()


def rows_of(captured: list[Tensor], *, spec: HeadSpec, task: Task, positions_R2: Tensor) -> Tensor:
    """The captured vectors of a batch's rows, [R, D], by the task's own rule for logits; empties `captured`.

    Raises:
        ModelError: the head ran more or less than once, or its input is not one vector a row.
    """
    calls, found = len(captured), captured[:1]
    captured.clear()
    if calls != 1:
        raise ModelError(f"the output head {spec.path} ran {calls} times in one forward pass, not once; {INSTEAD}")
    try:
        hidden_RD = task.rows(SimpleNamespace(logits=found[0]), positions_R2)
    except AttributeError:
        raise ModelError(f"the rows of {task.name} are not the logits of one output head; {INSTEAD}") from None
    if hidden_RD.shape != (len(positions_R2), spec.hidden_size):
        raise ModelError(
            f"what enters {spec.path} has the shape {list(hidden_RD.shape)}, not one vector of {spec.hidden_size} for "
            f"each of {len(positions_R2)} rows: the model picks its rows after the head; {INSTEAD}"
        )
    return hidden_RD


def prove(spec: HeadSpec, hidden_RD: Tensor, logits_RV: Tensor, *, name: str) -> float:
    """Compare the head's logits with the model's own.

    Args:
        spec: the head; the dtype of its weight is what the model ran in.
        hidden_RD: of a batch, as captured.
        logits_RV: the model's, of the same rows.
        name: of the teacher.

    Returns:
        The largest difference, relative to the largest logit.

    Raises:
        ModelError: they differ.
    """
    chosen = torch.linspace(0, len(hidden_RD) - 1, min(PROOF_ROWS, len(hidden_RD))).long().to(hidden_RD.device)
    own = logits_RV[chosen, : spec.head.num_classes].float()
    size, difference = float(own.abs().max()), float((spec.head.logits(hidden_RD[chosen]) - own).abs().max())
    if not np.isfinite(size):
        raise ModelError(
            f"teacher {name} gives logits that are not finite to classes of its own; "
            f"if its vocabulary is padded, declare the true number of classes"
        )
    dtype = spec.head.weight_VD.dtype
    allowed = TOLERANCE[dtype]
    if not difference <= allowed * size:  # also where it is NaN
        raise ModelError(
            f"teacher {name}: its output head {spec.path} does not give its logits back: the largest difference is "
            f"{difference:.3g} at logits up to {size:.3g}, allowed {allowed:g} of that in "
            f"{str(dtype).removeprefix('torch.')} (1e-4 in float32); the model does more after that layer than "
            f"kdcache knows: {INSTEAD}"
        )
    return difference / size if size else 0.0


def to_arrays(head: Head) -> dict[str, NDArray[np.float32]]:
    """The head as a cache holds it: weight [V, D], scale [1], and bias [V], soft_cap [1] where it has them."""
    arrays = {"weight": head.weight_VD, "scale": torch.tensor([head.scale])}
    if head.bias_V is not None:
        arrays["bias"] = head.bias_V
    if head.soft_cap is not None:
        arrays["soft_cap"] = torch.tensor([head.soft_cap])
    return {name: array.float().cpu().contiguous().numpy() for name, array in arrays.items()}
