"""Short text for arbitrary values. No function here raises."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dask.utils import format_bytes

from handoff_dask._display.labels import duration_text
from handoff_dask._model.safe_repr import safe_repr, safe_str

if TYPE_CHECKING:
    from handoff_dask._client.result import Result

#: Maximum length of a value's text, in characters.
MAX_CHARACTERS = 80

#: Containers and arrays with more items are abbreviated.
MAX_ITEMS = 6


class _ShortRepr(reprlib.Repr):
    """A repr that shows the first items of a container, and only the shape of an array or table."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = MAX_ITEMS
        self.maxdeque = self.maxarray = MAX_ITEMS
        self.maxlevel = 4
        self.fillvalue = "..."

    def repr1(self, x: Any, level: int) -> str:
        shape = _shape_text(x)
        return shape if shape is not None else super().repr1(x, level)

    def repr_str(self, x: str, level: int) -> str:
        return repr(x[: 2 * MAX_CHARACTERS])

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to convert very long integers, since the conversion takes quadratic time.
        return repr(x) if x.bit_length() < 10_000 else f"an integer of {x.bit_length():,d} bits"

    def repr_instance(self, x: Any, level: int) -> str:
        if isinstance(x, (bytes, bytearray)):
            return repr(x[: 2 * MAX_CHARACTERS])
        return safe_repr(x)


_SHORT = _ShortRepr()


def _shape_text(value: Any) -> str | None:
    """Return type, shape and dtype of an array or table; None for small ones and for all other values."""
    try:
        shape = value.shape
        if type(shape) is not tuple or not shape or math.prod(shape) <= MAX_ITEMS:
            return None
        size = " × ".join(f"{int(n):,d}" for n in shape)
        kind = getattr(value, "dtype", None)
    except Exception:
        return None
    return f"{type(value).__name__} of {size}" + (f", {kind}" if kind is not None else "")


def value_text(value: Any) -> str:
    """Return a value's repr, shortened to one line of at most :data:`MAX_CHARACTERS` characters."""
    try:
        text = _SHORT.repr(value)
    except Exception:
        text = safe_repr(value)
    text = " ".join(text.split("\n"))
    if type(value) in (list, tuple, set, frozenset, dict) and len(value) > MAX_ITEMS:
        count = f" ({len(value):,d} items)"
        return truncate(text, MAX_CHARACTERS - len(count)) + count
    return truncate(text, MAX_CHARACTERS)


def result_text(result: Result) -> str:
    """Return the short repr of a result: a notebook stores it with every cell that displays the result."""
    results, allocations = value_text(dict(result.results)), value_text(dict(result.allocations))
    return (
        f"<Result of DAG {value_text(result.dag_id)} in {duration_text(result.elapsed)}:"
        f" results {results}, allocations {allocations}>"
    )


def name_text(value: Any) -> str:
    """Return an id or name as text, without quotes."""
    return truncate(safe_str(value), MAX_CHARACTERS)


def truncate(text: str, length: int) -> str:
    """Return the text, or its beginning with an ellipsis if it is longer than ``length`` characters."""
    return text if len(text) <= length else text[: length - 3] + "..."


def amount_text(amount: Any) -> str:
    """Return an amount of a resource as text, with thousands separators and few digits."""
    try:
        value = float(amount)
        if value == int(value):
            return f"{int(value):,d}"
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"
    except (TypeError, ValueError, OverflowError):
        return name_text(amount)


def amounts_text(amounts: Mapping[Any, Any]) -> str:
    """Return resources and amounts as text, such as ``cpu 2, memory 8,192``."""
    return ", ".join(f"{name_text(name)} {amount_text(amount)}" for name, amount in amounts.items())


def size_text(nbytes: Any) -> str:
    """Return a size in bytes as text, such as ``2.00 kiB``; the empty string if it is not an integer."""
    return format_bytes(nbytes) if isinstance(nbytes, int) else ""
