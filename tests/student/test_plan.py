"""Which checkpoints a configuration trains on."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcache.cache.layout import TeacherIdentity
from kdcache.core.configuration import Configuration
from kdcache.core.errors import CacheError
from kdcache.core.row_format import RowFormat
from kdcache.student.plan import _by_checkpoint, _content


class TwoTeachers:
    """A cache of two checkpoints; the first is also called t_ll."""

    root = Path("cache")

    def teacher(self, name: str) -> TeacherIdentity:
        two = RowFormat.of(num_classes=2)
        if name in ("t_hs", "t_ll"):
            return TeacherIdentity(name="t_hs", aliases=("t_ll",), source="a", weight_digest="aa", row_format=two)
        if name == "other":
            return TeacherIdentity(name="other", source="b", weight_digest="bb", row_format=two)
        raise CacheError(f"no teacher {name}")


@pytest.mark.parametrize(
    ("settings", "teacher", "weight"),
    [
        ({"teacher": "t_ll"}, "t_hs", 0.5),
        ({"teacher": "t_hs+t_ll", "teacher_weight": 0.3}, "t_hs", 0.5),
        ({"teacher": "t_ll+other", "teacher_weight": 0.3}, "other+t_hs", 0.7),
        ({"teacher": "other+t_hs", "teacher_weight": 0.7}, "other+t_hs", 0.7),
        ({"alpha": 0}, None, 0.5),
    ],
)
def test_names_of_one_checkpoint_are_one_teacher(settings: dict[str, object], teacher: str, weight: float) -> None:
    canonical = Configuration(**settings).canonical()  # type: ignore[arg-type]
    found = _by_checkpoint(canonical, TwoTeachers())  # type: ignore[arg-type]
    assert (found.teacher, found.teacher_weight) == (teacher, weight)
    assert found == found.canonical()


def test_what_of_a_teacher_is_in_a_trainings_key_is_frozen() -> None:
    # Literal on purpose: a change here trains every finished run again.
    identity = TeacherIdentity(
        name="t", source="s", weight_digest="aa", row_format=RowFormat.of(num_classes=900, compressor="zstd", top_p=0.9)
    )
    assert _content(identity) == ["aa", "topk", "fast", 64, 0.9, "float32"]
    dense = TeacherIdentity(name="t", source="s", weight_digest="aa", row_format=RowFormat.of(num_classes=2))
    assert _content(dense) == ["aa", "topk", "dense", 64, 1.0, "float32"]
