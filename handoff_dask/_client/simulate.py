"""Simulation of a run on hypothetical nodes: the scheduling core on a virtual clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from handoff_dask._adapter.capacity import log_hints
from handoff_dask._client.history import History
from handoff_dask._client.options import DEFAULT_STRATEGY, AllocatorLike, RunOptions, check_dag
from handoff_dask._client.recording import dag_fingerprints
from handoff_dask._error_texts import count, plural
from handoff_dask._model.dag import DAG
from handoff_dask._model.hooks import module_for
from handoff_dask._model.records import FunctionRecord, Records, inputs_by_id
from handoff_dask._model.resources import THREADS, from_units, parse_nodes, to_units
from handoff_dask._model.retry import RetryPolicy
from handoff_dask._scheduling.bounds import lower_bounds
from handoff_dask._scheduling.functions import State
from handoff_dask._scheduling.lower import lower_dag
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.simulate import Simulation
from handoff_dask._suggest import suggest_keywords, suggestion
from handoff_dask.exceptions import AllocationError, AllocatorError

if TYPE_CHECKING:
    from handoff_dask._display.timeline import Timeline

Durations = float | Mapping[Hashable, Any] | Callable[[Hashable], float] | History


class Schedule:
    """Result of a simulation: what ran where and when. Times are in seconds since its start.

    Attributes
    ----------
    dag_id : hashable
        Id of the DAG.
    makespan : float
        Time at which the last function ended.
    records : Records
        Function id → :class:`FunctionRecord`.
    peak_results : int
        Maximum number of results alive at once, if each is released once no dependent needs it
        (``keep="sinks"``).
    """

    def __init__(self, dag: DAG, simulation: Simulation, seconds: list[float]) -> None:
        self.dag_id = dag.id
        self.makespan = simulation.now
        self.peak_results = simulation.peak_results
        functions = {f.id: f for f in simulation.run.functions}
        self.records = Records(
            functions,
            lambda id: functions[id].summary(),
            lambda id: dict(functions[id].kind.asked),
            lambda: inputs_by_id(simulation.run.spec.ids, simulation.run.spec.dependents),
            {
                node.name: {r: from_units(units) for r, units in node.capacity.items()}
                for node in simulation.state.placement.nodes.ordered
            },
        )
        self._simulation = simulation
        self._seconds = seconds

    @property
    def allocations(self) -> dict[Hashable, Any]:
        """Function id → name of the node it ran on."""
        return self.records.allocations

    @cached_property
    def bounds(self) -> dict[str, float]:
        """Lower bounds of the makespan, in seconds, by their origin. No schedule is shorter than any of them.

        The origins are ``"critical path"``; the total work for a resource divided by its capacity, on all
        nodes (``"cpu"``) or on the only eligible nodes of some functions (``"cpu of node1+node2"``);
        functions of at least some cost, of which only so many fit at once (``"functions of gpu 1"``);
        ``"max_concurrency"`` and other limits of the run (``"limit db"``); and collocation groups
        (``"collocated with 'a'"``).
        """
        nodes = self._simulation.state.placement.nodes.ordered
        return lower_bounds(self._simulation.run, nodes, self._seconds)

    @property
    def lower_bound(self) -> float:
        """The largest of :attr:`bounds`, in seconds. No schedule is shorter."""
        # This schedule cannot be shorter either, but rounding can make a sum of floats exceed its makespan.
        return min(self.makespan, max(self.bounds.values(), default=0.0))

    @cached_property
    def utilisation(self) -> dict[Any, dict[str, float]]:
        """Node → resource → fraction of its capacity in use, averaged over the makespan: 0 to 1."""
        used: dict[Any, dict[str, float]] = {}
        nodes = self._simulation.state.placement.nodes.ordered
        for node in nodes:
            used[node.name] = {r: 0.0 for r, units in node.capacity.items() if units and r != THREADS}
        for f, took in zip(self._simulation.run.functions, self._seconds, strict=True):
            assert f.node is not None
            on_node = used[f.node.name]
            for name, units in f.kind.cost:
                on_node[name] += units * took
        for node in nodes:
            for name in used[node.name]:
                used[node.name][name] /= node.capacity[name] * self.makespan or math.inf
        return used

    def timeline(self, other: Any = None) -> Timeline:
        """Return a timeline: which function ran where and when.

        Parameters
        ----------
        other : Schedule, Run, Result, Records or Timeline, optional
            Shown below on the same time axis: for example another strategy, or the actual run.

        Returns
        -------
        Timeline
        """
        return module_for("timeline").timeline_of(f"simulation of DAG {self.dag_id!r}", self.records, other)

    def to_pandas(self) -> Any:
        """Return a table with one row per function, ordered by start time.

        Returns
        -------
        pandas.DataFrame
            Columns ``function`` (its id), ``node``, ``ready``, ``started``, ``stopped``, ``seconds``, and one
            column per resource that any function asks for, with the resource's name (or ``cost of NAME`` if
            that name is taken).

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("Schedule.to_pandas() needs pandas: pip install pandas") from error
        rows: list[tuple[Any, ...]] = []
        for id, record in self.records.items():
            (attempt,) = record.attempts
            times = (attempt.queued, attempt.started, attempt.stopped, record.duration)
            rows.append((id, record.node, *times, record.cost))
        rows.sort(key=lambda row: row[3])
        columns = ["function", "node", "ready", "started", "stopped", "seconds"]
        table = {name: pd.Series([row[i] for row in rows]) for i, name in enumerate(columns)}
        for name in dict.fromkeys(name for row in rows for name in row[-1]):
            column = f"cost of {name}" if name in columns else name
            table[column] = pd.Series([row[-1].get(name, 0) for row in rows])
        return pd.DataFrame(table)

    def __repr__(self) -> str:
        functions = count(len(self.records), "function")
        return (
            f"<schedule of DAG {self.dag_id!r}: {functions} in {self.makespan:.4g} s,"
            f" lower bound {self.lower_bound:.4g} s>"
        )

    def _repr_html_(self) -> str:
        return module_for("html").schedule(self)


