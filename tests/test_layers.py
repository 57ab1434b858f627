"""The layers of the package, as stated in pyproject.toml and checked by lint-imports."""

import ast
import logging
import os
from importlib import import_module
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from handoff_dask._wiring import MODULES

CONFIGURATION = Path(__file__).parents[1] / "pyproject.toml"


def check(configuration):
    directory = os.getcwd()
    try:
        return lint_imports(config_filename=str(configuration), no_cache=True)
    finally:
        os.chdir(directory)


@pytest.fixture(autouse=True)
def restored_loggers():
    """Re-enable existing loggers, which the linter disables, for other tests."""
    existing = [
        logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)
    ]
    before = {logger: logger.disabled for logger in existing}
    yield
    for logger, disabled in before.items():
        logger.disabled = disabled


@pytest.fixture(autouse=True)
def restored_path(monkeypatch):
    """Keep the import path, to which the linter adds the working directory."""
    monkeypatch.syspath_prepend(str(CONFIGURATION.parent))


def test_contracts_are_kept(capsys):
    assert check(CONFIGURATION) == 0, capsys.readouterr().out
    assert " 0 broken" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stated", "wrong"),
    [
        (
            '  "handoff_dask._model",\n  "handoff_dask.exceptions",\n',
            '  "handoff_dask.exceptions",\n  "handoff_dask._model",\n',
        ),
        (
            'forbidden_modules = ["dask", "distributed", "numpy"',
            'forbidden_modules = ["dataclasses", "numpy"',
        ),
    ],
)
def test_the_linter_finds_violations(tmp_path, capsys, stated, wrong):
    """A linter that inspects nothing would pass, too."""
    text = CONFIGURATION.read_text()
    assert text.count(stated) == 1
    broken = tmp_path / "pyproject.toml"
    broken.write_text(text.replace(stated, wrong))
    assert check(broken) == 1
    assert " 1 broken" in capsys.readouterr().out


def upward_calls():
    """Yield purpose and attribute of each call into a higher layer."""
    for path in (CONFIGURATION.parent / "handoff_dask").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Call):
                call = node.value
                if isinstance(call.func, ast.Name) and call.func.id == "module_for":
                    yield ast.literal_eval(call.args[0]), node.attr


def test_every_upward_call_has_a_target():
    calls = set(upward_calls())
    assert {purpose for purpose, _ in calls} == set(MODULES)
    for purpose, function in calls:
        assert callable(getattr(import_module(MODULES[purpose]), function))
