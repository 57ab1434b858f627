"""Build hook that compiles the scheduling core with mypyc.

It is off by default. ``HATCH_BUILD_HOOKS_ENABLE=1 pip install .`` turns it on; it takes a C compiler and one
or two minutes. The wheel contains the sources, too.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: The modules that events and decisions go through. The others run rarely, call users' code or are pickled.
MODULES = (
    "allocators",
    "backlog",
    "candidates",
    "claim",
    "claims",
    "decisions",
    "estimates",
    "feasibility",
    "functions",
    "ledger",
    "lifecycle",
    "node",
    "nodes",
    "pacing",
    "place",
    "prefetch",
    "queues",
    "rank",
    "run_estimates",
    "runs",
    "simulate",
    "sizing",
    "speeds",
    "state",
    "totals",
)

SETUP = """
from mypyc.build import mypycify
from setuptools import setup

setup(name="core", packages=[], ext_modules=mypycify({arguments!r}, opt_level="3", debug_level="0"))
"""


class CompiledCore(BuildHookInterface):
    """Adds the compiled modules to a wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the modules in a temporary copy, and include the results in the wheel."""
        if version == "editable":
            return  # a compiled copy would hide changes of the sources
        root = Path(self.root)
        self.folder = Path(tempfile.mkdtemp())
        shutil.copytree(root / "handoff_dask", self.folder / "handoff_dask")
        files = [f"handoff_dask/_scheduling/{name}.py" for name in MODULES]
        arguments = [f"--config-file={root / 'pyproject.toml'}", *files]
        (self.folder / "setup.py").write_text(SETUP.format(arguments=arguments))
        subprocess.run(
            [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=self.folder, check=True
        )
        libraries = [path for path in self.folder.rglob("*") if path.suffix in (".so", ".pyd")]
        for path in libraries:
            relative = path.relative_to(self.folder)
            if relative.parts[0] != "build":
                build_data["force_include"][str(path)] = relative.as_posix()
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary copy."""
        if version != "editable":
            shutil.rmtree(self.folder)
