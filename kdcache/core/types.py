"""The types that flow between folders: frozen, slotted, keyword-only, numpy only.

Shape suffixes: I items  R rows  K kept (padded)  D hidden size  N atoms  S statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

IGNORE = -100
"""The label of a row that has none (torch's `ignore_index`)."""

NUM_ATOMS = 5
"""Atoms of the tail curve that a sparse row keeps: 20 bytes (docs/losses.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One record of a dataset, before any tokenizer.

    Attributes:
        uid: unique within the dataset and stable across runs.
        fields: column name of the *task* (`text`, `text_pair`, `label`, ...) -> value.
    """

    uid: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What a model is fed, and which rows (categorical distributions) it answers with.

    Attributes:
        uid: the example's uid (tasks that cut one example into several items add a suffix).
        inputs: model argument -> int32 array, one value a token; `input_ids` is always there. Unpadded. Arguments that
            begin with `decoder_` are of the decoder's tokens, `decoder_input_ids`.
        positions_R: int32, where row r is read: a token; 0 for one row per example; for the two rows of a span 0 is the
            start, 1 the end. What it means is the task's own.
        labels_R: int32, the gold class of row r, or `IGNORE`.
        classes_R: int32, the number of classes of row r.
        meta: small JSON values that scoring needs (language, answers, ...).
    """

    uid: str
    inputs: Mapping[str, NDArray[np.int32]]
    positions_R: NDArray[np.int32]
    labels_R: NDArray[np.int32]
    classes_R: NDArray[np.int32]
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """Length of `input_ids`."""
        return len(self.inputs["input_ids"])

    @property
    def num_target_tokens(self) -> int:
        """Length of `decoder_input_ids`; 0 of a model without a decoder of its own."""
        return len(self.inputs.get("decoder_input_ids", ()))

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.positions_R)


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseRows:
    """Teacher rows of one or many items: what a dump gives to a cache's writer, and what a block decodes to.

    Ragged between items, padded within a row: row r of item i is `row_ptr[i] + r`, and its kept classes come first,
    most probable first (a dense row: all classes in class order).

    Attributes:
        row_ptr: int64 [I + 1].
        ids: integers [R, K], class of each entry, 0 where nothing is kept; int64 from a cache. Narrow types, as the
            codec stores, save a writer the conversion.
        logprobs: float32 or float16 [R, K], teacher log-probability at temperature 1, nats, -inf where nothing is kept;
            float32 from a cache.
        num_kept: integers [R], classes kept of each row, 1 to K.
        num_classes: int32 [R], V of each row.
        lse: float32 [R], logsumexp of the teacher's logits; logit = logprob + lse.
        atoms: float32 [R, N, 2], (position, log weight) of the tail curve; log weight -inf is an unused atom.
            N = 0 in a dense block.
        moments: float32 [R, 2], mean and central variance of `logit - lse` over the tail; zeros for an empty tail.
        gold: float32 [R], log-probability of the gold class, NaN where the row has no label.
    """

    row_ptr: NDArray[np.int64]
    ids: NDArray[np.integer[Any]]
    logprobs: NDArray[np.floating[Any]]
    num_kept: NDArray[np.integer[Any]]
    num_classes: NDArray[np.int32]
    lse: NDArray[np.float32]
    atoms: NDArray[np.float32]
    moments: NDArray[np.float32]
    gold: NDArray[np.float32]

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which places of `ids` and `logprobs` hold an entry, bool [R, K]."""
        found: NDArray[np.bool_] = np.arange(self.ids.shape[1]) < self.num_kept[:, None]
        return found

    @property
    def num_items(self) -> int:
        """Number of items."""
        return len(self.row_ptr) - 1

    @property
    def num_rows(self) -> int:
        """Number of rows over all items."""
        return len(self.num_classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenRows:
    """Teacher rows of the store `hidden`: what entered the teacher's output head, one vector a row.

    Attributes:
        row_ptr: int64 [I + 1].
        hidden: float32, float16, or uint16 for the bits of bfloat16 [R, D], the head's input; float32 from a cache.
        num_classes: int32 [R], V of each row.
        lse: float32 [R], logsumexp of the teacher's own logits: what the alignment alarm needs beside one dot product.
        gold: float32 [R], log-probability of the gold class, NaN where the row has no label.
    """

    row_ptr: NDArray[np.int64]
    hidden: NDArray[Any]
    num_classes: NDArray[np.int32]
    lse: NDArray[np.float32]
    gold: NDArray[np.float32]

    @property
    def vectors(self) -> NDArray[np.floating[Any]]:
        """`hidden` as numbers: float32 or float16 as they are, bits of bfloat16 as float32."""
        if self.hidden.dtype == np.uint16:
            return (self.hidden.astype(np.uint32) << 16).view(np.float32)
        found: NDArray[np.floating[Any]] = self.hidden
        return found

    @property
    def num_items(self) -> int:
        """Number of items."""
        return len(self.row_ptr) - 1

    @property
    def num_rows(self) -> int:
        """Number of rows over all items."""
        return len(self.num_classes)


Rows = SparseRows | HiddenRows
"""What a teacher's block decodes to; its store says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRows:
    """Rows as a block stores them: decompressed and gathered, nothing expanded. What a loader hands to a device.

    Attributes:
        row_ptr: int64 [I + 1].
        store: `topk` or `hidden`.
        codec: `dense`, `fast`, `compact`; of hidden rows `float32`, `float16`, `bfloat16`, `int8`.
        arrays: name -> array [R, ...], as docs/format.md lists them for store and codec.
        shared: what all rows of the teacher share (`id_table` of compact; `mean`, `rotation_seed` of int8); the same
            object for every batch of one open cache.
    """

    row_ptr: NDArray[np.int64]
    store: str
    codec: str
    arrays: Mapping[str, NDArray[Any]]
    shared: Mapping[str, NDArray[Any]]

    @property
    def num_rows(self) -> int:
        """Number of rows over all items."""
        return int(self.row_ptr[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One number with what is needed to read it.

    Attributes:
        name: `f1_macro`, `accuracy`, `nll`, ...; of one language of several `f1_macro@de`, their mean `f1_macro@mean`.
        value: in the metric's own unit (fractions, nats), never a percentage.
        higher_is_better: the direction.
        signature: how it was computed, e.g. `f1:binary(positive=1)|n=408|v1`.
    """

    name: str
    value: float
    higher_is_better: bool
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores of one split and the additive statistics they come from.

    Attributes:
        split: `validation` or `test`.
        uids: the examples scored, in order [I].
        scores: metric name -> Score; the first is the metric the run is selected by.
        statistics: statistic name -> float64 [I, S]; metric `m` of `metrics.METRICS` has the value
            `m.finish(statistics[m.statistic].sum(0))`.
        languages: of the examples [I], in the order of `uids`; empty where one of them has none.
    """

    split: str
    uids: tuple[str, ...]
    scores: Mapping[str, Score]
    statistics: Mapping[str, NDArray[np.float64]]
    languages: tuple[str, ...] = ()

    @property
    def primary(self) -> Score:
        """The score that selects checkpoints."""
        return next(iter(self.scores.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """What a task needs to know of a dataset.

    Attributes:
        labels: class names in class order; empty where the task has no fixed classes.
        max_length: tokens an item may have; longer ones are truncated, with a count.
        metric: `f1` or another name of `metrics.METRICS`; selects checkpoints.
        overlap: tokens of the context that neighbouring windows share; null is the task's default. Null for tasks
            without windows, and so are the next three.
        longest_answer: tokens of an answer.
        empty_windows: `keep` or `drop` windows without the answer from training.
        normalize: how answers are compared, `squad` or `mlqa`.
        source_language: code of the source's language where a tokenizer has codes, e.g. `de_DE`; null for tasks that do
            not translate, and so are the next five.
        target_language: of the target's.
        source_prefix: text before every source, e.g. T5's `translate German to English: `.
        beams: of the beam search behind a reported score.
        selection_beams: of the search behind scores that select checkpoints; 1 is greedy.
        length_penalty: exponent of the length that a beam's log-probability is divided by.
        too_long: `drop` or `refuse` examples over `max_length`, where a cut would change what is learned.
        packing: `packed` joins texts to items of `max_length` tokens, `padded` gives each text its own.
    """

    labels: tuple[str, ...]
    max_length: int
    metric: str
    overlap: int | None = None
    longest_answer: int | None = None
    empty_windows: Literal["keep", "drop"] | None = None
    normalize: Literal["squad", "mlqa"] | None = None
    source_language: str | None = None
    target_language: str | None = None
    source_prefix: str | None = None
    beams: int | None = None
    selection_beams: int | None = None
    length_penalty: float | None = None
    too_long: Literal["drop", "refuse"] | None = None
    packing: Literal["packed", "padded"] | None = None
