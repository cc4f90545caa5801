"""The demo: the whole pipeline on real, human-rated texts."""

from kdcache.demo.pipeline import run

__all__ = ["run"]
