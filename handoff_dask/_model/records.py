"""Records of a run: immutable values that describe attempts, functions, events and shortfalls."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from handoff_dask._error_texts import count, plural
from handoff_dask._model.hooks import module_for
from handoff_dask._model.resources import format_amounts

if TYPE_CHECKING:
    from handoff_dask._display.timeline import Timeline
    from handoff_dask._model.dag import DAG

_NO_DEVICES: Mapping[str, tuple[int, ...]] = {}


class Attempt(NamedTuple):
    """One attempt to run a function.

    Attributes
    ----------
    number : int
        Number of the attempt, from 1.
    node : str or None
        Name of the node on which it was placed.
    queued, started, stopped : float or None
        When the function became ready for this attempt, and when its code started and stopped. Seconds since
        the epoch.
    outcome : str
        ``"finished"``, ``"failed"``, ``"lost"`` (its node left), ``"cancelled"`` or ``"running"``.
    error, traceback : str or None
        Text of the error, usually the exception's ``repr``, and its traceback.
    devices : mapping of str to tuple of int
        Indices of the devices it used, by resource: ``{"gpu": (0,)}``.
    loaded : bool
        Whether it loaded the result from a checkpoint instead of running the code.
    cpu_seconds : float or None
        Processor time that it used, in seconds: of its thread, or of its own process and the children that
        have ended. None if it is unknown, for example because the node was lost.
    peak_memory : float or None
        The most memory that it had in use, in MB (2**20 bytes).
    peak_exact : bool
        Whether ``peak_memory`` is exact, as for a function with ``isolation="process"``. Otherwise it is an
        estimate: how much the process of the node has grown while the attempt ran, whatever else ran there.
    cost : mapping of str to number or None
        What it has booked on its node.
    """

    number: int
    node: Any = None
    queued: float | None = None
    started: float | None = None
    stopped: float | None = None
    outcome: str = "running"
    error: str | None = None
    traceback: str | None = None
    devices: Mapping[str, tuple[int, ...]] = _NO_DEVICES
    loaded: bool = False
    cpu_seconds: float | None = None
    peak_memory: float | None = None
    peak_exact: bool = False
    cost: Mapping[str, float] | None = None


def with_cost(attempts: Iterable[Attempt], cost: Mapping[str, float]) -> tuple[Attempt, ...]:
    """Return attempts with the cost of their function, where they do not have one of their own."""
    return tuple([a if a.cost is not None else a._replace(cost=cost) for a in attempts])


@dataclass(frozen=True, slots=True)
class FunctionRecord:
    """Where, when and how often one function ran.

    Attributes
    ----------
    function_id : hashable
        Id of the function.
    status : str
        ``"waiting"`` (for its inputs), ``"delayed"`` (until its retry), ``"ready"`` (waits for a node),
        ``"running"``, ``"finished"``, ``"failed"``, ``"skipped"`` (a function that it depends on failed) or
        ``"cancelled"``.
    node : str or None
        Node of the last attempt.
    attempts : tuple of Attempt
        All attempts, in order.
    cost : dict
        The cost, as given in the :class:`Function`.
    devices : mapping of str to tuple of int
        Indices of the devices that the last attempt used, by resource.
    nbytes : int or None
        Size of the result in bytes, as measured by Dask.
    """

    function_id: Hashable
    status: str
    node: Any
    attempts: tuple[Attempt, ...]
    cost: Mapping[str, float]
    devices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    nbytes: int | None = None

    @property
    def started(self) -> float | None:
        """Start of the last attempt, in seconds since the epoch."""
        return self.attempts[-1].started if self.attempts else None

    @property
    def stopped(self) -> float | None:
        """End of the last attempt, in seconds since the epoch."""
        return self.attempts[-1].stopped if self.attempts else None

    @property
    def cpu_seconds(self) -> float | None:
        """Processor time of the last attempt in seconds."""
        return self.attempts[-1].cpu_seconds if self.attempts else None

    @property
    def peak_memory(self) -> float | None:
        """Peak memory of the last attempt in MB; see :class:`Attempt`."""
        return self.attempts[-1].peak_memory if self.attempts else None

    @property
    def duration(self) -> float | None:
        """Duration of the last attempt in seconds."""
        if self.started is None or self.stopped is None:
            return None
        return self.stopped - self.started


class Summary(NamedTuple):
    """The compact form of a :class:`FunctionRecord`, for messages, archives and histories."""

    status: str
    attempts: Sequence[Attempt]
    nbytes: int | None = None


#: Function id → ids of the functions that it waits for.
Inputs = Mapping[Hashable, Sequence[Hashable]]


class Records(Mapping[Hashable, FunctionRecord]):
    """A mapping of function id → :class:`FunctionRecord`. Each record is built when it is accessed.

    Parameters
    ----------
    ids : iterable
        Function ids, in the order of iteration.
    summary_of : callable
        Function id → ``Summary`` (status, attempts and result size).
    cost_of : callable
        Function id → cost, as given.
    inputs : callable, optional
        Returns a mapping of each id to those of ``ids`` that it depends on.
    capacities : mapping of node to mapping of resource to number, optional
        Capacity of each node, threads included.
    """

    __slots__ = ("_capacities", "_cost_of", "_ids", "_inputs", "_summary_of")

    if TYPE_CHECKING:
        # For ``await run.records``: see ``Result``.
        def __await__(self) -> Generator[Any, None, Records]: ...

    def __init__(
        self,
        ids: Iterable[Hashable],
        summary_of: Callable[[Hashable], Summary],
        cost_of: Callable[[Hashable], Mapping[str, float]],
        inputs: Callable[[], Inputs] | None = None,
        capacities: Mapping[Any, Mapping[str, float]] | None = None,
    ) -> None:
        self._ids = dict.fromkeys(ids)
        self._summary_of = summary_of
        self._cost_of = cost_of
        self._inputs = inputs
        self._capacities = capacities

    def __getitem__(self, id: Hashable) -> FunctionRecord:
        if id not in self._ids:
            raise KeyError(id)
        status, attempts, nbytes = self._summary_of(id)
        cost = dict(self._cost_of(id))
        attempts = with_cost(attempts, cost)
        last = attempts[-1] if attempts else None
        return FunctionRecord(
            function_id=id,
            status=status,
            node=last.node if last else None,
            attempts=attempts,
            cost=cost,
            devices=last.devices if last else {},
            nbytes=nbytes,
        )

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __reduce__(self) -> Any:
        return dict, (dict(self),)  # a plain dict, because the callables may not pickle

    def __repr__(self) -> str:
        return f"<records of {count(len(self), 'function')}>"

    def __str__(self) -> str:
        """Return a table of the first functions: status, node, number of attempts, duration of the last."""
        text: str = module_for("table").records_text(self)
        return text

    def _repr_html_(self) -> str:
        text: str = module_for("html").records(self)
        return text

    def to_pandas(self) -> Any:
        """Return a table with a row for each attempt, and for each function without an attempt.

        Returns
        -------
        pandas.DataFrame
            Columns ``function`` (its id), ``status``, ``attempt``, ``outcome``, ``node``, ``queued``,
            ``started``, ``stopped`` (seconds since the epoch), ``seconds``, ``nbytes``, ``error``,
            ``devices``, ``cpu_seconds``, ``peak_memory`` (MB), ``peak_exact``, and ``cost_…`` for each
            resource that any function asks for.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        return module_for("export").to_pandas(self)

    def to_parquet(self, path: Any) -> None:
        """Write the table of :meth:`to_pandas` to a Parquet file, with ids, nodes and devices as text.

        Raises
        ------
        ImportError
            pandas is not installed, or no Parquet library for it, such as pyarrow.
        """
        module_for("export").to_parquet(self, path)

    def to_json(self, path: Any) -> None:
        """Write the table of :meth:`to_pandas` to a JSON file, as a list of objects."""
        module_for("export").to_json(self, path)

    def to_trace(self, path: Any) -> None:
        """Write all attempts that ran to a file in Chrome's trace format.

        Trace viewers such as https://ui.perfetto.dev display each node as a process, with a separate line for
        each attempt that runs concurrently.
        """
        module_for("export").to_trace(self, path)

    def timeline(self, other: Any = None, *, dag: DAG | None = None) -> Timeline:
        """Return a timeline of the attempts: which function ran where and when.

        Parameters
        ----------
        other : Schedule, Run, Result, Records or Timeline, optional
            Shown below these records on the same time axis. Both start at 0.
        dag : DAG, optional
            Source of the dependencies, from which the critical path follows. Only needed if the records lack
            them because they come from a history or from another client's run.

        Returns
        -------
        Timeline
        """
        timeline: Timeline = module_for("timeline").timeline_of("records", self, other, dag=dag)
        return timeline

    @property
    def allocations(self) -> dict[Hashable, Any]:
        """Function id → node of the last attempt, for each function that has been placed."""
        summary_of = self._summary_of
        attempts_of = ((id, summary_of(id).attempts) for id in self._ids)
        return {id: attempts[-1].node for id, attempts in attempts_of if attempts}


