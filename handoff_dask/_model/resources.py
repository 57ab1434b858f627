"""Exact amounts of resources.

Amounts are integers in units of 2**-20. The unit is a power of two, so that sums of amounts are also exact in
the floats that Dask's workers use. Amounts are rounded *down*, so that ``n`` functions of cost ``x`` always
fit on a capacity of ``n * x``, whatever ``x`` is (20 of 0.2 on 4, 6 of 1/6 on 1).
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from numbers import Real
from typing import Any

from handoff_dask._model.safe_repr import safe_repr

#: Units in 1 of a resource: in one core, one MB, one device.
UNIT = 2**20

#: Every float from here on is a whole number.
_WHOLE = 2.0**53

#: The implicit resource: every placed function occupies one thread of its node.
THREADS = "threads"

#: The resource of which a node offers one per thread by default.
CPU = "cpu"

#: The resource whose amounts may be strings with a unit of bytes.
MEMORY = "memory"

#: Resources whose use is measured.
MEASURED = (MEMORY, CPU)

#: An amount that is to be estimated from what functions use.
AUTO = "auto"

#: Bytes per MB.
MB = 2**20

#: Amounts of memory from here on, 100 TB, are taken for bytes.
_LOOKS_LIKE_BYTES = 10**8

#: A number with a unit of bytes: ``4GB``, ``512 MiB``, ``1.5g``.
_BYTES = re.compile(r"\s*(\d+\.?\d*|\.\d+)(e[+-]?\d{1,2})?\s*(?:([kmgtp])(i?)b?|b)\s*", re.IGNORECASE)

#: What ``nodes`` must be, for error messages.
NODES_SHAPE = 'nodes must map names to capacities, such as {"node1": {"cpu": 4, "memory": "8GB"}}'

#: The beginning of a name such as ``num_cpus`` or ``ngpus``.
_COUNT = re.compile(r"(num|n)_?(?=[cg]pu)")

#: The resource that consists of individually indexed devices.
GPU = "gpu"


def to_units(amount: Any) -> int:
    """Convert an amount to units, rounded down; a positive amount is at least one unit.

    Parameters
    ----------
    amount : int, float, Fraction, Decimal or any real number
        At least 0 and finite.

    Raises
    ------
    ValueError
        The amount is invalid. The text is a predicate, to follow the name of a resource.
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
        return whole * UNIT  # with integers, because value * UNIT can exceed the range of floats
    return max(1, int(value * UNIT)) if value else 0


def parse_memory(text: str) -> int | float:
    """Convert a string with a unit of bytes to MB, as Dask's ``parse_bytes`` reads it.

    ``kB``, ``MB``, ``GB``, ``TB`` and ``PB`` are powers of 1000, ``KiB`` to ``PiB`` powers of 1024. The ``B``
    may be omitted, and case does not matter. From 1 MB on, the result is rounded down to whole MB, as the
    detected memory of a worker is: functions of ``"4GB"`` fit on a worker with ``--memory-limit 4GB``.

    Raises
    ------
    ValueError
        The string is not of this form. The text is a predicate, to follow the name of a resource.
    """
    match = _BYTES.fullmatch(text)
    if match is None:
        examples = 'a number of MB (2**20 bytes) or a string with a unit, such as "4GB" or "512 MiB"'
        raise ValueError(f"must be {examples}, not {text!r}")
    number, exponent, prefix, binary = match.groups()
    power = "kmgtp".index(prefix.lower()) + 1 if prefix else 0
    n = int(Fraction(number + (exponent or "")) * (1024 if binary else 1000) ** power)
    return n // MB if n >= MB else n / MB


def is_auto(amount: Any) -> bool:
    """Return whether an amount is to be estimated."""
    return type(amount) is str and amount == AUTO


def to_number(name: str, amount: Any) -> Any:
    """Return memory that is given as a string in MB, any other amount unchanged.

    Raises
    ------
    ValueError
        As for :func:`parse_memory`.
    """
    return parse_memory(amount) if name == MEMORY and isinstance(amount, str) else amount


