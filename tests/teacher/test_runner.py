"""The head on rows alone gives the rows of the whole model, whatever the chunks; what cannot be split runs whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MBartForConditionalGeneration,
)

from kdcache.cache.reader import Cache
from kdcache.cache.writer import CacheWriter
from kdcache.core.errors import KDCacheError
from kdcache.core.types import HiddenRows, Rows, SparseRows
from kdcache.teacher import dump, passes, runner
from kdcache.training import heads
from kdcache.training.run import RunFile, load_run
from tests.teacher.small import NUM_CLASSES
from tests.tiny_text import write_text_study

MODELS = {"text": LlamaForCausalLM, "translation": MBartForConditionalGeneration}


@pytest.fixture(scope="module", params=MODELS)
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What is generated, and its study with a trained teacher; nobody writes to it."""
    return request.param, write_text_study(tmp_path_factory.mktemp(request.param), request.param, epochs=1)


def load(folder: Path, out: Path, *settings: str) -> RunFile:
    return load_run(folder / "run.yaml", overrides=[f"dump.{setting}" for setting in settings], out=out)


def dumped(folder: Path, out: Path, *settings: str) -> Rows:
    """All rows of a dump of its own."""
    teacher = f"t={folder / 'out/teacher/selected/t_hs'}"
    dump.run(load(folder, out, *settings), teachers=[teacher], device="cpu")
    cache = Cache.open(out / "cache")
    return cache.rows("t", np.arange(cache.plan.num_items))


def same(one: Rows, two: Rows) -> None:
    """Up to the order of sums in float32; a class whose neighbour is as likely may stand on either side of it."""
    np.testing.assert_array_equal(one.row_ptr, two.row_ptr)
    np.testing.assert_allclose(one.lse, two.lse, atol=2e-3)
    np.testing.assert_allclose(one.gold, two.gold, atol=4e-3)
    if isinstance(one, HiddenRows) and isinstance(two, HiddenRows):
        np.testing.assert_allclose(one.hidden, two.hidden, atol=2e-3)
    if isinstance(one, SparseRows) and isinstance(two, SparseRows):
        np.testing.assert_allclose(one.logprobs, two.logprobs, atol=4e-3)
        assert (one.ids == two.ids).mean() > 0.99


