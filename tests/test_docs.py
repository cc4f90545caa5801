"""The docs say what the code says: commands, links, hosts, paths."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import click
import pytest

from kdcache.cli import cli
from kdcache.data.spec import load_spec
from kdcache.student.plan import StudentConfig
from kdcache.teacher.dump import DumpConfig
from kdcache.teacher.finetune import TeacherConfig
from kdcache.training.run import load_run
from tools.make_cli_docs import TARGET, render, walk

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
PUBLIC_HOSTS = {
    *("arxiv.org", "doi.org", "github.com", "huggingface.co", "keepachangelog.com", "semver.org", "www.apache.org"),
    *("pypi.org", "docs.python.org", "setuptools.pypa.io", "www.w3.org"),
}
# Assembled, so that this file does not contain what it forbids.
MACHINE_PATH = re.compile("|".join(f"(?<![\\w.*])/{name}/" for name in ("work", "tmp", "root", "home", "Users")))


@pytest.fixture(scope="module")
def tracked() -> dict[str, str]:
    """Text of every file that git tracks, by path."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git clone: no list of tracked files")
    paths = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    texts = {}
    for path in paths:
        try:
            texts[str(path.relative_to(REPOSITORY))] = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue  # binary, or removed and not committed yet
    return texts


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[tuple[str, str]]:
    """(path, anchor) of each link of a page that is no URL."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", text):
        if not urlparse(target).scheme:
            path, _, anchor = target.partition("#")
            yield path, anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_relative_link_leads_somewhere(page: Path):
    broken = []
    for path, anchor in links(page):
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{path}#{anchor}" if anchor else path)
    assert broken == []


def test_a_broken_link_is_found(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# A `b` c!\n[x](gone.md) [y](#a-b-c) ![z](page.md#gone)\n```\n[no](link)\n```\n[u](https://a.b)\n")
    assert list(links(page)) == [("gone.md", ""), ("", "a-b-c"), ("page.md", "gone")]
    assert anchors(page) == {"a-b-c"}


def test_the_index_of_the_docs_names_every_page():
    linked = {path for path, _ in links(REPOSITORY / "docs" / "index.md")}
    pages = {page.name for page in (REPOSITORY / "docs").glob("*.md")} - {"index.md"}
    assert pages - linked == set()


def test_every_command_has_help_and_a_section():
    text = TARGET.read_text(encoding="utf-8")
    for command, context in walk(cli, "kdcache"):
        assert command.help, f"{context.command_path} has no help"
        assert f"\n## {context.command_path}\n" in text


def test_the_command_reference_is_up_to_date():
    assert TARGET.read_text(encoding="utf-8") == render(cli), "run make docs"


def test_every_command_that_a_page_shows_is_one_that_kdcache_takes():
    commands = {context.command_path: (command, context) for command, context in walk(cli, "kdcache")}
    shown = 0
    for page in PAGES:
        for line in re.findall(r"^kdcache (?!\[)(.+)$", page.read_text(), flags=re.M):
            name, *arguments = shlex.split(line, comments=True)
            if page == TARGET or not arguments:
                continue
            assert f"kdcache {name}" in commands, f"{page.name}: {line}"
            command, context = commands[f"kdcache {name}"]
            command.make_parser(context).parse_args(arguments)
            shown += 1
    assert shown > 3


def test_a_flag_that_does_not_exist_is_refused():
    command, context = next(pair for pair in walk(cli, "kdcache") if pair[1].info_name == "train-student")
    with pytest.raises(click.NoSuchOption):
        command.make_parser(context).parse_args(["study.yaml", "--tau-x", "4"])


def test_the_files_of_the_tutorial_are_files_that_kdcache_reads(tmp_path: Path):
    text = (REPOSITORY / "docs" / "tutorial.md").read_text()
    for block in re.findall(r"^```yaml\n# (\S+)\n(.*?)^```$", text, flags=re.M | re.S):
        (tmp_path / block[0]).write_text(block[1])
    assert load_spec(tmp_path / "reviews.yaml", where="reviews.yaml").labels == ("negative", "positive")
    run = load_run(tmp_path / "study.yaml")
    assert run.block("teacher", TeacherConfig).learning_rates == (1e-5, 2e-5)
    assert run.block("dump", DumpConfig).top_k == 64
    assert run.block("student", StudentConfig).learning_rate == 3e-5
    assert run.models.student("small").layers == 4


def test_no_tracked_file_names_a_path_of_somebodys_machine(tracked: dict[str, str]):
    found = {name: match.group() for name, text in tracked.items() if (match := MACHINE_PATH.search(text))}
    assert found == {}


def test_every_url_leads_to_a_public_host(tracked: dict[str, str]):
    hosts = {
        (name, host)
        for name, text in tracked.items()
        for host in re.findall(r"https?://([A-Za-z0-9.-]+)", text)
        if name != "tests/test_docs.py" and not host.startswith(("localhost", "127.0.0.1", "example."))
    }
    assert {(name, host) for name, host in hosts if host not in PUBLIC_HOSTS} == set()


def test_what_the_image_copies_is_there_and_not_ignored(tracked: dict[str, str]):
    copied = [line.split()[1:-1] for line in tracked["Dockerfile"].splitlines() if line.startswith("COPY ")]
    sources = {source for sources in copied for source in sources}
    assert {source for source in sources if not (REPOSITORY / source).exists()} == set()
    kept = {line[1:] for line in tracked[".dockerignore"].splitlines() if line.startswith("!")}
    assert sources - kept == set()
