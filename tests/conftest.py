"""Fixtures of every folder."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data that KDCACHE_DATA names: skip where it is unset, fail where it is wrong."""
    value = os.environ.get("KDCACHE_DATA")
    if not value:
        pytest.skip("KDCACHE_DATA is not set; it names the folder with real data")
    root = Path(value).expanduser()
    if not root.is_dir():
        pytest.fail(f"KDCACHE_DATA = {value} is not a folder")
    return root
