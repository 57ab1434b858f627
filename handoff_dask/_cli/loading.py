"""What arguments name: a DAG in a module or a file, nodes in a file, functions by their ids."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Hashable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from handoff_dask._cli.errors import Failure
from handoff_dask._model.dag import DAG
from handoff_dask._model.resources import parse_nodes
from handoff_dask._model.safe_repr import safe_repr


def load_dag(target: str) -> DAG:
    """The DAG at ``module:name`` or ``file.py:name``.

    Raises
    ------
    Failure
        There is none, or it cannot be made.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise click.UsageError(
            f"{target!r} does not say where the DAG is: write MODULE:NAME, such as pipeline:dag, or"
            " FILE.py:NAME. NAME is a DAG, or a function without parameters that returns one."
        )
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise Failure(f"{place!r} has no {name!r}. {_others(module)}") from None
    if isinstance(found, DAG):
        return found
    if not callable(found):
        raise Failure(f"{target!r} is neither a DAG nor a function that returns one: {safe_repr(found)}")
    try:
        made = found()
    except Exception as error:
        raise Failure(f"{target!r} could not be called: {_where(error)}") from error
    if not isinstance(made, DAG):
        raise Failure(f"{target!r} returned no DAG but {safe_repr(made)}")
    return made


def _load_module(name: str) -> ModuleType:
    _importable(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise Failure(f"there is no module {error.name!r} here or in {sys.prefix}") from error
        raise Failure(f"module {name!r} could not be imported: {_where(error)}") from error
    except (Exception, SystemExit) as error:
        raise Failure(f"module {name!r} could not be imported: {_where(error)}") from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise Failure(f"there is no file {str(path)!r}")
    path = path.resolve()
    _importable(Path.cwd())
    _importable(path.parent)
    # A name that cannot be imported: functions and classes of the file then travel by value, as those of a
    # script do, and nodes need not have it. Under its own name pickle would import it a second time.
    name = f"<{path.stem}>"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # only while it runs: dataclasses look there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise Failure(f"file {str(path)!r} could not be run: {_where(error)}") from error
    finally:
        sys.modules.pop(name, None)
    return module


def _importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _where(error: BaseException) -> str:
    """The exception, and the line of the user's code it came from."""
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, SyntaxError):
        return text  # it says where itself
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    outside = [f for f in frames if "handoff_dask/_" not in f.filename.replace("\\", "/")]
    if outside:
        text += f"\n  at {outside[-1].filename}, line {outside[-1].lineno}"
    return text


def _others(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, DAG)]
    return f"DAGs there: {', '.join(names)}." if names else "There are no DAGs in it, by any name."


def load_nodes(path: str) -> dict[Any, dict[str, Any]]:
    """The nodes that a YAML file describes: name → resource → amount.

    Raises
    ------
    Failure
        The file cannot be read, or is something else.
    """
    import yaml

    try:
        nodes = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise Failure(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{path}: {error}") from error
    try:
        parse_nodes(nodes)
    except (TypeError, ValueError) as error:
        raise Failure(
            f"{path}: {error}. A line for each node is wanted: `node1: {{cpu: 4, memory: 8192}}`"
        ) from error
    return dict(nodes)


def find_ids(dag: DAG, texts: Iterable[str]) -> list[Hashable]:
    """The functions that the user names: by their id, or what Python shows for it, such as ``('blur', 1)``.

    Raises
    ------
    Failure
        The DAG has no such function.
    """
    shown: dict[str, Hashable] = {repr(id): id for id in dag.functions}
    shown.update((str(id), id) for id in dag.functions if str(id) not in shown)
    found = []
    for text in texts:
        if text not in dag and text not in shown:
            raise Failure(f"--keep: DAG {dag.id!r} has no function {text!r}")
        found.append(text if text in dag else shown[text])
    return found
