"""`kdcache compare`: run folders in; a report, figures, CSV and JSON out. Joins the files of this folder.

Writes `report.html`, `compare.json`, a CSV file for every kind of number and `figures/*.svg|png` under `out`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import get_terminal_size

from kdcache.core.config import plain
from kdcache.core.errors import ConfigError, RunError
from kdcache.core.results import write_json
from kdcache.report.csvs import csv_files
from kdcache.report.findings import Excluded
from kdcache.report.gallery import gallery
from kdcache.report.options import Options
from kdcache.report.page import render as render_html
from kdcache.report.plots import as_png, as_svg
from kdcache.report.runs import find_runs, group_cases, load_runs
from kdcache.report.study import Study, examine
from kdcache.report.terminal import WIDTH
from kdcache.report.terminal import render as render_text
from kdcache.report.two_runs import sides_of
from kdcache.version import __version__

MIN_RESAMPLES = 100
"""Fewer give no 95 % interval worth the name."""

FORMAT = 1
"""Of `compare.json`."""
JSON = "compare.json"
UNFINISHED = "has not finished: it has no result.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What was found (`study`), and where the report is."""

    study: Study
    out: Path

    @property
    def report(self) -> Path:
        """Path of the HTML report."""
        return self.out / "report.html"

    def terminal(self, *, width: int | None = None) -> str:
        """Summary and tables as plain text, and where the report is.

        Args:
            width: characters of a line; default: the terminal's, at most 110, and 110 for a pipe or a file.
        """
        here = min(WIDTH, get_terminal_size((WIDTH, 0)).columns)
        text = render_text(self.study, width=here if width is None else width)
        seen = text.replace("\n", "")
        untold = [f"Left out: {e.reason}\n" for e in self.study.findings.excluded if e.folder not in seen]
        return f"{text}{''.join(untold)}\nReport: {self.report}"

    def json(self) -> str:
        """`compare.json`, for machines."""
        return (self.out / JSON).read_text(encoding="utf-8")


def compare(
    folders: Sequence[Path], *, out: Path, resamples: int = 10_000, seed: int = 0, options: Options | None = None
) -> Comparison:
    """Compare finished student runs and write the report.

    Args:
        folders: run folders, or folders that hold them up to two levels below.
        out: folder of the report; made if missing, files of an earlier report are replaced.
        resamples: bootstrap resamples of the test examples.
        seed: of the resamples and simulations; equal seeds give equal reports.
        options: baseline, declared family, and more; the defaults by default.

    Raises:
        RunError: no runs, an unfinished or damaged run that was named, runs that cannot be compared, a run left out
            under `options.strict`, `out` cannot be written.
        ConfigError: fewer than 100 resamples, a negative seed, or a label that no run has.
    """
    if resamples < MIN_RESAMPLES:
        raise ConfigError(f"resamples = {resamples} is too few for an interval; give at least {MIN_RESAMPLES}")
    if seed < 0:
        raise ConfigError(f"seed = {seed} is negative; give a seed >= 0")
    options = options or Options()
    finished, unfinished = find_runs(folders)
    runs, left_out = load_runs(finished, named=folders)
    if options.strict:
        _refuse_exclusions(unfinished, left_out)
    cases = group_cases(runs)
    _prepare(out)  # before the work, so that nothing is computed for nothing
    excluded = [Excluded(folder=str(folder), reason=UNFINISHED) for folder in unfinished]
    excluded += [Excluded(folder=str(folder), reason=reason) for folder, reason in left_out.items()]
    study = examine(
        cases,
        resamples=resamples,
        seed=seed,
        unfinished=[str(folder) for folder in unfinished],
        options=options,
        excluded=excluded,
        sides=sides_of(folders, runs),
    )
    try:
        _write(study, out)
    except OSError as error:
        raise _cannot_write(out, error) from None
    return Comparison(study=study, out=out)


def _refuse_exclusions(unfinished: Sequence[Path], left_out: Mapping[Path, str]) -> None:
    if left_out:
        raise RunError(f"--strict: {next(iter(left_out.values()))} ({len(left_out)} such)")
    if unfinished:
        raise RunError(f"--strict: {unfinished[0]} {UNFINISHED} ({len(unfinished)} such); finish it, or move it away")


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
    drawn = gallery(study)
    vectors = {one.name: as_svg(one.figure) for one in drawn}
    for one in drawn:
        (out / "figures" / f"{one.name}.svg").write_bytes(vectors[one.name])
        (out / "figures" / f"{one.name}.png").write_bytes(as_png(one.figure))
    for name, content in csv_files(study).items():
        (out / f"{name}.csv").write_text(content, encoding="utf-8")
    write_json(out / JSON, {"format": FORMAT, "kdcache": __version__, **plain(study)})
    (out / "report.html").write_text(render_html(study, drawn, vectors), encoding="utf-8")
