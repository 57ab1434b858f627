"""Run every Python code block of README and docs: a page's blocks in order, as one program.

A block may be followed by a ``code-block`` directive with the caption "output", which must equal what the
block prints, or with the caption "error", which must equal the exception that it raises.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"^```python\n(.*?)^```\n(?:\n```\{code-block\} text\n:caption: (output|error)\n\n(.*?)^```)?",
    re.MULTILINE | re.DOTALL,
)
SEPARATOR = "\n---- end of block ----\n"

#: Runs a block that must raise an exception, and prints it as Python would.
RAISES = """\
try:
{block}
except Exception as error:
    import traceback
    print("".join(traceback.format_exception_only(error)))
else:
    raise AssertionError("no error")
"""


def code_blocks(page: Path) -> list[tuple[str, str, str]]:
    """Return code, caption and expected output of each block; the last two are empty without output."""
    return BLOCK.findall(page.read_text())


def program_of(blocks: list[tuple[str, str, str]]) -> str:
    parts = []
    for code, caption, _ in blocks:
        parts.append(RAISES.format(block=textwrap.indent(code, "    ")) if caption == "error" else code)
        parts.append(f"print({SEPARATOR!r}, end='', flush=True)\n")
    return "\n\n".join(parts)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_CODE = [page for page in PAGES if "_build" not in page.parts and code_blocks(page)]

#: The pages that every test run executes; CI executes the others, too.
ALWAYS = ("README.md", "docs/index.md", "docs/mistakes.md", "docs/tutorial.md")


def test_readme_and_tutorial_have_code():
    names = {str(page.relative_to(ROOT)) for page in WITH_CODE}
    assert {"README.md", "docs/tutorial.md"} <= names


def page_params():
    for page in WITH_CODE:
        name = str(page.relative_to(ROOT))
        yield pytest.param(page, id=name, marks=() if name in ALWAYS else pytest.mark.slow)


@pytest.mark.parametrize("page", list(page_params()))
def test_code_blocks_run(page, tmp_path):
    blocks = code_blocks(page)
    script = tmp_path / f"{page.stem.replace('-', '_')}.py"
    script.write_text(program_of(blocks))
    environment = {**os.environ, "PYTHONWARNINGS": "error::DeprecationWarning:__main__"}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.split(SEPARATOR)
    assert len(printed) >= len(blocks)  # the last block may exit
    for (code, caption, expected), output in zip(blocks, printed, strict=False):
        if caption:
            assert output.strip() == expected.strip(), code
