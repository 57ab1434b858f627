"""Functions that wait for a node, grouped by what they wait for."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nsmallest
from itertools import islice
from typing import TypedDict

from handoff_dask._adapter.archive import SHORTFALLS
from handoff_dask._adapter.texts import TEXT, id_text, truncated
from handoff_dask._scheduling.functions import FunctionState
from handoff_dask._scheduling.queues import SortKey, sort_key
from handoff_dask._scheduling.reasons import reason
from handoff_dask._scheduling.runs import Run, RunStatus
from handoff_dask._scheduling.state import SchedulingState

#: Maximum numbers: of groups, of queues of which the most urgent are determined, and of these.
GROUPS, QUEUES_INSPECTED, QUEUES_GROUPED = 10, 1_000, 40


class WaitingView(TypedDict):
    """Functions that wait for the same thing: ``reason``. The most urgent one is explained in ``why``.

    ``queued`` is an upper bound of the number of functions in the group. Their ``queues`` differ in cost,
    constraints or run.
    """

    reason: str
    queued: int
    queues: int
    function: str
    dag: str
    run: str
    why: str


def waiting_views(
    state: SchedulingState, runs: Iterable[Run], now: float
) -> tuple[list[WaitingView], int, int]:
    """Group the functions of the most urgent queues, and of pending runs.

    Returns
    -------
    views : list of WaitingView
        At most :data:`GROUPS`, the one with the most urgent function first.
    grouped : int
        Number of queues in the groups.
    there : int
        Number of queues.
    """
    heads: list[tuple[SortKey, FunctionState, int]] = []
    pending = []
    there = 0
    left = QUEUES_INSPECTED
    for run in runs:
        if run.status is RunStatus.PENDING:
            pending.append((run.functions[0], len(run.functions)))
            continue
        there += len(run.backlog.queues)
        for queue in islice(run.backlog.queues.values(), left):
            left -= 1
            f = queue.head
            if f is None:
                there -= 1
            else:
                heads.append((sort_key(f), f, queue.max_length))
    urgent = [(f, n) for _, f, n in nsmallest(QUEUES_GROUPED, heads, key=lambda head: head[0])]
    groups: dict[str, list[tuple[FunctionState, int]]] = {}
    for f, n in urgent + pending:
        groups.setdefault(reason(state, f), []).append((f, n))
    listed = list(groups.items())[:GROUPS]
    views = [_view(state, text, members, now) for text, members in listed]
    return views, sum(len(members) for _, members in listed), there + len(pending)


def _view(
    state: SchedulingState, text: str, members: list[tuple[FunctionState, int]], now: float
) -> WaitingView:
    f = members[0][0]
    shortfalls = f.run.shortfalls
    if len(shortfalls) <= SHORTFALLS:
        why = state.explain(f, now)
    else:
        why = f"its run lacks nodes for {len(shortfalls):,d} kinds of functions; the first: {shortfalls[0]}"
    return {
        "reason": truncated(text, TEXT),
        "queued": sum(n for _, n in members),
        "queues": len(members),
        "function": id_text(f.id),
        "dag": id_text(f.run.spec.dag_id),
        "run": f.run.spec.run_id,
        "why": truncated(why, TEXT),
    }
