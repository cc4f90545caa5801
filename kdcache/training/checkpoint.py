"""Selected checkpoints: safetensors + config + tokenizer that `from_pretrained` loads, published whole or not."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from kdcache.core.errors import ModelError

WEIGHTS = "*.safetensors"
SIXTEEN_BITS = frozenset({"BF16", "F16"})
"""How safetensors names the types of 16-bit floats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Of a checkpoint's weights.

    Attributes:
        parameters: numbers in all weights.
        encoder: those of a stack named `encoder`; embeddings are never the encoder's, since an encoder-decoder shares
            them and its head works on the target.
        sixteen_bits: most numbers are stored in 16 bits.
    """

    parameters: int
    encoder: int
    sixteen_bits: bool


def size(folder: Path) -> Size:
    """The size of a checkpoint, from the headers of its weight files alone."""
    total = encoder = short = 0
    for path in sorted(folder.glob(WEIGHTS)):
        with safe_open(path, framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118
                part = weights.get_slice(name)
                count, parts = math.prod(part.get_shape()), name.split(".")
                total += count
                encoder += count if "encoder" in parts and "embed_tokens" not in parts else 0
                short += count if part.get_dtype() in SIXTEEN_BITS else 0
    return Size(parameters=total, encoder=encoder, sixteen_bits=2 * short > total)


def save(folder: Path, *, model: Any, state: dict[str, Tensor], tokenizer: Any, bf16: bool = False) -> None:
    """Write a checkpoint beside `folder` and rename it there; an older one is replaced only by a complete one.

    Args:
        folder: the checkpoint's place.
        model: knows its configuration and class.
        state: all weights, on the CPU.
        tokenizer: saved beside them.
        bf16: store floats in bfloat16: a teacher that was trained in it runs in it.

    Raises:
        ModelError: the disk is full, or the folder cannot be written.
    """
    if bf16:
        state = {name: value.bfloat16() if value.is_floating_point() else value for name, value in state.items()}
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        model.save_pretrained(temporary, state_dict=dict(state), safe_serialization=True)  # it empties what it gets
        tokenizer.save_pretrained(temporary)
        replace_folder(temporary, folder)
    except (OSError, SafetensorError) as error:  # safetensors has its own for a full disk
        why = getattr(error, "strerror", None) or error
        raise ModelError(
            f"cannot write the checkpoint {folder}: {why}; free space there, or choose another folder with --out"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, folder: Path) -> None:
    """Put `new` where `folder` is; the old one goes only when the new one stands."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def weight_digest(folder: Path) -> str:
    """sha256 over the weight files of a checkpoint folder, 16 hex digits: the teacher's identity.

    Raises:
        ModelError: no safetensors there.
    """
    files = sorted(folder.glob(WEIGHTS))
    if not files:
        raise ModelError(f"{folder} holds no safetensors weights; save the teacher with save_pretrained")
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16]
