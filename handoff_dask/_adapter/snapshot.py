"""Snapshot of the scheduler's state, for the dashboard page and ``/handoff.json``.

A snapshot is taken on the scheduler's event loop. Apart from passing over the list of runs, it therefore
inspects only a bounded number of queues, nodes and functions. It consists of plain values, ready for JSON.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from heapq import nlargest, nsmallest
from itertools import islice
from typing import Any, TypedDict

from handoff_dask._adapter.active import ActiveRun
from handoff_dask._adapter.archive import SHORTFALLS, Archive, ArchivedFunctions, functions_with_failures
from handoff_dask._model.records import Summary
from handoff_dask._model.resources import CPU, THREADS, UNIT, from_units
from handoff_dask._model.runinfo import RunInfo
from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.queues import Queue, SortKey, sort_key
from handoff_dask._scheduling.runs import WHOLE, Run, RunStatus
from handoff_dask._scheduling.state import SchedulingState

#: Maximum number of items of each kind in a snapshot.
RUNS, ENDED_RUNS, QUEUES, NODES, RESOURCES, FAILURES, BARS = 20, 5, 10, 50, 12, 30, 600

#: Maximum number of queues inspected to find the most urgent ones.
QUEUES_INSPECTED = 1_000

#: Maximum number of threads in the cluster up to which all running functions are summed for dominant shares.
THREADS_SUMMED = 3_000

#: Maximum number of characters of an id, and of other texts.
ID, TEXT = 120, 1_500


class RunView(TypedDict):
    """A run. ``elapsed`` is in seconds.

    ``share`` is the run's dominant share: the largest fraction, from 0 to 1, that it holds of the cluster's
    capacity of any resource; None for an ended run.
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
    """The most urgent function of a queue. ``queued`` is an upper bound of the queue's length.

    All functions of a queue ask for the same resources.
    """

    function: str
    dag: str
    run: str
    queued: int
    why: str


class AmountView(TypedDict):
    """A node's capacity of one resource, and the amount in use."""

    resource: str
    capacity: float
    used: float


class NodeView(TypedDict):
    """A node. ``running`` counts the functions on it, including prefetched ones."""

    name: str
    accepting: bool
    running: int
    amounts: list[AmountView]


class FailureView(TypedDict):
    """A failed attempt, or a function that could not be placed. ``when`` is in seconds since the epoch."""

    when: float
    function: str
    dag: str
    run: str
    attempt: int
    node: str | None
    error: str


class BarView(TypedDict):
    """An attempt. ``start`` and ``stop`` are in seconds since its run was submitted."""

    function: str
    node: str
    start: float
    stop: float
    outcome: str


class TimelineView(TypedDict):
    """Attempts of the newest active run, or else of the newest run.

    The timeline shows one function in ``every``, and besides these the functions with the last failed or lost
    attempts.
    """

    run: str
    dag: str
    every: int
    elapsed: float
    bars: list[BarView]


class Snapshot(TypedDict):
    """A snapshot. Fields that end in ``_there`` count all items, including those that are left out."""

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
    """The last failed attempts on this scheduler, kept even after their runs are forgotten."""

    def __init__(self) -> None:
        self._failures: deque[FailureView] = deque(maxlen=FAILURES)

    def note(self, f: FunctionState, now: float, error: str | None = None) -> None:
        """Record the failure of a function's last attempt, or that the function could not be placed."""
        last = f.attempts[-1] if f.attempts else None
        if error is None:
            error = (last.error if last is not None else None) or "lost"
        node = f.node if last is None else last.node
        self._failures.appendleft(
            {
                "when": now,
                "function": id_text(f.id),
                "dag": id_text(f.run.spec.dag_id),
                "run": f.run.spec.run_id,
                "attempt": len(f.attempts),
                "node": None if node is None else id_text(node),
                "error": truncated(error, TEXT),
            }
        )

    @property
    def latest(self) -> list[FailureView]:
        """All recorded failures, the last one first."""
        return list(self._failures)


