"""Snapshot of the scheduler's state, for the dashboard page and ``/handoff.json``.

A snapshot is taken on the scheduler's event loop. Apart from passing over the list of runs, it therefore
inspects only a bounded number of queues, nodes and functions. It consists of plain values, ready for JSON.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from heapq import nlargest, nsmallest
from typing import TypedDict

from distributed.metrics import monotonic

from handoff_dask._adapter.active import ActiveRun
from handoff_dask._adapter.archive import Archive
from handoff_dask._adapter.run_details import RunDetails
from handoff_dask._adapter.texts import ID, TEXT, id_text, truncated
from handoff_dask._adapter.waiting import WaitingView, waiting_views
from handoff_dask._model.resources import CPU, THREADS, UNIT, from_units
from handoff_dask._model.runinfo import RunInfo
from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.runs import WHOLE, Run, RunStatus
from handoff_dask._scheduling.state import SchedulingState

#: Maximum number of items of each kind in a snapshot.
RUNS, ENDED_RUNS, NODES, RESOURCES, FAILURES = 20, 5, 50, 12, 30

#: Seconds after which a snapshot makes no further estimates of the time left: the next one continues.
ESTIMATING = 0.005

#: Maximum number of threads in the cluster up to which all running functions are summed for dominant shares.
THREADS_SUMMED = 3_000


class RunView(TypedDict):
    """A run. ``elapsed`` is in seconds.

    ``share`` is the run's dominant share: the largest fraction, from 0 to 1, that it holds of the cluster's
    capacity of any resource; None for an ended run. ``eta`` is the estimated time left in seconds, based on
    durations that are known for the fraction ``known`` of the remaining work; None without an estimate.
    """

    id: str
    dag: str
    status: str
    functions: int
    counts: dict[str, int]
    priority: float | None
    share: float | None
    elapsed: float
    eta: float | None
    known: float
    error: str | None


class AmountView(TypedDict):
    """A node's capacity of one resource, and the amount that functions and external tasks have booked."""

    resource: str
    capacity: float
    used: float


class NodeView(TypedDict):
    """A node. ``running`` counts the functions on it, including prefetched ones.

    ``measured`` is what the worker's process really uses, as :func:`~handoff_dask._adapter.measured.measured`
    returns it.
    """

    name: str
    accepting: bool
    running: int
    amounts: list[AmountView]
    measured: dict[str, float]


class FailureView(TypedDict):
    """A failed attempt, or a function that could not be placed. ``when`` is in seconds since the epoch."""

    when: float
    function: str
    dag: str
    run: str
    attempt: int
    node: str | None
    error: str


class Snapshot(TypedDict):
    """A snapshot. Fields that end in ``_there`` count all items, including those that are left out.

    ``queues_grouped`` is the number of queues that the groups of waiting functions cover.
    """

    time: float
    runs: list[RunView]
    runs_there: int
    waiting: list[WaitingView]
    queues_grouped: int
    queues_there: int
    functions_waiting: int
    nodes: list[NodeView]
    nodes_there: int
    failures: list[FailureView]


class PageData(Snapshot):
    """A snapshot with the details of one run; None if there is no run, or the requested one is unknown."""

    details: RunDetails | None


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
    measure: Callable[[Node], dict[str, float]] = lambda node: {},
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
    measure : callable
        Node → what its worker really uses.
    """
    live = [a for a in active.values() if not a.run.ended]
    listed = nsmallest(RUNS, live, key=lambda a: _run_order(a.run))
    nodes = state.placement.nodes
    shares = _shares(state)
    waiting, grouped, queues = waiting_views(state, (a.run for a in listed), now)
    runs = [_live_view(a, shares, now) for a in listed]
    _estimate(listed, runs, state)
    return {
        "time": now,
        "runs": runs + _ended_views(active.values(), archive, now),
        "runs_there": len(live),
        "waiting": waiting,
        "queues_grouped": grouped,
        "queues_there": queues,
        "functions_waiting": sum(a.run.counts[State.READY] for a in live),
        "nodes": [_node_view(node, measure(node)) for node in nodes.ordered[:NODES]],
        "nodes_there": len(nodes.ordered),
        "failures": failures.latest,
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


def _estimate(listed: Iterable[ActiveRun], views: Iterable[RunView], state: SchedulingState) -> None:
    """Add the estimated time left to the views of runs, as far as the time allows."""
    begin = monotonic()
    for active, view in zip(listed, views, strict=True):
        has_time = monotonic() - begin < ESTIMATING
        left = active.estimate.at(active, state) if has_time else active.estimate.last
        if left is not None:
            view["eta"], view["known"] = left.seconds, left.known


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
        "eta": None,
        "known": 0.0,
        "error": None if info.error is None else truncated(info.error, TEXT),
    }


def _node_view(node: Node, measured: dict[str, float]) -> NodeView:
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
        "measured": measured,
    }
