"""Exact amounts of resources.

Amounts are kept as integers in units of 2**-20. A power of two, so that a sum of such amounts is also
exact in the floats that Dask's workers keep; and rounded *down*, so that ``n`` functions of cost ``x``
always fit on a capacity of ``n * x``, whatever ``x`` is (20 of 0.2 on 4, 6 of 1/6 on 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

from handoff_dask._model.safe_repr import safe_repr

#: Units in one whole.
UNIT = 2**20

#: From here on floats are whole numbers.
_WHOLE = 2.0**53

#: The implicit resource: every placed function takes one thread of its node.
THREADS = "threads"

#: The resource of which a node has one for each of its threads, unless it is said otherwise.
CPU = "cpu"

#: The resource whose amount is made of devices with an index of their own.
GPU = "gpu"


def to_units(amount: Any) -> int:
    """Exact units of ``amount``, rounded down, but never down to nothing.

    Parameters
    ----------
    amount : int, float, Fraction, Decimal or any real number
        At least 0 and finite.

    Raises
    ------
    ValueError
        With a text that completes "cpu ...": what is wrong with the amount.
    """
    if isinstance(amount, bool) or not isinstance(amount, (Real, Decimal)):
        raise ValueError(f"must be a number, not {safe_repr(amount)}")
    if isinstance(amount, int) and 0 <= amount < _WHOLE:
        return amount * UNIT
    try:
        value = float(amount)
    except OverflowError:
        raise ValueError("must be finite, but is too large for a float") from None
    if not math.isfinite(value):
        raise ValueError(f"must be finite, but is {amount!r}")
    if value < 0:
        raise ValueError(f"must not be negative, but is {amount!r}")
    if value >= _WHOLE:
        whole = amount if isinstance(amount, int) else int(value)
        return whole * UNIT  # in integers, since value * UNIT may be too large for a float
    return max(1, int(value * UNIT)) if value else 0


def from_units(units: int) -> float:
    """``units`` as a number for people and records: whole ones as int, others to five digits."""
    whole, rest = divmod(units, UNIT)
    return round(units / UNIT, 5) if rest else whole


def parse_amounts(amounts: Mapping[Any, Any]) -> dict[str, int]:
    """Resource name → units, zero amounts left out.

    Raises
    ------
    ValueError
        Naming the resource and what is wrong with it.
    """
    units = {}
    for name, amount in amounts.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"resource names must be non-empty strings, not {safe_repr(name)}")
        try:
            n = to_units(amount)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
        if n:
            units[name] = n
    return units


def parse_nodes(nodes: Any) -> dict[Any, dict[str, int]]:
    """Node name → resource → units, threads included.

    Threads are ``max(1, int(cpu))`` unless given, and ``cpu`` is as many as the threads unless given.

    Raises
    ------
    TypeError
        ``nodes``, or a node's capacity, is not a mapping.
    ValueError
        No nodes; threads that are not a whole number of at least 1; an amount that is not a non-negative
        finite number.
    """
    if not isinstance(nodes, Mapping):
        raise TypeError(f"nodes must be a mapping of names to capacities, not {safe_repr(nodes)}")
    if not nodes:
        raise ValueError("at least one node is needed")
    parsed = {}
    for name, capacity in nodes.items():
        if not isinstance(capacity, Mapping):
            raise TypeError(
                f"node {name!r}: its capacity must be a mapping of resources to numbers,"
                f" not {safe_repr(capacity)}"
            )
        try:
            units = parse_amounts(capacity)
        except ValueError as error:
            raise ValueError(f"node {name!r}: {error}") from None
        threads = capacity.get(THREADS, max(1, int(capacity.get(CPU, 1))))
        if not isinstance(threads, int) or threads < 1:
            raise ValueError(f"node {name!r}: threads must be a whole number of at least 1, not {threads!r}")
        units[THREADS] = threads * UNIT
        if CPU not in capacity:
            units[CPU] = units[THREADS]
        parsed[name] = units
    return parsed


def format_amounts(amounts: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> str:
    """``{"cpu": 2, "memory": 100}`` as ``cpu 2, memory 100``; nothing as ``nothing``."""
    items = amounts.items() if isinstance(amounts, Mapping) else amounts
    return ", ".join(f"{name} {value:g}" for name, value in items) or "nothing"
