"""What is known of a run afterwards: frozen values, made by the layers below, read by people."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

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
        Counts from 1.
    node : str or None
        Name of the node it was placed on.
    queued, started, stopped : float or None
        Seconds since the epoch: when it could have started, when its code started and stopped.
    outcome : str
        ``"finished"``, ``"failed"``, ``"lost"`` (its node left), ``"cancelled"`` or ``"running"``.
    error, traceback : str or None
        Text of the exception and of where it was raised.
    devices : mapping of str to tuple of int
        Indices of the devices it used, by resource: ``{"gpu": (0,)}``.
    loaded : bool
        Whether it only loaded the result from a checkpoint.
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


@dataclass(frozen=True, slots=True)
class FunctionRecord:
    """Where, when and how often one function ran.

    Attributes
    ----------
    function_id : hashable
        Id of the function.
    status : str
        ``"waiting"``, ``"delayed"``, ``"ready"``, ``"running"``, ``"finished"``, ``"failed"``,
        ``"skipped"`` (a function it needs failed) or ``"cancelled"``.
    node : str or None
        Node of the last attempt.
    attempts : tuple of Attempt
        Every attempt, in order.
    cost : dict
        What it asked for, as given.
    devices : mapping of str to tuple of int
        Devices of the last attempt.
    nbytes : int or None
        Size of the result in bytes, as Dask measures it.
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
        """When the last attempt started, seconds since the epoch."""
        return self.attempts[-1].started if self.attempts else None

    @property
    def stopped(self) -> float | None:
        """When the last attempt stopped, seconds since the epoch."""
        return self.attempts[-1].stopped if self.attempts else None

    @property
    def duration(self) -> float | None:
        """Seconds that the last attempt ran."""
        if self.started is None or self.stopped is None:
            return None
        return self.stopped - self.started


class Summary(NamedTuple):
    """A function in short, as it is sent and kept: :class:`Records` makes a :class:`FunctionRecord` of it."""

    status: str
    attempts: Sequence[Attempt]
    nbytes: int | None = None


#: Function id → ids of the functions that it waited for.
Inputs = Mapping[Hashable, Sequence[Hashable]]


