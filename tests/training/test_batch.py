"""Teacher rows from a cache to a batch's targets: of one teacher, of hidden vectors, of a mixture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import kdcache
from kdcache.cache.loader import Loader
from kdcache.cache.reader import Cache
from kdcache.core.errors import ConfigError
from kdcache.losses.objective import Objective
from kdcache.losses.targets import HiddenTargets, Mixture, SparseTargets
from kdcache.training.steps import CachedSteps
from tests.cache.conftest import build_toy

CLASSES = 100


@pytest.fixture(scope="module")
def two_teachers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("two") / "cache"
    build_toy(num_rows=2, num_classes=CLASSES).dump(root, teachers=("t_hs", "t_ll"), top_k=8)
    return root


def _loader(root: Path, *teachers: str) -> Loader:
    return Loader(Cache.open(root), split="train", teachers=teachers, batch_size=4, micro_batch_size=2, seed=0)


def test_a_batch_carries_packed_rows_and_has_targets_on_its_device(two_teachers: Path) -> None:
    steps = CachedSteps(loader=_loader(two_teachers, "t_hs"), teachers=("t_hs",), pad_token_id=0)
    batch = next(steps.epoch(0)).batches[0]
    assert batch.targets is None
    assert batch.packed is not None
    sent = batch.to(torch.device("cpu"))
    assert sent.packed is None
    assert isinstance(sent.targets, SparseTargets)
    assert len(sent.targets.lse_R) == len(sent.labels_R)


def test_a_step_without_teachers_has_labels_alone(two_teachers: Path) -> None:
    loader = Loader(
        Cache.open(two_teachers), split="train", teachers=(), batch_size=4, micro_batch_size=2, seed=0, with_rows=False
    )
    sent = next(CachedSteps(loader=loader, teachers=(), pad_token_id=0).epoch(0)).batches[0].to(torch.device("cpu"))
    assert sent.targets is None


def test_a_mixture_reads_both_teachers_of_the_same_items(two_teachers: Path) -> None:
    def targets(*teachers: str) -> list[SparseTargets | HiddenTargets | Mixture | None]:
        loader = _loader(two_teachers, *teachers)
        steps = CachedSteps(loader=loader, teachers=teachers, teacher_weight=0.25, pad_token_id=0)
        return [batch.to(torch.device("cpu")).targets for step in steps.epoch(0) for batch in step.batches]

    objective = Objective(tau_t=2.0, tau_s=1.0)
    for one, two, both in zip(targets("t_hs"), targets("t_ll"), targets("t_hs", "t_ll"), strict=True):
        assert isinstance(one, SparseTargets)
        assert isinstance(two, SparseTargets)
        assert isinstance(both, Mixture)
        student = torch.randn(len(one.lse_R), CLASSES, generator=torch.Generator().manual_seed(0))
        expected = 0.25 * objective.rows(student, one) + 0.75 * objective.rows(student, two)
        torch.testing.assert_close(objective.rows(student, both), expected)


@pytest.mark.parametrize("codec", ["float32", "float16", "bfloat16", "int8"])
def test_hidden_rows_reach_the_loss_through_their_head(codec: str, tmp_path: Path) -> None:
    toy = build_toy(num_rows=2, num_classes=20)
    head = toy.dump_hidden(tmp_path / "cache", codec=codec)
    cache = kdcache.open(tmp_path / "cache", teacher="t_hs")
    for batch in cache.loader(split="train", batch_size=4, seed=0):
        assert isinstance(batch.targets, HiddenTargets)
        logits = batch.targets.head.logits(batch.targets.hidden_RD)
        assert logits.shape == (len(batch.labels), len(head["weight"]))
        gold = torch.log_softmax(logits, 1).gather(1, batch.labels.clamp(min=0)[:, None])[:, 0]
        labelled = batch.labels >= 0
        torch.testing.assert_close(gold[labelled], batch.targets.gold_R[labelled], rtol=0.05, atol=0.1)
        kl = Objective(loss="ce", tau_t=3.0)(logits, batch.targets, batch.labels).kl
        assert abs(float(kl)) < 1e-5
    expected = "exact" if codec in ("float32", "float16") else "bounded"
    assert cache.exactness(Objective(loss="mse", tau_t=8.0)).kind == expected


def test_the_api_mixes_teachers_and_its_dataset_gives_what_its_loader_gives(two_teachers: Path) -> None:
    cache = kdcache.open(two_teachers, teacher="t_hs+t_ll", teacher_weight=0.25)
    assert cache.exactness(Objective(tau_t=2.0, tau_s=1.0)).kind == "bounded"
    dataset = cache.dataset("train")
    whole = next(iter(DataLoader(dataset, batch_size=len(dataset), collate_fn=dataset.collate)))
    assert isinstance(whole.targets, Mixture)
    assert whole.targets.weight == 0.25
    (loaded,) = cache.loader(split="train", batch_size=len(dataset), seed=0)
    assert isinstance(loaded.targets, Mixture)
    for side in ("first", "second"):
        one, two = getattr(whole.targets, side), getattr(loaded.targets, side)
        assert sorted(one.lse_R.tolist()) == sorted(two.lse_R.tolist())
    assert whole.to("cpu").targets.weight == 0.25
    with pytest.raises(ConfigError, match=r"neither a name nor two names"):
        kdcache.open(two_teachers, teacher="a+b+c")
