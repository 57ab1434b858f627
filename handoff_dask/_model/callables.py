"""What code is made of and what it names, found out without calling anything."""

from __future__ import annotations

import contextlib
import functools
import importlib
import types
from collections.abc import Callable
from typing import Any

PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))

#: What :func:`functools.lru_cache` makes.
CACHED = type(functools.lru_cache(abs))

#: Names that every module has, or every class, which say where it is rather than what it does.
_OF_ANY_MODULE = frozenset(
    {"__name__", "__file__", "__doc__", "__package__", "__path__", "__cached__", "__spec__", "__loader__"}
    | {"__builtins__", "__annotations__", "__debug__", "__dict__"}
)
OF_ANY_CLASS = frozenset(
    {"__module__", "__qualname__", "__doc__", "__firstlineno__", "__static_attributes__"}
)

#: Kinds of callables whose type says nothing that matters.
CALLABLE = (
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    functools.partial,
    CACHED,
)


def qualified(value: Any) -> str:
    return (
        getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or type(value).__qualname__
    )


def is_named(make: Any) -> bool:
    """Whether the name of what makes an object says all of it."""
    if isinstance(make, types.MethodType):
        return isinstance(make.__self__, type)
    return isinstance(make, (type, types.FunctionType, types.BuiltinFunctionType))


def imported(path: str) -> Callable[..., Any] | None:
    """What ``"module:qualname"`` names, if it is there: a node may have modules that the client has not."""
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception:
        return None
    return found if callable(found) else None


def globals_of(f: types.FunctionType) -> list[tuple[str, Any]]:
    """Code and plain values of its own module that a function names, in the order it names them."""
    found: dict[str, Any] = {}
    stack = [f.__code__]
    for code in stack:  # grows on the way
        for name in code.co_names:
            if name in found or name in _OF_ANY_MODULE or name not in f.__globals__:
                continue
            value = f.__globals__[name]
            if is_constant(value) or (is_code(value) and _is_of(f.__module__, value)):
                found[name] = value
        stack.extend(const for const in code.co_consts if isinstance(const, types.CodeType))
    return list(found.items())


def is_constant(value: Any) -> bool:
    return type(value) in PLAIN or (
        type(value) in (tuple, frozenset) and all(is_constant(part) for part in value)
    )


def is_code(value: Any) -> bool:
    """Whether it is a function, a method, or something that wraps one."""
    return type(value) is types.FunctionType or parts_of(value) is not None or wrapped_by(value) is not None


def parts_of(value: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]] | None:
    """The code and the values that a wrapper of code is made of; None when it is none, or an unknown one."""
    kind = type(value)
    if kind is CACHED:
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


def wrapped_by(value: Any) -> Any:
    """What an object says it wraps, as :func:`functools.update_wrapper` notes it down."""
    if isinstance(value, (type, types.FunctionType)):  # of a function the closure has it
        return None
    try:
        return object.__getattribute__(value, "__dict__").get("__wrapped__")
    except Exception:  # no such attributes, or what only looks like an object
        return None


def _is_of(module: str, value: Any) -> bool:
    """Whether code is of a module, or wraps what is: not every wrapper is called what it wraps is called."""
    if type(value) is functools.partial:
        return True
    looked = set()
    stack = [value]
    while stack:
        value = stack.pop()
        if id(value) in looked or not is_code(value):
            continue
        looked.add(id(value))
        if getattr(value, "__module__", None) == module:
            return True
        if type(value) is types.MethodType and class_of(value.__self__).__module__ == module:
            return True
        stack.extend((parts_of(value) or ((), ()))[0])
        stack.append(wrapped_by(value))
        for cell in getattr(value, "__closure__", None) or ():
            with contextlib.suppress(ValueError):  # nothing is in there yet
                stack.append(cell.cell_contents)
    return False


def class_of(bound: Any) -> type:
    """The class whose methods the method of something can call."""
    return bound if isinstance(bound, type) else type(bound)
