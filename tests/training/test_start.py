"""One process trains alone: no process group, no DeepSpeed; and torch.compile, where there is a compiler."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TELL = "print(json.dumps({'deepspeed': 'deepspeed' in sys.modules, 'group': torch.distributed.is_initialized()}))\n"


def told(script: str, **environment: str) -> dict[str, Any]:
    """What a script's last line says, as JSON."""
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    ended = subprocess.run(
        [sys.executable, "-c", "import json, sys, torch\n" + script],
        env={**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_a_plain_training_makes_no_process_group_and_does_not_import_deepspeed():
    script = "from kdcache.training.start import start\nfrom tests.training import small\n"
    script += "world = start('cpu')\n"
    script += "trained = small.train_in_memory(world, small.settings_of(epochs=1), small.build_items(6))\n"
    script += "assert len(trained.losses) == 1\n"
    assert told(script + TELL) == {"deepspeed": False, "group": False}


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "with_group"), [("plain", False), ("deepspeed", True)])
def test_building_an_engine_imports_deepspeed_where_it_trains(engine: str, with_group: bool):
    script = "from kdcache.training.start import build, start\nfrom kdcache.training.settings import engine_settings\n"
    script += "from tests.training import small\nworld = start('cpu')\n"
    script += "assert 'deepspeed' not in sys.modules and not torch.distributed.is_initialized()\n"
    script += f"build(small.build_bert(), engine_settings(small.settings_of(engine={engine!r}), world), world)\n"
    assert told(script + TELL) == {"deepspeed": with_group, "group": with_group}


@pytest.mark.slow
def test_the_command_that_trains_a_teacher_does_without_deepspeed(tmp_path: Path):
    script = "from pathlib import Path\nfrom kdcache.cli import main\n"
    script += "from tests.tiny import write_data, write_model, write_run\n"
    script += f"folder = Path({str(tmp_path)!r})\n"
    script += "write_model(folder / 'base'), write_data(folder)\nrun = write_run(folder)\n"
    script += "try:\n    main(['train-teacher', str(run), '--device', 'cpu', '--set', 'teacher.epochs=1'])\n"
    script += "except SystemExit as end:\n    assert end.code == 0\n"
    assert told(script + TELL) == {"deepspeed": False, "group": False}


@pytest.mark.slow
def test_a_compiled_model_gives_the_losses_and_the_names_of_the_model(tmp_path: Path):
    """In float32: in bfloat16 too, but that takes another minute."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("torch.compile needs a C++ compiler, and there is none: set CXX")
    script = "from kdcache.training.start import start\nfrom tests.training import small\n"
    script += "world, items, found = start('cpu'), small.build_items(12), []\n"
    script += "for compiled in (False, True):\n"
    script += "    config = small.settings_of(compile=compiled)\n"
    script += "    found.append(small.train_in_memory(world, config, items))\n"
    script += "from torch._dynamo.utils import counters\n"
    script += (
        "print(json.dumps({'losses': [one.losses for one in found], 'names': [list(one.weights) for one in found],"
    )
    script += " 'graphs': counters['stats']['unique_graphs']}))\n"
    found = told(script, TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    assert found["graphs"] > 0
    assert len(found["losses"][0]) == 4
    assert found["losses"][1] == pytest.approx(found["losses"][0], abs=1e-5)
    assert found["names"][1] == found["names"][0]