@suggest_keywords
def simulate(
    dag: DAG,
    nodes: Mapping[Any, Mapping[str, Any]],
    durations: Durations = 1.0,
    *,
    allocation_strategy: str | AllocatorLike = DEFAULT_STRATEGY,
    max_concurrency: int | None = None,
    limits: Mapping[str, Any] | None = None,
    known: bool = True,
) -> Schedule:
    """Schedule a DAG on hypothetical nodes, on a virtual clock. No code runs and no cluster is needed.

    The scheduling core of real runs makes the decisions. The simulation leaves out what a cluster adds: data
    transfers, message latency, and interference between functions.

    Parameters
    ----------
    dag : DAG
        The DAG to schedule. It is validated first; its code is never called.
    nodes : mapping of name to mapping of resource to number
        Node name → resource → amount, as for :func:`handoff_dask.local_cluster` or from
        :func:`handoff_dask.discover_nodes`. ``threads`` defaults to ``max(1, int(cpu))``, and ``cpu``
        defaults to ``threads``.
    durations : number, mapping, callable, records or History
        Duration of each function, in seconds: a number for all functions; a mapping of id → seconds; a
        callable of the id; the ``records`` of an earlier run of the same DAG; or a :class:`History`. A
        history gives the duration from the latest run of a DAG with this id in which the function finished;
        if there is none, the mean duration of functions with the same code and similar ids, or else with the
        same code. The duration of an inline function counts as part of its dependents.
    allocation_strategy : {"best_fit", "load_balanced", "first_available"} or Allocator
        How to choose among nodes where a function fits, as in :func:`handoff_dask.execute`.
    max_concurrency : int, optional
        Maximum number of functions that run at once.
    limits : mapping of str to number, optional
        Amounts that the run may use at once across all nodes.
    known : bool
        Whether the scheduler knows all durations from the start. If False, it learns them as functions
        finish, as in the first run of new code.

    Returns
    -------
    Schedule
        Deterministic: equal arguments give equal schedules.

    Raises
    ------
    InvalidDAGError
        The DAG is invalid.
    AllocationError
        A function fits on no node.
    AllocatorError
        The allocator raised an exception, proposed an invalid placement, or stalled.
    TypeError, ValueError
        An argument has the wrong type or an invalid value, or ``durations`` lacks a function.
    """
    check_dag(dag)
    options = RunOptions(
        max_concurrency=max_concurrency, limits=limits, allocation_strategy=allocation_strategy
    )
    capacities = parse_nodes(nodes)
    log_hints(nodes)
    lowered = lower_dag(
        dag,
        "simulation",
        policy=RetryPolicy(max_retries=0),
        limits=limits,
        max_concurrency=max_concurrency,
        strategy=options.allocation_strategy,
        keep_all=True,  # the default of execute(); it affects the order
    )
    if isinstance(durations, History):
        keys = [lowered.spec.kinds[kind].code for kind in lowered.spec.kind_of]
        durations = durations._predict_seconds(dag.id, lowered.order, keys, dag_fingerprints(dag))
    seconds = _seconds_of(lowered.order, durations)
    spec = replace(lowered.spec, seconds=seconds) if known else lowered.spec
    simulation = Simulation([Node(name, units) for name, units in capacities.items()], spec, seconds)
    if simulation.run.shortfalls:
        raise AllocationError(dag.id, spec.run_id, simulation.run.shortfalls)
    simulation.play()
    run = simulation.run
    if run.fault is not None:
        raise AllocatorError(dag.id, spec.run_id, run.fault)
    if not run.ended:
        waiting = [f.id for f in run.functions if f.state is State.READY][:3]
        reason = f"it stalled: functions are ready but none was placed, such as {waiting}"
        raise AllocatorError(dag.id, spec.run_id, reason)
    return Schedule(dag, simulation, seconds)


def _seconds_of(ids: list[Hashable], durations: Any) -> list[float]:
    """Return the durations in seconds, by function number."""
    if callable(durations):
        found = [durations(id) for id in ids]
    elif isinstance(durations, Mapping):
        if missing := [id for id in ids if id not in durations]:
            known = set(ids)
            listed = ", ".join(repr(id) for id in missing[:3])
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            hint = suggestion(missing[0], [id for id in durations if id not in known])
            functions = plural(len(missing), "function")
            raise ValueError(f"durations has no entry for {functions} {listed}{more}{hint}")
        found = [_duration_of(durations[id]) for id in ids]
    else:
        found = [durations] * len(ids)
    for id, seconds in zip(ids, found, strict=True):
        try:
            to_units(seconds)
        except ValueError as error:
            raise ValueError(f"durations: the duration of function {id!r} {error}") from None
    return [float(seconds) for seconds in found]


def _duration_of(duration: Any) -> Any:
    """Return the duration of a record; return anything else unchanged."""
    return duration.duration if isinstance(duration, FunctionRecord) else duration