def snapshot(
    state: SchedulingState,
    active: Mapping[str, ActiveRun],
    archive: Archive,
    failures: RecentFailures,
    now: float,
) -> Snapshot:
    """Take a snapshot.

    Parameters
    ----------
    state : SchedulingState
    active : mapping of str to ActiveRun
        Run id → the plugin's run.
    archive : Archive
    failures : RecentFailures
    now : float
        Seconds since the epoch.
    """
    live = [a for a in active.values() if not a.run.ended]
    listed = nsmallest(RUNS, live, key=lambda a: _run_order(a.run))
    nodes = state.placement.nodes
    shares = _shares(state)
    waiting, queues = _waiting_views(state, (a.run for a in listed), now)
    return {
        "time": now,
        "runs": [_live_view(a, shares, now) for a in listed] + _ended_views(active.values(), archive, now),
        "runs_there": len(live),
        "waiting": waiting,
        "queues_there": queues,
        "functions_waiting": sum(a.run.counts[State.READY] for a in live),
        "nodes": [_node_view(node) for node in nodes.ordered[:NODES]],
        "nodes_there": len(nodes.ordered),
        "failures": failures.latest,
        "timeline": _timeline(active.values(), archive, now),
    }


def _run_order(run: Run) -> tuple[bool, float, int, int]:
    return run.status is RunStatus.PENDING, -run.spec.priority, run.share, run.sequence


def _shares(state: SchedulingState) -> dict[Run, float] | None:
    """Return the dominant share of each run; None if so much may be running that summing takes too long."""
    nodes = state.placement.nodes
    if nodes.total(THREADS) > THREADS_SUMMED * UNIT:
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


def _live_view(active: ActiveRun, shares: Mapping[Run, float] | None, now: float) -> RunView:
    run = active.run
    # The core orders runs by a sum of the largest fractions of their functions, which may refer to different
    # resources: an upper bound of the dominant share that may exceed 1.
    share = min(1.0, run.share / WHOLE) if shares is None else shares.get(run, 0.0)
    return _run_view(active.info(now), len(run.functions), share)


def _ended_views(active: Iterable[ActiveRun], archive: Archive, now: float) -> list[RunView]:
    """Return the runs that ended last, the last one first."""
    known = [(a.ended, a.run.sequence, a) for a in active if a.run.ended and a.ended is not None]
    found = [(ended, n, a.info(now)) for ended, n, a in nlargest(ENDED_RUNS, known, key=lambda k: k[:2])]
    found += [(kept.ended, kept.sequence, kept.info) for kept in archive.runs[-ENDED_RUNS:]]
    found.sort(key=lambda item: item[:2], reverse=True)
    return [_run_view(info, sum(info.counts.values()), None) for *_, info in found[:ENDED_RUNS]]


def _run_view(info: RunInfo, functions: int, share: float | None) -> RunView:
    return {
        "id": info.id,
        "dag": id_text(info.dag_id),
        "status": info.status,
        "functions": functions,
        "counts": dict(info.counts),
        "priority": info.priority if math.isfinite(info.priority) else None,
        "share": share,
        "elapsed": info.elapsed,
        "error": None if info.error is None else truncated(info.error, TEXT),
    }


def _waiting_views(state: SchedulingState, runs: Iterable[Run], now: float) -> tuple[list[WaitingView], int]:
    """Return the most urgent function of each of the most urgent queues, and the number of queues."""
    heads: list[tuple[SortKey, FunctionState, Queue]] = []
    pending = []
    queues = 0
    left = QUEUES_INSPECTED
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
        _waiting_view(state, f, queue.max_length, now)
        for _, f, queue in nsmallest(QUEUES, heads, key=lambda head: head[0])
    ]
    views += [
        _waiting_view(state, run.functions[0], len(run.functions), now)
        for run in pending[: QUEUES - len(views)]
    ]
    return views, queues + len(pending)


def _waiting_view(state: SchedulingState, f: FunctionState, queued: int, now: float) -> WaitingView:
    shortfalls = f.run.shortfalls
    if len(shortfalls) <= SHORTFALLS:
        why = state.explain(f, now)
    else:
        why = f"its run lacks nodes for {len(shortfalls):,d} kinds of functions; the first: {shortfalls[0]}"
    return {
        "function": id_text(f.id),
        "dag": id_text(f.run.spec.dag_id),
        "run": f.run.spec.run_id,
        "queued": queued,
        "why": truncated(why, TEXT),
    }


