"""The layers of the package, as pyproject.toml states them, and as lint-imports checks them."""

import os
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

CONFIGURATION = Path(__file__).parents[1] / "pyproject.toml"


def check(configuration):
    directory = os.getcwd()
    try:
        return lint_imports(config_filename=str(configuration), no_cache=True)
    finally:
        os.chdir(directory)


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
