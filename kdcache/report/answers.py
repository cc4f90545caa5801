"""The paper's results as plain data: decile curves, cases, rewards, stable configuration, regret. Nothing is computed.

Words used below: a *case* is (dataset, student, way of training), named `dataset, student`. A *cell* is a configuration
without its temperature (loss, teacher, tau_s); a *candidate* is what a search chooses among: a tuned cell, or the best
cell at an alpha under 1. *By test* is an oracle that nobody can follow, *by validation* is what a user can do. Gains
are in per cent, `100 (score / baseline - 1)`, positive where the score is better, whatever the metric's direction.
Scores are in the metric's own unit. None stands for what cannot be computed; `Findings.unavailable` says why, in
sentences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from kdcache.core.configuration import Configuration

Pick = Literal["test", "validation"]

QUANTILES: Final = "linear"
"""NumPy's name of the quantile method of every decile and percentile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NullBand:
    """What pure seed noise would show in place of a decile curve, were all configurations equally good.

    Attributes:
        low, median, high: 2.5 %, 50 % and 97.5 % of the simulated D0 ... D10, per cent [11].
        source: where the noise comes from, in words, e.g. `replicated seeds` or `--noise-sd 0.4`.
        noise_sd: standard deviation between seeds in per cent of the score, one a case.
        simulations: how many.
    """

    low: tuple[float, ...]
    median: tuple[float, ...]
    high: tuple[float, ...]
    source: str
    noise_sd: tuple[float, ...]
    simulations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Deciles:
    """A decile curve: D_k = quantile(gains, k/10), k = 0 ... 10.

    Attributes:
        name: e.g. `best over worst`, `loss: mse over ce`, `stable over best`.
        by: who picked the best and the worst; of Figure 2 always `validation`.
        values: D0 ... D10 in per cent [11].
        gains, cases: the gain of each case, and its name, in the same order.
        null: None without replicated seeds and without a given standard deviation.
        left_out: names of cases without this gain.
    """

    name: str
    by: Pick
    values: tuple[float, ...]
    gains: tuple[float, ...]
    cases: tuple[str, ...]
    null: NullBand | None
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What a search chooses among, as trained in one case.

    Attributes:
        label: e.g. `ce t_ll tau 4/1`.
        configuration: as trained, with the temperature that validation chose.
        learning_rate: its peak as the run recorded it; None where it was not recorded.
        validation: mean over the seeds that all candidates of the case share.
        test: mean over its own seeds.
        test_sd: standard deviation over seeds (n - 1), None with one seed.
        trials: trainings that its tuning chose among.
    """

    label: str
    configuration: Configuration
    learning_rate: float | None
    validation: float
    test: float
    test_sd: float | None
    seeds: tuple[int, ...]
    trials: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """One case: its candidates, who is best, and the named references.

    Attributes:
        replayed: whether the search could be replayed from the runs; if not, `candidates` are all configurations.
        shared_seeds: the seeds that all candidates have, which decide; empty: each configuration's own seeds decide.
        oracle_best, oracle_worst: indices of candidates, by test score.
        best, worst: indices of candidates, by validation score.
        random: mean test score over the candidates.
        lazy: mean test score of CE and MSE from t_hs and t_ll at tau 1, alpha 1; None if one was not trained.
        hard: test score of hard labels; None without such a run.
        stable: test score of the stable cell at its own tau in this case; None if it was not trained.
        stable_global: test score of the stable cell at the one tau for all cases.
        gain_over_hard: of the best by validation, per cent.
        noise_sd: between seeds, per cent of the score, pooled over configurations; None without replicated seeds.
    """

    dataset: str
    student: str
    metric: str
    higher_is_better: bool
    replayed: bool
    candidates: tuple[Candidate, ...]
    shared_seeds: tuple[int, ...]
    oracle_best: int
    oracle_worst: int
    best: int
    worst: int
    random: float
    lazy: float | None
    hard: float | None
    stable: float | None
    stable_global: float | None
    gain_over_hard: float | None
    noise_sd: float | None

    @property
    def name(self) -> str:
        """`dataset, student`."""
        return f"{self.dataset}, {self.student}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """In how many cases the alternative won on validation (`plus`), lost (`minus`), or tied; R is their difference.

    `p` is the two-sided sign test without the ties; None if all tie.
    """

    plus: int
    minus: int
    ties: int
    p: float | None

    @property
    def reward(self) -> int:
        """R = plus - minus."""
        return self.plus - self.minus

    @property
    def cases(self) -> int:
        """How many cases voted."""
        return self.plus + self.minus + self.ties


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """Table 3: one choice over the cases.

    Attributes:
        choice, default, alternative: e.g. `loss`, `ce`, `mse`.
        tuned: each side at its own best temperature, as the search compared them.
        matched: the sign of the mean validation difference over the temperatures that both sides were trained at, so
            that no side gains from more tries; None where nothing is shared.
        trials_default, trials_alternative: mean number of trainings that each side chose among.
    """

    choice: str
    default: str
    alternative: str
    tuned: Votes
    matched: Votes | None
    trials_default: float
    trials_alternative: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stable:
    """The stable configuration (the alternative where R > 0, alpha 1) and what taking it costs.

    Attributes:
        rule: `in sample`: rewards from the cases it is tested on; `leave one dataset out`: from the other datasets.
        tau: `per case`: the temperature is tuned in each case; `global`: one for all (in training cases: the least mean
            regret by validation).
        label: the cell, e.g. `ce t_ll tau_s=1`; of leave one dataset out the most frequent one.
        cells: label of the cell -> number of cases it was taken for.
        temperature: the one tau_t of `global` in sample, else None.
        share: part of the cases where its test score is at least that of the best by validation, in [0, 1].
        regret_mean, regret_worst: per cent of the test score under the best by test.
        worst_case: where `regret_worst` is.
        cases: how many it could be evaluated in; `left_out` names the others.
    """

    rule: Literal["in sample", "leave one dataset out"]
    tau: Literal["per case", "global"]
    label: str
    cells: dict[str, int]
    temperature: float | None
    share: float
    regret_mean: float
    regret_worst: float
    worst_case: str
    cases: int
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RegretRow:
    """What it costs to always take one thing, without a search: per cent of the test score under the best by test.

    Attributes:
        label: e.g. `ce t_ll tau 4/1`, `ce t_ll tau_s=1, tau tuned`, `hard labels`, `search, by validation`, `lazy`.
        kind: `fixed` configuration; `tuned` cell, one search over the temperature a case; `rule` for the others.
        mean, worst, worst_case: over the cases.
        regrets: one a case, in per cent; `case_names` in the same order. Negative: better than every candidate.
        cases, of: in how many of all cases it was trained.
    """

    label: str
    kind: Literal["fixed", "tuned", "rule"]
    mean: float
    worst: float
    worst_case: str
    regrets: tuple[float, ...]
    case_names: tuple[str, ...]
    of: int

    @property
    def cases(self) -> int:
        """In how many cases it was trained."""
        return len(self.regrets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure3:
    """Stable, random and lazy against the best by validation.

    Attributes:
        stable, stable_global, random, lazy: gains over the best, per cent; None if no case has them.
        share: part of the cases with stable >= best, in [0, 1]; `share_global` with one tau for all.
    """

    stable: Deciles | None
    stable_global: Deciles | None
    random: Deciles | None
    lazy: Deciles | None
    share: float | None
    share_global: float | None
