"""Suggestions for misspelt names, for all error messages: ``did you mean 'gpu'?``."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, ParamSpec, TypeVar

#: Parameters of Dask, Ray and Parsl → ours.
_ELSEWHERE = {
    "depends_on": "args",
    "num_cpus": "cost",
    "num_gpus": "cost",
    "resources": "cost",
    "retries": "max_retries",
    "workers": "node",
}

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

#: Most names to compare with. A comparison takes some microseconds.
_MAX_NAMES = 5_000

#: Most ids to list.
_MAX_LISTED = 3

#: Least similarity of a suggestion, as ``difflib`` measures it. That of ``gpu`` and ``cpu`` is 0.67.
_CUTOFF = 0.7

#: Least length of a name that may stand for a longer one: ``mem`` for ``memory``.
_MIN_PART = 3


def suggestion(wrong: object, names: Iterable[object]) -> str:
    """Return ``"; did you mean 'gpu'?"`` to end a message with, or "" if no name is similar enough.

    Names are of any type: the text of ``3`` equals that of ``"3"``. Names that differ from ``wrong`` only in
    their digits are not suggested: ``node7`` is rarely a misspelling of ``node2``.
    """
    found = _closest(_text(wrong), {_text(name): name for name in islice(names, _MAX_NAMES)})
    return "" if found is None else f"; did you mean {found}?"


def tuples_of(first: object, ids: Iterable[object]) -> str:
    """Return ``"; ids that begin like it: ('part', 0), ('part', 1)"`` for the first item of ids, or ""."""
    text = _text(first)
    found = [id for id in ids if isinstance(id, tuple) and id and _text(id[0]) == text]
    if not found:
        return ""
    more = f" and {len(found) - _MAX_LISTED:,d} more" if len(found) > _MAX_LISTED else ""
    return f"; ids that begin like it: {', '.join(map(repr, found[:_MAX_LISTED]))}{more}"


def _closest(wrong: str, names: dict[str, object]) -> str | None:
    """Return the ``repr`` of the most similar name."""
    if wrong in names:  # of another type
        return repr(names[wrong])
    folded: dict[str, object] = {}
    for text, name in names.items():
        folded.setdefault(_fold(text), name)
    sought = _fold(wrong)
    if sought not in folded:
        import difflib  # needed only for errors

        form = _without_digits(sought)
        candidates = [text for text in folded if _without_digits(text) != form]
        close = difflib.get_close_matches(sought, candidates, 1, _CUTOFF)
        if not close and len(sought) >= _MIN_PART:
            close = [text for text in candidates if text.startswith(sought) or text.endswith(sought)]
        if not close:
            return None
        sought = close[0]
    return repr(folded[sought])


def _text(name: object) -> str:
    try:
        return str(name)
    except Exception:  # an error message must not fail because an id has a broken `str`
        return ""


def _fold(text: str) -> str:
    return text.casefold().replace("-", "_").replace(" ", "_")


def _without_digits(text: str) -> str:
    return re.sub(r"\d+", "0", text)


def suggest_keywords(call: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function: the error for an unknown keyword argument then names the closest parameter."""
    names = frozenset(inspect.signature(call).parameters)

    @functools.wraps(call)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if not kwargs.keys() <= names:
            check_keywords(call.__qualname__, kwargs, names)
        try:
            return call(*args, **kwargs)
        except BaseException as error:
            if error.__traceback__ is not None:  # leave this frame out of tracebacks, which users read
                error.__traceback__ = error.__traceback__.tb_next
            raise

    return checked


def suggest_fields(cls: type[T]) -> type[T]:
    """Decorate a class so that an unknown field is an error that names the closest field."""
    cls.__init__ = suggest_keywords(cls.__init__)  # type: ignore[method-assign]
    return cls


def check_keywords(name: str, keywords: Iterable[str], names: Iterable[str]) -> None:
    """Raise TypeError, with Python's message and a suggestion, for the first keyword that is not a name."""
    known: list[Any] = [n for n in names if n != "self"]
    for keyword in keywords:
        if keyword not in known:
            meant = _ELSEWHERE.get(keyword)
            hint = f"; did you mean {meant!r}?" if meant in known else suggestion(keyword, sorted(known))
            raise TypeError(f"{name}() got an unexpected keyword argument {keyword!r}{hint}")
