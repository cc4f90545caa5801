"""The check of reports in a browser: what it calls wrong, and that it never passes without a browser."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools import check_report
from tools.chromium import Browser, find

FIGURE = {
    "title": "Figure 1", "left": 10, "right": 390, "width": 380, "height": 200, "marks": 9, "clashes": [], "out": [],
    "text": 9.0, "caption": 380,
}  # fmt: skip

PAGE = """<!doctype html><html><body><figure><h4>F</h4>
<svg viewBox="0 0 300 100" style="display:block;width:100%"><path d="M0 0L9 9"/><text x="5" y="50">a</text></svg>
<figcaption>{caption}</figcaption></figure>{more}</body></html>"""


def test_without_a_browser_it_fails_and_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["check_report", "report.html"])
    assert check_report.main() == 2
    assert "no browser found (looked for chromium, " in capsys.readouterr().out


def test_a_good_figure_has_no_fault():
    assert check_report._figures([FIGURE], 400) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 100}, "Figure 1: 100 x 200 pixels, 9 marks"),
        ({"marks": 0}, "Figure 1: 380 x 200 pixels, 0 marks"),
        ({"right": 430}, "Figure 1: reaches from 10 to 430 pixels"),
        ({"caption": 8}, "Figure 1: a caption 8 pixels wide"),
        ({"text": 5.0}, "Figure 1: text of 5.0 pixels"),
        ({"clashes": ["a / b"]}, "Figure 1: text over text: a / b"),
        ({"out": ["a"]}, "Figure 1: text outside: a"),
    ],
)
def test_every_fault_of_a_figure_is_named(changes, words):
    assert check_report._figures([{**FIGURE, **changes}], 400) == [words]


def test_requests_messages_and_exceptions_are_faults_but_the_page_itself_is_none(tmp_path):
    page = tmp_path / "report.html"

    def requested(url):
        return {"method": "Network.requestWillBeSent", "params": {"request": {"url": url}}}

    events = [
        requested(page.resolve().as_uri()),
        requested("https://example.com/font"),
        {"method": "Log.entryAdded", "params": {"entry": {"text": "blocked"}}},
        {"method": "Runtime.exceptionThrown", "params": {"exceptionDetails": {"text": "oops"}}},
        {"method": "Runtime.consoleAPICalled", "params": {"args": ["hi"]}},
        {"method": "Page.loadEventFired", "params": {}},
    ]
    assert check_report._events(events, page) == [
        "request: https://example.com/font", "log: blocked", "exception: oops", "console: ['hi']",
    ]  # fmt: skip


@pytest.mark.skipif(find() is None, reason="no Chromium on this machine; tools/check_report.py fails without one")
def test_a_browser_finds_what_is_wrong_with_a_page_and_nothing_with_a_good_one(tmp_path: Path):
    good, bad = tmp_path / "good.html", tmp_path / "bad.html"
    good.write_text(PAGE.format(caption="1 case.", more=""))
    wide = '<div style="width:2000px">x</div><img src="missing.png"><script>console.log("hi")</script>'
    bad.write_text(PAGE.format(caption="", more=wide).replace("<text", '<text x="6" y="51">b</text><text'))
    with Browser(str(find())) as browser:
        assert check_report.look(browser, good, width=400, scheme="dark").wrong == ()
        seen = check_report.look(browser, bad, width=400, scheme="light")
    assert seen.figures == 1
    said = "\n".join(seen.wrong)
    for words in ("console: ", "missing.png", "text over text: b / a", "the page is 20"):
        assert words in said
