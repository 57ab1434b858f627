"""Recognition of Dask's collections and futures, which the code of a function cannot use as values."""

from __future__ import annotations

import sys
from typing import Any

#: Frequent types of values.
_PLAIN = (int, str, float, list, dict, tuple, type(None), bool, bytes, set, frozenset, complex)


class DaskValues:
    """Finds collections and futures of Dask among values.

    Attributes
    ----------
    other_types : set of int
        ``id()`` of types that are neither, to skip their values. A type may not be hashable, and must stay
        alive as long as this object.
    """

    def __init__(self) -> None:
        self.other_types = set(map(id, _PLAIN))

    def describe(self, value: Any) -> str | None:
        """Return what the value is and what to pass instead, or None if it is not one of Dask's.

        The model does not import Dask. It recognises collections by ``__dask_graph__``, as Dask does, and
        futures by their class: a program that has not imported it has no futures.
        """
        kind = type(value)
        if getattr(kind, "__dask_graph__", None) is not None:
            if not _has_graph(value):
                return None
            name = "Delayed" if any(c.__name__ == "Delayed" for c in kind.__mro__) else kind.__name__
            return (
                f"a Dask collection ({name}): compute it, or convert the whole program with DAG.from_delayed"
            )
        future = getattr(sys.modules.get("distributed"), "Future", None)
        if future is not None and issubclass(kind, future):
            return "a Future: pass its value, future.result(), or make it a function of the DAG"
        self.other_types.add(id(kind))
        return None


def _has_graph(value: Any) -> bool:
    if str(type(value).__module__).partition(".")[0] == "dask":
        return True  # without building the graph, which takes long for a dataframe
    try:
        # Types of other packages, such as xarray's, have no graph if they contain no Dask array.
        return value.__dask_graph__() is not None
    except Exception:
        return False
