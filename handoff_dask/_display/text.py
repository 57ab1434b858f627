"""Values as short text, whatever they are: nothing here raises, and nothing is long."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dask.utils import format_bytes

from handoff_dask._display.words import seconds
from handoff_dask._model.safe_repr import safe_repr, safe_str

if TYPE_CHECKING:
    from handoff_dask._client.result import Result

#: Characters of a value that are shown.
CHARACTERS = 80


class _Short(reprlib.Repr):
    """Containers by their first items."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = 6
        self.maxdeque = self.maxarray = 6
        self.maxlevel = 4
        self.fillvalue = "..."

    def repr1(self, x: Any, level: int) -> str:
        shape = _shape(x)
        return shape if shape is not None else super().repr1(x, level)

    def repr_str(self, x: str, level: int) -> str:
        return repr(x[: 2 * CHARACTERS])

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write very long ones, for the time it would take.
        return repr(x) if x.bit_length() < 10_000 else f"an integer of {x.bit_length():,d} bits"

    def repr_instance(self, x: Any, level: int) -> str:
        if isinstance(x, (bytes, bytearray)):
            return repr(x[: 2 * CHARACTERS])
        return safe_repr(x)


_SHORT = _Short()


def _shape(value: Any) -> str | None:
    """Arrays and tables by their size, not by their content; None for everything else, and for small ones."""
    try:
        shape = value.shape
        if type(shape) is not tuple or not shape or math.prod(shape) <= 6:
            return None
        size = " × ".join(f"{int(n):,d}" for n in shape)
        kind = getattr(value, "dtype", None)
    except Exception:
        return None
    return f"{type(value).__name__} of {size}" + (f", {kind}" if kind is not None else "")


def value_text(value: Any) -> str:
    """A value in one line of at most :data:`CHARACTERS`."""
    try:
        text = _SHORT.repr(value)
    except Exception:
        text = safe_repr(value)
    text = " ".join(text.split("\n"))
    if type(value) in (list, tuple, set, frozenset, dict) and len(value) > 6:
        count = f" ({len(value):,d} items)"
        return cut(text, CHARACTERS - len(count)) + count
    return cut(text, CHARACTERS)


def result_text(result: Result) -> str:
    """A result in short: a notebook stores it with every cell that shows it."""
    results, allocations = value_text(dict(result.results)), value_text(dict(result.allocations))
    return (
        f"<Result of DAG {value_text(result.dag_id)} in {seconds(result.elapsed)}:"
        f" results {results}, allocations {allocations}>"
    )


def name_text(value: Any) -> str:
    """An id or a name as people write it."""
    return cut(safe_str(value), CHARACTERS)


def cut(text: str, most: int) -> str:
    """The beginning of a text."""
    return text if len(text) <= most else text[: most - 3] + "..."


def amount_text(amount: Any) -> str:
    """An amount of a resource, with commas, without digits that nobody reads."""
    try:
        value = float(amount)
        if value == int(value):
            return f"{int(value):,d}"
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"
    except (TypeError, ValueError, OverflowError):
        return name_text(amount)


def amounts_text(amounts: Mapping[Any, Any]) -> str:
    """``cpu 2, memory 8,192``."""
    return ", ".join(f"{name_text(name)} {amount_text(amount)}" for name, amount in amounts.items())


def size_text(nbytes: Any) -> str:
    """A size in bytes."""
    return format_bytes(nbytes) if isinstance(nbytes, int) else ""
