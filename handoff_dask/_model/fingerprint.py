"""What a function would do, as a number: the same in every process, another when code or arguments change."""

from __future__ import annotations

import copyreg
import functools
import hashlib
import importlib
import struct
import sys
import types
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from handoff_dask._model.function import Function, Transfer

#: Raised by one whenever the same function would get another fingerprint than before.
_VERSION = 1

#: Bytecode differs between these.
_PYTHON = f"{sys.implementation.name}-{sys.version_info[0]}.{sys.version_info[1]}"

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))

#: What of a code object decides what it does. Not where it was written: moving a function changes nothing.
_CODE = (
    "co_name",
    "co_flags",
    "co_argcount",
    "co_posonlyargcount",
    "co_kwonlyargcount",
    "co_varnames",
    "co_cellvars",
    "co_freevars",
    "co_names",
    "co_code",
    "co_exceptiontable",
    "co_consts",
)


def fingerprints(
    functions: Mapping[Hashable, Function], order: Iterable[Hashable], dumps: Callable[[Any], bytes]
) -> dict[Hashable, str]:
    """Fingerprints of functions.

    Parameters
    ----------
    functions : mapping of id to Function
    order : iterable of ids
        Each after those it depends on.
    dumps : callable
        Pickles what cannot be taken apart in any other way.

    Returns
    -------
    dict of id to str
        64 hexadecimal digits. They depend on the id, code, ways of passing and values of arguments, and the
        fingerprints of the functions whose results it takes.

    Raises
    ------
    UnreadableError
        An id or an argument is of a kind that cannot be looked into.
    """
    values = _Values(dumps)
    found: dict[Hashable, str] = {}
    for id in order:
        f = functions[id]
        try:
            parts = (
                _VERSION,
                _PYTHON,
                values.of(id),
                values.of_code(f.code),
                isinstance(f, Transfer),
                f.argument_inclusion,
                tuple(found[d] for d in f.args),
                tuple(values.of(value) for value in f.extra_args),
                tuple((name, found[d]) for name, d in f.kwargs.items()),
                tuple((name, values.of(value)) for name, value in f.extra_kwargs.items()),
            )
        except Exception as error:
            raise UnreadableError(id, f"{type(error).__name__}: {error}") from error
        found[id] = _Walk(dumps).read(parts).hex()
    return found


class UnreadableError(Exception):
    """A function cannot be given a fingerprint.

    Attributes
    ----------
    function_id : hashable
    reason : str
    """

    def __init__(self, function_id: Hashable, reason: str) -> None:
        super().__init__(function_id, reason)
        self.function_id = function_id
        self.reason = reason


class _Values:
    """Digests of values, of each object once: many functions share their code and large arguments."""

    def __init__(self, dumps: Callable[[Any], bytes]) -> None:
        self._dumps = dumps
        self._known: dict[tuple[int, bool], tuple[Any, bytes]] = {}

    def of(self, value: Any) -> bytes:
        return self._of(value, False)

    def of_code(self, code: Any) -> bytes:
        """Also sees the methods of a class, which as an argument is just its name."""
        return self._of(code, True)

    def _of(self, value: Any, called: bool) -> bytes:
        key = (id(value), called)
        known = self._known.get(key)
        if known is None:
            walk = _Walk(self._dumps)
            digest = walk.read_called(value) if called else walk.read(value)
            known = self._known[key] = (value, digest)  # the value is kept, so that its id() stays its own
        return known[1]


