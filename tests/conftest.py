"""What every folder of tests shares: the tiny study, the folder of real data, and what a machine must have."""

import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.readonly import changed, share

# A loaded machine is slow, not wrong: no test of properties watches the clock.
settings.register_profile("kdcache", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kdcache")

HUB = ("huggingface.co", 443)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--shuffle SEED`: the files in another order, and the tests of each. `--engine deepspeed`: what `auto` is."""
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run files, and the tests of a file, in random order")
    parser.addoption("--engine", choices=("plain", "deepspeed"), default="plain", help="what engine: auto takes")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shuffle if asked to. Mark as `slow` what uses the tiny study: it waits until a teacher is trained and dumped."""
    if (seed := config.getoption("--shuffle")) is not None:
        shuffled = random.Random(seed)
        files = {item.path: shuffled.random() for item in items}
        items.sort(key=lambda item: (files[item.path], shuffled.random()))
    for item in items:
        if "study" in getattr(item, "fixturenames", []):
            item.add_marker("slow")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot run, with the reason: `gpu` without CUDA, `network` without the internet."""
    if item.get_closest_marker("gpu") and (reason := no_gpu()):
        pytest.skip(reason)
    if item.get_closest_marker("network") and (reason := no_network()):
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that changed what it shares with others."""
    try:
        yield
    except BaseException as error:
        if said := changed(getattr(item, "fixturenames", [])):
            error.add_note(said)  # else the next test would seem to have done it
        raise
    if said := changed(getattr(item, "fixturenames", [])):
        pytest.fail(said, pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """With `--engine deepspeed`, trainings of this process that name no engine are DeepSpeed's."""
    if request.config.getoption("--engine") == "plain":
        yield
        return
    from kdcache.training.settings import TrainingConfig

    real = TrainingConfig.kind
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            TrainingConfig, "kind", lambda self, size: real(self, size) if self.engine != "auto" else "deepspeed"
        )
        yield


@pytest.fixture
def _plain(request: pytest.FixtureRequest) -> None:
    """Skip what is about the plain engine where `--engine` says that another one trains."""
    if request.config.getoption("--engine") != "plain":
        pytest.skip("is about the plain engine, which --engine deepspeed replaces")


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
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny study, its teacher trained and dumped; read-only: change copies."""
    from tests.tiny import write_study

    return share(request, write_study(tmp_path_factory.mktemp("study")))


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
