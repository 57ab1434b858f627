"""A run in short: what lists of runs are made of."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run in short, as :func:`handoff_dask.runs` and :class:`History` list it.

    Attributes
    ----------
    id : str
        Id of the run.
    dag_id : hashable
        Id of its DAG: as it was, if it is made of strings, numbers, None and tuples of these; otherwise its
        ``repr``.
    status : str
        ``"pending"``, ``"running"``, ``"finished"``, ``"failed"`` or ``"cancelled"``; as :attr:`Run.status`.
    client : str or None
        Id of the Dask client that submitted it; None for :func:`handoff_dask.execute_local`.
    submitted : float
        Seconds since the epoch.
    ended : float or None
        Seconds since the epoch; None while it has not ended.
    elapsed : float
        Seconds from submitting to the end, or until it was asked for.
    counts : dict
        State → number of functions in it, of the states that occur.
    priority : float
        The run's own.
    error : str or None
        Why it did not finish, if it did not and that is known.
    """

    id: str
    dag_id: Hashable
    status: str
    client: str | None
    submitted: float
    ended: float | None
    elapsed: float
    counts: Mapping[str, int] = field(hash=False)
    priority: float = 0
    error: str | None = None


def tell_apart(ids: Iterable[Hashable]) -> list[Hashable]:
    """Ids of functions, each once: ids that are known as text only may have the same text."""
    found: dict[Hashable, None] = {}
    for id in ids:
        unique, n = id, 1
        while unique in found:
            n += 1
            unique = f"{id} ({n})"
        found[unique] = None
    return list(found)