class _Walk:
    """One value, read part by part. A mutable part that was read before is named by its number."""

    def __init__(self, dumps: Callable[[Any], bytes], within: _Walk | None = None) -> None:
        self._dumps = dumps
        self._hash = hashlib.sha256()
        self._seen: dict[int, int] = {} if within is None else within._seen
        self._alive: list[Any] = [] if within is None else within._alive  # so that no id() is used again

    def read(self, value: Any) -> bytes:
        self._read(value)
        return self._hash.digest()

    def read_called(self, code: Any) -> bytes:
        """Read what is going to be called."""
        if isinstance(code, str):
            self._read(code)
            code = _imported(code)
        self._read(code)
        while isinstance(code, functools.partial):
            code = code.func
        if isinstance(code, type):
            self._class(code)
        elif not isinstance(code, _CALLABLE) and code is not None:
            self._class(type(code))
        return self._hash.digest()

    def _put(self, tag: str, data: bytes = b"") -> None:
        # Lengths are written first, so that no two sequences of parts look alike.
        self._hash.update(b"%s %d:" % (tag.encode(), len(data)))
        self._hash.update(data)

    def _text(self, tag: str, text: str) -> None:
        self._put(tag, text.encode("utf-8", "surrogatepass"))

    def _read(self, value: Any) -> None:
        kind = type(value)
        if kind in _PLAIN:
            self._plain(value)
        elif kind is tuple:
            self._all("tuple", value)
        elif kind is frozenset:
            self._set("frozenset", value)
        elif kind is types.CodeType:
            self._code(value)
        elif isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType)):
            self._named(value)
        elif id(value) in self._seen:
            self._put("again", b"%d" % self._seen[id(value)])
        else:
            self._seen[id(value)] = len(self._seen)
            self._alive.append(value)
            self._mutable(value, kind)

    def _plain(self, value: Any) -> None:
        name = type(value).__name__
        if type(value) is float:
            self._put(name, struct.pack("<d", value))
        elif type(value) is complex:
            self._put(name, struct.pack("<dd", value.real, value.imag))
        elif type(value) is bytes:
            self._put(name, value)
        elif type(value) is int:
            self._text(name, f"{value:x}")  # decimal digits of very large ones are refused
        else:
            self._text(name, str(value))

    def _all(self, tag: str, values: Sequence[Any]) -> None:
        self._put(tag, b"%d" % len(values))
        for value in values:
            self._read(value)

    def _set(self, tag: str, values: Iterable[Any]) -> None:
        # Their order differs between processes; a part that several of them share does not have one number.
        self._all(tag, sorted(_Walk(self._dumps).read(value) for value in values))

    def _named(self, value: Any) -> None:
        bound = getattr(value, "__self__", None)
        self._text("named", f"{getattr(value, '__module__', None)} {_qualified(value)}")
        if bound is not None and not isinstance(bound, (type, types.ModuleType)):
            self._read(bound)

    def _mutable(self, value: Any, kind: type) -> None:
        if kind is list:
            self._all("list", value)
        elif kind is dict:
            self._all("dict", [part for item in value.items() for part in item])
        elif kind is set:
            self._set("set", value)
        elif kind is bytearray:
            self._put("bytearray", bytes(value))
        elif kind is types.FunctionType:
            self._function(value)
        elif kind is types.MethodType:
            self._all("method", (value.__func__, value.__self__))
        elif kind is functools.partial:
            self._all("partial", (value.func, value.args, value.keywords))
        elif callable(value) and isinstance(getattr(value, "__wrapped__", None), types.FunctionType):
            self._text("wrapper", _qualified(kind))
            self._read(value.__wrapped__)
        elif hasattr(kind, "__dask_tokenize__"):
            self._named(kind)
            self._read(value.__dask_tokenize__())
        else:
            self._reduced(value, kind)

    def _reduced(self, value: Any, kind: type) -> None:
        """An object as pickle would take it apart; the bytes of a pickle depend on more than its value."""
        reduce = copyreg.dispatch_table.get(kind)
        try:
            parts: Any = reduce(value) if reduce is not None else value.__reduce_ex__(4)
        except TypeError:
            self._put("pickled", self._dumps(value))
            return
        if isinstance(parts, str):
            self._text("global", f"{kind.__module__} {parts}")
            return
        self._alive.append(parts)
        make, args, state, items, pairs = (list(parts) + [None] * 3)[:5]
        # What makes it belongs to its class, of which an argument shows no more than the name.
        self._named(make) if isinstance(make, (type, *_NAMED)) else self._read(make)
        self._read(args)
        self._read(state)
        self._all("items", list(items or ()))
        self._all("pairs", [part for item in pairs or () for part in item])

    # ------------------------------------------------------------------ code

    def _function(self, f: types.FunctionType) -> None:
        """A function, and those of its own module that it names, and that they name."""
        self._own(f)
        named = [f]
        for g in named:  # grows on the way
            for name, value in _globals_of(g):
                if not isinstance(value, types.FunctionType):
                    self._text("global", name)
                    self._read(value)
                elif id(value) not in self._seen:
                    self._seen[id(value)] = len(self._seen)
                    named.append(value)
                    self._own(value)

    def _own(self, f: types.FunctionType) -> None:
        """A function without what it finds in its module."""
        self._text("function", f"{f.__module__} {f.__qualname__}")
        self._code(f.__code__)
        self._all("defaults", [self._held(v) for v in f.__defaults__ or ()])
        self._all("kwdefaults", [(k, self._held(v)) for k, v in (f.__kwdefaults__ or {}).items()])
        self._all("closure", [self._held(cell) for cell in f.__closure__ or ()])

    def _held(self, value: Any) -> bytes:
        """A value that a function brings with it; of one that cannot be looked into, just the type.

        Such a function may still be imported by name on a node, so that nothing is wrong with it.
        """
        try:
            value = value.cell_contents if isinstance(value, types.CellType) else value
            return _Walk(self._dumps, self).read(value)
        except Exception:
            return _Walk(self._dumps).read(_qualified(type(value)))

    def _code(self, code: types.CodeType) -> None:
        self._all("code", [getattr(code, name) for name in _CODE])

    def _class(self, cls: type) -> None:
        """A class with its methods and constants, its own and those it inherits."""
        for base in cls.__mro__[:-1]:
            self._named(base)
            for name, value in vars(base).items():
                method = getattr(value, "__func__", getattr(value, "fget", value))
                constant = _is_constant(value) and not name.startswith("__")
                if constant or isinstance(method, types.FunctionType):
                    self._text("attribute", name)
                    self._read(value if constant else method)


_NAMED = (types.FunctionType, types.BuiltinFunctionType)

#: Kinds of callables whose type says nothing that matters.
_CALLABLE = (
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    functools.partial,
)


def _qualified(value: Any) -> str:
    return (
        getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or type(value).__qualname__
    )


def _imported(path: str) -> Callable[..., Any] | None:
    """What ``"module:qualname"`` names, if it is there: a node may have modules that the client has not."""
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception:
        return None
    return found if callable(found) else None


def _globals_of(f: types.FunctionType) -> list[tuple[str, Any]]:
    """Functions and plain values of its own module that a function names, in the order it names them."""
    found: dict[str, Any] = {}
    stack = [f.__code__]
    for code in stack:  # grows on the way
        for name in code.co_names:
            if name in found or name.startswith("__") or name not in f.__globals__:
                continue
            value = f.__globals__[name]
            if isinstance(value, types.FunctionType):
                if value.__module__ == f.__module__:
                    found[name] = value
            elif _is_constant(value):
                found[name] = value
        stack.extend(const for const in code.co_consts if isinstance(const, types.CodeType))
    return list(found.items())


def _is_constant(value: Any) -> bool:
    return type(value) in _PLAIN or (
        type(value) in (tuple, frozenset) and all(_is_constant(part) for part in value)
    )