def hint_at_bytes(amounts: Mapping[str, Any]) -> str | None:
    """Return a hint if an amount of memory, which is in MB, was probably meant in bytes."""
    memory = amounts.get(MEMORY, 0)
    if not isinstance(memory, (int, float)) or not _LOOKS_LIKE_BYTES <= memory < math.inf:
        return None
    return f"memory is in MB, but {memory:.10g} looks like bytes; did you mean {int(memory) // MB}?"


def from_units(units: int) -> float:
    """Convert units to a number for display and records: an int if whole, else a float of five decimals."""
    whole, rest = divmod(units, UNIT)
    return round(units / UNIT, 5) if rest else whole


def parse_amounts(amounts: Mapping[Any, Any]) -> dict[str, int]:
    """Convert each amount to units and leave out zero amounts.

    Raises
    ------
    ValueError
        A resource name or an amount is invalid. The text names the resource.
    """
    units = {}
    for name, amount in amounts.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"resource names must be non-empty strings, not {safe_repr(name)}")
        try:
            n = to_units(to_number(name, amount))
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
        if n:
            units[name] = n
    return units


def parse_nodes(nodes: Any) -> dict[Any, dict[str, int]]:
    """Convert capacities to units: node name → resource → units, including ``threads``.

    ``threads`` defaults to ``max(1, int(cpu))``, and ``cpu`` to the number of threads.

    Warns if an amount of memory was probably meant in bytes.

    Raises
    ------
    TypeError
        ``nodes``, or a node's capacity, is not a mapping.
    ValueError
        There are no nodes, ``threads`` is not a whole number of at least 1, or an amount is not a
        non-negative, finite number.
    """
    if not isinstance(nodes, Mapping):
        raise TypeError(f"{NODES_SHAPE}, not {safe_repr(nodes)}")
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
        if (hint := hint_at_bytes(capacity)) is not None:
            # The caller is a decorated function of the API, which the decorator's frame calls.
            warnings.warn(f"node {name!r}: {hint}", stacklevel=4)
        threads = capacity.get(THREADS, max(1, int(capacity.get(CPU, 1))))
        if not isinstance(threads, int) or threads < 1:
            raise ValueError(f"node {name!r}: threads must be a whole number of at least 1, not {threads!r}")
        units[THREADS] = threads * UNIT
        if CPU not in capacity:
            units[CPU] = units[THREADS]
        parsed[name] = units
    return parsed


def hint_at_names(nodes: Mapping[Any, Mapping[str, Any]]) -> list[str]:
    """Return a hint for each resource that nodes offer under a name close to ``cpu``, ``gpu`` or ``memory``.

    Nodes that also offer the resource under its own name get no hint.
    """
    found: dict[tuple[str, str], list[Any]] = {}
    for name, capacity in nodes.items():
        for offered in capacity:
            for meant in (CPU, GPU, MEMORY):
                if meant not in capacity and _is_close(offered, meant):
                    found.setdefault((offered, meant), []).append(name)
    hints = []
    for (offered, meant), names in found.items():
        if len(names) == 1:
            who = f"node {names[0]!r} offers"
        else:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            who = f"nodes {', '.join(map(repr, names[:3]))}{more} offer"
        hints.append(f"{who} {offered!r}; did you mean {meant!r}?")
    return hints


def _is_close(offered: str, meant: str) -> bool:
    """Return whether a name of a resource is another spelling of ``meant``, such as ``CPUs`` or ``mem``.

    A name like ``gpu_memory`` is not: it may well be another resource.
    """
    if offered in (CPU, GPU, MEMORY, THREADS):
        return False
    folded = _COUNT.sub("", offered.casefold())
    if folded.rstrip("s") == meant or (len(folded) >= 3 and meant.startswith(folded)):
        return True
    if folded[:1] != meant[0] or abs(len(folded) - len(meant)) > 1:
        return False
    import difflib  # needed only for misspelt names

    return difflib.SequenceMatcher(None, folded, meant).ratio() > 0.8


def format_amounts(amounts: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> str:
    """Format ``{"cpu": 2, "memory": 100}`` as ``cpu 2, memory 100``, and no amounts as ``nothing``."""
    items = amounts.items() if isinstance(amounts, Mapping) else amounts
    texts = (f"{name} {value if isinstance(value, str) else format(value, 'g')}" for name, value in items)
    return ", ".join(texts) or "nothing"