@pytest.fixture
def widths(study: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Tokens that each forward pass took through the model's own head."""
    seen: list[int] = []

    def count(module: torch.nn.Module, _: Any, outputs: Any) -> None:
        if isinstance(module, MODELS[study[0]]):
            seen.append(outputs.logits[..., 0].numel())

    hook = torch.nn.modules.module.register_module_forward_hook(count)
    yield seen
    hook.remove()


@pytest.mark.parametrize("settings", [("top_k=8",), ("top_k=8", "codec=compact"), ("store=hidden", "top_k=null")])
def test_the_head_on_rows_alone_gives_the_rows_of_the_whole_model(
    study: tuple[str, Path],
    tmp_path: Path,
    widths: list[int],
    monkeypatch: pytest.MonkeyPatch,
    settings: tuple[str, ...],
) -> None:
    _, folder = study
    whole = dumped(folder, tmp_path / "whole", *settings)
    if "store=hidden" not in settings:
        assert min(widths) > 0  # a small vocabulary: the model as it is
        assert len(widths) > 3
    widths.clear()
    monkeypatch.setattr(heads, "LARGE_VOCABULARY", 1)
    split = dumped(folder, tmp_path / "split", *settings)
    assert widths[0] > 0  # one item, for the proof
    assert set(widths[1:]) == {0}
    same(split, whole)
    monkeypatch.setitem(runner.CHUNK_BYTES, "cpu", 4 * 60 * 7)  # some seven rows at a time
    same(dumped(folder, tmp_path / "chunks", *settings, "batch_tokens=40"), split)


def test_a_head_that_does_not_give_the_logits_back_is_not_split_off(
    study: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, folder = study
    whole = dumped(folder, tmp_path / "whole", "top_k=8")
    monkeypatch.setattr(heads, "LARGE_VOCABULARY", 1)
    plain = MODELS[kind].forward

    def bent(self: Any, **inputs: Any) -> Any:
        outputs = plain(self, **inputs)
        outputs.logits = outputs.logits + 5 * torch.tanh(outputs.logits)
        return outputs

    monkeypatch.setattr(MODELS[kind], "forward", bent)
    found = dumped(folder, tmp_path / "bent", "top_k=8")
    assert isinstance(found, SparseRows)
    assert isinstance(whole, SparseRows)
    assert np.abs(found.lse - whole.lse).max() > 0.1  # the model's own logits, bent as they are
    log = (tmp_path / "bent/dump/log.jsonl").read_text()
    assert '"event": "whole"' in log
    assert "does not give its logits back" in log
    with pytest.raises(KDCacheError, match="does not give its logits back"):
        dumped(folder, tmp_path / "hidden", "store=hidden", "top_k=null")


@pytest.mark.slow
@pytest.mark.parametrize("settings", [("store=hidden", "codec=int8"), ("top_k=8", "codec=compact")])
def test_tables_do_not_depend_on_the_forward_pass(
    forty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]
) -> None:
    monkeypatch.setattr(passes, "TABLE_TOKENS", 40)
    tables = []
    for name, batches in (("one", ()), ("two", ("batch_size=3",)), ("three", ("batch_tokens=12",))):
        file = load_run(forty, overrides=[f"dump.{s}" for s in (*settings, *batches)], out=tmp_path / name)
        result = dump.run(file, teachers=[f"t={forty.parent / 'teacher'}"], device="cpu")
        assert result.forwards == {"t": 50}
        tables.append(Cache.open(tmp_path / name / "cache"))
    first, *others = (cache.shared("t") for cache in tables)
    for other in others:
        for name in first:
            np.testing.assert_allclose(first[name], other[name], rtol=1e-5, atol=1e-6)


def test_rows_that_are_not_finite_are_named_by_what_is_wrong(forty: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for path in (forty.parent / "teacher").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.bert.pooler.dense.bias.fill_(torch.nan)
    model.save_pretrained(folder)
    for settings in (("dump.store=hidden",), ("dump.top_k=8",), (f"dump.top_k={NUM_CLASSES}",)):
        file = load_run(forty, overrides=settings, out=tmp_path / settings[0])
        with pytest.raises(KDCacheError, match="not finite"):
            dump.run(file, teachers=[f"t={folder}"], device="cpu")


def test_a_classifier_that_picks_its_rows_after_the_head_is_refused_for_hidden_alone(
    forty: Path, tmp_path: Path
) -> None:
    """As Llama's does: its head runs over all tokens, and the last of each text is read from the logits."""
    folder = tmp_path / "llama"
    folder.mkdir()
    for path in (forty.parent / "teacher").iterdir():
        if path.name.startswith(("tokenizer", "special")):
            (folder / path.name).write_bytes(path.read_bytes())
    labels = {i: f"c{i}" for i in range(NUM_CLASSES)}
    LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=34,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            pad_token_id=0,
            num_labels=NUM_CLASSES,
            id2label=labels,
            label2id={label: i for i, label in labels.items()},
        )
    ).save_pretrained(folder)
    for settings, out in ((("dump.top_k=8",), "topk"), (("dump.store=hidden",), "hidden")):
        file = load_run(forty, overrides=settings, out=tmp_path / out)
        if out == "topk":
            assert dump.run(file, teachers=[f"t={folder}"], device="cpu").sealed
            continue
        with pytest.raises(KDCacheError, match="the model picks its rows after the head; store: topk needs no head"):
            dump.run(file, teachers=[f"t={folder}"], device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("writers", [1, 3])
def test_a_thread_that_fails_ends_the_dump_at_once_and_what_was_written_stays(
    forty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writers: int
) -> None:
    monkeypatch.setitem(passes.WRITERS, "cpu", writers)
    written, ran = [], []
    plain, forward = CacheWriter.write_rows, runner.Runner._body_or_whole

    def fail_later(self: CacheWriter, name: str, block: Any, rows: Rows, **options: Any) -> None:
        if len(written) >= 2:
            raise OSError(28, "No space left on device", "shard")
        written.append(block.name)
        plain(self, name, block, rows, **options)

    def count(self: runner.Runner, batch: Any) -> Any:
        ran.append(1)
        time.sleep(0.05)  # so that the threads have their turn
        return forward(self, batch)

    monkeypatch.setattr(CacheWriter, "write_rows", fail_later)
    monkeypatch.setattr(runner.Runner, "_body_or_whole", count)
    file = load_run(forty, overrides=["dump.top_k=8", "dump.block_tokens=30"], out=tmp_path)
    with pytest.raises(OSError, match="No space left"):
        dump.run(file, teachers=[f"t={forty.parent / 'teacher'}"], device="cpu")
    assert len(ran) <= 2 + 2 * writers + 2
    monkeypatch.undo()
    assert dump.run(file, teachers=[f"t={forty.parent / 'teacher'}"], device="cpu").sealed
    cache = Cache.open(tmp_path / "cache")
    assert len(cache.plan.blocks) > 10
    assert cache.rows("t", np.arange(50)).num_rows == 50
