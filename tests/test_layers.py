"""The layers of the package, as pyproject.toml states them, and as lint-imports checks them."""

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
def loggers():
    """The linter disables the loggers there are, which other tests listen to."""
    there = [
        logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)
    ]
    before = {logger: logger.disabled for logger in there}
    yield
    for logger, disabled in before.items():
        logger.disabled = disabled


@pytest.fixture(autouse=True)
def same_path(monkeypatch):
    """The linter puts the working directory on the import path."""
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
def test_the_check_sees_what_is_there(tmp_path, capsys, stated, wrong):
    """It would be silent too if it looked at nothing."""
    text = CONFIGURATION.read_text()
    assert text.count(stated) == 1
    broken = tmp_path / "pyproject.toml"
    broken.write_text(text.replace(stated, wrong))
    assert check(broken) == 1
    assert " 1 broken" in capsys.readouterr().out


def calls_up():
    """Purpose and function of each call of a module in a layer above."""
    for path in (CONFIGURATION.parent / "handoff_dask").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Call):
                call = node.value
                if isinstance(call.func, ast.Name) and call.func.id == "module_for":
                    yield ast.literal_eval(call.args[0]), node.attr


def test_what_layers_need_of_higher_ones_is_there():
    calls = set(calls_up())
    assert {purpose for purpose, _ in calls} == set(MODULES)
    for purpose, function in calls:
        assert callable(getattr(import_module(MODULES[purpose]), function))
