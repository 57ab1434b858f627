"""Metrics of the scheduler, as :mod:`prometheus` exports them.

A scrape reads only counts that the core keeps. Its cost grows with the numbers of runs, of kinds of functions
and of nodes, not with the number of functions. No label is an id of a run or a function, so the number of
time series does not grow with the work done.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from handoff_dask._model.resources import MB, UNIT
from handoff_dask._model.safe_repr import safe_str
from handoff_dask._scheduling.functions import NAMES
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.runs import Run, RunStatus

if TYPE_CHECKING:
    from handoff_dask._scheduling.state import SchedulingState

T = TypeVar("T")

#: Upper bounds of the buckets of decision times, in seconds.
BUCKETS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

#: Values of a metric: one label value for each label, and the value.
Samples = Iterable[tuple[tuple[str, ...], float]]


class Family(NamedTuple):
    """A metric.

    Attributes
    ----------
    name : str
        Without the suffix ``_total`` of a counter.
    kind : {"gauge", "counter"}
    text : str
        What it counts.
    labels : tuple of str
    """

    name: str
    kind: str
    text: str
    labels: tuple[str, ...] = ()


FUNCTIONS = Family(
    "handoff_functions",
    "gauge",
    "Functions by state, of all runs that the scheduler holds: those that have not ended, and ended ones to"
    " which a client still has a handle",
    ("state",),
)
WAITING = Family(
    "handoff_functions_waiting",
    "gauge",
    "Functions that wait for a node, by each resource that they ask for",
    ("resource",),
)
REQUESTED = Family(
    "handoff_resource_requested",
    "gauge",
    "Amount of a resource that the functions that wait for a node ask for in total; memory in bytes",
    ("resource",),
)
CAPACITY = Family(
    "handoff_node_resource_capacity",
    "gauge",
    "Capacity of a node; memory in bytes",
    ("node", "resource"),
)
USED = Family(
    "handoff_node_resource_used",
    "gauge",
    "Amount of a node's capacity in use, by functions and by Dask's own tasks; memory in bytes",
    ("node", "resource"),
)
NODES = Family("handoff_nodes", "gauge", "Nodes, by whether they accept functions or are paused", ("state",))
RUNS = Family("handoff_runs", "gauge", "Runs that have not ended, by status", ("status",))
RUNS_ENDED = Family("handoff_runs_ended", "counter", "Runs that have ended, by final status", ("status",))
ATTEMPTS = Family("handoff_attempts", "counter", "Attempts that have ended, by outcome", ("outcome",))
FAILURES = Family("handoff_function_failures", "counter", "Functions that failed permanently")
DECISIONS = Family(
    "handoff_decision_seconds",
    "histogram",
    "Time that the scheduler took to decide which functions start where, per batch of events",
)

#: All metrics.
FAMILIES = (
    FUNCTIONS,
    WAITING,
    REQUESTED,
    CAPACITY,
    USED,
    NODES,
    RUNS,
    RUNS_ENDED,
    ATTEMPTS,
    FAILURES,
    DECISIONS,
)


class Metrics:
    """The metrics of one scheduler.

    Parameters
    ----------
    state : SchedulingState

    Attributes
    ----------
    decision_seconds : float
        Time that all decisions took in total.
    """

    def __init__(self, state: SchedulingState) -> None:
        self._state = state
        self._decisions = [0] * (len(BUCKETS) + 1)
        self.decision_seconds = 0.0

    def timed(self, decide: Callable[[float], T], now: float) -> T:
        """Return ``decide(now)``, and record how long it takes."""
        started = perf_counter()
        decisions = decide(now)
        seconds = perf_counter() - started
        self._decisions[bisect_left(BUCKETS, seconds)] += 1
        self.decision_seconds += seconds
        return decisions

    def read(self) -> list[tuple[Family, Samples]]:
        """Return all metrics with labels and values, except the decision times.

        Thread-safe: collections that may change meanwhile are copied.
        """
        runs = list(self._state.runs.values())
        nodes = list(self._state.nodes.values())
        totals = self._state.totals
        waiting, requested = _waiting(runs)
        return [
            (FUNCTIONS, _by_state(runs)),
            (WAITING, waiting),
            (REQUESTED, requested),
            (CAPACITY, _per_node((node, dict(node.capacity)) for node in nodes)),
            (USED, _per_node((node, _used(node)) for node in nodes)),
            (NODES, _labelled(_nodes_by_state(nodes))),
            (RUNS, _labelled(_runs_by_status(runs))),
            (RUNS_ENDED, _labelled(totals.runs)),
            (ATTEMPTS, _labelled(totals.attempts)),
            (FAILURES, [((), totals.failures)]),
        ]

    @property
    def decision_buckets(self) -> list[tuple[str, float]]:
        """Upper bound and cumulative count of each bucket of decision times."""
        bounds = [*(str(bound) for bound in BUCKETS), "+Inf"]
        return list(zip(bounds, accumulate(self._decisions), strict=True))


def _labelled(counts: Mapping[str, int]) -> Samples:
    return [((label,), n) for label, n in counts.items()]


def _by_state(runs: Sequence[Run]) -> Samples:
    return [((name,), sum(run.counts[state] for run in runs)) for state, name in NAMES.items()]


def _waiting(runs: Sequence[Run]) -> tuple[Samples, Samples]:
    """Return the number of ready functions that ask for each resource, and the amounts that they ask for."""
    functions: dict[str, int] = {}
    amounts: dict[str, int] = {}
    for run in runs:
        for cost, n in zip(run.costs, run.ready_by_kind, strict=True):
            if n:
                for name, units in cost.items():
                    if name in functions:  # a Counter would take twice as long
                        functions[name] += n
                        amounts[name] += n * units
                    else:
                        functions[name], amounts[name] = n, n * units
    return _labelled(functions), [((name,), _amount(name, units)) for name, units in amounts.items()]


def _per_node(amounts: Iterable[tuple[Node, dict[str, int]]]) -> Samples:
    total = Counter[tuple[str, ...]]()  # adds up nodes whose names differ, but not as text
    for node, units_of in amounts:
        text = safe_str(node.name)
        for name, units in units_of.items():
            total[text, name] += units
    return [(labels, _amount(labels[1], units)) for labels, units in total.items()]


def _used(node: Node) -> dict[str, int]:
    capacity = node.capacity
    return {name: capacity.get(name, 0) - units for name, units in dict(node.free).items()}


def _amount(name: str, units: int) -> float:
    """Convert units to Prometheus's base units: memory to bytes, every other resource to its own unit."""
    return units * (MB if name == "memory" else 1) / UNIT


def _nodes_by_state(nodes: Sequence[Node]) -> dict[str, int]:
    accepting = sum(node.accepting for node in nodes)
    return {"accepting": accepting, "paused": len(nodes) - accepting}


def _runs_by_status(runs: Sequence[Run]) -> dict[str, int]:
    return {
        status.value: sum(run.status is status for run in runs)
        for status in (RunStatus.PENDING, RunStatus.RUNNING)
    }
