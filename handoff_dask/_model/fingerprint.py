"""Fingerprints of functions: equal in every process, and different if code or arguments change.

Dask's ``tokenize`` does not suffice: it identifies imported code by its name, so editing the code does not
change the token.
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
    CLASS_METADATA,
    LRU_CACHE,
    SCALARS,
    STANDARD_CALLABLES,
    class_of,
    declared_wrapped,
    globals_of,
    import_code,
    is_code,
    is_constant,
    is_identified_by_name,
    qualified_name,
    unwrap,
)
from handoff_dask._model.function import Function, Transfer

#: Incremented whenever a change of this module changes the fingerprints of unchanged functions.
_VERSION = 2

#: Implementation and minor version, because bytecode differs between them.
_PYTHON = f"{sys.implementation.name}-{sys.version_info[0]}.{sys.version_info[1]}"

#: Nesting depth of sets up to which their members are inspected in order to sort them.
_MAX_SET_DEPTH = 3

#: Fields of a code object that affect what it does. Its file and lines do not: a function may be moved.
_CODE_FIELDS = (
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
    """Compute the fingerprints of functions.

    Parameters
    ----------
    functions : mapping of id to Function
    order : iterable of ids
        A topological order of the functions.
    dumps : callable
        Pickles objects that can be inspected in no other way.

    Returns
    -------
    dict of id to str
        64 hexadecimal digits, which depend on the function's id and code, the values of its arguments and how
        they are passed, and the fingerprints of its dependencies.

    Raises
    ------
    FingerprintError
        An id or an argument cannot be inspected.
    """
    digests = _DigestCache(dumps)
    found: dict[Hashable, str] = {}
    for id in order:
        f = functions[id]
        try:
            parts = (
                _VERSION,
                _PYTHON,
                digests.of_value(id),
                digests.of_code(f.code),
                isinstance(f, Transfer),
                f.argument_inclusion,
                tuple(found[d] for d in f.args),
                tuple(digests.of_value(value) for value in f.extra_args),
                tuple((name, found[d]) for name, d in f.kwargs.items()),
                tuple((name, digests.of_value(value)) for name, value in f.extra_kwargs.items()),
            )
        except Exception as error:
            raise FingerprintError(id, f"{type(error).__name__}: {error}") from error
        found[id] = _Hasher(dumps).digest(parts).hex()
    return found


class FingerprintError(Exception):
    """A function's fingerprint cannot be computed.

    Attributes
    ----------
    function_id : hashable
        Id of the function.
    reason : str
        Type and text of the exception that occurred.
    """

    def __init__(self, function_id: Hashable, reason: str) -> None:
        super().__init__(function_id, reason)
        self.function_id = function_id
        self.reason = reason


class _DigestCache:
    """Cached digests of objects: many functions share their code and large arguments."""

    def __init__(self, dumps: Callable[[Any], bytes]) -> None:
        self._dumps = dumps
        self._known: dict[tuple[int, ...], tuple[Any, bytes]] = {}

    def of_value(self, value: Any) -> bytes:
        return self._of(value, False)

    def of_code(self, code: Any) -> bytes:
        """Include the methods of a class, of which a value contributes only its name."""
        return self._of(code, True)

    def _of(self, value: Any, called: bool) -> bytes:
        if type(value) is types.MethodType:  # accessing a method creates a new object each time
            key: tuple[int, ...] = (id(value.__func__), id(value.__self__), called)
        else:
            key = (id(value), called)
        known = self._known.get(key)
        if known is None:
            hasher = _Hasher(self._dumps)
            digest = hasher.digest_code(value) if called else hasher.digest(value)
            known = self._known[key] = (value, digest)  # keeping the value reserves its id()
        return known[1]


class _Hasher:
    """Hashes one value part by part. Repetitions of a mutable object are hashed as a back-reference."""

    def __init__(self, dumps: Callable[[Any], bytes], parent: _Hasher | None = None) -> None:
        self._dumps = dumps
        self._hash = hashlib.sha256()
        self._numbers: dict[int, int] = {} if parent is None else parent._numbers
        self._kept_alive: list[Any] = [] if parent is None else parent._kept_alive  # reserves each id()
        self._depth: int = 0 if parent is None else parent._depth
        self._keys: dict[tuple[int, int], bytes] = {} if parent is None else parent._keys

    def digest(self, value: Any) -> bytes:
        self._add(value)
        return self._hash.digest()

    def digest_code(self, code: Any) -> bytes:
        """Return the digest of an object that will be called."""
        if isinstance(code, str):
            self._add(code)
            code = import_code(code)
        self._add(code)
        while isinstance(code, (functools.partial, LRU_CACHE)):
            code = code.func if isinstance(code, functools.partial) else code.__wrapped__
        if isinstance(code, type):
            self._add_class(code)
        elif not isinstance(code, STANDARD_CALLABLES) and code is not None:
            self._add_class(type(code))
        return self._hash.digest()

    def _put(self, tag: str, data: bytes = b"") -> None:
        # Length prefixes make the encoding unambiguous.
        self._hash.update(b"%s %d:" % (tag.encode(), len(data)))
        self._hash.update(data)

    def _text(self, tag: str, text: str) -> None:
        self._put(tag, text.encode("utf-8", "surrogatepass"))

    def _add(self, value: Any) -> None:
        kind = type(value)
        if kind in SCALARS:
            self._add_scalar(value)
        elif kind is tuple:
            self._add_sequence("tuple", value)
        elif kind is frozenset:
            self._add_set("frozenset", value)
        elif kind is types.CodeType:
            self._add_code_object(value)
        elif isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType)):
            self._add_name(value)
        elif id(value) in self._numbers:
            self._put("again", b"%d" % self._numbers[id(value)])
        else:
            self._numbers[id(value)] = len(self._numbers)
            self._kept_alive.append(value)
            self._add_object(value, kind)

    def _add_scalar(self, value: Any) -> None:
        name = type(value).__name__
        if type(value) is float:
            self._put(name, struct.pack("<d", value))
        elif type(value) is complex:
            self._put(name, struct.pack("<dd", value.real, value.imag))
        elif type(value) is bytes:
            self._put(name, value)
        elif type(value) is int:
            self._text(name, f"{value:x}")  # decimal conversion is limited to 4,300 digits
        else:
            self._text(name, str(value))

    def _add_sequence(self, tag: str, values: Sequence[Any]) -> None:
        self._put(tag, b"%d" % len(values))
        for value in values:
            self._add(value)

    def _add_set(self, tag: str, values: Collection[Any]) -> None:
        """Hash the members in an order that does not depend on the process.

        Members that are not constants can refer back to the set, so the sort key inspects them only to a
        limited depth. Members with equal keys are hashed in arbitrary order: at worst, the same set has
        different digests in different processes.
        """
        self._put(tag, b"%d" % len(values))
        if self._depth > _MAX_SET_DEPTH:
            return
        for key, value in sorted(((self._sort_key(v), v) for v in values), key=itemgetter(0)):
            if is_constant(value):
                self._put("constant", key)
            else:
                self._add(value)

    def _sort_key(self, value: Any) -> bytes:
        """Return a digest of a member of a set that does not depend on anything hashed before."""
        if is_constant(value):
            return _Hasher(self._dumps).digest(value)
        at = (id(value), self._depth + 1)
        key = self._keys.get(at)
        if key is None:
            hasher = _Hasher(self._dumps, self)
            hasher._numbers, hasher._depth = {}, self._depth + 1
            key = self._keys[at] = hasher.digest(value)
            self._kept_alive.append(value)
        return key

    def _add_name(self, value: Any) -> None:
        bound = getattr(value, "__self__", None)
        self._text("named", f"{getattr(value, '__module__', None)} {qualified_name(value)}")
        if bound is not None and not isinstance(bound, (type, types.ModuleType)):
            self._add(bound)

    def _add_object(self, value: Any, kind: type) -> None:
        if kind is list:
            self._add_sequence("list", value)
        elif kind is dict:
            self._add_sequence("dict", [part for item in value.items() for part in item])
        elif kind is set:
            self._add_set("set", value)
        elif kind is bytearray:
            self._put("bytearray", bytes(value))
        elif kind is types.FunctionType:
            self._add_function(value)
        elif kind is types.MethodType:
            self._add_sequence("method", (value.__func__, value.__self__))
            self._add_class(class_of(value.__self__))
        elif kind is functools.partial:
            self._add_sequence("partial", (value.func, value.args, value.keywords))
        elif kind is LRU_CACHE:
            self._text("wrapper", qualified_name(kind))
            self._add(value.__wrapped__)
        elif hasattr(kind, "__dask_tokenize__"):
            self._add_name(kind)
            self._add(value.__dask_tokenize__())
        else:
            self._add_reduced(value, kind)

    def _add_reduced(self, value: Any, kind: type) -> None:
        """Hash the parts into which pickle splits an object: pickled bytes depend on more than its value."""
        reduce = copyreg.dispatch_table.get(kind)
        try:
            parts: Any = reduce(value) if reduce is not None else value.__reduce_ex__(4)
        except TypeError:
            self._put("pickled", self._dumps(value))
            return
        if isinstance(parts, str):
            self._text("global", f"{kind.__module__} {parts}")
            return
        self._kept_alive.append(parts)
        constructor, args, state, items, pairs = (list(parts) + [None] * 3)[:5]
        # The constructor belongs to the object's class, which contributes only its name.
        self._add_name(constructor) if is_identified_by_name(constructor) else self._add(constructor)
        self._add(args)
        self._add(state)
        self._add_sequence("items", list(items or ()))
        self._add_sequence("pairs", [part for item in pairs or () for part in item])

    # ------------------------------------------------------------------ code

    def _add_function(self, f: types.FunctionType) -> None:
        """Hash a function and, transitively, the code and constants of its module to which it refers."""
        self._add_body(f)
        self._add_globals([f])

    def _add_globals(self, functions: list[types.FunctionType]) -> None:
        """Hash the globals to which functions refer. Functions found among them are appended to the list."""
        for f in functions:  # grows during the iteration
            self._put("globals", b"%d" % self._numbers[id(f)])
            for name, value in globals_of(f):
                self._text("global", name)
                if is_constant(value):
                    self._add(value)
                else:
                    self._add_callee(value, functions)

    def _add_callee(self, value: Any, functions: list[types.FunctionType]) -> None:
        """Hash code that other code contains or refers to. Parts that cannot be inspected are not an error.

        A function is appended to ``functions``, for :meth:`_add_globals` to continue with, so that long
        chains of functions need no recursion.
        """
        if isinstance(value, types.BuiltinFunctionType) or value is None:
            self._put("held", self._digest_captured(value))
            return
        if id(value) in self._numbers:
            self._put("again", b"%d" % self._numbers[id(value)])
            return
        parts = unwrap(value)
        if parts is None and not isinstance(value, types.FunctionType):
            self._put("held", self._digest_captured(value))
            self._numbers.setdefault(id(value), len(self._numbers))
            self._kept_alive.append(value)
            if not isinstance(value, type):
                self._add_class(type(value))
                self._add_callee(declared_wrapped(value), functions)
            return
        self._numbers[id(value)] = len(self._numbers)
        self._kept_alive.append(value)
        if parts is None:
            functions.append(value)
            self._add_body(value)
            return
        code, held = parts
        self._text("wrapper", qualified_name(type(value)))
        for part in code:
            self._add_callee(part, functions)
        self._add_sequence("held", [self._digest_captured(part) for part in held])
        if isinstance(value, types.MethodType):
            self._add_class(class_of(value.__self__))

    def _add_body(self, f: types.FunctionType) -> None:
        """Hash a function without the globals to which it refers."""
        self._text("function", f"{f.__module__} {f.__qualname__}")
        self._add_code_object(f.__code__)
        self._add_sequence("defaults", [self._digest_captured(v) for v in f.__defaults__ or ()])
        self._add_sequence(
            "kwdefaults", [(k, self._digest_captured(v)) for k, v in (f.__kwdefaults__ or {}).items()]
        )
        self._add_sequence("closure", [self._digest_captured(cell) for cell in f.__closure__ or ()])

    def _digest_captured(self, value: Any) -> bytes:
        """Return the digest of a value that code captures, or only of its type if it cannot be inspected.

        This is not an error, because a node may still be able to import the code by name.
        """
        known = len(self._numbers)
        try:
            value = value.cell_contents if isinstance(value, types.CellType) else value
            return _Hasher(self._dumps, self).digest(value)
        except Exception:
            for part in list(self._numbers)[known:]:  # undo the partial numbering
                del self._numbers[part]
            return _Hasher(self._dumps).digest(qualified_name(type(value)))

    def _add_code_object(self, code: types.CodeType) -> None:
        self._add_sequence("code", [getattr(code, name) for name in _CODE_FIELDS])

    def _add_class(self, cls: type) -> None:
        """Hash a class with its own and its inherited methods and constants."""
        if id(cls) in self._numbers:
            self._put("class again", b"%d" % self._numbers[id(cls)])
            return
        self._numbers[id(cls)] = len(self._numbers)
        functions: list[types.FunctionType] = []
        for base in cls.__mro__[:-1]:
            self._add_name(base)
            for name, value in vars(base).items():
                if name in CLASS_METADATA:
                    continue
                if is_constant(value):
                    self._text("attribute", name)
                    self._add(value)
                elif is_code(value):
                    self._text("attribute", name)
                    self._add_callee(value, functions)
        self._add_globals(functions)
