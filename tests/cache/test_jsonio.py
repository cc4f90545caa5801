"""JSON from a source that is not trusted."""

import pytest

from kdcache.cache.jsonio import count, mapping, need, parse_json, text, to_json
from kdcache.core.errors import CacheDamaged, CacheError
from kdcache.version import __version__


def test_equal_values_give_equal_bytes_whatever_their_order():
    assert to_json({"b": "ä", "a": 1}) == to_json({"a": 1, "b": "ä"}) == '{"a":1,"b":"ä"}\n'.encode()


def test_nan_is_not_written():
    with pytest.raises(CacheError, match="NaN or infinity cannot be stored in JSON"):
        to_json({"nll": float("nan")})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1, "a": 2}', "x is not valid JSON: a key stands twice"),
        (b'{"a": NaN}', "x is not valid JSON: NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "x is not valid JSON: Exceeds the limit"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "x is nested too deeply; 32 levels are allowed"),
        (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "x is nested too deeply; 32 levels are allowed"),
        (b'{"a": [' + b"1," * 4_000_001 + b"1]}", "x holds more than 4,000,000 values"),
        (b"[1]", "x must hold one JSON object"),
        (b'{"a": 1', "x is not valid JSON"),
        (b"\xff\xfe", "x is not valid JSON"),
    ],
    ids=["twice", "nan", "infinity", "digits", "depth", "levels", "values", "list", "cut", "utf8"],
)
def test_hostile_json_is_refused_in_one_line(content, message):
    with pytest.raises(CacheDamaged) as caught:
        parse_json(content, where="x")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_of_another_type_are_refused():
    with pytest.raises(CacheDamaged, match="x: size must be a whole number >= 0, not 'True'"):
        count({"size": True}, "size", where="x")
    with pytest.raises(CacheDamaged, match="x: size must be a whole number >= 0, not '-1'"):
        count({"size": -1}, "size", where="x")
    with pytest.raises(CacheDamaged, match="x: uid must be text, not 'None'"):
        text({"uid": None}, "uid", where="x")
    with pytest.raises(CacheDamaged, match="x holds '3' where an object belongs"):
        mapping(3, where="x")


@pytest.mark.parametrize("read", [text, count, need])
def test_a_key_that_is_not_there_says_what_to_do(read):
    with pytest.raises(CacheDamaged) as caught:
        read({"codec": 3}, "store", where="x.json")
    assert str(caught.value) == (
        f"x.json lacks store, which kdcache {__version__} reads: another version wrote it, or it was changed; "
        "restore it, or remove the folder of the cache and run kdcache dump-teacher CONFIG again"
    )
