"""One case: its candidates, who is best and worst by test and by validation, random, lazy, hard labels, noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdcache.core.configuration import Configuration
from kdcache.core.design import HARD, LAZY, Best, Pair, Trial
from kdcache.report.answers import Candidate, CaseResult, Pick
from kdcache.report.runs import Case
from kdcache.report.spaces import Replayed, replay_case
from kdcache.report.statistics.null import noise_percent
from kdcache.report.statistics.resample import gain_percent
from kdcache.report.trials import Trained


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A case after the replay of its search.

    Attributes:
        candidates: the trials of the search's candidates, or all distilled ones where it could not be replayed.
        tries: how many trainings each was chosen among.
        seeds: shared by all candidates; empty where there is none, then each has its own.
        oracle_best, oracle_worst, best, worst: indices of candidates, by test and by validation.
        hard: hard labels, at the learning rate of the best validation score.
        lazy: the four lazy trials that are there; `lazy_lacking` those that are missing.
        noise_sd: between seeds, per cent of the test score, pooled over trials; None without replicated seeds.
    """

    replayed: Replayed
    candidates: tuple[Trained, ...]
    tries: tuple[int, ...]
    seeds: tuple[int, ...]
    oracle_best: int
    oracle_worst: int
    best: int
    worst: int
    hard: Trained | None
    lazy: tuple[Trained, ...]
    lazy_lacking: tuple[Trial, ...]
    noise_sd: float | None

    @property
    def case(self) -> Case:
        """The runs."""
        return self.replayed.trials.case

    @property
    def name(self) -> str:
        """`dataset, student`."""
        return self.case.name

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """What the search compared; none where it could not be replayed."""
        return self.replayed.outcome.pairs if self.replayed.outcome else ()

    @property
    def random(self) -> float:
        """Mean test score over the candidates."""
        return float(np.mean([trained.test() for trained in self.candidates]))

    @property
    def lazy_score(self) -> float | None:
        """Mean test score of the four lazy cells; None if one is missing."""
        return None if self.lazy_lacking else float(np.mean([trained.test() for trained in self.lazy]))

    @property
    def hinton(self) -> Trained | None:
        """Hinton's cell, tuned: where the search starts. None without a replay, or where it failed to train."""
        outcome = self.replayed.outcome
        found = None if outcome is None else next((b for b in outcome.candidates if b.cell == Configuration()), None)
        return None if found is None else self.side(found)

    def picked(self, by: Pick) -> Trained:
        """The best candidate by test or by validation."""
        return self.candidates[self.oracle_best if by == "test" else self.best]

    def gain(self, score: float | None, baseline: float | None) -> float | None:
        """Gain in per cent, positive where `score` is better; None where one is missing or the baseline is 0."""
        if score is None or baseline is None:
            return None
        up = self.case.metric.higher_is_better
        percent = float(gain_percent(np.array(score), np.array(baseline), higher_is_better=up))
        return percent if math.isfinite(percent) else None

    def regret(self, score: float | None) -> float | None:
        """Per cent of the test score that `score` falls short of the best by test."""
        loss = self.gain(score, self.picked("test").test())
        return None if loss is None else 0.0 - loss

    def side(self, best: Best) -> Trained:
        """The trial that a side of a pair was tuned to."""
        return self.replayed.trials.trained[best.trial]

    def value(self, trained: Trained) -> float:
        """Validation score that decides, higher is better."""
        shared = self.seeds if set(self.seeds) <= set(trained.runs) else ()
        return self.replayed.trials.sign * trained.validation(shared)


def play(case: Case) -> Played:
    """Replay the search of a case and pick its candidates."""
    replayed = replay_case(case)
    trials = replayed.trials
    tries: tuple[int, ...]
    if replayed.outcome is not None:
        bests = replayed.outcome.candidates
        candidates = tuple(trials.trained[best.trial] for best in bests)
        tries = tuple(len(best.trials) for best in bests)
    else:
        candidates = tuple(t for t in trials.distinct() if t.trial.configuration.alpha > 0) or trials.distinct()
        tries = (1,) * len(candidates)
    seeds = tuple(sorted(set.intersection(*(set(candidate.runs) for candidate in candidates))))
    test = [trials.sign * candidate.test() for candidate in candidates]
    validation = [trials.sign * candidate.validation(seeds) for candidate in candidates]
    rate = replayed.searched.space.learning_rates[0]
    wanted = tuple(Trial(configuration=c.canonical(), learning_rate=rate) for c in LAZY)
    hard = [t for t in trials.distinct() if t.trial.configuration == HARD.canonical()]
    return Played(
        replayed=replayed,
        candidates=candidates,
        tries=tries,
        seeds=seeds,
        oracle_best=int(np.argmax(test)),
        oracle_worst=int(np.argmin(test)),
        best=int(np.argmax(validation)),
        worst=int(np.argmin(validation)),
        hard=max(hard, key=lambda t: trials.sign * t.validation()) if hard else None,
        lazy=tuple(trials.trained[trial] for trial in wanted if trial in trials.trained),
        lazy_lacking=tuple(trial for trial in wanted if trial not in trials.trained),
        noise_sd=noise_percent([[run.test for run in t.runs.values()] for t in trials.distinct()]),
    )


def case_result(played: Played, *, stable: float | None, stable_global: float | None) -> CaseResult:
    """A case as data; the stable cell is decided over all cases and given here."""
    hard = None if played.hard is None else played.hard.test()
    return CaseResult(
        dataset=played.case.dataset,
        student=played.case.student,
        metric=played.case.metric.name,
        higher_is_better=played.case.metric.higher_is_better,
        replayed=played.replayed.outcome is not None,
        candidates=tuple(_candidate(played, i) for i in range(len(played.candidates))),
        shared_seeds=played.seeds,
        oracle_best=played.oracle_best,
        oracle_worst=played.oracle_worst,
        best=played.best,
        worst=played.worst,
        random=played.random,
        lazy=played.lazy_score,
        hard=hard,
        stable=stable,
        stable_global=stable_global,
        gain_over_hard=played.gain(played.picked("validation").test(), hard),
        noise_sd=played.noise_sd,
    )


def _candidate(played: Played, index: int) -> Candidate:
    trained = played.candidates[index]
    scores = [run.test for run in trained.runs.values()]
    return Candidate(
        label=trained.label,
        configuration=played.replayed.trials.real(trained.trial.configuration),
        learning_rate=trained.learning_rate,
        validation=trained.validation(played.seeds),
        test=trained.test(),
        test_sd=float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        seeds=tuple(trained.runs),
        trials=played.tries[index],
    )


def named(pairs: Sequence[tuple[str, float | None]]) -> tuple[tuple[str, ...], tuple[float, ...], tuple[str, ...]]:
    """Names and values where there is a value, and the names without one."""
    there = [(name, value) for name, value in pairs if value is not None]
    return tuple(n for n, _ in there), tuple(v for _, v in there), tuple(n for n, v in pairs if v is None)
