"""The problems of a DAG: where validation collects them, and how it names functions."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from handoff_dask._model.function import Function, Transfer
from handoff_dask._suggest import suggestion
from handoff_dask.exceptions import (
    CyclicDependencyError,
    InvalidCollocationError,
    InvalidCostError,
    InvalidDAGError,
    InvalidFunctionError,
    MissingFunctionError,
)

Functions = Mapping[Hashable, Function]

#: Most missing ids for which to suggest others, which takes long in a large DAG.
MAX_SUGGESTIONS = 10

#: Kinds of problem, in the order in which they are reported.
_KINDS: tuple[type[InvalidDAGError], ...] = (
    MissingFunctionError,
    CyclicDependencyError,
    InvalidCostError,
    InvalidCollocationError,
    InvalidFunctionError,
)


class Problems:
    """The problems found: for each kind their texts, and the ``detail`` of the exception."""

    def __init__(self) -> None:
        self.texts: dict[type[InvalidDAGError], list[str]] = {}
        self.details: dict[type[InvalidDAGError], list[Any]] = {}

    def add(self, kind: type[InvalidDAGError], detail: Any, text: str) -> None:
        texts = self.texts.setdefault(kind, [])
        if text in texts[-1:]:
            return  # a repetition, as of a missing dependency that is passed twice
        texts.append(text)
        details = self.details.setdefault(kind, [])
        if isinstance(detail, list):
            details.extend(detail)
        elif detail not in details[-1:]:
            details.append(detail)

    def error(self, dag_id: Hashable) -> InvalidDAGError | None:
        kinds = [kind for kind in _KINDS if kind in self.texts]
        if not kinds:
            return None
        texts = [text for kind in kinds for text in self.texts[kind]]
        first: Any = kinds[0]
        error: InvalidDAGError = first(dag_id, texts, self.details[kinds[0]])
        return error


def user_facing_id(f: Function) -> Hashable:
    """Return the id of the function that the user wrote: for a :class:`Transfer`, that of the consumer."""
    return f.id[2] if isinstance(f, Transfer) else f.id  # type: ignore[index]


def suggested_id(f: Function, missing: object, functions: Functions, problems: Problems) -> str:
    """Return a suggestion for an id that is not in the DAG, "" if there were many already."""
    if sum(map(len, problems.texts.values())) >= MAX_SUGGESTIONS:
        return ""
    return suggestion(missing, [id for id in functions if id != f.id])


def is_in(id: Any, ids: Mapping[Hashable, Any]) -> bool:
    """Return whether an id is in a mapping. An id that is not hashable is not."""
    try:
        return id in ids
    except TypeError:  # unhashable, which is reported elsewhere
        return False
