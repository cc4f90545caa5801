"""Tests that a machine cannot run are skipped, with the reason; those it can run are not."""

from __future__ import annotations

import socket

import pytest
import torch

from tests.conftest import HUB, no_gpu, no_network


@pytest.mark.gpu
def test_a_test_marked_gpu_runs_only_where_there_is_one() -> None:
    assert torch.zeros(1, device="cuda").item() == 0


@pytest.mark.network
def test_a_test_marked_network_runs_only_where_there_is_one() -> None:
    socket.create_connection(HUB, timeout=10).close()


def test_a_missing_device_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert no_gpu() == "needs a CUDA device, and torch sees none"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert no_gpu() == ""


def test_a_host_that_is_not_reached_is_the_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = ("127.0.0.1", server.getsockname()[1])
        assert no_network(address) == ""
    assert no_network(address).startswith("needs the internet, and 127.0.0.1 cannot be reached: ")
