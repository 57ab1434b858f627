"""Figures of benchmarks that other pages quote are those of the page of benchmarks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
MEASURED = (DOCS / "benchmarks.md").read_text()

#: Ratios and factors, which nothing but a measurement has: three figures after the point, or two.
RATIO = re.compile(r"(?<![\d.])\d\.\d{2,3}(?![\d.])")


@pytest.mark.parametrize("page", ["explanation/why-late-binding.md", "explanation/limits.md"])
def test_ratios_are_measured(page):
    quoted = set(RATIO.findall((DOCS / page).read_text()))
    assert quoted
    assert quoted <= set(RATIO.findall(MEASURED))


def test_what_is_said_of_overhead_is_measured():
    limits = (DOCS / "explanation" / "limits.md").read_text()
    assert "costs some 650 to 2,000 microseconds" in " ".join(limits.split())
    assert "some 650 to 2,000 microseconds" in " ".join(MEASURED.split())
    assert "it is 339" in " ".join(limits.split())
    assert "| 339.0 |" in MEASURED
