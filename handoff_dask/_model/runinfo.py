"""The entries of lists of runs."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field

#: Reasons why a run was cancelled, as in :attr:`RunInfo.error`.
CANCEL_CALLED = "its client called run.cancel()"
INTERRUPTED = "it was interrupted"
CLIENT_CLOSED = "its client closed the connection"
CLIENT_LOST = "its client was lost"
FUTURES_RELEASED = "futures of the run were cancelled or released"
RESTARTED = "the cluster was restarted"


def timeout_reason(timeout: float) -> str:
    """Return the reason for a run that exceeded its timeout, in seconds."""
    return f"it exceeded its timeout of {timeout:g} s"


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A summary of a run, as listed by :func:`handoff_dask.runs` and :class:`History`.

    Attributes
    ----------
    id : str
        Id of the run.
    dag_id : hashable
        Id of its DAG if that consists of strings, numbers, None and tuples of these, otherwise its ``repr``.
    status : str
        ``"pending"``, ``"running"``, ``"finished"``, ``"failed"`` or ``"cancelled"``, as :attr:`Run.status`.
    client : str or None
        Id of the Dask client that submitted it; None for :func:`handoff_dask.execute_local`.
    submitted : float
        Time of submission in seconds since the epoch.
    ended : float or None
        Time of the end in seconds since the epoch; None while the run is active.
    elapsed : float
        Seconds from submission to the end, or until this summary was made.
    counts : dict
        Status → number of functions with this status. Statuses without functions are left out.
    priority : float
        Priority of the run.
    error : str or None
        Why the run failed or was cancelled, if known.
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


def make_unique(ids: Iterable[Hashable]) -> list[Hashable]:
    """Return the ids with repeats renamed to ``id (2)``, ``id (3)``, ...

    Ids that are stored as their ``repr`` may coincide although the original ids differ.
    """
    found: dict[Hashable, None] = {}
    for id in ids:
        unique, n = id, 1
        while unique in found:
            n += 1
            unique = f"{id} ({n})"
        found[unique] = None
    return list(found)
