"""Costs that depend on a function's inputs and earlier attempts: callables of a :class:`Need`."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from handoff_dask._model.function import Function, code_name
from handoff_dask._model.resources import THREADS, is_auto, parse_amounts, to_number
from handoff_dask._model.safe_repr import safe_repr


@dataclass(frozen=True, slots=True)
class Need:
    """What is known of an attempt before it is placed: the argument of a cost that is a callable.

    Attributes
    ----------
    attempt : int
        Number of the attempt, from 1.
    inputs : mapping of id to float
        Sizes of the results that the function takes, in MB (2**20 bytes). 0 before they exist.
    seen_peak : float or None
        The most memory in MB that an earlier attempt of this function has used, in this run or, with a
        history, in earlier ones. None if it is unknown.
    """

    attempt: int = 1
    inputs: Mapping[Hashable, float] = field(default_factory=dict)
    seen_peak: float | None = None

    @property
    def input_mb(self) -> float:
        """Total size of the results that the function takes, in MB."""
        return math.fsum(self.inputs.values())


#: A cost that is computed for each attempt.
CostFunction = Callable[[Need], Mapping[str, Any]]


def evaluate_cost(cost: CostFunction, need: Need) -> dict[str, Any]:
    """Return the cost that a callable gives for an attempt, with memory in MB.

    Raises
    ------
    ValueError
        The callable raised an exception, or what it returned is no cost. The exception that it raised is the
        cause.
    """
    name = f"{code_name(cost)}({_text_of(need)})"
    try:
        found = cost(need)
    except Exception as error:
        raise ValueError(f"{name} raised {type(error).__name__}: {error}") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"{name} must return a mapping of resources to numbers, not {safe_repr(found)}")
    problem = None
    try:
        parse_amounts(found)
        amounts = {resource: to_number(resource, amount) for resource, amount in found.items()}
        if THREADS in amounts:
            problem = f"{THREADS!r} cannot be set: every function takes exactly one thread"
    except ValueError as error:
        automatic = any(map(is_auto, found.values()))
        problem = "an amount that is computed cannot be 'auto'" if automatic else str(error)
    if problem is not None:
        raise ValueError(f"{name} returned {safe_repr(found)}: {problem}")
    return {resource: a if type(a) is int else float(a) for resource, a in amounts.items()}


def _text_of(need: Need) -> str:
    peak = "None" if need.seen_peak is None else f"{need.seen_peak:.4g}"
    return f"attempt={need.attempt}, input_mb={need.input_mb:.4g}, seen_peak={peak}"


def first_need(f: Function, functions: Mapping[Hashable, Function]) -> Need:
    """Return what is known of a function's first attempt before anything runs: the ids of its inputs."""
    return Need(inputs=dict.fromkeys(_placed_inputs(f, functions), 0.0))


def _placed_inputs(f: Function, functions: Mapping[Hashable, Function]) -> Iterable[Hashable]:
    """Return the ids whose results a function takes, directly or through inline functions."""
    found: dict[Hashable, None] = {}
    stack = list(f.dependencies)
    visited = set()
    for id in stack:  # grows during the iteration
        g = functions.get(id)
        if g is None or id in visited:
            continue
        visited.add(id)
        if g.type == "inline":
            stack += g.dependencies
        else:
            found[id] = None
    return found
