"""Modules that the documentation names exist and define what it says they define."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PACKAGE = DOCS.parent / "handoff_dask"
WAY = DOCS / "explanation" / "way-of-a-function.md"

MODULES = sorted(
    {name for page in DOCS.rglob("*.md") for name in re.findall(r"`(_\w+/\w+\.py)`", page.read_text("utf-8"))}
)
FORMS = re.findall(r"^\| `(\w+)` \| `(\w+)/(\w+)\.py`", WAY.read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("name", MODULES)
def test_named_module_exists(name):
    assert (PACKAGE / name).is_file()


def test_forms_of_a_function_are_in_the_named_modules():
    assert len(FORMS) == 6
    for form, layer, module in FORMS:
        assert form in vars(import_module(f"handoff_dask.{layer}.{module}"))