def inputs_by_id(ids: Sequence[Hashable], dependents: Iterable[Iterable[int]]) -> Inputs:
    """Invert a graph: from number → numbers of the dependents to id → ids of the dependencies."""
    inputs: dict[Hashable, list[Hashable]] = {id: [] for id in ids}
    for id, numbers in zip(ids, dependents, strict=True):
        for n in numbers:
            inputs[ids[n]].append(id)
    return inputs


class Event(NamedTuple):
    """Something that happened to a function of a run.

    The events of an attempt become known late: ``"ready"`` once it has been placed, ``"started"`` once it has
    ended.

    Attributes
    ----------
    time : float
        Seconds since the epoch.
    function_id : hashable
        Id of the function.
    event : str
        ``"ready"`` (for this attempt), ``"started"``, or how the attempt ended: ``"finished"``, ``"failed"``,
        ``"lost"`` or ``"cancelled"``.
    node : str or None
        Name of the node; None for ``"ready"``.
    attempt : int
        Number of the attempt, from 1.
    error : str or None
        Text of the error if the attempt failed.
    """

    time: float
    function_id: Hashable
    event: str
    node: Any
    attempt: int
    error: str | None = None


def events_of(records: Mapping[Hashable, FunctionRecord]) -> list[Event]:
    """Return all events that the records imply, in chronological order."""
    events = []
    for id, record in records.items():
        for a in record.attempts:
            if a.queued is not None:
                events.append(Event(a.queued, id, "ready", None, a.number))
            if a.started is not None:
                events.append(Event(a.started, id, "started", a.node, a.number))
            if a.stopped is not None:
                events.append(Event(a.stopped, id, a.outcome, a.node, a.number, a.error))
    return sorted(events, key=lambda event: event.time)


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Why functions with the same requirements fit on no node.

    Attributes
    ----------
    function_ids : tuple
        Ids of the functions.
    asked : dict
        Resource → amount that each function asks for. For a collocation group, the maximum over its members.
    nearest : str or None
        Name of the node that comes closest; None if every node is ruled out.
    offered : dict
        Resource → amount that the nearest node offers, for the resources asked for.
    reason : str
        What rules out the nodes.
    nodes : tuple of str
        What the nodes lack: a line for all nodes that lack the same. Empty if the reason says it all.
    awaited : str
        Description of a node that would fit: ``a node with gpu 1``.
    remedy : str
        What to change, in a sentence.
    waited : float or None
        Seconds for which the functions have waited for a node while the run was running; None if the run has
        not started.
    """

    function_ids: tuple[Hashable, ...]
    asked: Mapping[str, float]
    nearest: Any
    offered: Mapping[str, float]
    reason: str
    nodes: tuple[str, ...] = ()
    awaited: str = "a node"
    remedy: str = ""
    waited: float | None = None

    def __str__(self) -> str:
        ids = ", ".join(repr(i) for i in self.function_ids[:3])
        if len(self.function_ids) > 3:
            ids += f" and {len(self.function_ids) - 3} more"
        text = f"{plural(len(self.function_ids), 'function')} {ids}"
        text += f": {self.reason}"
        if self.asked:
            text += f"; asked: {format_amounts(self.asked)}"
        if self.nearest is not None and self.offered:
            amounts = [format_amounts({r: n}) if n else f"no {r}" for r, n in self.offered.items()]
            text += f"; nearest node {self.nearest!r} has {', '.join(amounts)}"
        return "\n      ".join([text, *self.nodes])
