"""Cells of the tables over all cases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdcache.report.evidence import Calibration, Fidelity
from kdcache.report.findings import Excluded, Missing, TwoRuns
from kdcache.report.tables_across import (
    across_table,
    calibration_table,
    cases_table,
    deciles_table,
    excluded_table,
    factorial_table,
    fidelity_table,
    missing_table,
    paired_table,
    published_table,
    regret_table,
    rewards_table,
    stable_table,
    tables,
    two_runs_table,
)
from kdcache.report.words import range_text, signed
from tests.report.studies import changed, study


@pytest.fixture(scope="module")
def found():
    return study(8, published=True).findings


def cells(table, row=0):
    return dict(zip(table.columns, table.rows[row], strict=True))


def test_a_case_has_its_pick_its_references_and_its_noise(found):
    case = found.cases[0]
    told = cells(cases_table(found.cases))
    assert told["case"] == "d00, s0"
    assert told["validation picks"] == case.candidates[case.best].label
    assert told["hard"] == f"{case.hard:.4f}"
    assert told["seed sd, %"] == f"{case.noise_sd:.2f}"
    bare = replace(case, lazy=None, noise_sd=None, gain_over_hard=None)
    assert [cells(cases_table([bare]))[name] for name in ("lazy", "seed sd, %", "over hard labels, %")] == ["–"] * 3


def test_deciles_stand_beside_noise(found):
    curve = found.figure1[0]
    told = cells(deciles_table(found.figure1))
    assert (told["curve"], told["picked by"], told["D5"]) == ("best over worst", "test", signed(curve.values[5]))
    assert told["noise, D10"] == range_text(curve.null.low[10], curve.null.high[10])
    assert cells(deciles_table([replace(curve, null=None)]))["noise, D5"] == "–"


def test_rewards_show_votes_and_the_effort_on_either_side(found):
    loss = found.rewards[0]
    told = cells(rewards_table(found.rewards))
    assert (told["choice"], told["R"], told["won"], told["lost"]) == ("loss", "−8", "0", "8")
    assert told["trainings a side"] == f"{loss.trials_default:.3g} : {loss.trials_alternative:.3g}"
    even = replace(loss, matched=None, tuned=replace(loss.tuned, plus=4, minus=4, p=None))
    told = cells(rewards_table([even]))
    assert (told["R"], told["R at equal tau"], told["sign test p"]) == ("0", "–", "–")


def test_the_stable_configuration_is_told_under_each_rule(found):
    table = stable_table(found.stable)
    assert [row[:2] for row in table.rows] == [
        ("in sample", "per case"),
        ("in sample", "one: 4"),
        ("leave one dataset out", "per case"),
        ("leave one dataset out", "one for all"),
    ]
    mixed = replace(found.stable[0], cells={"ce t_ll tau_s=1": 6, "ce t_hs tau_s=1": 2})
    assert cells(stable_table([mixed]))["configuration"] == "ce t_ll tau_s=1 and 1 more"


def test_regret_is_cut_with_a_pointer_to_its_file(found):
    table = regret_table(found, most=2)
    assert [row[0] for row in table.rows] == [row.label for row in found.regret[:2]]
    assert table.note == f"{len(found.regret) - 2} more rows are in regret.csv."
    assert cells(table)["cases"] == "8 of 8"
    assert regret_table(found, most=999).note == ""


def test_only_declared_comparisons_are_listed_and_the_rest_counted(found):
    declared = [c for c in found.paired if c.holm_p is not None]
    table = paired_table(found.paired, most=3)
    told = cells(table)
    assert told["case"] == declared[0].case
    assert told["Holm p"] == f"{declared[0].holm_p:.2g}"
    assert told["difference, points"] == signed(100 * declared[0].difference)
    assert table.note == f"{len(found.paired) - 3} more comparisons are in pairs.csv."
    small = replace(declared[0], p=0.0001)
    assert cells(paired_table([small]))["p"] == "< 0.001"


def test_two_runs_are_told_line_by_line(found):
    comparison = replace(found.paired[0], probability=None, detectable=None, gain=None)
    two = TwoRuns(a="x", b="y", comparison=comparison, sentence="", limits=())
    told = dict(two_runs_table(two).rows)
    assert (told["a"], told["b"], told["P(improvement)"], told["detectable"]) == ("x", "y", "–", "–")
    assert told["how"] == comparison.method
    assert "Holm p" not in told
    assert "gain over a, %" not in told
    assert "gain over a, %" in dict(two_runs_table(replace(two, comparison=replace(comparison, gain=1.0))).rows)


def test_comparisons_over_cases_name_what_is_called_equal(found):
    table = across_table(found.across)
    assert cells(table)["comparison"] == "best by validation over hard labels"
    assert table.note.startswith("Equal: gains within 0.5 %.")
    bare = replace(found.across[0], low=None, high=None, better=None)
    assert cells(across_table([bare]))["95 % interval"] == cells(across_table([bare]))["P(better)"] == "–"


def test_factorial_effects_have_their_interval(found):
    effect = found.factorial[0]
    assert cells(factorial_table(found.factorial))["mean, %"] == signed(effect.mean)
    assert cells(factorial_table([replace(effect, low=None, high=None)]))["95 % interval"] == "–"


def test_calibration_and_fidelity_of_students():
    student = Calibration(
        kind="student", case="d, s", label="ce", score=0.8, nll=0.5, brier=None, ece=None, temperature=1.25
    )
    told = cells(calibration_table([student, replace(student, kind="teacher")]))
    assert (told["NLL"], told["Brier"], told["temperature"]) == ("0.5000", "–", "1.25")
    assert calibration_table([replace(student, nll=None, temperature=None)]) is None
    fidelity = Fidelity(case="d, s", label="ce", agreement=0.915, kl=None)
    assert cells(fidelity_table([fidelity])) == {
        "case": "d, s", "configuration": "ce", "agreement": "91.5 %", "KL, nats": "–",
    }  # fmt: skip
    assert cells(fidelity_table([replace(fidelity, kl=0.25)]))["KL, nats"] == "0.2500"


def test_the_papers_numbers_have_their_footnotes(found):
    told = cells(published_table(found.published))
    assert (told["quantity"], told["paper"], told["notes"]) == ("best over worst, D5, %", "1.6", "1, 2")
    assert told["ours, oracle"] == found.published.rows[0].oracle


def test_missing_and_excluded_are_listed():
    lacking = Missing(case="d, s", wanted_by="lazy", configurations=("a", "b"), seeds=(0, 1))
    one = changed(study(1), missing=(lacking,), excluded=(Excluded(folder="f", reason="crashed"),)).findings
    assert missing_table(one).rows == (("d, s", "lazy", "a; b", "0, 1"),)
    assert excluded_table(one).rows == (("f", "crashed"),)
    nothing = changed(study(1), missing=()).findings
    assert missing_table(nothing) is None


def test_tables_without_rows_are_left_out(found):
    assert len(tables(found)) == 6
    bare = replace(found, figure1=(), figure2=(), rewards=(), stable=(), regret=(), across=(), factorial=())
    assert tables(bare) == ()
