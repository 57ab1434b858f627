"""Calling the code of functions: from compiled programs on a node, and directly in a local run."""

from __future__ import annotations

import asyncio
import importlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import CoroutineType
from typing import Any

from distributed.protocol import pickle

from handoff_dask._adapter.messages import Program, Shape
from handoff_dask._model.function import Function, Transfer

#: The node's name in a run without a cluster.
LOCAL = "local"

#: Unpickled callables to cache at most, per process. A running function keeps its own even if it is evicted.
_CACHE_SIZE = 512
_cache: OrderedDict[tuple[str, bytes], _Code] = OrderedDict()
_cache_lock = threading.Lock()


# ---------------------------------------------------------------------- one call


def call(
    code: Callable[..., Any],
    values: Sequence[Any],
    as_list: bool = False,
    extra_args: Sequence[Any] = (),
    names: Sequence[str] = (),
    extra_kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """Call a function's code, and run a coroutine that it returns to completion.

    Parameters
    ----------
    code : callable
    values : sequence
        The results to pass: positional ones first, then one for each of ``names``.
    as_list : bool
        Pass the positional results as one list.
    extra_args : sequence
        Values to pass after the results.
    names : sequence of str
        Parameters that take the last ``len(names)`` results.
    extra_kwargs : mapping of str to object, optional
        Further keyword arguments.
    """
    kwargs = extra_kwargs
    if names:
        n = len(values) - len(names)
        kwargs = dict(zip(names, values[n:], strict=True))
        if extra_kwargs:
            kwargs.update(extra_kwargs)
        values = values[:n]
    if as_list:
        values = (list(values),)
    result = code(*values, *extra_args, **kwargs) if kwargs else code(*values, *extra_args)
    return asyncio.run(result) if type(result) is CoroutineType else result


# ---------------------------------------------------------------------- with inline functions


def evaluate(program: Program, values: Sequence[Any], nodes: Sequence[Any] = ()) -> Any:
    """Run a program: evaluate its inline functions, then call its function.

    Parameters
    ----------
    program : Program
    values : sequence
        Results of the functions that it depends on, directly or through inline functions.
    nodes : sequence, optional
        Names of the producer's and the consumer's node, for a transfer.
    """
    if program.steps:
        available = list(values)
        for step in program.steps:
            arguments = [available[s] for s in step.slots]
            available.append(_call_pickled(program.run_id, step.code, step.shape, arguments, step.extra))
        values = tuple(available[s] for s in program.slots)
    return _call_pickled(program.run_id, program.code, program.shape, values, program.extra, nodes)


def _call_pickled(
    run_id: str,
    code: bytes | str,
    shape: Shape,
    values: Sequence[Any],
    extra: bytes | None,
    nodes: Sequence[Any] = (),
) -> Any:
    extra_args, extra_kwargs = ((), None) if extra is None else load_arguments(extra)
    if nodes:
        extra_args = (*nodes, *extra_args)
    return call(load_code(run_id, code), values, shape.as_list, extra_args, shape.names, extra_kwargs)


def evaluate_function(
    run_id: str, f: Function, inline: Sequence[Function], results: Mapping[Hashable, Any]
) -> Any:
    """Call a function of a local run after its inline functions.

    ``results`` maps ids to the results that the function and its inline functions take.
    """
    available = dict(results)
    for g in inline:
        available[g.id] = call_function(run_id, g, available)
    return call_function(run_id, f, available)


def call_function(run_id: str, f: Function, results: Mapping[Hashable, Any]) -> Any:
    """Call a function of a local run. ``results`` maps ids to the results that it takes."""
    code: Any = f.code
    if type(code) is str:
        code = load_code(run_id, code)
    inputs: Sequence[Hashable] = f.args
    names: Sequence[str] = ()
    if f.kwargs:
        inputs, names = f.dependencies, tuple(f.kwargs)
    extra_args = f.extra_args
    if type(f) is Transfer:
        extra_args = (LOCAL, LOCAL, *extra_args)
    values = [results[d] for d in inputs] if inputs else ()
    return call(code, values, f.argument_inclusion == "as_list", extra_args, names, f.extra_kwargs)


# ---------------------------------------------------------------------- code


def load_code(run_id: str, code: bytes | str) -> Callable[..., Any]:
    """Import or unpickle a function's code.

    Pickled code is cached per run, so that runs do not share its mutable state. The cache evicts the least
    recently used of :data:`_CACHE_SIZE` entries.

    Parameters
    ----------
    run_id : str
    code : bytes or str
        Pickled code, or ``"package.module:qualname"``.

    Raises
    ------
    TypeError
        The imported object is not callable.
    Exception
        Any error of importing or unpickling. The next call tries again.
    """
    if isinstance(code, str):
        module, _, name = code.partition(":")
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        if not callable(found):
            raise TypeError(f"{code!r} is not callable: it is {found!r}")
        loaded: Callable[..., Any] = found
        return loaded
    key = (run_id, code)
    with _cache_lock:
        cached = _cache.get(key)
        if cached is None:
            cached = _cache[key] = _Code(code)
            while len(_cache) > _CACHE_SIZE:
                _cache.popitem(last=False)
        else:
            _cache.move_to_end(key)
    return cached.load()


def load_arguments(extra: bytes) -> tuple[tuple[Any, ...], Mapping[str, Any] | None]:
    """Unpickle a function's ``(extra_args, extra_kwargs)``."""
    loaded: tuple[tuple[Any, ...], Mapping[str, Any] | None] = pickle.loads(extra)
    return loaded


class _Code:
    """Pickled code. The first thread that needs it unpickles it; other threads wait for the result."""

    def __init__(self, data: bytes) -> None:
        self._data: bytes | None = data
        self._lock = threading.RLock()

    def load(self) -> Callable[..., Any]:
        if self._data is not None:
            with self._lock:
                if self._data is not None:
                    self._callable: Callable[..., Any] = pickle.loads(self._data)
                    self._data = None
        return self._callable


def _after_fork() -> None:
    """Replace the lock and the entries with their locks: threads of the parent may have held them."""
    global _cache_lock
    _cache_lock = threading.Lock()
    _cache.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
