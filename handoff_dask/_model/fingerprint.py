"""What a function would do, as a number: the same in every process, another when code or arguments change.

Dask's ``tokenize`` is not enough: of imported code it takes the name, so that edited code has the same token.
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import struct
import sys
import types
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from handoff_dask._model.callables import (
    CACHED,
    CALLABLE,
    OF_ANY_CLASS,
    PLAIN,
    class_of,
    globals_of,
    imported,
    is_code,
    is_constant,
    is_named,
    parts_of,
    qualified,
    wrapped_by,
)
from handoff_dask._model.function import Function, Transfer

#: Raised by one whenever the same function would get another fingerprint than before.
_VERSION = 2

#: Bytecode differs between these.
_PYTHON = f"{sys.implementation.name}-{sys.version_info[0]}.{sys.version_info[1]}"

#: Sets within members of sets that are looked through to sort the members.
_SET_DEPTH = 3

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
        self._known: dict[tuple[int, ...], tuple[Any, bytes]] = {}

    def of(self, value: Any) -> bytes:
        return self._of(value, False)

    def of_code(self, code: Any) -> bytes:
        """Also sees the methods of a class, which as an argument is just its name."""
        return self._of(code, True)

    def _of(self, value: Any, called: bool) -> bytes:
        if type(value) is types.MethodType:  # each look at a method makes another object
            key: tuple[int, ...] = (id(value.__func__), id(value.__self__), called)
        else:
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
        self._depth: int = 0 if within is None else within._depth
        self._keys: dict[tuple[int, int], bytes] = {} if within is None else within._keys

    def read(self, value: Any) -> bytes:
        self._read(value)
        return self._hash.digest()

    def read_called(self, code: Any) -> bytes:
        """Read what is going to be called."""
        if isinstance(code, str):
            self._read(code)
            code = imported(code)
        self._read(code)
        while isinstance(code, (functools.partial, CACHED)):
            code = code.func if isinstance(code, functools.partial) else code.__wrapped__
        if isinstance(code, type):
            self._class(code)
        elif not isinstance(code, CALLABLE) and code is not None:
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
        if kind in PLAIN:
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

    def _set(self, tag: str, values: Collection[Any]) -> None:
        """The members in an order that is the same in every process, whatever the set says.

        Members that are no constants may lead back to the set. They are read like any other part, and the key
        by which they are sorted looks only so far. Two that it cannot tell apart come in any order: at worst
        the same set gets another digest in another process.
        """
        self._put(tag, b"%d" % len(values))
        if self._depth > _SET_DEPTH:
            return
        for key, value in sorted(((self._key(v), v) for v in values), key=itemgetter(0)):
            if is_constant(value):
                self._put("constant", key)
            else:
                self._read(value)

    def _key(self, value: Any) -> bytes:
        """A digest of a member of a set, by itself: it depends on nothing that was read before."""
        if is_constant(value):
            return _Walk(self._dumps).read(value)
        at = (id(value), self._depth + 1)
        key = self._keys.get(at)
        if key is None:
            walk = _Walk(self._dumps, self)
            walk._seen, walk._depth = {}, self._depth + 1
            key = self._keys[at] = walk.read(value)
            self._alive.append(value)
        return key

    def _named(self, value: Any) -> None:
        bound = getattr(value, "__self__", None)
        self._text("named", f"{getattr(value, '__module__', None)} {qualified(value)}")
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
            self._class(class_of(value.__self__))
        elif kind is functools.partial:
            self._all("partial", (value.func, value.args, value.keywords))
        elif kind is CACHED:
            self._text("wrapper", qualified(kind))
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
        self._named(make) if is_named(make) else self._read(make)
        self._read(args)
        self._read(state)
        self._all("items", list(items or ()))
        self._all("pairs", [part for item in pairs or () for part in item])

    # ------------------------------------------------------------------ code

    def _function(self, f: types.FunctionType) -> None:
        """A function, the code of its own module that it names, and what that names."""
        self._own(f)
        self._follow([f])

    def _follow(self, functions: list[types.FunctionType]) -> None:
        """What the global names in functions stand for, which leads to more functions."""
        for f in functions:  # grows on the way
            self._put("globals", b"%d" % self._seen[id(f)])
            for name, value in globals_of(f):
                self._text("global", name)
                if is_constant(value):
                    self._read(value)
                else:
                    self._callee(value, functions)

    def _callee(self, value: Any, functions: list[types.FunctionType]) -> None:
        """Code that other code has or names; nothing is wrong if some of it cannot be looked into.

        Functions are appended to those whose names are still to be followed: there is no recursion from one
        to the next, however long the chain.
        """
        if isinstance(value, types.BuiltinFunctionType) or value is None:
            self._put("held", self._held(value))
            return
        if id(value) in self._seen:
            self._put("again", b"%d" % self._seen[id(value)])
            return
        parts = parts_of(value)
        if parts is None and not isinstance(value, types.FunctionType):
            self._put("held", self._held(value))
            self._seen.setdefault(id(value), len(self._seen))
            self._alive.append(value)
            if not isinstance(value, type):
                self._class(type(value))
                self._callee(wrapped_by(value), functions)
            return
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)
        if parts is None:
            functions.append(value)
            self._own(value)
            return
        code, held = parts
        self._text("wrapper", qualified(type(value)))
        for part in code:
            self._callee(part, functions)
        self._all("held", [self._held(part) for part in held])
        if isinstance(value, types.MethodType):
            self._class(class_of(value.__self__))

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
        known = len(self._seen)
        try:
            value = value.cell_contents if isinstance(value, types.CellType) else value
            return _Walk(self._dumps, self).read(value)
        except Exception:
            for part in list(self._seen)[known:]:  # how far it got must not show in later numbers
                del self._seen[part]
            return _Walk(self._dumps).read(qualified(type(value)))

    def _code(self, code: types.CodeType) -> None:
        self._all("code", [getattr(code, name) for name in _CODE])

    def _class(self, cls: type) -> None:
        """A class with its methods and constants, its own and those it inherits."""
        if id(cls) in self._seen:
            self._put("class again", b"%d" % self._seen[id(cls)])
            return
        self._seen[id(cls)] = len(self._seen)
        functions: list[types.FunctionType] = []
        for base in cls.__mro__[:-1]:
            self._named(base)
            for name, value in vars(base).items():
                if name in OF_ANY_CLASS:
                    continue
                if is_constant(value):
                    self._text("attribute", name)
                    self._read(value)
                elif is_code(value):
                    self._text("attribute", name)
                    self._callee(value, functions)
        self._follow(functions)
