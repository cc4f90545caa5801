"""Named entities and questions small enough for a test, over the tiny BERT of `tests.tiny`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import yaml

from tests.tiny import SPLITS, WORDS, call, write_model, write_records

NAMES = {"PER": ["anna", "ben"], "LOC": ["rome", "oslo"]}
SECOND = {"PER": "lee", "LOC": "city"}
FILLER = ["the", "film", "was", *WORDS["bad"]]
SIZES = {"train": 60, "validation": 20, "test": 20}
LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def write_ner(folder: Path, *, seed: int = 0) -> dict[str, Any]:
    """CoNLL files in IOB2; a word tells its tag. Some sentences are too long for `max_length`."""
    generator = random.Random(seed)
    for split, count in SIZES.items():
        lines = ["-DOCSTART- X O", ""]
        for _ in range(count):
            for _ in range(generator.randint(1, 5)):
                kind = generator.choice(["", "PER", "LOC"])
                first = generator.choice(NAMES.get(kind, FILLER))
                lines.append(f"{first} X {f'B-{kind}' if kind else 'O'}")
                if kind and generator.random() < 0.5:
                    lines.append(f"{SECOND[kind]} X I-{kind}")
            lines.append("")
        (folder / f"{split}.conll").write_text("\n".join(lines))
    return {
        "name": "tiny-ner",
        "task": "ner",
        "files": {split: str(folder / f"{split}.conll") for split in SPLITS},
        "columns": {"words": 1, "tags": "last"},
        "labels": LABELS,
        "max_length": 8,
    }


def write_qa(folder: Path, *, seed: int = 0) -> dict[str, Any]:
    """JSON lines: the answer is the name that stands after `warm`; contexts need one window to three."""
    generator = random.Random(seed)
    for split, count in SIZES.items():
        records = []
        for i in range(count):
            before = generator.choices(FILLER, k=generator.randint(0, 8))
            answer = generator.choice(NAMES["PER"] + NAMES["LOC"])
            after = generator.choices(FILLER, k=generator.randint(0, 8))
            context = " ".join([*before, "warm", answer, *after])
            answers = {"text": [answer], "answer_start": [len(" ".join([*before, "warm"])) + 1]}
            records.append({"id": f"{split}{i}", "question": "the warm", "context": context, "answers": answers})
        write_records(folder / f"{split}.jsonl", records)
    return {
        "name": "tiny-qa",
        "task": "qa",
        "files": {split: str(folder / f"{split}.jsonl") for split in SPLITS},
        "columns": {"question": "question", "context": "context", "answers": "answers", "id": "id"},
        "max_length": 14,
        "overlap": 3,
    }


def write_spans_study(folder: Path, task: str) -> Path:
    """A folder as `tests.tiny.write_study` makes it, of another task."""
    write_model(folder / "base", words=[*NAMES["PER"], *NAMES["LOC"], *SECOND.values()])
    dataset = {"ner": write_ner, "qa": write_qa}[task](folder)
    training = {"epochs": 2, "batch_size": 16, "learning_rate": 0.005}
    run = {
        "out": str(folder / "out"),
        "dataset": dataset,
        "models": {
            "teacher": {"path": str(folder / "base")},
            "students": {"half": {"path": str(folder / "base"), "layers": 2}},
        },
        "teacher": {**training, "epochs": 10, "learning_rate": 0.01, "weight_decay": 0.0, "evals_per_epoch": 1},
        "student": {**training, "tau_t": 4},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    for command in ("train-teacher", "dump-teacher"):
        call(command, str(folder / "run.yaml"), "--device", "cpu")
    return folder
