"""What a number means: metrics as additive statistics per example plus a finisher. No torch.

The value of metric m on any weighting w of the examples is `METRICS[m].finish(w @ statistics[METRICS[m].statistic])`.
"""

# I items  S statistics

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kdcache.core.errors import ConfigError, DataError
from kdcache.core.types import Score
from kdcache.metrics import bleu, calibration, classification, entities, squad

VERSION = 1
"""Of the definitions below; it ends every signature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number from summed statistics.

    Attributes:
        name: key in `METRICS`.
        statistic: which statistics it finishes; several metrics may share one.
        higher_is_better: the direction.
        finish: summed statistics [..., S] -> values [...]; vectorised over leading dimensions.
        describe: definition in the style of a sacreBLEU signature.
    """

    name: str
    statistic: str
    higher_is_better: bool
    finish: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    describe: str


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="f1_binary",
            statistic="classes",
            higher_is_better=True,
            finish=classification.f1_binary,
            describe="f1:binary(positive=1)",
        ),
        Metric(
            name="f1_macro",
            statistic="classes",
            higher_is_better=True,
            finish=classification.f1_macro,
            describe="f1:macro(classes=occurring)",
        ),
        Metric(
            name="f1_weighted",
            statistic="classes",
            higher_is_better=True,
            finish=classification.f1_weighted,
            describe="f1:weighted(by=support)",
        ),
        Metric(
            name="accuracy",
            statistic="accuracy",
            higher_is_better=True,
            finish=classification.mean,
            describe="accuracy",
        ),
        Metric(name="nll", statistic="nll", higher_is_better=False, finish=classification.mean, describe="nll:nats"),
        Metric(
            name="perplexity",
            statistic="nll",
            higher_is_better=False,
            finish=classification.exp_mean,
            describe="perplexity:exp(nll)",
        ),
        Metric(
            name="bleu",
            statistic="bleu",
            higher_is_better=True,
            finish=bleu.bleu,
            describe=f"bleu:sacrebleu({bleu.BLEU_SIGNATURE})",
        ),
        Metric(
            name="chrf",
            statistic="chrf",
            higher_is_better=True,
            finish=bleu.chrf,
            describe=f"chrf2:sacrebleu({bleu.CHRF_SIGNATURE})",
        ),
        Metric(
            name="brier",
            statistic="brier",
            higher_is_better=False,
            finish=classification.mean,
            describe="brier:sum_over_classes",
        ),
        Metric(
            name="ece",
            statistic="ece",
            higher_is_better=False,
            finish=calibration.expected_calibration_error,
            describe=f"ece:equal_width(bins={calibration.NUM_BINS})",
        ),
        Metric(
            name="entity_f1",
            statistic="entities",
            higher_is_better=True,
            finish=entities.f1,
            describe="f1:entities(micro,conlleval)",
        ),
        Metric(
            name="entity_precision",
            statistic="entities",
            higher_is_better=True,
            finish=entities.precision,
            describe="precision:entities(micro,conlleval)",
        ),
        Metric(
            name="entity_recall",
            statistic="entities",
            higher_is_better=True,
            finish=entities.recall,
            describe="recall:entities(micro,conlleval)",
        ),
        Metric(
            name="squad_f1",
            statistic="squad",
            higher_is_better=True,
            finish=squad.f1,
            describe="f1:answer(max_over_golds,normalize=squad)",
        ),
        Metric(
            name="squad_em",
            statistic="squad",
            higher_is_better=True,
            finish=squad.exact,
            describe="exact_match(max_over_golds,normalize=squad)",
        ),
        Metric(
            name="mlqa_f1",
            statistic="mlqa",
            higher_is_better=True,
            finish=squad.f1,
            describe="f1:answer(max_over_golds,normalize=mlqa)",
        ),
        Metric(
            name="mlqa_em",
            statistic="mlqa",
            higher_is_better=True,
            finish=squad.exact,
            describe="exact_match(max_over_golds,normalize=mlqa)",
        ),
    )
}


def evaluate(
    statistics: Mapping[str, NDArray[np.float64]], metrics: Sequence[str], parts: Mapping[str, object] | None = None
) -> dict[str, Score]:
    """Scores of a split from its per-example statistics.

    Args:
        statistics: statistic name -> float64 [I, S].
        metrics: names in `METRICS`, the primary one first; the result keeps the order.
        parts: what else the signature should say, e.g. `{"labels": 3}`; `n` and the version are added.

    Returns:
        Metric name -> Score with a signature such as `f1:binary(positive=1)|n=408|v1`.

    Raises:
        ConfigError: a metric that is not in `METRICS`, or whose statistics were not computed.
        DataError: no examples.

    Example:
        >>> evaluate({"accuracy": np.array([[1.0, 1.0], [0.0, 1.0]])}, ["accuracy"])["accuracy"].signature
        'accuracy|n=2|v1'
    """
    scores: dict[str, Score] = {}
    extra = "".join(f"|{key}={value}" for key, value in (parts or {}).items())
    for name in metrics:
        if name not in METRICS:
            raise ConfigError(f"metric {name!r} is not known; known: {', '.join(METRICS)}")
        metric = METRICS[name]
        if metric.statistic not in statistics:
            raise ConfigError(
                f"metric {name} needs the statistic {metric.statistic}, computed are: {', '.join(statistics) or 'none'}"
            )
        values_IS = statistics[metric.statistic]
        if len(values_IS) == 0:
            raise DataError(f"metric {name} has no examples to score; the split is empty")
        scores[name] = Score(
            name=name,
            value=float(metric.finish(values_IS.sum(axis=0))),
            higher_is_better=metric.higher_is_better,
            signature=f"{metric.describe}|n={len(values_IS)}{extra}|v{VERSION}",
        )
    return scores


def evaluate_by_language(
    statistics: Mapping[str, NDArray[np.float64]],
    name: str,
    languages: Sequence[str],
    parts: Mapping[str, object] | None = None,
) -> dict[str, Score]:
    """A metric over the examples of each language, and the mean of these values, each language counted once.

    Args:
        statistics: statistic name -> float64 [I, S].
        name: of the metric.
        languages: of each example [I].
        parts: what else the signatures should say.

    Returns:
        `<name>@<language>`, sorted by language, then `<name>@mean`; nothing for fewer than two languages.

    Example:
        >>> hits = {"accuracy": np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])}
        >>> {k: v.value for k, v in evaluate_by_language(hits, "accuracy", ["de", "de", "en"]).items()}
        {'accuracy@de': 0.5, 'accuracy@en': 1.0, 'accuracy@mean': 0.75}
    """
    names = sorted(set(languages))
    if len(names) < 2:
        return {}
    metric, of = METRICS[name], np.array(languages)
    values_IS = statistics[metric.statistic]
    found = {}
    for language in names:
        part = {metric.statistic: values_IS[of == language]}
        score = evaluate(part, [name], {**(parts or {}), "language": language})[name]
        found[f"{name}@{language}"] = replace(score, name=f"{name}@{language}")
    pooled = evaluate(statistics, [name], {**(parts or {}), "mean_over_languages": len(names)})[name]
    mean = float(np.mean([score.value for score in found.values()]))
    return {**found, f"{name}@mean": replace(pooled, name=f"{name}@mean", value=mean)}
