"""Strict YAML into frozen dataclasses.

The dataclass of a block lives beside the code that consumes it. Unknown keys, wrong types and duplicate keys raise
`ConfigError` with the place, what is allowed and the closest known key. YAML never runs code.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from kdcache.core.errors import ConfigError

T = TypeVar("T")


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice."""


def _mapping_without_duplicates(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool):
            raise ConfigError(f"line {key_node.start_mark.line + 1}: a key must be a plain word, not {key!r}")
        if key in seen:
            raise ConfigError(f"line {key_node.start_mark.line + 1}: the key {key!r} stands twice; keep one")
        seen.add(key)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises:
        ConfigError: no such file, not YAML, not a mapping, a key given twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}; check the path") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; a config is a YAML file") from None
    try:
        value = yaml.load(text, Loader=_StrictLoader)  # noqa: S506  a SafeLoader
    except ConfigError as error:
        raise ConfigError(f"{path}, {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must hold settings (key: value), not {type(value).__name__}")
    return value


def override(tree: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """A copy of `tree` with `a.b=c` assignments applied; c is parsed as YAML.

    Example:
        >>> override({"student": {"lr": 1}}, ["student.lr=2", "student.tags=[a, b]"])
        {'student': {'lr': 2, 'tags': ['a', 'b']}}
    """
    result: dict[str, Any] = json.loads(json.dumps(tree))
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(f"--set {assignment}: write --set block.key=value")
        node = result
        for key in keys[:-1]:
            child = node.setdefault(key, {})
            if not isinstance(child, dict):
                raise ConfigError(f"--set {assignment}: {key} is a value ({child!r}), not a block")
            node = child
        try:
            node[keys[-1]] = yaml.load(text, Loader=_StrictLoader)  # noqa: S506  a SafeLoader
        except yaml.YAMLError:
            raise ConfigError(f"--set {assignment}: {text!r} is not a YAML value") from None
    return result


def parse(cls: type[T], tree: Any, *, where: str, block: str = "") -> T:
    """Build the dataclass `cls` from plain YAML values.

    Args:
        cls: a (frozen) dataclass; fields may be scalars, Path, Literal, tuples, mappings, unions, dataclasses.
        tree: the YAML value.
        where: the file's name, for messages.
        block: dotted place inside the file, for messages.

    Raises:
        ConfigError: unknown key, missing key, wrong type; or what the dataclass' own `__post_init__` refuses.
    """
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{block or 'the file'} in {where} must be a block of settings, not {tree!r}")
    hints = _type_hints(typing.cast(Any, cls))
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, cls)) if f.init}
    check_keys(tree, list(fields), where=where, block=block)
    missing = [
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and name not in tree
    ]
    if missing:
        raise ConfigError(f"{where} lacks the setting {_dotted(block, missing[0])}")
    values = {
        name: _convert(hints[name], value, where=where, place=_dotted(block, name)) for name, value in tree.items()
    }
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}{': ' + block if block else ''}: {error}") from None


@functools.cache
def _type_hints(cls: type) -> dict[str, Any]:
    """Resolved once a class: reading a thousand results would resolve the same ones a thousand times."""
    return typing.get_type_hints(cls)


def check_keys(tree: Mapping[str, Any], known: Sequence[str], *, where: str, block: str = "") -> None:
    """Refuse the first key of `tree` that is not in `known`, naming the closest known one."""
    for key in tree:
        if key in known:
            continue
        close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
        advice = f"did you mean {_dotted(block, close[0])}?" if close else f"known here: {', '.join(known)}"
        raise ConfigError(f"unknown setting {_dotted(block, str(key))} in {where}; {advice}")


def _dotted(block: str, name: str) -> str:
    return f"{block}.{name}" if block else name


def _convert(hint: Any, value: Any, *, where: str, place: str) -> Any:
    """`value` as the annotated type, or ConfigError; no silent coercion but int -> float and `1e-5` -> float."""
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(hint, value, where=where, place=place)
    if origin is Literal:
        if value in get_args(hint) and not isinstance(value, bool):
            return value
        raise _wrong(place, where, value, "one of " + ", ".join(map(str, get_args(hint))))
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong(place, where, value, "a list, e.g. [a, b]")
        inner = get_args(hint)[0]
        return tuple(_convert(inner, v, where=where, place=f"{place}[{i}]") for i, v in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(place, where, value, "a block of key: value")
        inner = get_args(hint)[1]
        return {str(k): _convert(inner, v, where=where, place=f"{place}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return (
            value
            if isinstance(value, typing.cast(type, hint))
            else parse(typing.cast(type, hint), value, where=where, block=place)
        )
    return _convert_scalar(hint, value, where=where, place=place)


def _convert_scalar(hint: Any, value: Any, *, where: str, place: str) -> Any:
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-5 as a word
        try:
            value = float(value)
        except ValueError:
            raise _wrong(place, where, value, "a number") from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if hint is type(None) and value is None:
        return None
    if isinstance(hint, type) and isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
    raise _wrong(place, where, value, names.get(hint, str(hint)))


def _convert_union(hint: Any, value: Any, *, where: str, place: str) -> Any:
    if value is None and type(None) in get_args(hint):
        return None
    errors: list[str] = []
    for choice in get_args(hint):
        if choice is type(None):
            continue
        try:
            return _convert(choice, value, where=where, place=place)
        except ConfigError as error:
            if dataclasses.is_dataclass(choice) and isinstance(value, Mapping):
                raise  # the message about the block's own keys is the useful one
            errors.append(str(error).rpartition("; allowed: ")[2])
    raise _wrong(place, where, value, ", or ".join(dict.fromkeys(errors)))


def _wrong(place: str, where: str, value: Any, allowed: str) -> ConfigError:
    return ConfigError(f"{place} in {where} is {value!r}; allowed: {allowed}")


def plain(value: Any) -> Any:
    """A dataclass, path or tuple as JSON and YAML can hold it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def digest(value: Any, *, length: int = 16) -> str:
    """First hex digits of the sha256 of `plain(value)` in canonical JSON."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def shipped(name: str) -> Path:
    """Path of a config that kdcache ships, e.g. `runs/demo.yaml`: beside the package in a clone, else under share/.

    Raises:
        ConfigError: it is in neither place.
    """
    places = [Path(__file__).resolve().parents[2] / "configs", Path(sys.prefix) / "share" / "kdcache" / "configs"]
    for place in places:
        if (place / name).is_file():
            return place / name
    raise ConfigError(f"configs/{name} is neither in {places[0]} nor in {places[1]}; run from a clone of kdcache")
