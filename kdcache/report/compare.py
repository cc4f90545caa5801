"""`kdcache compare`: run folders in; a report, figures, CSV and JSON out. Joins the files of this folder.

Writes `report.html`, `results.csv`, `choices.csv`, `compare.json` and `figures/*.svg|png` under `out`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from matplotlib.figure import Figure

from kdcache.core.config import plain
from kdcache.core.errors import ConfigError, RunError
from kdcache.core.results import write_json
from kdcache.report.gain import CaseTable, Gain
from kdcache.report.html import render as render_html
from kdcache.report.plots import as_png, as_svg, effects_figure, gain_figure
from kdcache.report.runs import find_runs, group_cases, load_run
from kdcache.report.study import Study, examine
from kdcache.report.terminal import WIDTH
from kdcache.report.terminal import render as render_text
from kdcache.version import __version__

MIN_RESAMPLES = 100
"""Fewer give no 95 % interval worth the name."""

FORMAT = 1
"""Of `compare.json`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What was found (`study`), and where the report is."""

    study: Study
    out: Path

    @property
    def report(self) -> Path:
        """Path of the HTML report."""
        return self.out / "report.html"

    def terminal(self, *, width: int = WIDTH) -> str:
        """Summary and tables as plain text, and where the report is."""
        return f"{render_text(self.study, width=width)}\nReport: {self.report}"


def compare(folders: Sequence[Path], *, out: Path, resamples: int = 10_000, seed: int = 0) -> Comparison:
    """Compare finished student runs and write the report.

    Args:
        folders: run folders, or folders that hold them up to two levels below.
        out: folder of the report; made if missing, files of an earlier report are replaced.
        resamples: bootstrap resamples of the test examples.
        seed: of the resamples; equal seeds give equal reports.

    Raises:
        RunError: no runs, an unfinished or damaged run, runs that cannot be compared, `out` cannot be written.
        ConfigError: fewer than 100 resamples, or a negative seed.
    """
    if resamples < MIN_RESAMPLES:
        raise ConfigError(f"resamples = {resamples} is too few for an interval; give at least {MIN_RESAMPLES}")
    if seed < 0:
        raise ConfigError(f"seed = {seed} is negative; give a seed >= 0")
    finished, unfinished = find_runs(folders)
    cases = group_cases(load_run(folder) for folder in finished)
    _prepare(out)  # before the work, so that nothing is computed for nothing
    study = examine(cases, resamples=resamples, seed=seed, unfinished=[str(folder) for folder in unfinished])
    try:
        _write(study, out)
    except OSError as error:
        raise _cannot_write(out, error) from None
    return Comparison(study=study, out=out)


def _prepare(out: Path) -> None:
    """Make `out` and its `figures`, and see that both can be written."""
    try:
        for folder in (out, out / "figures"):
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".kdcache-probe"
            probe.write_bytes(b"")
            probe.unlink()
    except OSError as error:
        raise _cannot_write(out, error) from None


def _cannot_write(out: Path, error: OSError) -> RunError:
    return RunError(f"cannot write the report to {out}: {error.strerror or error}; give another folder with --out")


def _write(study: Study, out: Path) -> None:
    drawn = {name: figure for name, figure in _figures(study).items() if figure is not None}
    vectors = {name: as_svg(figure) for name, figure in drawn.items()}
    for name, figure in drawn.items():
        (out / "figures" / f"{name}.svg").write_bytes(vectors[name])
        (out / "figures" / f"{name}.png").write_bytes(as_png(figure))
    (out / "results.csv").write_text(results_csv(study), encoding="utf-8")
    (out / "choices.csv").write_text(choices_csv(study), encoding="utf-8")
    write_json(out / "compare.json", {"format": FORMAT, "kdcache": __version__, **plain(study)})
    (out / "report.html").write_text(render_html(study, vectors), encoding="utf-8")


def _figures(study: Study) -> dict[str, Figure | None]:
    """Name -> figure: `gain-<n>` for case n from 1, `choices-<metric>`."""
    figures = {f"gain-{i}": gain_figure(table) for i, table in enumerate(study.cases, start=1)}
    for metric in dict.fromkeys(effect.metric for effect in study.effects):
        own = [effect for effect in study.effects if effect.metric == metric]
        figures[f"choices-{metric}"] = effects_figure(own)
    return figures


def results_csv(study: Study) -> str:
    """One line a configuration of a case, numbers at full precision, empty where there is none."""
    return _csv([_result(table, i) for table in study.cases for i in range(len(table.rows))])


def _result(table: CaseTable, index: int) -> dict[str, object]:
    row, c = table.rows[index], table.rows[index].configuration
    hard = c.alpha == 0
    return {
        "dataset": table.dataset,
        "student": table.student,
        "configuration": row.label,
        "teacher": "=".join(row.teachers),
        "loss": None if hard else c.loss,
        "tau_t": None if hard else c.tau_t,
        "tau_s": None if hard else c.student_temperature,
        "alpha": c.alpha,
        "seeds": " ".join(map(str, row.seeds)),
        "metric": table.metric,
        "validation": row.validation,
        "test": row.test,
        "test_sd": row.test_sd,
        **_gain("hard", row.over_hard),
        **_gain("worst", row.over_worst),
        "picked_by_validation": int(index == table.picked),
        "picked_by_test": int(index == table.oracle),
        "exactness": "; ".join(row.exactness),
        **{f"test_{name}": value for name, value in row.others.items()},
    }


def _gain(baseline: str, gain: Gain | None) -> dict[str, object]:
    values = (None, None, None) if gain is None else (gain.percent, gain.low, gain.high)
    return dict(zip((f"gain_over_{baseline}_{part}" for part in ("percent", "low", "high")), values, strict=True))


def choices_csv(study: Study) -> str:
    """One line a choice: mean paired difference in test score, in the metric's own unit."""
    return _csv(
        [
            {
                "choice": effect.choice,
                "default": effect.default,
                "alternative": effect.alternative,
                "metric": effect.metric,
                "mean": effect.mean,
                "low": effect.low,
                "high": effect.high,
                "pairs": len(effect.differences),
                "better": effect.better,
                "cases": effect.cases,
                "seeds": " ".join(map(str, effect.seeds)),
            }
            for effect in study.effects
        ]
    )


def _csv(records: Sequence[Mapping[str, object]]) -> str:
    text = StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(k for record in records for k in record)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()
