"""Validation of dependencies: functions that are missing, and functions that depend on each other."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import FunctionType
from typing import Any

from handoff_dask._model.dask_values import DaskValues
from handoff_dask._model.function import Function, code_name
from handoff_dask._model.problems import (
    MAX_SUGGESTIONS,
    Functions,
    Problems,
    is_in,
    suggested_id,
    user_facing_id,
)
from handoff_dask.exceptions import CyclicDependencyError, InvalidFunctionError, MissingFunctionError


def check_graph(functions: Functions, problems: Problems) -> tuple[Hashable, ...]:
    """Find missing dependencies and cycles. Return a topological order of all functions that have one."""
    waiting: dict[Hashable, int] = {}
    dependents: dict[Hashable, list[Hashable]] = {}
    order: list[Hashable] = []
    for id, f in functions.items():
        args = f.args
        if not args and not f.kwargs:
            order.append(id)
            continue
        if type(args) is not tuple or type(f.kwargs) is not dict:
            order.append(id)  # _check_call reports it
            continue
        n = 0
        for dep in f.dependencies if f.kwargs else args:
            try:
                known = dep in functions
            except TypeError:
                problems.add(
                    InvalidFunctionError,
                    id,
                    f"function {id!r}: {dep!r} is not hashable, so it cannot be a function id"
                    "; values go in extra_args",
                )
                continue
            if not known:
                dependent = user_facing_id(f)
                problems.add(
                    MissingFunctionError,
                    (dependent, dep),
                    f"function {dependent!r} depends on {_dependency_text(dep)}, which is not in the DAG"
                    f"{_remedy(f, dep, functions, problems)}",
                )
                continue
            n += 1
            if dep in dependents:
                dependents[dep].append(id)
            else:
                dependents[dep] = [id]
        if n:
            waiting[id] = n
        else:
            order.append(id)
    for id in order:  # grows during the iteration
        for dependent in dependents.get(id, ()):
            left = waiting[dependent] - 1
            if left:
                waiting[dependent] = left
            else:
                del waiting[dependent]
                order.append(dependent)
    if waiting:
        cycle = _find_cycle(functions, waiting)
        path = " -> ".join(repr(id) for id in (*cycle, cycle[0]))
        problems.add(CyclicDependencyError, cycle, f"functions depend on each other in a cycle: {path}")
    return tuple(order)


def _dependency_text(dep: Any) -> str:
    return f"<function {code_name(dep)}>" if type(dep) is FunctionType else repr(dep)


def _remedy(f: Function, dep: Any, functions: Functions, problems: Problems) -> str:
    """Return what to write instead of a dependency that is not in the DAG, "" if that is unknown."""
    if isinstance(dep, Function):
        return f"; give its id, {dep.id!r}"
    if text := DaskValues().describe(dep):
        return f"; {text.partition(': ')[2]}"
    if callable(dep):
        if sum(map(len, problems.texts.values())) >= MAX_SUGGESTIONS:
            return ""
        ids = [g.id for g in functions.values() if g.code is dep and g is not f]
        return f"; give its id, {ids[0]!r}" if ids else "; add a function with this code, and give its id"
    hint = suggested_id(f, dep, functions, problems)
    if hint or isinstance(dep, (str, tuple)):
        return hint
    # In a DAG whose ids are numbers, a number is rather a wrong id than a value.
    return "" if any(type(id) is type(dep) for id in functions) else "; values go in extra_args"


def _find_cycle(functions: Functions, stuck: Mapping[Hashable, int]) -> list[Hashable]:
    """Find a cycle, in the order of execution, among functions each of which depends on another of them."""
    from graphlib import CycleError, TopologicalSorter  # needed only for this error

    needs = {id: [d for d in functions[id].dependencies if is_in(d, stuck)] for id in stuck}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        cycle: list[Hashable] = error.args[1]
        return cycle[1:]  # the first id is repeated at the end
    raise AssertionError("functions wait for each other, but there is no cycle")
