"""What every folder of tests shares: the tiny study, the folder of real data, and what a machine must have."""

import os
import socket
from pathlib import Path

import pytest

HUB = ("huggingface.co", 443)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot run, with the reason: `gpu` without CUDA, `network` without the internet."""
    if item.get_closest_marker("gpu") and (reason := no_gpu()):
        pytest.skip(reason)
    if item.get_closest_marker("network") and (reason := no_network()):
        pytest.skip(reason)


def no_gpu() -> str:
    """Why a test that is marked `gpu` cannot run; empty where it can."""
    import torch

    return "" if torch.cuda.is_available() else "needs a CUDA device, and torch sees none"


def no_network(address: tuple[str, int] = HUB) -> str:
    """Why a test that is marked `network` cannot run; empty where it can."""
    try:
        socket.create_connection(address, timeout=3).close()
    except OSError as error:
        return f"needs the internet, and {address[0]} cannot be reached: {error}"
    return ""


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny study, its teacher trained and dumped. Add to `out/`; change copies only."""
    from tests.tiny import write_study

    return write_study(tmp_path_factory.mktemp("study"))


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
