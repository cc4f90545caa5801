"""The launcher's command, and what is refused before anything starts."""

from __future__ import annotations

import pytest

from kdcache.core.errors import LaunchError
from kdcache.training import launch
from kdcache.training.launch import Launch


def test_the_command_of_two_cpu_processes():
    line = launch.command(Launch(device="cpu", num_procs=2), ["train-student", "a.yaml"], port=1234, python="python")
    assert line == [
        *("python", "-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--master_port", "1234"),
        *("--no_local_rank", "--module", "kdcache", "train-student", "a.yaml"),
    ]


def test_nodes_and_hostfile_are_passed_on(tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("a slots=8\n")
    asked = Launch(num_gpus=8, num_nodes=2, hostfile=hosts)
    launch.check(asked, gpus_here=0)
    line = launch.command(asked, [], port=1)
    assert line[line.index("--num_nodes") + 1] == "2"
    assert line[line.index("--hostfile") + 1] == str(hosts)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Launch(num_gpus=0), "--num-gpus 0: give at least 1"),
        (Launch(num_gpus=2, device="cpu"), "give one of them"),
        (Launch(num_procs=2), "--num-procs is for --device cpu"),
        (Launch(num_gpus=4), "this machine shows 1 CUDA devices; use --device cpu --num-procs 4"),
        (Launch(hostfile=__import__("pathlib").Path("nowhere")), "no hostfile nowhere"),
    ],
)
def test_what_cannot_be_had_is_refused(asked, message):
    with pytest.raises(LaunchError, match=message):
        launch.check(asked, gpus_here=1)


def test_a_launcher_is_needed_for_several_processes_and_only_once():
    assert not launch.needs_launcher(Launch(), {})
    assert launch.needs_launcher(Launch(device="cpu", num_procs=2), {})
    assert not launch.needs_launcher(Launch(device="cpu", num_procs=2), {"RANK": "0", "WORLD_SIZE": "2"})


def test_a_free_port_is_a_port():
    assert 0 < launch.free_port() < 65536


@pytest.mark.slow
def test_the_exit_code_of_failing_processes_comes_back(capfd):
    code = launch.run(Launch(device="cpu", num_procs=2), ["no-such-command", "--num-procs", "2"], gpus_here=0)
    assert code != 0
    assert "No such command 'no-such-command'" in capfd.readouterr().err


def test_nothing_starts_where_the_processes_cannot_be_had():
    with pytest.raises(LaunchError, match=r"^--num-gpus 2: this machine shows 0 CUDA devices; use --device cpu"):
        launch.run(Launch(num_gpus=2), [], gpus_here=0)
