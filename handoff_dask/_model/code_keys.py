"""The keys under which the durations and the memory of functions are learnt.

A key names the code by its module, its qualified name and a digest of its bytecode, so that functions which
happen to share a name do not share statistics. After a space comes the stem of the function's id, which
distinguishes functions of the same code: ``package.module:train#5f0c2a91 train-large``.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Hashable, Mapping
from functools import lru_cache, partial
from types import CodeType
from typing import Any

from handoff_dask._model.function import LOADING, Function, code_name

#: The numeric or hexadecimal suffix of an id.
_ID_SUFFIX = re.compile(r"[\W_]*(?:\d+|[0-9a-f]{8,})$")

#: Id stems distinguish the functions of one code if there are at most ``MAX_STEMS`` of them, or if each is
#: shared by at least ``MIN_MEMBERS`` functions on average.
MAX_STEMS, MIN_MEMBERS = 64, 4

#: Characters of a digest in a key.
_DIGEST = 8


def code_keys(functions: Mapping[Hashable, Function]) -> dict[Hashable, str]:
    """Return for each id the key under which the function is learnt: that of its code, a space, a stem.

    The stem is left out if there are too many of them to be useful, as with ids made of file names.
    """
    known: dict[int, str] = {}  # by the identity of the code, which the functions keep alive
    parts: dict[Hashable, tuple[str, str]] = {}
    for id_, f in functions.items():
        key = known.get(id(f.code))
        if key is None:
            key = known[id(f.code)] = code_key(f.code)
        parts[id_] = key, id_stem(id_)
    members = Counter(code for code, _ in parts.values())
    stems = Counter(code for code, _ in set(parts.values()))
    distinct = {code for code, n in stems.items() if n <= MAX_STEMS or MIN_MEMBERS * n <= members[code]}
    return {id: f"{code} {stem if code in distinct else ''}" for id, (code, stem) in parts.items()}


def code_key(code: Any) -> str:
    """Return the part of a key that names the code. Values that partials or closures hold do not count."""
    while isinstance(code, partial):
        code = code.func
    if isinstance(code, str):
        return code.replace(" ", "")
    name = str(getattr(code, "__qualname__", None) or type(code).__qualname__).replace(" ", "")
    if name == LOADING:
        return name
    module = getattr(code, "__module__", None) or type(code).__module__
    digest = _digest_of(code)
    return f"{module}:{name}{'#' if digest else ''}{digest}"


def _digest_of(code: Any) -> str:
    """Return a digest of the bytecode of a callable; empty if it has none, such as a builtin function."""
    for _ in range(10):  # wrappers within wrappers
        inner = getattr(code, "__wrapped__", None) or getattr(code, "__func__", None)
        if inner is None:
            break
        code = inner
    if not hasattr(code, "__code__"):
        owner, method = (code, "__init__") if isinstance(code, type) else (type(code), "__call__")
        code = getattr(owner, method, None)
    bytecode = getattr(code, "__code__", None)
    return digest_bytecode(bytecode) if isinstance(bytecode, CodeType) else ""


@lru_cache(maxsize=4096)
def digest_bytecode(code: CodeType) -> str:
    """Return a digest of a code object that does not depend on its file and lines."""
    digest = hashlib.sha256()
    stack = [code]
    for part in stack:  # grows during the iteration
        constants = [c for c in part.co_consts if not isinstance(c, CodeType)]
        stack += [c for c in part.co_consts if isinstance(c, CodeType)]
        names = (part.co_name, part.co_names, part.co_varnames, part.co_freevars, part.co_cellvars)
        texts = [_text_of(constant) for constant in constants]
        counts = (part.co_argcount, part.co_kwonlyargcount)
        digest.update(repr((names, texts, counts)).encode("utf-8", "replace"))
        digest.update(part.co_code)
    return digest.hexdigest()[:_DIGEST]


def _text_of(constant: Any) -> str:
    if isinstance(constant, frozenset):  # the constant of ``x in {...}``, whose order depends on the process
        return repr(sorted(map(_text_of, constant)))
    return repr([*map(_text_of, constant)] if isinstance(constant, tuple) else constant)


def id_stem(id: Hashable) -> str:
    """Return an id without its numeric suffix: ``blur`` for both ``blur-17`` and ``blur-3``.

    Functions of the same code can take very different times, depending on their arguments. Functions with
    the same id stem usually resemble each other.
    """
    while type(id) is tuple and id:
        id = id[0]
    return _ID_SUFFIX.sub("", id) if type(id) is str else ""


# ---------------------------------------------------------------------- parts of keys


def split_key(key: str) -> tuple[str, str]:
    """Return the parts of a key: that of the code, and the stem of the id."""
    code, _, stem = key.partition(" ")
    return code, stem


def without_stem(key: str) -> str:
    """Return the key of all functions of the same code, whatever their ids."""
    return key if key.endswith(" ") else key.partition(" ")[0] + " "


def name_in(key: str) -> str:
    """Return the short name of the code of a key, as :func:`code_name` gives it."""
    return code_name(split_key(key)[0].partition("#")[0])
