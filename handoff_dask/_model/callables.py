"""Inspect code without calling it: what it wraps, and which code and constants it refers to."""

from __future__ import annotations

import contextlib
import functools
import importlib
import types
from collections.abc import Callable
from typing import Any

SCALARS = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))

#: The type of the wrappers that :func:`functools.lru_cache` returns.
LRU_CACHE = type(functools.lru_cache(abs))

#: Attributes of every module or class that say where it is defined, not what it does.
_MODULE_METADATA = frozenset(
    {"__name__", "__file__", "__doc__", "__package__", "__path__", "__cached__", "__spec__", "__loader__"}
    | {"__builtins__", "__annotations__", "__debug__", "__dict__"}
)
CLASS_METADATA = frozenset(
    {"__module__", "__qualname__", "__doc__", "__firstlineno__", "__static_attributes__"}
)

#: Types of callables whose own methods do not affect what a call does.
STANDARD_CALLABLES = (
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    functools.partial,
    LRU_CACHE,
)


def qualified_name(value: Any) -> str:
    return (
        getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or type(value).__qualname__
    )


def is_identified_by_name(constructor: Any) -> bool:
    """Return whether the qualified name of the callable that constructs an object fully identifies it."""
    if isinstance(constructor, types.MethodType):
        return isinstance(constructor.__self__, type)
    return isinstance(constructor, (type, types.FunctionType, types.BuiltinFunctionType))


def import_code(path: str) -> Callable[..., Any] | None:
    """Import ``"module:qualname"``; return None if that fails, since a module may exist on the nodes only."""
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception:
        return None
    return found if callable(found) else None


def globals_of(f: types.FunctionType) -> list[tuple[str, Any]]:
    """Return constants and code of a function's own module to which it refers, in order of reference."""
    found: dict[str, Any] = {}
    stack = [f.__code__]
    for code in stack:  # grows during the iteration
        for name in code.co_names:
            if name in found or name in _MODULE_METADATA or name not in f.__globals__:
                continue
            value = f.__globals__[name]
            if is_constant(value) or (is_code(value) and _is_from_module(f.__module__, value)):
                found[name] = value
        stack.extend(const for const in code.co_consts if isinstance(const, types.CodeType))
    return list(found.items())


def is_constant(value: Any) -> bool:
    return type(value) in SCALARS or (
        type(value) in (tuple, frozenset) and all(is_constant(part) for part in value)
    )


def is_code(value: Any) -> bool:
    """Return whether a value is a function, a method, or a wrapper of one."""
    return (
        type(value) is types.FunctionType or unwrap(value) is not None or declared_wrapped(value) is not None
    )


def unwrap(value: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]] | None:
    """Return the code inside a wrapper of a known type and the values bound to it, or None."""
    kind = type(value)
    if kind is LRU_CACHE:
        return (value.__wrapped__,), ()
    if issubclass(kind, (functools.partial, functools.partialmethod)):
        return (value.func,), (value.args, value.keywords)
    if issubclass(kind, (staticmethod, classmethod)):
        return (value.__func__,), ()
    if kind is types.MethodType:
        return (value.__func__,), (value.__self__,)
    if issubclass(kind, property):
        return (value.fget, value.fset, value.fdel), ()
    if issubclass(kind, functools.cached_property):
        return (value.func,), ()
    if issubclass(kind, functools.singledispatchmethod):
        return (value.dispatcher,), ()
    return None


def declared_wrapped(value: Any) -> Any:
    """Return the ``__wrapped__`` that :func:`functools.update_wrapper` sets on an object, or None."""
    if isinstance(value, (type, types.FunctionType)):  # a function holds what it wraps in its closure
        return None
    try:
        return object.__getattribute__(value, "__dict__").get("__wrapped__")
    except Exception:  # the object has no __dict__, or is a proxy
        return None


def _is_from_module(module: str, value: Any) -> bool:
    """Return whether code, or any code that it wraps, is from a module: some wrappers lack ``__module__``."""
    if type(value) is functools.partial:
        return True
    visited = set()
    stack = [value]
    while stack:
        value = stack.pop()
        if id(value) in visited or not is_code(value):
            continue
        visited.add(id(value))
        if getattr(value, "__module__", None) == module:
            return True
        if type(value) is types.MethodType and class_of(value.__self__).__module__ == module:
            return True
        stack.extend((unwrap(value) or ((), ()))[0])
        stack.append(declared_wrapped(value))
        for cell in getattr(value, "__closure__", None) or ():
            with contextlib.suppress(ValueError):  # the cell is empty
                stack.append(cell.cell_contents)
    return False


def class_of(bound: Any) -> type:
    """Return the class whose methods a method bound to ``bound`` can call."""
    return bound if isinstance(bound, type) else type(bound)
