"""The paper's numbers beside ours, and that the packaged file holds them."""

from __future__ import annotations

import pytest

from kdcache.report.answers import Deciles, NullBand, Reward, Votes
from kdcache.report.published import Ours, against, read_paper


def curve(name: str, by: str, value: float, low: float | None = None, high: float | None = None) -> Deciles:
    null = None
    if low is not None and high is not None:
        null = NullBand(
            low=(low,) * 11, median=((low + high) / 2,) * 11, high=(high,) * 11, source="", noise_sd=(), simulations=1
        )
    return Deciles(
        name=name, by="test" if by == "test" else "validation", values=(value,) * 11, gains=(), cases=(), null=null
    )


def ours(**changes) -> Ours:
    return Ours(**{"figure1": (), "rewards": (), "stable": None, "shares": (None, None), "cases": 2, **changes})


def rows(**changes):
    return {row.quantity: row for row in against(ours(**changes), read_paper()).rows}


def test_the_packaged_numbers_are_those_of_the_paper():
    paper = read_paper()
    assert paper.relative_gain_percent["best over worst"] == {"D5": 1.6, "D9": 4.3, "D10": 9.4}
    assert paper.relative_gain_percent["best over random"] == {"D5": 0.4, "D9": 1.4, "D10": 3.0}
    assert paper.reward == {"loss": -5, "teacher": 11, "tau_s": 1}
    assert (paper.stable_at_least_best, paper.cases) == (0.4, 39)
    assert "arXiv:2401.06356v2" in paper.source


def test_a_gain_is_set_against_the_null_band():
    found = rows(figure1=[curve("best over worst", "test", 2.0, 1.0, 3.0), curve("best over worst", "validation", 0.5)])
    row = found["best over worst, D5, %"]
    assert (row.paper, row.oracle, row.honest) == ("1.6", "2.00", "0.50")
    assert (row.null_low, row.null_median, row.null_high) == (1.0, 2.0, 3.0)
    assert row.verdict == "ours is inside what seed noise alone shows; the paper's is inside it"
    assert found["best over worst, D10, %"].verdict.endswith("the paper's is above it")
    assert found["best over random, D5, %"].verdict == "not computed: no case has it"


def test_without_a_band_it_says_so():
    row = rows(figure1=[curve("best over worst", "test", 2.0)])["best over worst, D5, %"]
    assert row.verdict == "no null band: noise between seeds is unknown, so ours may be noise"


@pytest.mark.parametrize(
    ("plus", "reward_text", "verdict"), [(8, "+7", "the same sign"), (1, "\N{MINUS SIGN}7", "not the same sign")]
)
def test_a_reward_is_set_against_coin_flips(plus, reward_text, verdict):
    reward = Reward(
        choice="teacher",
        default="t_hs",
        alternative="t_ll",
        tuned=Votes(plus=plus, minus=9 - plus, ties=1, p=0.04),
        matched=None,
        trials_default=1.0,
        trials_alternative=1.0,
    )
    row = rows(rewards=[reward])["R, teacher: t_hs to t_ll"]
    assert row.verdict == f"{verdict}, sign test p 0.04"
    assert (row.paper, row.honest) == ("+11", f"{reward_text} of 10")
    assert (row.null_low, row.null_high) == (-5.0, 5.0)  # 2 and 7 of 9


def test_stable_configurations_are_the_same_or_not():
    assert rows(stable="ce t_ll tau_s=1")["stable configuration"].verdict == "the same"
    assert rows(stable="ce t_hs tau_s=tied")["stable configuration"].verdict == "another"
    assert rows()["stable configuration"].verdict.startswith("not computed")
    share = rows(shares=(0.25, 0.5))["cases with stable at least as good as best, %"]
    assert (share.paper, share.oracle, share.honest) == ("40", "25", "50")
    assert share.verdict == "over 2 of our cases, 39 of the paper's"


def test_footnotes_are_numbered_and_all_used():
    published = against(ours(), read_paper())
    used = {number for row in published.rows for number in row.footnotes}
    assert used == set(range(1, len(published.footnotes) + 1))
