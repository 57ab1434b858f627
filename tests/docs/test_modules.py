"""Modules that the documentation names are there, and so is what it says is in them."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PACKAGE = DOCS.parent / "handoff_dask"
WAY = DOCS / "explanation" / "way-of-a-function.md"

NAMED = sorted(
    {name for page in DOCS.rglob("*.md") for name in re.findall(r"`(_\w+/\w+\.py)`", page.read_text("utf-8"))}
)
FORMS = re.findall(r"^\| `(\w+)` \| `(\w+)/(\w+)\.py`", WAY.read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("name", NAMED)
def test_a_module_that_is_named_is_there(name):
    assert (PACKAGE / name).is_file()


def test_the_forms_of_a_function_are_where_the_page_says():
    assert len(FORMS) == 6
    for form, layer, module in FORMS:
        assert form in vars(import_module(f"handoff_dask.{layer}.{module}"))
