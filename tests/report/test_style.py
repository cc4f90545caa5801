"""The style sheet serves screen, dark screen and paper, and loads nothing."""

from __future__ import annotations

import re

from kdcache.report.plots import COLOURS
from kdcache.report.style import CSS


def test_it_knows_dark_screens_narrow_screens_and_paper():
    for query in ("prefers-color-scheme: dark", "max-width", "print"):
        assert re.search(rf"@media [^{{]*{query}", CSS)


def test_every_colour_of_the_figures_is_a_variable_on_light_dark_and_paper():
    for name, colour in COLOURS.items():
        assert len(re.findall(rf"--{name}: #", CSS)) == 3
        assert f"--{name}: {colour}" in CSS


def test_it_loads_nothing_and_its_braces_match():
    assert "url(" not in CSS
    assert "@import" not in CSS
    assert CSS.count("{") == CSS.count("}")


def test_every_variable_that_is_used_is_defined():
    assert set(re.findall(r"var\(--([\w-]+)\)", CSS)) <= set(re.findall(r"--([\w-]+):", CSS))
