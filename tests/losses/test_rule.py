"""What a store gives a configuration: exact, bounded or approximate."""

from __future__ import annotations

import pytest

from kdcache.core.configuration import Configuration
from kdcache.core.errors import IncompatibleTargets
from kdcache.core.row_format import RowFormat
from kdcache.losses import rule
from kdcache.losses.rule import Verdict


@pytest.mark.parametrize(
    ("settings", "kind", "tail"),
    [
        ({"tau_t": 4, "tau_s": 1}, "bounded", "uniform"),
        ({"tau_t": 1}, "bounded", "uniform"),
        ({"tau_t": 2}, "bounded", "bucket"),
        ({"tau_t": 2.01}, "approximate", "bucket"),
        ({"tau_t": 4}, "approximate", "bucket"),
        ({"tau_t": 1, "tau_s": 2}, "approximate", "bucket"),
        ({"tau_t": 0.25, "tau_s": 1}, "approximate", "uniform"),
        ({"loss": "mse"}, "approximate", "uniform"),
        ({"loss": "reverse_kl", "tau_t": 1}, "approximate", "bucket"),
        ({"loss": "jsd", "tau_t": 1}, "approximate", "bucket"),
        ({"alpha": 0, "teacher": None}, "exact", "uniform"),
    ],
)
def test_top_k_rows(settings: dict[str, object], kind: str, tail: str) -> None:
    configuration = Configuration(**settings)  # type: ignore[arg-type]
    verdict = rule.judge(configuration, RowFormat.of(top_k=64, num_classes=50_000))
    assert (verdict.kind, verdict.tail) == (kind, tail)
    assert rule.judge(configuration, RowFormat.of(top_k=64, num_classes=64)).kind == "exact"


@pytest.mark.parametrize(
    ("codec", "kind"), [("float32", "exact"), ("float16", "exact"), ("bfloat16", "bounded"), ("int8", "bounded")]
)
@pytest.mark.parametrize("loss", ["ce", "mse", "reverse_kl", "jsd"])
def test_hidden_rows_give_every_loss(codec: str, kind: str, loss: str) -> None:
    configuration = Configuration(loss=loss, tau_t=8)  # type: ignore[arg-type]
    verdict = rule.judge(configuration, RowFormat.of(store="hidden", codec=codec, num_classes=50_000, hidden_size=8))
    assert verdict.kind == kind
    assert verdict.note == ("" if kind == "exact" else f"hidden vectors in {codec}")


def test_the_worse_teacher_of_a_mixture_decides() -> None:
    configuration = Configuration(teacher="a+b", tau_t=2)
    sparse = rule.judge(configuration, RowFormat.of(top_k=64, num_classes=50_000))
    hidden = rule.judge(configuration, RowFormat.of(store="hidden", codec="float16", num_classes=50_000, hidden_size=8))
    assert rule.worst(hidden, sparse) == sparse
    assert rule.worst(sparse, sparse).note == sparse.note
    assert rule.worst() == Verdict(kind="exact")


def test_an_approximate_loss_is_refused_with_the_fix_named() -> None:
    configuration = Configuration(loss="reverse_kl")
    verdict = rule.judge(configuration, RowFormat.of(top_k=8, num_classes=50_000))
    message = (
        r"reverse_kl t_hs tau 1/1 cannot be computed from cache c: .* takes the tail as one class\. "
        r"Dump with store: hidden .* or set allow_approximate: true"
    )
    with pytest.raises(IncompatibleTargets, match=message):
        rule.require(configuration, verdict, allow_approximate=False, cache="c")
    allowed = rule.require(configuration, verdict, allow_approximate=True, cache="c")
    assert str(allowed) == "approximate: reverse_kl over top 8 of 50,000 classes takes the tail as one class"