class Records(Mapping[Hashable, FunctionRecord]):
    """Function id → :class:`FunctionRecord`, made when it is looked at.

    Parameters
    ----------
    ids : iterable
        In the order in which they are to be listed.
    summary_of : callable
        Id → status, attempts and result size.
    cost_of : callable
        Id → cost as given.
    inputs : callable, optional
        Gives a mapping of each id to the ids of those of these functions that it waited for.
    capacities : mapping of node to mapping of resource to number, optional
        What nodes have, threads included.
    """

    __slots__ = ("_capacities", "_cost_of", "_ids", "_inputs", "_summary_of")

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
        last = attempts[-1] if attempts else None
        return FunctionRecord(
            function_id=id,
            status=status,
            node=last.node if last else None,
            attempts=tuple(attempts),
            cost=dict(self._cost_of(id)),
            devices=last.devices if last else {},
            nbytes=nbytes,
        )

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __reduce__(self) -> Any:
        return dict, (dict(self),)  # as plain values: where they come from stays in this process

    def __repr__(self) -> str:
        return f"<records of {len(self)} functions>"

    def _repr_html_(self) -> str:
        text: str = module_for("html").records(self)
        return text

    def to_pandas(self) -> Any:
        """One row for each attempt, and one for each function that had none.

        Returns
        -------
        pandas.DataFrame
            Columns ``function`` (its id), ``status``, ``attempt``, ``outcome``, ``node``, ``queued``,
            ``started``, ``stopped`` (seconds since the epoch), ``seconds``, ``nbytes``, ``error``,
            ``devices``, and ``cost_…`` for each resource that any function asks for.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        return module_for("export").to_pandas(self)

    def to_parquet(self, path: Any) -> None:
        """Write the table of :meth:`to_pandas` to a Parquet file; ids, nodes and devices as text.

        Raises
        ------
        ImportError
            pandas, or a Parquet library for it such as pyarrow, is not installed.
        """
        module_for("export").to_parquet(self, path)

    def to_json(self, path: Any) -> None:
        """Write the table of :meth:`to_pandas` to a JSON file: a list of objects."""
        module_for("export").to_json(self, path)

    def to_trace(self, path: Any) -> None:
        """Write every attempt that ran to a file in Chrome's trace format.

        Trace viewers such as https://ui.perfetto.dev show it: each node is a process, and what it ran at once
        is on lines of their own.
        """
        module_for("export").to_trace(self, path)

    def timeline(self, other: Any = None, *, dag: DAG | None = None) -> Timeline:
        """Which function ran where and when.

        Parameters
        ----------
        other : Schedule, Run, Result, Records or Timeline, optional
            To be shown below these, on the same time axis; both begin at 0.
        dag : DAG, optional
            Where the critical path is to be found and these records do not know what the functions take,
            since they come from a history or from another client's run.

        Returns
        -------
        Timeline
        """
        timeline: Timeline = module_for("timeline").timeline_of("records", self, other, dag=dag)
        return timeline

    @property
    def allocations(self) -> dict[Hashable, Any]:
        """Function id → node it was last placed on, of those that have been placed."""
        summary_of = self._summary_of
        attempts_of = ((id, summary_of(id).attempts) for id in self._ids)
        return {id: attempts[-1].node for id, attempts in attempts_of if attempts}


def inputs_by_id(ids: Sequence[Hashable], dependents: Iterable[Iterable[int]]) -> Inputs:
    """Id → ids of what it waits for, given number → numbers of what waits for it."""
    inputs: dict[Hashable, list[Hashable]] = {id: [] for id in ids}
    for id, numbers in zip(ids, dependents, strict=True):
        for n in numbers:
            inputs[ids[n]].append(id)
    return inputs


class Event(NamedTuple):
    """Something that happened to a function of a run.

    An attempt is known once it was placed, and when it started once it has ended.

    Attributes
    ----------
    time : float
        Seconds since the epoch.
    function_id : hashable
    event : str
        ``"ready"`` (it could have started), ``"started"``, or how the attempt ended: ``"finished"``,
        ``"failed"``, ``"lost"`` or ``"cancelled"``.
    node : str or None
        Where, once that was decided.
    attempt : int
        Number of the attempt, from 1.
    error : str or None
        Text of the exception of an attempt that failed.
    """

    time: float
    function_id: Hashable
    event: str
    node: Any
    attempt: int
    error: str | None = None


def events_of(records: Mapping[Hashable, FunctionRecord]) -> list[Event]:
    """Everything that records tell of, in the order of time."""
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
    """Why functions of one kind fit on no node.

    Attributes
    ----------
    function_ids : tuple
        The functions concerned.
    asked : dict
        Resource → amount they ask for; of a collocated group, the most that any member asks.
    nearest : str or None
        The node that comes nearest, None when no node comes into question.
    offered : dict
        What that node has, of the resources asked for.
    reason : str
        What rules the nodes out, in words.
    nodes : tuple of str
        A line for each node: why not this one.
    awaited : str
        A node that would do, in words: ``a node with gpu 1``.
    """

    function_ids: tuple[Hashable, ...]
    asked: Mapping[str, float]
    nearest: Any
    offered: Mapping[str, float]
    reason: str
    nodes: tuple[str, ...] = ()
    awaited: str = "a node"

    def __str__(self) -> str:
        shown = ", ".join(repr(i) for i in self.function_ids[:3])
        if len(self.function_ids) > 3:
            shown += f" and {len(self.function_ids) - 3} more"
        text = f"{'function' if len(self.function_ids) == 1 else 'functions'} {shown}"
        text += f": {self.reason}"
        if self.asked:
            text += f"; asked: {format_amounts(self.asked)}"
        if self.nearest is not None and self.offered:
            text += f"; nearest node {self.nearest!r} has {format_amounts(self.offered)}"
        return "\n      ".join([text, *self.nodes])
