"""The undocumented behaviour of Dask that handoff_dask relies on: one test module per module of the border.

A test that fails with a new version of Dask says what has changed, and which code relies on it.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
from distributed import SchedulerPlugin

from handoff_dask._adapter import _dask


def fails(*args):
    raise ValueError("on purpose")


MODULES = [
    importlib.import_module(f"{_dask.__name__}.{m.name}") for m in pkgutil.iter_modules(_dask.__path__)
]
FUNCTIONS = [
    (module.__name__.rpartition(".")[2], f)
    for module in MODULES
    for f in vars(module).values()
    if inspect.isfunction(f) and f.__module__ == module.__name__ and not f.__name__.startswith("_")
]


@pytest.mark.parametrize(
    ("module", "f"), FUNCTIONS, ids=[f"{module}.{f.__name__}" for module, f in FUNCTIONS]
)
def test_each_function_is_documented_and_tested(module, f):
    for part in ("Reaches", "Why", "From"):
        assert re.search(rf"^    {part}: ", f.__doc__, re.MULTILINE), f"the docstring lacks the part {part}"
    tests = ast.parse(Path(__file__).with_name(f"test_{module}.py").read_text("utf-8"))
    assert f"test_{f.__name__}" in {node.name for node in tests.body if isinstance(node, ast.FunctionDef)}


def test_no_hook_fires_between_the_start_of_a_plugin_and_its_registration(client, scheduler):
    """Dask awaits ``start`` before it registers the plugin, so ``HandoffPlugin.start`` awaits nothing."""
    registered = []

    class Plugin(SchedulerPlugin):
        name = "test-start"

        async def start(self, scheduler):
            registered.append(self.name in scheduler.plugins)
            await asyncio.sleep(0)

    client.sync(scheduler.register_scheduler_plugin, Plugin(), idempotent=True)
    assert registered == [False], "HandoffPlugin.start may now contain awaits"
    client.unregister_scheduler_plugin("test-start")
