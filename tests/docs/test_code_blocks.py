"""Run every Python code block of README and docs: a page's blocks in order, as one program."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def code_blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text())


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_CODE = [page for page in PAGES if "_build" not in page.parts and code_blocks(page)]

#: The pages that every test run executes; CI executes the others, too.
ALWAYS = ("README.md", "docs/index.md", "docs/tutorial.md")


def test_readme_and_tutorial_have_code():
    names = {str(page.relative_to(ROOT)) for page in WITH_CODE}
    assert {"README.md", "docs/tutorial.md"} <= names


def page_params():
    for page in WITH_CODE:
        name = str(page.relative_to(ROOT))
        yield pytest.param(page, id=name, marks=() if name in ALWAYS else pytest.mark.slow)


@pytest.mark.parametrize("page", list(page_params()))
def test_code_blocks_run(page, tmp_path):
    script = tmp_path / f"{page.stem.replace('-', '_')}.py"
    script.write_text("\n\n".join(code_blocks(page)))
    environment = {**os.environ, "PYTHONWARNINGS": "error::DeprecationWarning:__main__"}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
