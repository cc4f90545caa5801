"""The exception tree. A message says what was wrong (with the value), what is allowed, and what to do.

KDCacheError                      exit code 1    anything kdcache refuses; `except KDCacheError` catches all below
├── ConfigError                   exit code 2    a setting, a flag or a config file
├── DataError                     exit code 3    a dataset: missing file, unknown label, malformed record
├── CacheError                    exit code 4    a cache on disk
│   ├── CacheDamaged              exit code 1    bytes that are not what was committed
│   ├── CacheFormatError          exit code 2    not a cache, or one that this version cannot read
│   ├── CacheIncomplete           exit code 4    a dump that has not finished
│   └── CacheMismatch             exit code 4    a cache of other data, another tokenizer, another teacher
├── IncompatibleTargets           exit code 5    the cached rows cannot give what the configuration asks for
├── ModelError                    exit code 6    a model that cannot be loaded or truncated
├── TrainingError                 exit code 7    NaN loss, empty batch, all rows masked
├── RunError                      exit code 8    run folders that cannot be compared or overwritten
└── LaunchError                   exit code 9    processes, devices, ranks
"""


class KDCacheError(Exception):
    """Base of every error that kdcache raises on purpose."""

    exit_code = 1


class ConfigError(KDCacheError, ValueError):
    """A setting, a flag or a config file is wrong."""

    exit_code = 2


class DataError(KDCacheError, ValueError):
    """A dataset cannot be read as its YAML says."""

    exit_code = 3


class CacheError(KDCacheError):
    """Something about a cache on disk."""

    exit_code = 4


class CacheDamaged(CacheError):
    """Bytes on disk are not the bytes that were committed."""

    exit_code = 1


class CacheFormatError(CacheError):
    """Not a kdcache cache, or a version that this kdcache cannot read."""

    exit_code = 2


class CacheIncomplete(CacheError):
    """The dump that writes this cache has not finished."""


class CacheMismatch(CacheError):
    """The cache belongs to other data, another tokenizer or another teacher."""


class IncompatibleTargets(KDCacheError, ValueError):
    """The cached rows cannot give what the configuration asks for."""

    exit_code = 5


class ModelError(KDCacheError):
    """A model cannot be loaded, does not fit its data, or cannot be truncated."""

    exit_code = 6


class TrainingError(KDCacheError):
    """Training cannot go on: NaN loss, no usable row, an item over the limit."""

    exit_code = 7


class RunError(KDCacheError):
    """A run folder is missing, unfinished, or not comparable with the others."""

    exit_code = 8


class LaunchError(KDCacheError):
    """The processes or devices that were asked for cannot be had."""

    exit_code = 9
