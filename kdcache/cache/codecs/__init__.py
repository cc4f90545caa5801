"""The codecs by store and name: how rows become arrays. Each stands in a file that says what it keeps."""

from __future__ import annotations

from kdcache.cache.codecs.base import Codec
from kdcache.cache.codecs.compact import Compact
from kdcache.cache.codecs.dense import Dense
from kdcache.cache.codecs.fast import Fast
from kdcache.cache.codecs.floats import Floats
from kdcache.cache.codecs.int8 import Int8

CODECS: dict[tuple[str, str], Codec] = {
    ("topk", "dense"): Dense(),
    ("topk", "fast"): Fast(),
    ("topk", "compact"): Compact(),
    ("hidden", "float32"): Floats("float32"),
    ("hidden", "float16"): Floats("float16"),
    ("hidden", "bfloat16"): Floats("bfloat16"),
    ("hidden", "int8"): Int8(),
}
"""(store, codec) -> codec; `row_format.STORES` has the same names."""
