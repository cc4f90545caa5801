"""Bad data, models and caches, through the commands: one line on stderr, an exit code, and nothing half-written.

Numbers in the names are rows of the design's list of faults.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from kdcache.cache.reader import Cache
from kdcache.cache.writer import CacheWriter
from tests import tiny
from tests.tiny import refused

Refuse = Callable[..., str]
Records = list[dict[str, object]]
Change = Callable[[str, Records], object]


@pytest.fixture
def refuse(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """`refuse(command, *arguments, code=...)` on the tiny study, into an empty folder; its one line."""

    def run(command: str, *arguments: object, code: int) -> str:
        config = (study / "run.yaml", "--device", "cpu", "--out", tmp_path / "out")
        return refused(capsys, command, *config, *arguments, code=code)

    return run


@pytest.fixture
def cache(study: Path, tmp_path: Path) -> Path:
    """A copy of the study's cache, where the study would have it."""
    return Path(shutil.copytree(study / "out/cache", tmp_path / "out/cache"))


def results(folder: Path) -> list[Path]:
    """What would count as finished under a folder."""
    return [
        path for name in ("result.json", "teacher.json") for path in folder.rglob(name) if "cache" not in path.parts
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def other_data(study: Path, folder: Path, change: Change) -> str:
    """A `--set` value for the study's data, changed in place by `change(split, records)`."""
    folder.mkdir()
    for split in tiny.SPLITS:
        records = tiny.read_records(study / f"{split}.jsonl")
        change(split, records)
        tiny.write_records(folder / f"{split}.jsonl", records)
    return f"dataset.files={{{', '.join(f'{split}: {folder}/{split}.jsonl' for split in tiny.SPLITS)}}}"


@pytest.mark.parametrize("damage", ["deleted", "emptied", "cut by 1 byte", "grown by 1 byte"])
def test_07_a_shard_file_that_is_not_whole_is_named(
    damage: str, cache: Path, refuse: Refuse, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = next(cache.glob("teachers/*/00000.*/logprobs/c.0.0"))
    content = shard.read_bytes()
    left = {"deleted": b"", "emptied": b"", "cut by 1 byte": content[:-1], "grown by 1 byte": content + b"x"}[damage]
    shard.write_bytes(left)
    what = f"has {len(left)} bytes instead of {len(content)}"
    if damage == "deleted":
        shard.unlink()
        what = "is missing"
    before = contents(cache)
    for error in (refuse("train-student", code=1), refused(capsys, "inspect", cache, code=1)):
        assert error == f"{shard} {what}; restore it, or dump this block again"
    assert contents(cache) == before
    assert results(cache.parent) == []


def test_07_a_block_whose_record_is_removed_is_dumped_again(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(study / "out", out)
    next(out.glob("cache/teachers/t_hs/00000.*/logprobs/c.0.0")).unlink()
    (out / "cache/commits/t_hs/00000.json").unlink()
    tiny.call("dump-teacher", str(study / "run.yaml"), "--device", "cpu", "--out", str(out))
    there, again = Cache.open(study / "out/cache"), Cache.open(out / "cache")
    indices = there.plan.indices("train")
    assert there.rows("t_hs", indices).logprobs.tolist() == again.rows("t_hs", indices).logprobs.tolist()


@pytest.mark.parametrize("change", ["dataset.labels=[good, bad]", "dataset.limit={train: 32}", "dataset.version=2"])
def test_18_changed_data_are_refused_with_both_digests(change: str, cache: Path, refuse: Refuse) -> None:
    theirs = Cache.open(cache).marker.dataset_digest
    error = refuse("train-student", "--set", change, code=4)
    assert f"was dumped with dataset {theirs}, this run has " in error
    assert "set student.allow_mismatch: true" in error


def test_18_classes_in_another_order_cannot_be_overridden(cache: Path, refuse: Refuse) -> None:
    options = ("--set", "dataset.labels=[good, bad]", "--set", "student.allow_mismatch=true")
    error = refuse("train-student", *options, code=4)
    assert error == "the cache's classes are bad, good; the dataset's YAML has good, bad"


@pytest.mark.parametrize("change", ["dataset.limit={train: 32}", "dataset.labels=[good, bad]"])
def test_18_a_dump_of_other_data_leaves_the_cache_as_it_is(
    change: str, study: Path, cache: Path, refuse: Refuse
) -> None:
    before = contents(cache)
    teacher = f"t_hs={study / 'out/teacher/selected/t_hs'}"
    error = refuse("dump-teacher", "--teacher", teacher, "--set", change, code=4)
    theirs = Cache.open(cache).marker.dataset_digest
    assert error.startswith(f"{cache} is another cache: its dataset_digest is '{theirs}', this dump's is '")
    assert error.endswith("; dump into another folder")
    assert contents(cache) == before


def test_18_another_teacher_of_the_same_name_leaves_the_cache_as_it_is(
    study: Path, cache: Path, refuse: Refuse, tmp_path: Path
) -> None:
    shutil.copytree(study / "out/teacher/selected/t_hs", tmp_path / "tuned")
    weights = load_file(tmp_path / "tuned/model.safetensors")
    weights["classifier.bias"] += 1
    save_file(weights, tmp_path / "tuned/model.safetensors", metadata={"format": "pt"})
    before = contents(cache)
    error = refuse("dump-teacher", "--teacher", f"t_hs={tmp_path / 'tuned'}", code=4)
    theirs = Cache.open(cache).teacher("t_hs").weight_digest
    assert f"already has a teacher t_hs whose weight_digest is '{theirs}', this one's is '" in error
    assert error.endswith("; dump it under another name, or into another folder")
    assert contents(cache) == before


def test_18_a_teacher_without_a_head_is_refused_not_filled_in_at_random(study: Path, refuse: Refuse) -> None:
    error = refuse("dump-teacher", "--teacher", f"base={study / 'base'}", code=6)
    assert error.startswith(f"{study / 'base'} lacks 2 weights of AutoModelForSequenceClassification, the first ")
    assert "they would be random: give a checkpoint that was fine-tuned for the task" in error


def test_18_a_student_whose_vocabulary_is_too_small_is_refused(cache: Path, refuse: Refuse, tmp_path: Path) -> None:
    tiny.write_model(tmp_path / "small", vocab_size=10)
    error = refuse("train-student", "--set", f"models.students={{s: {{path: {tmp_path / 'small'}}}}}", code=6)
    assert error == (
        "student s has a vocabulary of 10 but the items hold token 14; use a student with the teacher's tokenizer"
    )


def test_18_so_is_one_that_is_too_small_for_the_training_items_alone(
    study: Path, refuse: Refuse, tmp_path: Path
) -> None:
    def rare(split: str, records: Records) -> None:
        for record in records:
            if split != "train":
                record["text"] = str(record["text"]).replace("cold", "dull")

    files = other_data(study, tmp_path / "data", rare)
    options = ("--teacher", f"t_hs={study / 'out/teacher/selected/t_hs'}", "--set", files)
    tiny.call("dump-teacher", str(study / "run.yaml"), "--device", "cpu", "--out", str(tmp_path / "out"), *options)
    tiny.write_model(tmp_path / "small", vocab_size=14)
    student = f"models.students={{s: {{path: {tmp_path / 'small'}}}}}"
    error = refuse("train-student", "--set", files, "--set", student, code=6)
    assert "student s has a vocabulary of 14 but the items hold token 14" in error


def test_20_labels_that_are_shifted_by_one_stop_the_run(study: Path, refuse: Refuse, tmp_path: Path) -> None:
    there = Cache.open(study / "out/cache")
    items = there.items(np.arange(there.plan.num_items))
    shifted = [
        replace(item, labels_R=after.labels_R) for item, after in zip(items, [*items[1:], items[0]], strict=True)
    ]
    forged = tmp_path / "out/cache"
    writer = CacheWriter.open(forged, there.marker, there.plan, items=lambda block: items[block.start : block.stop])
    for block in writer.pending_items():
        writer.write_items(block, shifted[block.start : block.stop])
    writer.add_teacher(there.teacher("t_hs"))
    for block in writer.pending("t_hs"):
        writer.write_rows("t_hs", block, there.rows("t_hs", block.items))
    writer.seal()
    error = refuse("train-student", code=4)
    assert error.startswith(f"rows of teacher t_hs in {forged} do not fit their labels in ")
    assert "The rows are shifted (by one, often), reordered, or padding was counted; dump the teacher again" in error
    assert results(tmp_path) == []


def test_35_a_loss_that_is_not_a_number_ends_the_run(study: Path, cache: Path, refuse: Refuse, tmp_path: Path) -> None:
    shutil.copytree(study / "base", tmp_path / "broken")
    weights = load_file(tmp_path / "broken/model.safetensors")
    weights["embeddings.word_embeddings.weight"][4, 0] = float("nan")
    save_file(weights, tmp_path / "broken/model.safetensors", metadata={"format": "pt"})
    error = refuse("train-student", "--set", f"models.students={{s: {{path: {tmp_path / 'broken'}}}}}", code=7)
    assert error.startswith("the loss is nan at step 1 of 8 (epoch 0, learning rate ")
    assert "; lower learning_rate, set max_grad_norm, or use precision: float32" in error
    assert results(cache.parent) == []


def test_35_a_training_that_diverges_ends_and_is_no_result(cache: Path, refuse: Refuse) -> None:
    error = refuse("train-student", "--set", "student.weight_decay=1e38", code=7)
    assert "the loss is nan at step 2 of 8" in error
    assert results(cache.parent) == []


def test_35_a_learning_rate_out_of_range_is_refused_before_anything_is_written(cache: Path, refuse: Refuse) -> None:
    error = refuse("train-student", "--set", "student.learning_rate=1e30", code=2)
    assert error.endswith(": student: learning_rate = 1e+30 must lie between 0 and 1")
    assert not (cache.parent / "students").exists()


def blank(split: str, records: Records) -> None:
    records[3]["text"] = "  "


def misspelt(split: str, records: Records) -> None:
    records[3]["label"] = "goood"


def emptied(split: str, records: Records) -> None:
    if split == "validation":
        records.clear()


@pytest.mark.parametrize("command", ["train-teacher", "dump-teacher", "train-student"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            blank,
            "line 4 of {folder}/{first}.jsonl has empty text in the column 'text'; fill it or "
            "leave the row out, or set drop_empty: true",
        ),
        (
            misspelt,
            "line 4 of {folder}/{first}.jsonl has the label 'goood' in the column 'label'; known: bad (0), good (1); "
            "correct labels, or add a label_map",
        ),
        (emptied, "{folder}/validation.jsonl is empty; a split needs at least one example"),
    ],
)
def test_35_malformed_data_stop_every_stage(
    command: str, change: Change, message: str, study: Path, cache: Path, refuse: Refuse, tmp_path: Path
) -> None:
    files = other_data(study, tmp_path / "data", change)
    teacher = ("--teacher", f"t_hs={study / 'out/teacher/selected/t_hs'}") if command == "dump-teacher" else ()
    error = refuse(command, "--set", files, *teacher, code=3)
    first = "validation" if command == "train-student" else "train"
    assert error == message.format(folder=tmp_path / "data", first=first)
    assert results(cache.parent) == []


def unlabelled(split: str, records: Records) -> None:
    for record in records:
        record["label"] = None if split == "train" else record["label"]


def test_35_unlabelled_rows_cannot_teach_by_their_labels(study: Path, refuse: Refuse, tmp_path: Path) -> None:
    files = other_data(study, tmp_path / "data", unlabelled)
    error = refuse("train-teacher", "--set", files, code=7)
    assert error.startswith("step 0 of epoch 0 has no row to learn from at alpha = 0: 0 labels, ")
    arguments = [str(study / "run.yaml"), "--device", "cpu", "--out", str(tmp_path / "out"), "--set", files]
    teacher = f"t_hs={study / 'out/teacher/selected/t_hs'}"
    tiny.call("dump-teacher", *arguments, "--teacher", teacher)
    error = refuse("train-student", "--set", files, "--alpha", "0.5", code=5)
    assert error == ("alpha = 0.5 needs labels, but no item of the cache's train split has one; use --alpha 1")
    tiny.call("train-student", *arguments, "--alpha", "1")
    assert len(results(tmp_path / "out/students")) == 1


@pytest.mark.parametrize(("command", "split"), [("train-teacher", "train"), ("train-student", "validation")])
def test_35_a_split_that_a_stage_needs_is_asked_for(
    command: str, split: str, study: Path, cache: Path, refuse: Refuse
) -> None:
    files = ", ".join(f"{name}: {study / name}.jsonl" for name in tiny.SPLITS if name != split)
    options = ("--set", f"dataset.files={{{files}}}")
    if command == "train-student":
        options += ("--set", "student.allow_mismatch=true")
    error = refuse(command, *options, code=3)
    assert error.startswith(f"dataset tiny has no split '{split}'; its splits: ")


def test_a_refused_run_does_not_touch_a_finished_one(cache: Path, study: Path, refuse: Refuse) -> None:
    run = [str(study / "run.yaml"), "--device", "cpu", "--out", str(cache.parent)]
    tiny.call("train-student", *run)
    before = contents(cache.parent / "students")
    refuse("train-student", "--set", "student.weight_decay=1e38", code=7)
    refuse("train-student", "--alpha", "2", code=2)
    after = contents(cache.parent / "students")
    assert {name: after[name] for name in before} == before
    assert [json.loads(path.read_text())["format"] for path in results(cache.parent)] == [1]
