"""A teacher's output head: from the stored hidden vector back to its logits, in chunks.

R rows  V classes  D hidden size
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The last layer of a model: `cap(scale * (W h + b))`, with `cap(x) = soft_cap * tanh(x / soft_cap)` if any.

    Attributes:
        weight_VD: float32 or the model's dtype. V counts true classes only: padding of a vocabulary is cut off.
        bias_V: also holds what a model adds later (mBART's and Marian's `final_logits_bias`); null for none.
        scale: of the logits (Cohere, Granite, T5 with tied embeddings).
        soft_cap: of the logits (Gemma); null for none.
    """

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None
    _lowered: dict[torch.dtype, tuple[Tensor, Tensor | None]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def num_classes(self) -> int:
        """V."""
        return self.weight_VD.shape[0]

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Logits in float32 (float64 if the hidden vectors are), [R, V]."""
        dtype = torch.float64 if hidden_RD.dtype == torch.float64 else torch.float32
        bias = None if self.bias_V is None else self.bias_V.to(dtype)
        logits_RV = functional.linear(hidden_RD.to(dtype), self.weight_VD.to(dtype), bias)
        if self.scale != 1.0:
            logits_RV = logits_RV * self.scale
        if self.soft_cap is not None:
            logits_RV = torch.tanh(logits_RV / self.soft_cap) * self.soft_cap
        return logits_RV

    def logits_in(self, hidden_RD: Tensor, dtype: torch.dtype) -> Tensor:
        """Logits computed and rounded in a dtype, [R, V]; a copy of the weights in it is made once and kept."""
        if dtype == torch.float32:
            return self.logits(hidden_RD.float())
        if dtype not in self._lowered:
            self._lowered[dtype] = self.weight_VD.to(dtype), None if self.bias_V is None else self.bias_V.to(dtype)
        logits_RV = functional.linear(hidden_RD.to(dtype), *self._lowered[dtype])
        if self.scale != 1.0:
            logits_RV *= self.scale
        if self.soft_cap is not None:
            logits_RV = logits_RV.div_(self.soft_cap).tanh_().mul_(self.soft_cap)
        return logits_RV

    def to(self, device: torch.device | str) -> Head:
        """The same head on another device."""
        bias = None if self.bias_V is None else self.bias_V.to(device)
        return Head(weight_VD=self.weight_VD.to(device), bias_V=bias, scale=self.scale, soft_cap=self.soft_cap)
