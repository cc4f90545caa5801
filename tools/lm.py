"""A real language model and real English text for benchmarks: a packaged LM, and what installed packages carry.

The model is a folder that transformers reads, or one with a single GGUF file (then the package `gguf` must be
importable). The text is that of the licence files, changelogs and documentation of the installed packages, so nothing
is fetched.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT_SUFFIXES = frozenset({"", ".md", ".rst", ".txt"})
MIN_TEXT_BYTES, MAX_TEXT_BYTES = 2_000, 200_000
WINDOWS = 16
"""Sequences that one text may give, so that no text dominates."""
RUN = 12


def load(folder: Path, *, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Tokenizer and causal LM, in evaluation mode, from a folder.

    Raises:
        FileNotFoundError: the folder has no model.
    """
    found = sorted(folder.rglob("*.gguf"))
    names = {"gguf_file": found[0].name} if found else {}
    place = found[0].parent if found else folder
    if not found and not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder} holds neither a config.json nor a .gguf file")
    tokenizer = AutoTokenizer.from_pretrained(place, **names)
    model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype, **names)
    model.train(False)
    return tokenizer, model


def texts(*, folders: list[Path] | None = None) -> Iterator[str]:
    """English texts that installed packages carry, each once, in the order of their paths."""
    seen: set[int] = set()
    for folder in folders or [Path(place) for place in sys.path if place.endswith("site-packages")]:
        for path in sorted(folder.rglob("*")):
            if path.suffix not in TEXT_SUFFIXES or not _is_prose(path) or not path.is_file():
                continue
            if not MIN_TEXT_BYTES <= path.stat().st_size <= MAX_TEXT_BYTES:
                continue
            text = path.read_text(encoding="utf-8", errors="ignore")
            if hash(text[:500]) not in seen:
                seen.add(hash(text[:500]))
                yield text


def _is_prose(path: Path) -> bool:
    name = path.name.lower()
    return path.suffix in (".md", ".rst") or any(word in name for word in ("licen", "copying", "notice", "readme"))


def sequences(tokenizer: Any, *, count: int, length: int) -> NDArray[np.int64]:
    """Token sequences of those texts, cut to one length, int64 [count, length].

    Packages repeat each other's licences, and repeats would flatter any compressor: a sequence is left out where more
    than a twentieth of its runs of `RUN` tokens were seen before.

    Raises:
        ValueError: the installed packages carry too little text.
    """
    pieces: list[NDArray[np.int64]] = []
    seen: set[bytes] = set()
    for text in texts():
        tokens = np.array(tokenizer(text)["input_ids"], dtype=np.int64)
        for start in range(0, min(len(tokens) - length + 1, WINDOWS * length), length):
            piece = tokens[start : start + length]
            runs = {piece[i : i + RUN].tobytes() for i in range(length - RUN)}
            if len(runs & seen) <= len(runs) / 20:
                pieces.append(piece)
            seen |= runs
            if len(pieces) == count:
                return np.stack(pieces)
    raise ValueError(f"the installed packages carry {len(pieces)} texts of {length} tokens; {count} were asked for")
