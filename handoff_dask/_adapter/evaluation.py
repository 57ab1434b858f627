"""Calling functions: the same for a node of a cluster, which has programs, and for a run in this process."""

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

#: The name of the node where there is no cluster.
LOCAL = "local"

#: Codes that stay loaded. A function that runs keeps its own, however many are loaded meanwhile.
_CACHED = 512
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
    """Call a function, and wait for what it returns if that is a coroutine.

    Parameters
    ----------
    code : callable
    values : sequence
        The results it takes, those that are passed by name last.
    as_list : bool
        Pass the results as one list.
    extra_args : sequence
        Passed after the results.
    names : sequence of str
        Parameters to pass the last results for.
    extra_kwargs : mapping of str to object, optional
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
    """Run a program: call its function after the inline functions it depends on."""
    if program.steps:
        available = list(values)
        for step in program.steps:
            taken = [available[s] for s in step.slots]
            available.append(_call_packed(program.run_id, step.code, step.shape, taken, step.extra))
        values = tuple(available[s] for s in program.slots)
    return _call_packed(program.run_id, program.code, program.shape, values, program.extra, nodes)


def _call_packed(
    run_id: str,
    code: bytes | str,
    shape: Shape,
    values: Sequence[Any],
    extra: bytes | None,
    nodes: Sequence[Any] = (),
) -> Any:
    extra_args, extra_kwargs = ((), None) if extra is None else pickle.loads(extra)
    if nodes:
        extra_args = (*nodes, *extra_args)
    return call(load_code(run_id, code), values, shape.as_list, extra_args, shape.names, extra_kwargs)


def evaluate_function(
    run_id: str, f: Function, inline: Sequence[Function], results: Mapping[Hashable, Any]
) -> Any:
    """Call a function of this process after its inline functions, given the results that these all take."""
    available = dict(results)
    for g in inline:
        available[g.id] = call_function(run_id, g, available)
    return call_function(run_id, f, available)


def call_function(run_id: str, f: Function, results: Mapping[Hashable, Any]) -> Any:
    """Call a function of this process, given the results it takes."""
    code: Any = f.code
    if type(code) is str:
        code = load_code(run_id, code)
    takes: Sequence[Hashable] = f.args
    names: Sequence[str] = ()
    if f.kwargs:
        takes, names = f.dependencies, tuple(f.kwargs)
    extra_args = f.extra_args
    if type(f) is Transfer:
        extra_args = (LOCAL, LOCAL, *extra_args)
    values = [results[d] for d in takes] if takes else ()
    return call(code, values, f.argument_inclusion == "as_list", extra_args, names, f.extra_kwargs)


# ---------------------------------------------------------------------- code


def load_code(run_id: str, code: bytes | str) -> Callable[..., Any]:
    """The callable itself. Loaded once per run, so that state in it is shared by no other run.

    It is loaded again when :data:`_CACHED` others were used since it was last.
    """
    if isinstance(code, str):
        module, _, name = code.partition(":")
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        if not callable(found):
            raise TypeError(f"{code!r} is not callable, but {found!r}")
        loaded: Callable[..., Any] = found
        return loaded
    key = (run_id, code)
    with _cache_lock:
        cached = _cache.get(key)
        if cached is None:
            cached = _cache[key] = _Code(code)
            while len(_cache) > _CACHED:
                _cache.popitem(last=False)
        else:
            _cache.move_to_end(key)
    return cached.load()


class _Code:
    """Pickled code, which the first thread that needs it loads, while others that need it wait."""

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
    """Other threads may have held the locks."""
    global _cache_lock
    _cache_lock = threading.Lock()
    _cache.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
