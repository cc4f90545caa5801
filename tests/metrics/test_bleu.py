"""BLEU and chrF from additive statistics are sacreBLEU's own, on hand-made and on real sentences."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sacrebleu.metrics import BLEU, CHRF

from kdcache.metrics import METRICS, evaluate
from kdcache.metrics.bleu import bleu_statistics, chrf_statistics

CASES = [
    (["a b c d"], ["a b c d"]),
    (["a b c"], ["a b c d e"]),
    (["x y z w"], ["a b c d"]),
    ([""], ["a b c d"]),
    (["a"], ["a b c d"]),
    (["a b c d", "a x c d e"], ["a b c d", "a b c d e"]),
    (["The U.S. is 3,000 km wide, isn't it?"], ["The U.S. is 3,000 km wide; isn't it?"]),
    (["ein Käse", "zu lang, viel zu lang ist das"], ["kein Käse ", "zu lang"]),
    (["das ist ein Test und noch einer"], ["dies war mein Text oder noch keiner"]),
]


def ours(written, references):
    statistics = {"bleu": bleu_statistics(written, references), "chrf": chrf_statistics(written, references)}
    return evaluate(statistics, ["bleu", "chrf"])


@pytest.mark.parametrize(("written", "references"), CASES)
def test_hand_made_sentences_score_as_sacrebleu_scores_them(written, references):
    scores = ours(written, references)
    assert 100 * scores["bleu"].value == pytest.approx(BLEU().corpus_score(written, [references]).score, abs=1e-9)
    assert 100 * scores["chrf"].value == pytest.approx(CHRF().corpus_score(written, [references]).score, abs=1e-9)


def test_the_signature_is_sacrebleus():
    for metric, oracle in (("bleu", BLEU()), ("chrf", CHRF())):
        oracle.corpus_score(["a b c d"], [["a b c d"]])
        assert str(oracle.get_signature()) in METRICS[metric].describe


def test_resamples_are_finished_together_and_nothing_scores_0():
    statistics = np.stack([bleu_statistics(*CASES[i])[0] for i in (0, 1, 2, 3)])
    together = METRICS["bleu"].finish(statistics)
    assert together.tolist() == [float(METRICS["bleu"].finish(row)) for row in statistics]
    assert together[0] == 1
    assert METRICS["bleu"].finish(np.zeros(10)) == METRICS["chrf"].finish(np.zeros(18)) == 0


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "code"), [("multi30k_de-en", "en"), ("wmt16_ro-en", "en"), ("wmt16_ro-en", "ro")])
def test_damaged_real_references_score_as_sacrebleu_scores_them_and_whole_ones_1(data_root: Path, name, code):
    rows = pq.read_table(data_root / name / "test.parquet")["translation"].to_pylist()
    references = [row[code] for row in rows]
    generator = random.Random(0)
    written = []
    for reference in references:
        words = [word for word in reference.split() if generator.random() > 0.2]
        if generator.random() < 0.3:
            generator.shuffle(words)
        written.append(" ".join(words))
    scores = ours(written, references)
    assert 100 * scores["bleu"].value == pytest.approx(BLEU().corpus_score(written, [references]).score, abs=1e-9)
    assert 100 * scores["chrf"].value == pytest.approx(CHRF().corpus_score(written, [references]).score, abs=1e-9)
    perfect = ours(references, references)
    assert perfect["bleu"].value == perfect["chrf"].value == pytest.approx(1, abs=1e-12)
