"""The one place of kdcache's version."""

__version__ = "0.1.0.dev0"
