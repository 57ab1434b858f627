"""Loading of what arguments name: a DAG in a module or file, nodes in a file, functions by id."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from handoff_dask._cli.errors import Failure
from handoff_dask._model.dag import DAG
from handoff_dask._model.resources import parse_nodes
from handoff_dask._model.safe_repr import safe_repr
from handoff_dask._suggest import suggestion


def load_dag(target: str) -> DAG:
    """Load the DAG at ``module:name`` or ``file.py:name``.

    Raises
    ------
    Failure
        The module, file or name does not exist, raises an error, or is not a DAG.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise click.UsageError(
            f"{target!r} does not name a DAG: write MODULE:NAME, such as pipeline:dag, or FILE.py:NAME."
            " NAME is a DAG, or a function without parameters that returns one."
        )
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            hint = suggestion(name, _names_of_dags(module))
            raise Failure(f"{place!r} has no {name!r}{hint or '.'} {_available_dags(module)}") from None
    if isinstance(found, DAG):
        return found
    if not callable(found):
        raise Failure(f"{target!r} is neither a DAG nor a function that returns one: {safe_repr(found)}")
    try:
        made = found()
    except Exception as error:
        raise Failure(f"calling {target!r} failed: {_describe(error)}") from error
    if not isinstance(made, DAG):
        raise Failure(f"{target!r} must return a DAG, but returned {safe_repr(made)}")
    return made


def _load_module(name: str) -> ModuleType:
    _add_to_path(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise Failure(f"no module {error.name!r} in the current directory or in {sys.prefix}") from error
        raise Failure(f"importing module {name!r} failed: {_describe(error)}") from error
    except (Exception, SystemExit) as error:
        raise Failure(f"importing module {name!r} failed: {_describe(error)}") from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        hint = suggestion(path, sorted(map(str, path.parent.glob("*.py"))))
        raise Failure(f"no file {str(path)!r}{hint}")
    path = path.resolve()
    _add_to_path(Path.cwd())
    _add_to_path(path.parent)
    # Use a module name that cannot be imported: pickle then sends functions and classes by value, like those
    # of a script, and nodes do not need the file. Under its own name pickle would import the file again.
    name = f"<{path.stem}>"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # while the file runs, since dataclasses look up their module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise Failure(f"running file {str(path)!r} failed: {_describe(error)}") from error
    finally:
        sys.modules.pop(name, None)
    return module


def _add_to_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _describe(error: BaseException) -> str:
    """Return the exception's type and text, and the line of user code that raised it."""
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, SyntaxError):
        return text  # already has the location
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    outside = [f for f in frames if "handoff_dask/_" not in f.filename.replace("\\", "/")]
    if outside:
        text += f"\n  at {outside[-1].filename}, line {outside[-1].lineno}"
    return text


def _available_dags(module: ModuleType) -> str:
    names = _names_of_dags(module)
    return f"Its DAGs: {', '.join(names)}." if names else "It contains no DAGs."


def _names_of_dags(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, DAG)]


def load_nodes(path: str) -> dict[Any, dict[str, Any]]:
    """Load nodes from a YAML file: name → resource → amount.

    Raises
    ------
    Failure
        The file cannot be read, is not YAML, or does not describe nodes.
    """
    import yaml

    try:
        nodes = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise Failure(f"{path}: {_yaml_problem(error)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{path}: {error}") from error
    try:
        if not isinstance(nodes, Mapping):  # parse_nodes shows a mapping in Python
            raise TypeError(f"nodes must be a mapping of names to capacities, not {safe_repr(nodes)}")
        parse_nodes(nodes)
    except (TypeError, ValueError) as error:
        raise Failure(
            f"{path}: {error}. The file needs a line per node, such as `node1: {{cpu: 4, memory: 8192}}`"
        ) from error
    return dict(nodes)


def _yaml_problem(error: Any) -> str:
    """Return where and why a text is not YAML."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:  # the text contains characters that YAML does not allow
        return f"invalid YAML: {' '.join(str(error).split())}"
    while_doing = f" {error.context}" if error.context else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: invalid YAML{while_doing}: {error.problem}"


def target_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option ``--target``, whose values the parameter ``targets`` takes."""
    return click.option(
        "--target",
        "targets",
        multiple=True,
        metavar="ID",
        help="Only the function with this id and the functions that it needs. May be repeated.",
    )(command)


def select(dag: DAG, targets: Sequence[str]) -> DAG:
    """Return the part of a DAG that its targets need: all of it if there are none.

    Raises
    ------
    Failure
        The DAG has no such function.
    """
    return dag.subset(find_ids(dag, targets, "--target")) if targets else dag


def find_ids(dag: DAG, texts: Iterable[str], option: str) -> list[Hashable]:
    """Return the ids of functions that are given as text: as the id, its str or its repr (``('blur', 1)``).

    ``option`` names the option in the error.

    Raises
    ------
    Failure
        The DAG has no such function.
    """
    by_text: dict[str, Hashable] = {repr(id): id for id in dag.functions}
    by_text.update((str(id), id) for id in dag.functions if str(id) not in by_text)
    found = []
    for text in texts:
        if text not in dag and text not in by_text:
            raise Failure(f"{option}: {dag._no_function(text)}")
        found.append(text if text in dag else by_text[text])
    return found
