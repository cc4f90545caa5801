"""JSON out, canonical; JSON in, from a source not trusted: bounded in values and depth, no key twice, no NaN."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from kdcache.core.errors import CacheDamaged, CacheError
from kdcache.version import __version__

ANEW = "restore it, or remove the folder of the cache and run kdcache dump-teacher CONFIG again"
_JSON_VALUES = 4_000_000
_JSON_DEPTH = 32


def to_json(value: Mapping[str, Any]) -> bytes:
    """Canonical JSON: the same value gives the same bytes.

    Raises:
        CacheError: a NaN or an infinity, which JSON cannot hold.

    Example:
        >>> to_json({"b": 1, "a": [2]})
        b'{"a":[2],"b":1}\\n'
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise CacheError(f"NaN or infinity cannot be stored in JSON: {str(value)[:200]}") from None
    return (text + "\n").encode()


def parse_json(content: bytes, *, where: str) -> dict[str, Any]:
    """Parse a JSON object from a source that is not trusted.

    Raises:
        CacheDamaged: not UTF-8 JSON, no object, a key twice, NaN, too deep, too many values, a number too long.
    """
    if content.count(b",") + content.count(b"[") + content.count(b"{") > _JSON_VALUES:
        raise CacheDamaged(f"{where} holds more than {_JSON_VALUES:,} values")
    try:
        value = json.loads(content, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise CacheDamaged(f"{where} is nested too deeply; {_JSON_DEPTH} levels are allowed") from None
    except ValueError as error:
        raise CacheDamaged(f"{where} is not valid JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise CacheDamaged(f"{where} must hold one JSON object")
    if _too_deep(value):
        raise CacheDamaged(f"{where} is nested too deeply; {_JSON_DEPTH} levels are allowed")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _too_deep(value: Any) -> bool:
    """Breadth first, so that the check itself cannot recurse."""
    level = [value]
    for _ in range(_JSON_DEPTH + 1):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def need(tree: Mapping[str, Any], key: str, *, where: str) -> Any:
    """A value of a JSON object.

    Raises:
        CacheDamaged: it is not there, as in a cache that another version wrote.

    Example:
        >>> need({"codec": "fast"}, "codec", where="teacher.json")
        'fast'
    """
    if key not in tree:
        why = "another version wrote it, or it was changed"
        raise CacheDamaged(f"{where} lacks {key}, which kdcache {__version__} reads: {why}; {ANEW}")
    return tree[key]


def mapping(value: Any, *, where: str) -> dict[str, Any]:
    """`value` if it is a JSON object."""
    if not isinstance(value, dict):
        raise CacheDamaged(f"{where} holds {str(value)[:80]!r} where an object belongs")
    return value


def text(tree: Mapping[str, Any], key: str, *, where: str) -> str:
    """A string of a JSON object."""
    value = need(tree, key, where=where)
    if not isinstance(value, str):
        raise CacheDamaged(f"{where}: {key} must be text, not {str(value)[:80]!r}")
    return value


def count(tree: Mapping[str, Any], key: str, *, where: str) -> int:
    """A whole number from 0 to 2^53 of a JSON object."""
    value = need(tree, key, where=where)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 2**53:
        raise CacheDamaged(f"{where}: {key} must be a whole number >= 0, not {str(value)[:80]!r}")
    return value
