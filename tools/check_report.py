"""Open HTML reports in headless Chromium: `python -m tools.check_report REPORT... [--shots FOLDER]`.

Each is opened 400 and 1,400 pixels wide, in light and in dark. Checked: nothing on the console, no request but for the
file itself, every figure inside the page and drawn, no page that is wider than its window, no two texts of a figure
over each other. Exits 1 where a check fails, 2 where no browser is found: nothing is skipped in silence.
"""

from __future__ import annotations

import argparse
import base64
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.chromium import NAMES, Browser, BrowserError, find

WIDTHS = (400, 1400)
SCHEMES = ("light", "dark")
LEAST_FIGURE = 150
"""Pixels that a figure must be wide and a tenth of which it must be high."""
LEAST_TEXT = 7.5
"""Pixels of the smallest letters of a figure."""

MEASURE = """(() => {
  for (const d of document.querySelectorAll('details')) d.open = true;
  const figures = [...document.querySelectorAll('figure')].map(f => {
    const svg = f.querySelector('svg'), box = svg.getBoundingClientRect();
    const scale = box.width / svg.viewBox.baseVal.width;
    const texts = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect(),
      parseFloat(getComputedStyle(t).fontSize) * scale]).filter(([s]) => s.trim());
    const clashes = [], out = [];
    for (let i = 0; i < texts.length; i++) {
      const a = texts[i][1];
      if (a.right > box.right + 1 || a.left < box.left - 1) out.push(texts[i][0]);
      for (let j = 0; j < i; j++) {
        const b = texts[j][1];
        const w = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const h = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (w > 1 && h > 0.35 * Math.min(a.height, b.height)) clashes.push(texts[j][0] + ' / ' + texts[i][0]);
      }
    }
    return {title: f.querySelector('h4').textContent, left: box.left, right: box.right, width: box.width,
      height: box.height, marks: svg.querySelectorAll('path, use').length, clashes, out,
      text: Math.min(...texts.map(t => t[2])), caption: f.querySelector('figcaption').getBoundingClientRect().width};
  });
  return {figures, width: document.documentElement.scrollWidth, height: document.documentElement.scrollHeight};
})()"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one opening showed: figures, and everything that is wrong."""

    figures: int
    height: int
    wrong: tuple[str, ...]


def look(browser: Browser, page: Path, *, width: int, scheme: str) -> Seen:
    """Open a report and check it."""
    browser.events.clear()
    browser.open(page, width=width, media=[("prefers-color-scheme", scheme)])
    found = browser.value(MEASURE)
    wrong = [*_events(browser.events, page), *_figures(found["figures"], width)]
    if found["width"] > width:
        wrong.append(f"the page is {found['width']} pixels wide")
    return Seen(figures=len(found["figures"]), height=int(found["height"]), wrong=tuple(wrong))


def _events(events: list[dict[str, Any]], page: Path) -> list[str]:
    """Console messages, exceptions, and requests beside the one for the page."""
    wrong = []
    for event in events:
        method, given = event.get("method"), event.get("params", {})
        if method == "Runtime.consoleAPICalled":
            wrong.append(f"console: {given.get('args')}")
        elif method == "Runtime.exceptionThrown":
            wrong.append(f"exception: {given['exceptionDetails'].get('text')}")
        elif method == "Log.entryAdded":
            wrong.append(f"log: {given['entry'].get('text')}")
        elif method == "Network.requestWillBeSent" and given["request"]["url"] != page.resolve().as_uri():
            wrong.append(f"request: {given['request']['url']}")
    return wrong


def _figures(figures: list[dict[str, Any]], width: int) -> list[str]:
    wrong = []
    for figure in figures:
        name = figure["title"]
        if figure["width"] < LEAST_FIGURE or figure["height"] < LEAST_FIGURE / 10 or not figure["marks"]:
            wrong.append(f"{name}: {figure['width']:.0f} x {figure['height']:.0f} pixels, {figure['marks']} marks")
        if figure["left"] < 0 or figure["right"] > width:
            wrong.append(f"{name}: reaches from {figure['left']:.0f} to {figure['right']:.0f} pixels")
        if figure["caption"] < LEAST_FIGURE:
            wrong.append(f"{name}: a caption {figure['caption']:.0f} pixels wide")
        if figure["text"] < LEAST_TEXT:
            wrong.append(f"{name}: text of {figure['text']:.1f} pixels")
        wrong += [f"{name}: text over text: {clash}" for clash in figure["clashes"]]
        wrong += [f"{name}: text outside: {text}" for text in figure["out"]]
    return wrong


def shoot(browser: Browser, path: Path, *, width: int, height: int) -> None:
    """A picture of the whole page."""
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    found = browser.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
    path.write_bytes(base64.b64decode(found["data"]))


def main() -> int:
    """Check every report; 0 where all is well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--shots", type=Path, help="folder for pictures of each width and scheme, and a PDF")
    options = parser.parse_args()
    path = find()
    if path is None:
        print(f"no browser found (looked for {', '.join(NAMES)}): nothing was checked; install chromium")
        return 2
    failed = False
    with Browser(path) as browser:
        for report in options.reports:
            for width in WIDTHS:
                for scheme in SCHEMES:
                    seen = look(browser, report, width=width, scheme=scheme)
                    print(f"{report}, {width} px, {scheme}: {seen.figures} figures, {len(seen.wrong)} faults")
                    for fault in seen.wrong:
                        print(f"  {fault}")
                    failed |= bool(seen.wrong)
                    if options.shots:
                        options.shots.mkdir(parents=True, exist_ok=True)
                        picture = options.shots / f"{report.resolve().parent.name}-{width}-{scheme}.png"
                        shoot(browser, picture, width=width, height=seen.height)
            if options.shots:
                pdf = base64.b64decode(browser.ask("Page.printToPDF")["data"])
                (options.shots / f"{report.resolve().parent.name}.pdf").write_bytes(pdf)
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrowserError as error:
        sys.exit(f"{error}")
