"""Real translations through the commands: a random mBART-class model, its tokenizer trained on the data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from kdcache.core.config import plain, shipped
from kdcache.data.read import read_split
from kdcache.data.spec import load_spec
from kdcache.tasks import make
from kdcache.training.models import ModelSource, load_tokenizer
from tests.readonly import share
from tests.tiny import call
from tests.tiny_text import write_mbart

pytestmark = pytest.mark.realdata
LIMIT = {"train": 400, "validation": 40, "test": 40}


@pytest.fixture(scope="module", params=["multi30k_de-en", "wmt16_ro-en"])
def real(request: pytest.FixtureRequest, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base/` and `run.yaml` over some of the pairs; read-only."""
    folder = tmp_path_factory.mktemp(request.param)
    spec = load_spec(shipped(f"datasets/dev/{request.param}.yaml"))
    pairs = [e.fields for e in read_split(spec, "train", data_root=data_root)[:2000]]
    write_mbart(folder / "base", texts=[p[side] for p in pairs for side in ("source", "target")], vocab_size=1500)
    dataset = plain(spec) | {"limit": LIMIT, "max_length": 64, "beams": 2}
    training = {"epochs": 2, "batch_size": 16, "learning_rate": 0.003}
    run = {
        "out": str(folder / "out"),
        "dataset": {name: value for name, value in dataset.items() if value not in (None, {}, [])},
        "models": {
            "teacher": {"path": str(folder / "base")},
            "students": {"one": {"path": str(folder / "base"), "layers": {"encoder": 1, "decoder": 1}}},
        },
        "teacher": {**training, "evals_per_epoch": 1},
        "student": {**training, "tau_t": 2},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run, allow_unicode=True))
    return share(request, folder)


def test_real_pairs_go_through_every_command(
    real: Path, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, root = str(real / "run.yaml"), ["--data-root", str(data_root)]
    out = ["--out", str(tmp_path)]
    call("train-teacher", run, "--device", "cpu", *root, *out)
    teacher = json.loads((tmp_path / "teacher/teacher.json").read_text())
    assert sum(teacher["sizes"].values()) + teacher["num_dropped"] == sum(LIMIT.values())
    losses = [record["nll"] for record in teacher["checkpoints"]]
    assert losses[-1] < losses[0] < 7.5, "ln 1,500 = 7.3 is what a model knows that knows nothing"
    call("dump-teacher", run, "--device", "cpu", *root, *out)
    named = [f"t_{role}={tmp_path}/teacher/selected/t_{role}" for role in ("hs", "ll")]
    options = [word for name in named for word in ("--teacher", name)]
    hidden = ["--out", str(tmp_path / "hidden"), "--set", "dump.store=hidden"]
    call("dump-teacher", run, "--device", "cpu", *root, *options, *hidden)
    for cache in ([], ["--cache", str(tmp_path / "hidden/cache")]):
        call("train-student", run, "--device", "cpu", *root, *out, *cache)
    results = sorted((tmp_path / "students/one").glob("*/result.json"))
    assert len(results) == 2
    for path in results:
        scores = json.loads(path.read_text())["scores"]["test"]
        assert 0 < scores["nll"]["value"] < 7.5
        assert f"|n={teacher['sizes']['test']}|" in scores["bleu"]["signature"]
    capsys.readouterr()
    call("inspect", str(shipped(f"datasets/dev/{real.name[:-1]}.yaml")), "--tokenizer", str(real / "base"), *root)
    assert "translation, metric bleu" in capsys.readouterr().out


def test_no_target_is_lost_between_text_and_rows(real: Path, data_root: Path):
    """What rows say, decoded, is the target; pairs that are too long are counted."""
    spec = load_spec(shipped(f"datasets/dev/{real.name[:-1]}.yaml"))
    task, tokenizer = make(spec.task, spec.task_settings()), load_tokenizer(ModelSource(path=str(real / "base")))
    dropped, differing = 0, 0
    examples = read_split(spec, "test", data_root=data_root)
    for example in examples:
        items = task.encode(example, tokenizer)
        dropped += not items
        for item in items:
            said = tokenizer.decode(item.labels_R, skip_special_tokens=True)
            whole = "<unk>" not in tokenizer.convert_ids_to_tokens(item.labels_R.tolist())
            differing += whole and said.strip() != " ".join(example.fields["target"].split())
    assert dropped == int((task.lengths(examples, tokenizer) > spec.max_length).sum()) < len(examples) / 5
    assert differing == 0
