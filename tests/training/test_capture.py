"""A whole step, from the buffer that arrived to the updated weights, can be captured in a CUDA graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdcache.losses import blocks
from kdcache.losses.gpu import products
from kdcache.training.engine import without_cache
from kdcache.training.shapes import grid_of
from tests.training import cases
from tests.training.cases import HARD, KD, Lengths
from tests.training.recorders import Padded, Watching, graphs, train

pytestmark = pytest.mark.usefixtures("_plain")

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "hard": ("none", {}),
    "sparse": ("fast", {}),
    "compact, accumulated": ("compact", {"micro_batch_size": 2}),
    "hidden": ("hidden", {}),
    "sparse, bfloat16": ("fast", {"precision": "bfloat16"}),
    "sparse, fused": ("fast", {"fused": "always"}),
    "hidden, fused, bfloat16": ("hidden", {"fused": "always", "precision": "bfloat16"}),
}
QA = ("hard", "sparse", "compact, accumulated", "sparse, bfloat16")
"""A teacher's windows have no output head, and a student's two outputs a token are not one either."""


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "FREE_TO_LOOK", frozenset())
    monkeypatch.setattr(products, "_mixed", lambda device, dtype: False)  # tried in the eager steps before a capture


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "kind"), [(family, kind) for family in cases.FAMILIES for kind in (QA if family == "xlm-r" else KINDS)]
)
def test_a_step_waits_for_nothing_and_takes_nothing_from_the_host(family: str, kind: str, tmp_path: Path):
    """With dropout: a capture that ran the same operations gives the losses of eager steps."""
    store, settings = KINDS[kind]
    case, again, recorder = cases.build(family, count=40, dropout=0.1), cases.build(family, dropout=0.1), Watching()
    objective, grid = HARD if store == "none" else KD, grid_of(case.model)
    steps = case.steps(tmp_path, store, micro_batch_size=settings.get("micro_batch_size"))
    got = train(case, steps, objective, graphs(recorder, always=True), **settings)
    assert got.record["graphs"] == recorder.recorded - 1 > 0
    assert recorder.replayed > recorder.recorded
    wanted = train(again, steps, objective, lambda *given: Padded(*given[:3], grid), **settings)
    assert torch.equal(got.losses, wanted.losses)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_watch_sees_what_a_model_does(family: str, tmp_path: Path):
    """Else the test above could not fail."""
    case = cases.build(family, count=40)
    steps = case.steps(tmp_path, "none")
    case.model.register_forward_hook(lambda module, given, outputs: outputs if outputs.logits.sum() > -1e9 else None)
    with pytest.raises(AssertionError, match=r"waits for the device"):
        train(case, steps, HARD, graphs(Watching(), always=True))


def test_the_watch_sees_what_the_optimizer_does(monkeypatch: pytest.MonkeyPatch):
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *given: clip(*given).item())
    with pytest.raises(AssertionError, match=r"waits for the device"):
        train(cases.build("bert"), Lengths(lengths=(9,) * 9), HARD, graphs(Watching(), always=True), epochs=1)


@pytest.mark.parametrize("family", cases.FAMILIES)
def test_a_decoder_collects_no_keys_and_values_in_training(family: str):
    case = cases.build(family)
    more = without_cache(case.model)
    assert more == ({"use_cache": False} if family in ("llama", "qwen2", "mbart") else {})
    inputs = {"input_ids": torch.tensor([[5, 6, 7]])}
    if family == "mbart":
        inputs["decoder_input_ids"] = torch.tensor([[3, 5]])
    assert case.model(**inputs, **more).get("past_key_values") is None
