"""Fidelity: gradients against the formula, errors in the order that they must have, and the report's words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdcache.cli import main
from kdcache.core.errors import ConfigError, KDCacheError
from kdcache.core.row_format import RowFormat
from kdcache.losses.objective import Objective
from kdcache.student import skip_layers
from kdcache.teacher import advice, examine, fidelity
from kdcache.teacher.advice import Report, Student
from kdcache.teacher.fidelity import Cell, StoreResult
from kdcache.teacher.roundtrip import raw_bytes
from kdcache.teacher.settings import parse_grid
from kdcache.training.run import load_run
from tests.teacher.small import HIDDEN, NUM_CLASSES

GRID = "ce:1:1,ce:4:1,ce:2:tied,mse:1:1"


def _run(run: Path, *settings: str, num_items: int = 50, **options: Any) -> Report:
    file = load_run(run, overrides=[f"dump.{setting}" for setting in settings], out=run.parent / "nowhere")
    return examine.run(
        file,
        num_items=num_items,
        build_student=skip_layers.build,
        teachers=[f"t={run.parent / 'teacher'}"],
        device="cpu",
        **options,
    )


@pytest.fixture(scope="module")
def report(forty: Path) -> Report:
    return _run(forty, "top_k=16", grid=GRID)


def _store(report: Report, label: str) -> StoreResult:
    return next(store for store in report.stores if store.variant.label == label)


@pytest.mark.parametrize(("tau_t", "tau_s"), [(1.0, 1.0), (4.0, 1.0), (2.0, 2.0)])
def test_the_reference_is_the_dense_gradient_by_hand(tau_t: float, tau_s: float) -> None:
    t, s = torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    dense = fidelity.dense_targets(t, torch.full((5,), 7))
    ce = fidelity.gradient(Objective(teacher="t", loss="ce", tau_t=tau_t, tau_s=tau_s), s, dense)
    torch.testing.assert_close(ce, (torch.softmax(s / tau_s, 1) - torch.softmax(t / tau_t, 1)) / tau_s)
    mse = fidelity.gradient(Objective(teacher="t", loss="mse", tau_t=tau_t, tau_s=tau_s), s, dense)
    torch.testing.assert_close(mse, 2 / 7 * (s / tau_s - t / tau_t) / tau_s)


def test_dense_has_no_error(report: Report) -> None:
    dense = _store(report, "dense")
    assert all(cell.kind == "exact" for cell in dense.cells)
    assert dense.worst < 1e-6
    assert min(cell.cosine for cell in dense.cells) == pytest.approx(1)
    assert 2 * NUM_CLASSES < dense.bytes_per_row < 5 * NUM_CLASSES


@pytest.mark.parametrize("codec", ["fast", "compact"])
def test_more_classes_kept_mean_a_smaller_error_and_more_bytes(report: Report, codec: str) -> None:
    found = [_store(report, f"top-{k} {codec}") for k in (8, 16, 32)]
    for configuration in range(len(report.grid)):
        errors = [store.cells[configuration].error for store in found]
        assert errors == sorted(errors, reverse=True)
        assert errors[0] > 1.5 * errors[2] > 0
    assert [s.bytes_per_row for s in found] == sorted(s.bytes_per_row for s in found)


def test_hidden_errors_are_small_everywhere_and_ordered_by_their_bits(report: Report) -> None:
    found = [_store(report, f"hidden {codec}") for codec in ("float16", "bfloat16", "int8")]
    assert found[0].worst < 0.002
    assert found[0].worst < found[1].worst < 0.02
    assert found[2].worst < 0.05
    assert raw_bytes(found[2].variant) < raw_bytes(found[0].variant)
    assert [cell.kind for cell in found[0].cells] == ["exact"] * 4
    assert [cell.kind for cell in found[2].cells] == ["bounded"] * 4


def test_an_error_and_its_cosine_agree(report: Report) -> None:
    for store in report.stores:
        for cell in store.cells:
            assert cell.error >= np.sqrt(max(0.0, 1 - cell.cosine**2)) - 1e-4


def test_the_noise_disagrees_with_the_teacher_as_far_as_it_says(report: Report) -> None:
    assert report.student.name == "noise"
    assert report.student.kl == pytest.approx(fidelity.TARGET_KL, rel=0.5)
    assert 0 < report.student.agreement < 1
    assert (report.num_items, report.num_rows) == (50, 50)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_report_and_another_does_not(forty: Path, report: Report) -> None:
    assert advice.as_json(_run(forty, "top_k=16", grid=GRID)) == advice.as_json(report)
    other = _run(forty, "top_k=16", "fidelity.seed=1", grid=GRID)
    assert other.stores[0].cells != report.stores[0].cells


@pytest.mark.slow
def test_a_student_of_the_models_file_is_measured(forty: Path) -> None:
    half = _run(forty, "top_k=16", grid="ce:1:1", student="half")
    assert (half.student.name, half.student.noise) == ("half", None)
    assert half.student.kl > 0.01
    itself = _run(forty, "top_k=16", grid="ce:1:1", student="same")
    assert itself.student.kl == pytest.approx(0, abs=1e-9)
    assert itself.student.agreement == 1


def test_a_few_classes_are_exact_with_their_bytes(two: Path) -> None:
    found = _run(two, grid=GRID)
    assert [store.variant.label for store in found.stores] == ["dense"]
    assert "dense: exact. All 2 classes of a row are kept, in " in advice.text(found)
    assert found.stores[0].worst < 1e-5


def test_the_report_names_what_the_settings_choose_first(forty: Path) -> None:
    found = _run(forty, "store=hidden", "codec=int8", grid="ce:1:1", num_items=4)
    assert found.stores[0].variant.label == "hidden int8"
    assert found.num_items == 4
    assert len({store.variant.label for store in found.stores}) == len(found.stores)


def test_json_holds_every_cell_and_the_advice(report: Report) -> None:
    tree = json.loads(advice.as_json(report))
    assert set(tree) == {
        "dataset",
        "teacher",
        "weight_digest",
        "num_items",
        "num_rows",
        "num_classes",
        "student",
        "grid",
        "stores",
        "tolerance",
        "notes",
        "schema",
        "recommendation",
    }
    assert tree["schema"] == 1
    assert tree["grid"][2] == {"loss": "ce", "tau_t": 2.0, "tau_s": 2.0, "label": "ce 2/2"}
    for store in tree["stores"]:
        assert len(store["cells"]) == len(tree["grid"])
        assert set(store["cells"][0]) == {"error", "cosine", "kind"}
        assert store["bytes_per_row"] > 0


def _made(*errors: tuple[str, str, float, tuple[float, float]]) -> Report:
    """A report on ce 2/1 and ce 4/4, of (codec, store, bytes, errors)."""
    stores = tuple(
        StoreResult(
            variant=RowFormat.of(
                store=store,
                codec=codec,
                num_classes=50_000,
                hidden_size=HIDDEN if store == "hidden" else 0,
            ),
            bytes_per_row=size,
            cells=tuple(Cell(error=e, cosine=1 - e * e / 2, kind="bounded") for e in pair),
        )
        for codec, store, size, pair in errors
    )
    return Report(
        dataset="d",
        teacher="t",
        weight_digest="0",
        num_items=1,
        num_rows=1,
        num_classes=50_000,
        student=Student(name="noise", noise=1.0, kl=0.5, agreement=0.5),
        grid=parse_grid(["ce:2:1", "ce:4:tied"]),
        stores=stores,
        tolerance=0.02,
    )


def test_advice_to_keep_what_is_good_enough() -> None:
    made = _made(("fast", "topk", 231, (0.016, 0.019)), ("compact", "topk", 174, (0.017, 0.02)))
    assert advice.recommendation(made) == (
        "top-64 fast is within 2 % for everything in your search, in 231 bytes a row: keep it.",
        "The smallest store within 2 % for everything is top-64 compact (store: topk, codec: compact, top_k: 64; "
        "174 bytes a row).",
    )


def test_advice_to_change_the_store_names_where_it_fails_and_the_cheapest_that_does_not() -> None:
    made = _made(
        ("fast", "topk", 231, (0.016, 1.15)),
        ("float16", "hidden", 1152, (0.0005, 0.0006)),
        ("int8", "hidden", 578, (0.008, 0.013)),
    )
    assert advice.recommendation(made) == (
        "top-64 fast (231 bytes a row) is within 2 % for everything in your search but ce 4/4 (115 %).",
        "Use hidden int8 (store: hidden, codec: int8; 578 bytes a row): within 1.3 % for everything.",
    )


def test_advice_where_nothing_is_good_enough_names_the_nearest() -> None:
    made = _made(("fast", "topk", 231, (0.05, 1.15)), ("compact", "topk", 174, (0.06, 1.1)))
    assert advice.recommendation(made) == (
        "top-64 fast (231 bytes a row) is within 2 % for nothing in your search: ce 2/1 (5 %), ce 4/4 (115 %).",
        "Nothing measured is within 2 % for everything; nearest is top-64 compact (store: topk, codec: compact, "
        "top_k: 64; 174 bytes a row).",
    )


def test_what_is_only_approximate_is_marked_in_the_table() -> None:
    made = _made(("fast", "topk", 231, (0.016, 1.15)))
    cells = (made.stores[0].cells[0], replace(made.stores[0].cells[1], kind="approximate"))
    shown = advice.text(replace(made, stores=(replace(made.stores[0], cells=cells),)))
    assert "~1.15" in shown
    assert "~0.016" not in shown


def test_the_command_prints_a_table_and_writes_nothing(forty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(forty.parent.rglob("*"))
    teacher = f"t={forty.parent / 'teacher'}"
    arguments = [
        "dump-teacher",
        str(forty),
        "--teacher",
        teacher,
        "--device",
        "cpu",
        "--fidelity",
        "6",
        "--grid",
        "ce:2:1",
    ]
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "hidden bfloat16" in shown
    assert "ce 2/1" in shown
    assert set(forty.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_items": 0}, ConfigError, r"--fidelity 0 measures nothing; give a number of items, e\.g\. 64"),
        ({"grid": "ce:2:1,kl"}, ConfigError, r"grid has 'kl'; write LOSS:TAU_T:TAU_S"),
        ({"student": "big"}, KDCacheError, r"no student is called 'big'; the models file has half, same"),
    ],
)
def test_bad_input_is_refused_before_a_teacher_is_loaded(
    forty: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _run(forty, **{"num_items": 3, **options})