def _node_view(node: Node) -> NodeView:
    listed = [
        (name, units)
        for name, units in node.capacity.items()
        if units and not (name == THREADS and units == node.capacity.get(CPU))
    ]
    return {
        "name": id_text(node.name),
        "accepting": node.accepting,
        "running": len(node.running) + len(node.prefetched),
        "amounts": [
            {
                "resource": truncated(name, ID),
                "capacity": from_units(units),
                "used": from_units(node.used.get(name, 0)),
            }
            for name, units in listed[:RESOURCES]
        ],
    }


def _timeline(active: Iterable[ActiveRun], archive: Archive, now: float) -> TimelineView | None:
    """Return the timeline of the newest active run, or else of the newest run; None without one."""
    newest = max(active, key=lambda a: (a.run.status is RunStatus.RUNNING, a.run.sequence), default=None)
    kept = max(archive.runs, key=lambda kept: kept.sequence, default=None)
    functions: list[FunctionState] | ArchivedFunctions
    if newest is not None and (
        kept is None or newest.run.status is RunStatus.RUNNING or kept.sequence < newest.run.sequence
    ):
        info, functions = newest.info(now), newest.run.functions
        ids, with_failures = newest.run.spec.ids, functions_with_failures(newest.run)
    elif kept is not None and kept.functions is not None:
        info, functions = kept.info, kept.functions
        ids, with_failures = kept.functions.ids, kept.functions.with_failures
    else:
        return None
    every = max(1, math.ceil(len(ids) / BARS))
    bars: list[BarView] = []
    for n in sorted({*range(0, len(ids), every), *with_failures}):
        if isinstance(functions, ArchivedFunctions):
            (summary,) = functions.summaries(n, n + 1)
            bars += _bar_views(id_text(ids[n]), summary, info.submitted)
        else:
            f = functions[n]
            summary = Summary(f.state.value, f.attempts[-3:], f.nbytes)
            bars += _bar_views(id_text(ids[n]), summary, info.submitted)
            if f.state is State.RUNNING and f.node is not None and f.allocated:
                start, stop = max(0.0, f.placed - info.submitted), max(0.0, now - info.submitted)
                bars.append(_bar_view(id_text(ids[n]), f.node.name, start, stop, "running"))
    view: TimelineView = {
        "run": info.id,
        "dag": id_text(info.dag_id),
        "every": every,
        "elapsed": info.elapsed,
        "bars": _sample_bars(bars),
    }
    return view


def _sample_bars(bars: list[BarView]) -> list[BarView]:
    """Return at most :data:`BARS` bars from all over the run, omitting successful attempts first."""
    if len(bars) <= BARS:
        return bars
    good = [n for n, bar in enumerate(bars) if bar["outcome"] in ("finished", "running")]
    bad = sorted(set(range(len(bars))).difference(good))
    bad = _sample_evenly(bad, max(BARS // 2, BARS - len(good)))
    return [bars[n] for n in sorted((*bad, *_sample_evenly(good, BARS - len(bad))))]


def _sample_evenly(numbers: list[int], most: int) -> list[int]:
    """Return at most ``most`` of the numbers, evenly spaced."""
    if len(numbers) <= most:
        return numbers
    return [numbers[i * len(numbers) // most] for i in range(most)]


def _bar_views(function: str, summary: Summary, submitted: float) -> list[BarView]:
    """Return a function's last few attempts that ended and whose start time is known."""
    return [
        _bar_view(function, a.node, a.started - submitted, a.stopped - submitted, a.outcome)
        for a in summary.attempts[-3:]
        if a.started is not None and a.stopped is not None
    ]


def _bar_view(function: str, node: Any, start: float, stop: float, outcome: str) -> BarView:
    return {
        "function": function,
        "node": id_text(node),
        "start": round(start, 4),
        "stop": round(stop, 4),
        "outcome": outcome,
    }


def id_text(id: Any) -> str:
    """Return an id as text of at most :data:`ID` characters."""
    return truncated(id if isinstance(id, str) else str(id), ID)


def truncated(text: str, most: int) -> str:
    """Return a text, cut to at most ``most`` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"
