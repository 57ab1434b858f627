"""What happens on a scheduler at one moment, for people to look at.

It is taken in the scheduler's event loop, so it looks at no more than a bounded number of runs, queues, nodes
and functions, however many there are. All in it are plain values, ready for JSON.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from heapq import nlargest, nsmallest
from itertools import islice
from typing import Any, TypedDict

from handoff_dask._adapter.active import ActiveRun
from handoff_dask._adapter.archive import SHORTFALLS, Archive, KeptFunctions, troubled
from handoff_dask._model.records import Summary
from handoff_dask._model.resources import CPU, THREADS, UNIT, from_units
from handoff_dask._model.runinfo import RunInfo
from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.queues import Queue, SortKey, sort_key
from handoff_dask._scheduling.runs import WHOLE, Run, RunStatus
from handoff_dask._scheduling.state import SchedulingState

#: The most that is shown of each.
RUNS, ENDED_RUNS, QUEUES, NODES, RESOURCES, FAILURES, BARS = 20, 5, 10, 50, 12, 30, 600

#: Queues that are looked at to find the most urgent ones.
LOOKED_AT = 1_000

#: Running functions that are added up to tell what each run holds.
ADDED_UP = 3_000

#: Characters of an id, and of longer texts.
ID, TEXT = 120, 1_500


class RunView(TypedDict):
    """A run, times in seconds.

    ``share`` is the part that it holds of all there is of a resource, the one of which it holds most: from 0
    to 1, None when it has ended.
    """

    id: str
    dag: str
    status: str
    functions: int
    counts: dict[str, int]
    priority: float | None
    share: float | None
    elapsed: float
    error: str | None


class WaitingView(TypedDict):
    """The most urgent function of those that ask for the same, at most ``queued`` of them."""

    function: str
    dag: str
    run: str
    queued: int
    why: str


class AmountView(TypedDict):
    """How much of a resource a node has, and how much of it is in use."""

    resource: str
    capacity: float
    used: float


class NodeView(TypedDict):
    """A node, and the number of functions on it."""

    name: str
    accepting: bool
    running: int
    amounts: list[AmountView]


class FailureView(TypedDict):
    """An attempt that failed, or a function that could not be placed. ``when``: seconds since the epoch."""

    when: float
    function: str
    dag: str
    run: str
    attempt: int
    node: str | None
    error: str


class BarView(TypedDict):
    """An attempt: ``start`` and ``stop`` are seconds since its run was submitted."""

    function: str
    node: str
    start: float
    stop: float
    outcome: str


class TimelineView(TypedDict):
    """Attempts of the newest run that is going on, or else of the newest.

    Of one in ``every`` functions, and besides, when that is not all, of those that failed or were lost last.
    """

    run: str
    dag: str
    every: int
    elapsed: float
    bars: list[BarView]


class Snapshot(TypedDict):
    """All of it. What ends in ``_there`` tells how many there are, shown or not."""

    time: float
    runs: list[RunView]
    runs_there: int
    waiting: list[WaitingView]
    queues_there: int
    functions_waiting: int
    nodes: list[NodeView]
    nodes_there: int
    failures: list[FailureView]
    timeline: TimelineView | None


class RecentFailures:
    """The last attempts that failed on this scheduler, whatever became of their runs."""

    def __init__(self) -> None:
        self._failures: deque[FailureView] = deque(maxlen=FAILURES)

    def note(self, f: FunctionState, now: float, error: str | None = None) -> None:
        """Take note of the last attempt of a function, or that it could not be placed."""
        last = f.attempts[-1] if f.attempts else None
        if error is None:
            error = (last.error if last is not None else None) or "lost"
        node = f.node if last is None else last.node
        self._failures.appendleft(
            {
                "when": now,
                "function": named(f.id),
                "dag": named(f.run.spec.dag_id),
                "run": f.run.spec.run_id,
                "attempt": len(f.attempts),
                "node": None if node is None else named(node),
                "error": shortened(error, TEXT),
            }
        )

    @property
    def latest(self) -> list[FailureView]:
        """The last one comes first."""
        return list(self._failures)


def snapshot(
    state: SchedulingState,
    active: Mapping[str, ActiveRun],
    archive: Archive,
    failures: RecentFailures,
    now: float,
) -> Snapshot:
    """What there is to see.

    Parameters
    ----------
    state : SchedulingState
    active : mapping of str to ActiveRun
        The plugin's runs by their ids.
    archive : Archive
    failures : RecentFailures
    now : float
        Seconds since the epoch.
    """
    live = [a for a in active.values() if not a.run.ended]
    shown = nsmallest(RUNS, live, key=lambda a: _run_order(a.run))
    nodes = state.placement.nodes
    shares = _shares(state)
    waiting, queues = _waiting(state, (a.run for a in shown), now)
    return {
        "time": now,
        "runs": [_live(a, shares, now) for a in shown] + _ended(active.values(), archive, now),
        "runs_there": len(live),
        "waiting": waiting,
        "queues_there": queues,
        "functions_waiting": sum(a.run.counts[State.READY] for a in live),
        "nodes": [_node(node) for node in nodes.ordered[:NODES]],
        "nodes_there": len(nodes.ordered),
        "failures": failures.latest,
        "timeline": _timeline(active.values(), archive, now),
    }


def _run_order(run: Run) -> tuple[bool, float, int, int]:
    return run.status is RunStatus.PENDING, -run.spec.priority, run.share, run.sequence


def _shares(state: SchedulingState) -> dict[Run, float] | None:
    """What each run holds; None when so much is running that adding it up would take long."""
    nodes = state.placement.nodes
    if nodes.total(THREADS) > ADDED_UP * UNIT:
        return None
    held: dict[Run, dict[str, int]] = {}
    for node in nodes.ordered:
        for f in node.running:
            used = held.setdefault(f.run, {})
            for name, units in f.cost.items():
                used[name] = used.get(name, 0) + units
    names = {name for used in held.values() for name in used}
    total = {name: nodes.total(name) for name in names}
    return {
        run: max(units / max(units, total[name]) for name, units in used.items())
        for run, used in held.items()
    }


def _live(active: ActiveRun, shares: Mapping[Run, float] | None, now: float) -> RunView:
    run = active.run
    # The core's own figure, by which runs take turns, adds up the largest parts of functions that need unlike
    # things: it is never too small, and may be more than all there is.
    share = min(1.0, run.share / WHOLE) if shares is None else shares.get(run, 0.0)
    return _run(active.info(now), len(run.functions), share)


def _ended(active: Iterable[ActiveRun], archive: Archive, now: float) -> list[RunView]:
    """The runs that ended last, the last one first."""
    known = [(a.ended, a.run.sequence, a) for a in active if a.run.ended and a.ended is not None]
    found = [(ended, n, a.info(now)) for ended, n, a in nlargest(ENDED_RUNS, known, key=lambda k: k[:2])]
    found += [(kept.ended, kept.sequence, kept.info) for kept in archive.runs[-ENDED_RUNS:]]
    found.sort(key=lambda item: item[:2], reverse=True)
    return [_run(info, sum(info.counts.values()), None) for *_, info in found[:ENDED_RUNS]]


def _run(info: RunInfo, functions: int, share: float | None) -> RunView:
    return {
        "id": info.id,
        "dag": named(info.dag_id),
        "status": info.status,
        "functions": functions,
        "counts": dict(info.counts),
        "priority": info.priority if math.isfinite(info.priority) else None,
        "share": share,
        "elapsed": info.elapsed,
        "error": None if info.error is None else shortened(info.error, TEXT),
    }


def _waiting(state: SchedulingState, runs: Iterable[Run], now: float) -> tuple[list[WaitingView], int]:
    """The most urgent function of each of the most urgent queues, and the number of queues."""
    heads: list[tuple[SortKey, FunctionState, Queue]] = []
    pending = []
    queues = 0
    left = LOOKED_AT
    for run in runs:
        if run.status is RunStatus.PENDING:
            pending.append(run)
            continue
        queues += len(run.backlog.queues)
        for queue in islice(run.backlog.queues.values(), left):
            left -= 1
            f = queue.head
            if f is None:
                queues -= 1
            else:
                heads.append((sort_key(f), f, queue))
    views = [
        _waits(state, f, queue.max_length, now)
        for _, f, queue in nsmallest(QUEUES, heads, key=lambda head: head[0])
    ]
    views += [
        _waits(state, run.functions[0], len(run.functions), now) for run in pending[: QUEUES - len(views)]
    ]
    return views, queues + len(pending)


def _waits(state: SchedulingState, f: FunctionState, queued: int, now: float) -> WaitingView:
    shortfalls = f.run.shortfalls
    if len(shortfalls) <= SHORTFALLS:
        why = state.explain(f, now)
    else:
        why = f"its run lacks nodes for {len(shortfalls):,d} kinds of functions; the first: {shortfalls[0]}"
    return {
        "function": named(f.id),
        "dag": named(f.run.spec.dag_id),
        "run": f.run.spec.run_id,
        "queued": queued,
        "why": shortened(why, TEXT),
    }


def _node(node: Node) -> NodeView:
    shown = [
        (name, units)
        for name, units in node.capacity.items()
        if units and not (name == THREADS and units == node.capacity.get(CPU))
    ]
    return {
        "name": named(node.name),
        "accepting": node.accepting,
        "running": len(node.running) + len(node.prefetched),
        "amounts": [
            {
                "resource": shortened(name, ID),
                "capacity": from_units(units),
                "used": from_units(node.used.get(name, 0)),
            }
            for name, units in shown[:RESOURCES]
        ],
    }


def _timeline(active: Iterable[ActiveRun], archive: Archive, now: float) -> TimelineView | None:
    """Of the newest run, before others of one that is going on; None if nothing can be shown."""
    newest = max(active, key=lambda a: (a.run.status is RunStatus.RUNNING, a.run.sequence), default=None)
    kept = max(archive.runs, key=lambda kept: kept.sequence, default=None)
    functions: list[FunctionState] | KeptFunctions
    if newest is not None and (
        kept is None or newest.run.status is RunStatus.RUNNING or kept.sequence < newest.run.sequence
    ):
        info, functions = newest.info(now), newest.run.functions
        ids, also = newest.run.spec.ids, troubled(newest.run)
    elif kept is not None and kept.functions is not None:
        info, functions = kept.info, kept.functions
        ids, also = kept.functions.ids, kept.functions.troubled
    else:
        return None
    every = max(1, math.ceil(len(ids) / BARS))
    bars: list[BarView] = []
    for n in sorted({*range(0, len(ids), every), *also}):
        if isinstance(functions, KeptFunctions):
            (summary,) = functions.summaries(n, n + 1)
            bars += _bars(named(ids[n]), summary, info.submitted)
        else:
            f = functions[n]
            summary = Summary(f.state.value, f.attempts[-3:], f.nbytes)
            bars += _bars(named(ids[n]), summary, info.submitted)
            if f.state is State.RUNNING and f.node is not None and f.allocated:
                start, stop = max(0.0, f.placed - info.submitted), max(0.0, now - info.submitted)
                bars.append(_bar(named(ids[n]), f.node.name, start, stop, "running"))
    view: TimelineView = {
        "run": info.id,
        "dag": named(info.dag_id),
        "every": every,
        "elapsed": info.elapsed,
        "bars": _thinned(bars),
    }
    return view


def _thinned(bars: list[BarView]) -> list[BarView]:
    """No more than may be shown, from all over the run: what went well goes first."""
    if len(bars) <= BARS:
        return bars
    well = [n for n, bar in enumerate(bars) if bar["outcome"] in ("finished", "running")]
    ill = sorted(set(range(len(bars))).difference(well))
    ill = _evenly(ill, max(BARS // 2, BARS - len(well)))
    return [bars[n] for n in sorted((*ill, *_evenly(well, BARS - len(ill))))]


def _evenly(numbers: list[int], most: int) -> list[int]:
    """At most so many of them, the first and the last parts alike."""
    if len(numbers) <= most:
        return numbers
    return [numbers[i * len(numbers) // most] for i in range(most)]


def _bars(function: str, summary: Summary, submitted: float) -> list[BarView]:
    """Attempts that ended and of which it is known when they started; the last few."""
    return [
        _bar(function, a.node, a.started - submitted, a.stopped - submitted, a.outcome)
        for a in summary.attempts[-3:]
        if a.started is not None and a.stopped is not None
    ]


def _bar(function: str, node: Any, start: float, stop: float, outcome: str) -> BarView:
    return {
        "function": function,
        "node": named(node),
        "start": round(start, 4),
        "stop": round(stop, 4),
        "outcome": outcome,
    }


def named(id: Any) -> str:
    """An id as text."""
    return shortened(id if isinstance(id, str) else str(id), ID)


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"
