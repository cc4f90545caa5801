"""Dumps of each store: what the cache gives back is the teacher's, and every item ran once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from kdcache.cache.reader import Cache
from kdcache.core.errors import KDCacheError, ModelError
from kdcache.core.types import HiddenRows, SparseRows
from kdcache.losses.head import Head
from kdcache.teacher import dump
from kdcache.training.run import load_run
from tests.teacher.small import HIDDEN, NUM_CLASSES

HIDDEN_ERROR = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 1e-2, "int8": 2e-2}


def _dump(run: Path, out: Path, *settings: str, teacher: Path | None = None) -> dump.DumpResult:
    overrides = [f"dump.{setting}" for setting in settings]
    teachers = [f"t={teacher or run.parent / 'teacher'}"]
    return dump.run(load_run(run, overrides=overrides, out=out), teachers=teachers, device="cpu")


@contextmanager
def _items_forward() -> Iterator[list[int]]:
    """Items of each forward pass of any classifier."""
    seen: list[int] = []

    def count(module: torch.nn.Module, _: Any, kwargs: Any, outputs: Any) -> None:
        if isinstance(module, BertForSequenceClassification):
            seen.append(len(kwargs["input_ids"]))

    hook = torch.nn.modules.module.register_module_forward_hook(count, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def _logits(run: Path, cache: Cache) -> NDArray[np.float32]:
    model = AutoModelForSequenceClassification.from_pretrained(run.parent / "teacher").eval()
    found = []
    for item in cache.items(np.arange(cache.plan.num_items)):
        inputs = {name: torch.tensor(np.asarray(v)).long()[None] for name, v in item.inputs.items()}
        with torch.no_grad():
            found.append(model(**inputs).logits[0].numpy())
    return np.stack(found)


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    return torch.log_softmax(torch.from_numpy(logits).double(), dim=-1).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["fast", "compact"])
@pytest.mark.parametrize("compressor", ["lz4", "zstd"])
def test_topk_keeps_the_largest_classes_of_each_row(forty: Path, tmp_path: Path, codec: str, compressor: str) -> None:
    result = _dump(forty, tmp_path, "top_k=8", f"codec={codec}", f"compressor={compressor}")
    assert result.sealed
    assert result.forwards == {"t": 50}
    cache = Cache.open(tmp_path / "cache")
    identity = cache.teacher("t")
    kept = identity.row_format
    assert (kept.store, kept.codec, kept.compressor, kept.top_k) == ("topk", codec, compressor, 8)
    rows = cache.rows("t", np.arange(50))
    assert isinstance(rows, SparseRows)
    exact = _log_softmax(_logits(forty, cache))
    ids = rows.ids
    np.testing.assert_allclose(
        rows.logprobs, np.take_along_axis(exact, ids, 1), atol=0.004 if codec == "fast" else 0.02
    )
    assert [set(row) for row in ids] == [set(row) for row in np.argsort(-exact, axis=1)[:, :8]]


@pytest.mark.slow
@pytest.mark.parametrize("codec", list(HIDDEN_ERROR))
def test_hidden_gives_the_teachers_logits_back_from_one_forward_an_item(
    forty: Path, tmp_path: Path, codec: str
) -> None:
    with _items_forward() as seen:
        result = _dump(forty, tmp_path, "store=hidden", f"codec={codec}")
    assert sum(seen) == 50 + 1  # one item more, beside the dump: the proof of the head
    assert result.forwards == {"t": 50}
    cache = Cache.open(tmp_path / "cache")
    identity = cache.teacher("t")
    kept = identity.row_format
    assert (kept.store, kept.codec, kept.top_k, kept.hidden_size) == ("hidden", codec, 0, HIDDEN)
    rows = cache.rows("t", np.arange(50))
    assert isinstance(rows, HiddenRows)
    head = cache.head("t")
    assert head is not None
    spec = Head(weight_VD=torch.tensor(head["weight"]), bias_V=torch.tensor(head["bias"]))
    found, exact = spec.logits(torch.tensor(rows.hidden)).numpy(), _logits(forty, cache)
    assert np.linalg.norm(found - exact) / np.linalg.norm(exact) < HIDDEN_ERROR[codec]
    labels = [int(item.labels_R[0]) for item in cache.items(np.arange(50))]
    np.testing.assert_allclose(rows.gold, _log_softmax(exact)[np.arange(50), labels], atol=1e-4)
    np.testing.assert_allclose(rows.lse, torch.logsumexp(torch.from_numpy(exact), dim=1), rtol=1e-5)


def test_a_few_classes_are_dense_whatever_codec_was_named(two: Path, tmp_path: Path) -> None:
    _dump(two, tmp_path, "codec=compact")
    cache = Cache.open(tmp_path / "cache")
    assert cache.teacher("t").row_format.codec == "dense"
    rows = cache.rows("t", np.arange(50))
    assert isinstance(rows, SparseRows)
    np.testing.assert_allclose(rows.logprobs, _log_softmax(_logits(two, cache)), atol=1e-5)


def test_top_p_keeps_as_many_classes_as_the_mass_needs(forty: Path, tmp_path: Path) -> None:
    _dump(forty, tmp_path, "top_k=20", "top_p=0.8")
    cache = Cache.open(tmp_path / "cache")
    rows = cache.rows("t", np.arange(50))
    assert isinstance(rows, SparseRows)
    kept = rows.num_kept
    assert kept.min() < kept.max() <= 20
    masses = np.exp(rows.logprobs).sum(axis=1)
    assert (masses[kept < 20] >= 0.79).all()
    falling = -np.sort(-np.exp(_log_softmax(_logits(forty, cache))), axis=1).cumsum(axis=1)
    np.testing.assert_array_equal(kept, np.minimum((falling < 0.8).sum(axis=1) + 1, 20))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [("store=hidden", "codec=int8"), ("top_k=8", "codec=compact")])
def test_what_rows_share_does_not_depend_on_who_writes_first(
    forty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Sequence[str]
) -> None:
    _dump(forty, tmp_path / "one", *settings)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert not _dump(forty, tmp_path / "two", *settings).sealed
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    assert _dump(forty, tmp_path / "two", *settings).sealed
    files = [tmp_path / name / "cache/teachers/t/codec.safetensors" for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()
    one, two = (Cache.open(tmp_path / name / "cache").rows("t", np.arange(50)) for name in ("one", "two"))
    field = "hidden" if isinstance(one, HiddenRows) else "logprobs"
    np.testing.assert_array_equal(getattr(one, field), getattr(two, field))


def test_a_process_that_runs_the_first_batch_for_another_says_so(
    forty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with _items_forward() as seen:
        late = _dump(forty, tmp_path, "store=hidden", "codec=int8").forwards["t"]
    assert sum(seen) == late + 1  # and the proof of the head
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    with _items_forward() as seen:
        rest = _dump(forty, tmp_path, "store=hidden", "codec=int8").forwards["t"]
    assert sum(seen) == rest + 1
    first = Cache.open(tmp_path / "cache").plan.blocks[0].num_items
    assert late + rest - 50 == first  # the first block is small, so its tables come from all of it


def test_a_finished_hidden_dump_loads_no_model_again(forty: Path, tmp_path: Path) -> None:
    _dump(forty, tmp_path, "store=hidden", "codec=int8")
    with _items_forward() as seen:
        again = _dump(forty, tmp_path, "store=hidden", "codec=int8")
    assert (again.sealed, again.forwards, seen) == (True, {"t": 0}, [])


def test_a_crash_before_the_tables_were_there_is_made_good(forty: Path, tmp_path: Path) -> None:
    first = _dump(forty, tmp_path / "a", "store=hidden", "codec=int8")
    broken = tmp_path / "a/cache"
    (broken / "teachers/t/codec.safetensors").unlink()
    for path in [*(broken / "commits/t").iterdir(), *(broken / "manifests").iterdir()]:
        path.unlink()
    assert _dump(forty, tmp_path / "a", "store=hidden", "codec=int8").forwards == first.forwards
    assert Cache.open(broken).rows("t", np.arange(50)).num_rows == 50


def test_another_codec_under_the_same_name_is_refused(forty: Path, tmp_path: Path) -> None:
    _dump(forty, tmp_path, "top_k=8")
    with pytest.raises(KDCacheError, match=r"already has a teacher t whose codec is 'fast', this one's is 'compact'"):
        _dump(forty, tmp_path, "top_k=8", "codec=compact")


@pytest.fixture
def broken(forty: Path, tmp_path: Path) -> Path:
    """A teacher that gives -inf to a class of its own."""
    folder = tmp_path / "broken"
    folder.mkdir()
    for path in (forty.parent / "teacher").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.bias[3] = -torch.inf
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("settings", [("store=hidden",), ("top_k=8",), (f"top_k={NUM_CLASSES}",)])
def test_infinite_logits_of_true_classes_are_refused(
    forty: Path, tmp_path: Path, broken: Path, settings: Sequence[str]
) -> None:
    message = r"logits that are not finite to classes of its own; if its vocabulary is padded, declare the true number"
    with pytest.raises(KDCacheError, match=message):
        _dump(forty, tmp_path / "out", *settings, teacher=broken)


def test_a_model_without_a_head_of_its_own_is_refused_for_hidden(
    forty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = BertForSequenceClassification.forward

    def squashed(self: BertForSequenceClassification, **inputs: Any) -> Any:
        outputs = plain(self, **inputs)
        outputs.logits = torch.tanh(outputs.logits)
        return outputs

    monkeypatch.setattr(BertForSequenceClassification, "forward", squashed)
    with pytest.raises(ModelError, match=r"teacher t: its output head classifier does not give its logits back: .*"):
        _dump(forty, tmp_path, "store=hidden")
    assert not (tmp_path / "cache/teachers/t").exists()
    assert _dump(forty, tmp_path, "top_k=8").sealed
