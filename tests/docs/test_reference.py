"""Every public name and method has an entry in the reference."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import handoff_dask as handoff

PAGES = "\n".join(p.read_text() for p in (Path(__file__).parents[2] / "docs" / "reference").glob("*.md"))

#: Name → the members that its entry lists; "" if it lists none by name.
ENTRIES = {
    name: members.strip() if option else ""
    for name, option, members in re.findall(
        r"^\.\. auto\w+:: (\w+)(?:\(\))?(?:\n   (:members:)(.*))?$", PAGES, re.MULTILINE
    )
}
#: Names whose entries list all members.
WITH_ALL_MEMBERS = set(re.findall(r"^\.\. auto\w+:: (\w+)(?:\(\))?\n   :members:$", PAGES, re.MULTILINE))


@pytest.mark.parametrize("name", [n for n in handoff.__all__ if not n.startswith("__")])
def test_public_name_has_an_entry(name):
    assert name in ENTRIES
    thing = getattr(handoff, name)
    if not inspect.isclass(thing) or name in WITH_ALL_MEMBERS:
        return
    listed = {member.strip() for member in ENTRIES[name].split(",")}
    own = {n for n, value in vars(thing).items() if not n.startswith("_") and inspect.isfunction(value)}
    assert own <= listed
