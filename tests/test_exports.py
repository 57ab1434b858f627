"""The public names are sorted and complete."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
import types

import pytest

import handoff_dask as handoff


def ruff_order(name):
    """Sort key of ruff's RUF022: constants, then classes, then the rest."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2), name


def test_all_is_sorted():
    assert list(handoff.__all__) == sorted(handoff.__all__, key=ruff_order)
    assert len(set(handoff.__all__)) == len(handoff.__all__)


def test_star_import_provides_all_names():
    namespace = {}
    exec("from handoff_dask import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(handoff.__all__)


def test_nothing_else_is_public():
    """Except public modules and ``from __future__ import annotations``."""
    public = {name for name in vars(handoff) if not name.startswith("_")}
    for name in public - set(handoff.__all__) - {"annotations"}:
        value = getattr(handoff, name)
        assert isinstance(value, types.ModuleType), name
        assert value.__name__ == f"handoff_dask.{name}"


@pytest.mark.parametrize("name", [name for name in handoff.__all__ if not name.startswith("_")])
def test_public_names_are_defined_here_and_documented(name):
    value = getattr(handoff, name)
    assert value.__module__.split(".")[0] == "handoff_dask"
    assert value.__name__ == name
    assert inspect.getdoc(value)


def test_version():
    assert handoff.__version__ == importlib.import_module("handoff_dask._version").__version__
    assert [part.isdigit() for part in handoff.__version__.split(".")[:2]] == [True, True]


def public_modules():
    found = pkgutil.iter_modules(handoff.__path__, "handoff_dask.")
    return [module.name for module in found if not module.name.rpartition(".")[2].startswith("_")]


@pytest.mark.parametrize("name", public_modules())
def test_public_modules_have_a_valid_all(name):
    module = importlib.import_module(name)
    assert inspect.getdoc(module)
    listed = getattr(module, "__all__", None)
    if listed is not None:
        assert list(listed) == sorted(listed, key=ruff_order)
        assert all(hasattr(module, n) for n in listed)


def test_optional_packages_are_imported_late():
    code = (
        "import sys, handoff_dask\n"
        "optional = {'networkx', 'graphviz', 'pandas', 'matplotlib', 'bokeh', 'rich', 'IPython'}\n"
        "print(*(optional & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == []
