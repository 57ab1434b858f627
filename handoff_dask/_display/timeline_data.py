"""Data of a timeline, independent of how it is drawn: lanes, resources in use, the critical path."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from handoff_dask._display.export import assign_lanes, sorted_by_start
from handoff_dask._model.resources import THREADS

if TYPE_CHECKING:
    from handoff_dask._model.records import Attempt, FunctionRecord

#: Name of the row that counts running functions, on nodes whose functions have no cost.
FUNCTIONS = "functions"


class Bar(NamedTuple):
    """One attempt, positioned in a lane. Times are seconds since the earliest time in the records.

    Attributes
    ----------
    id : hashable
        Id of the function.
    node : str or None
        Node of the attempt.
    lane : int
        Number of the lane on its node, from 0.
    attempt : int
        Number of the attempt, from 1.
    outcome : str
        As :attr:`Attempt.outcome`.
    queued : float or None
        When the attempt could have started.
    started, stopped : float
        Start and end of the bar.
    cost : mapping of str to float
        Cost of the function.
    devices : mapping of str to tuple of int
        Resource → indices of the devices used.
    error : str or None
        Text of the exception.
    guessed : bool
        Whether the start is unknown because the attempt is still running or was lost. The bar then starts
        when the node had room for the attempt.
    """

    id: Hashable
    node: Any
    lane: int
    attempt: int
    outcome: str
    queued: float | None
    started: float
    stopped: float
    cost: Mapping[str, float]
    devices: Mapping[str, tuple[int, ...]]
    error: str | None
    guessed: bool = False
    cpu_seconds: float | None = None
    peak_memory: float | None = None
    peak_exact: bool = False

    @property
    def waited(self) -> float:
        """Seconds from when the attempt could have started until it started."""
        return 0.0 if self.queued is None else max(0.0, self.started - self.queued)

    @property
    def family(self) -> str:
        """The function's family, as in :func:`family_of`."""
        return family_of(self.id)


class Step(NamedTuple):
    """One step of the critical path, and why it could not start before the previous step ended.

    Attributes
    ----------
    bar : Bar
        The attempt.
    reason : str
        ``"start"`` (no known reason: the path starts here), ``"input"`` (the previous step is a dependency),
        ``"retry"`` (the previous step is its previous attempt) or ``"capacity"`` (the previous step held a
        resource that it waited for).
    """

    bar: Bar
    reason: str


class Level(NamedTuple):
    """An amount over time, as a step function: ``amounts[i]`` from ``times[i]`` up to ``times[i + 1]``."""

    times: tuple[float, ...]
    amounts: tuple[float, ...]

    def at(self, time: float) -> float:
        """Return the amount at a time."""
        i = bisect_right(self.times, time)
        return self.amounts[i - 1] if i else 0.0

    def before(self, time: float) -> float:
        """Return the amount just before a time."""
        i = bisect_left(self.times, time)
        return self.amounts[i - 1] if i else 0.0

    @property
    def peak(self) -> float:
        """The largest amount."""
        return max(self.amounts, default=0.0)

    def mean(self, end: float) -> float:
        """Return the mean amount from 0 to ``end``."""
        ends = (*self.times[1:], end)
        area = sum(a * (until - t) for a, t, until in zip(self.amounts, self.times, ends, strict=False))
        return area / end if end > 0 else 0.0


def family_of(id: Hashable) -> str:
    """Return the common part of the ids of similar functions: ``load`` for ``load-3`` and ``("load", 3)``."""
    first = id[0] if isinstance(id, tuple) and id else id
    return re.sub(r"[\W_]*\d+$", "", str(first)) or "numbered"


def level_of(parts: Iterable[tuple[float, float, float]]) -> Level:
    """Sum amounts over time. Each part is (start, stop, amount)."""
    changes: dict[float, list[float]] = {}
    for start, stop, amount in parts:
        if stop > start and amount:
            changes.setdefault(start, []).append(amount)
            changes.setdefault(stop, []).append(-amount)
    times, amounts, held, total = [], [], 0, 0.0
    for time in sorted(changes):
        held += sum(1 if change > 0 else -1 for change in changes[time])
        # Floating-point sums drift: the total must be exactly 0 when nothing is held.
        total = round(total + sum(changes[time]), 9) if held else 0.0
        times.append(time)
        amounts.append(total)
    return Level(tuple(times), tuple(amounts))


@dataclass(frozen=True)
class TimelineData:
    """The data of one set of records.

    Attributes
    ----------
    bars : tuple of Bar
        Every attempt with a node and a time, ordered by start.
    begin : float
        Origin of the time axis: seconds since the epoch for a run, 0 for a simulation.
    end : float
        When the last attempt stopped, in seconds since ``begin``.
    lanes : dict
        Node → number of lanes, ordered by node name. Includes nodes that ran nothing, which have 0.
    inputs : dict or None
        Function id → ids of its dependencies; None if unknown.
    capacities : dict
        Node → resource → amount, for nodes whose capacity is known.
    counts : dict
        Outcome → number of attempts, and ``"not run"`` → number of functions without attempts.
    """

    bars: tuple[Bar, ...]
    begin: float
    end: float
    lanes: Mapping[Any, int]
    inputs: Mapping[Hashable, Sequence[Hashable]] | None
    capacities: Mapping[Any, Mapping[str, float]]
    counts: Mapping[str, int]

    @cached_property
    def by_node(self) -> dict[Any, list[Bar]]:
        """Node → its bars."""
        found: dict[Any, list[Bar]] = {node: [] for node in self.lanes}
        for bar in self.bars:
            found[bar.node].append(bar)
        return found

    @cached_property
    def waits(self) -> list[tuple[Bar, float]]:
        """Bars that waited, and from when on their lane was empty, so that the wait can be drawn there."""
        last: dict[tuple[Any, int], float] = {}
        found = []
        for bar in self.bars:
            lane = (bar.node, bar.lane)
            if bar.queued is not None and (since := max(bar.queued, last.get(lane, 0.0))) < bar.started:
                found.append((bar, since))
            last[lane] = bar.stopped
        return found

    @cached_property
    def waiting(self) -> Level:
        """Number of functions waiting for a node."""
        return level_of((b.queued, b.started, 1) for b in self.bars if b.queued is not None)

    @cached_property
    def utilisation(self) -> dict[tuple[Any, str], Level]:
        """(Node, resource) → amount in use.

        Covers the resources in the costs of the node's functions; if the node's capacity is known, only those
        that it offers. A node without such resources has a row ``"functions"`` that counts functions.
        """
        found: dict[tuple[Any, str], Level] = {}
        for node, bars in self.by_node.items():
            asked = dict.fromkeys(name for bar in bars for name, amount in bar.cost.items() if amount)
            offered = self.capacities.get(node)
            names = list(asked) if offered is None else [r for r in offered if r in asked]
            for name in sorted(names):
                found[node, name] = level_of((b.started, b.stopped, b.cost.get(name, 0)) for b in bars)
            if bars and not names:
                found[node, FUNCTIONS] = level_of((b.started, b.stopped, 1) for b in bars)
        return found

    def capacity(self, node: Any, resource: str) -> float | None:
        """Return a node's capacity of a resource; None if unknown."""
        return self.capacities.get(node, {}).get(THREADS if resource == FUNCTIONS else resource)

    @cached_property
    def critical_path(self) -> tuple[Step, ...]:
        """Chain of attempts that determined the end of the run. Empty if the inputs are unknown.

        The chain is traced backwards from the attempt that stopped last. If an attempt waited for a node, its
        predecessor is the attempt that held the scarce resource on its node; otherwise its own previous
        attempt, or the dependency that finished last.
        """
        if self.inputs is None or not self.bars:
            return ()
        finder = _PathFinder(self, self.inputs)
        bar: Bar | None = max(self.bars, key=lambda b: (b.stopped, b.started))
        path: list[Step] = []
        seen: set[tuple[Hashable, int]] = set()
        while bar is not None:
            seen.add((bar.id, bar.attempt))
            before, reason = finder.before(bar, seen)
            path.append(Step(bar, reason))
            bar = before
        return tuple(reversed(path))


class _PathFinder:
    """Finds the predecessors of attempts on the critical path."""

    def __init__(self, data: TimelineData, inputs: Mapping[Hashable, Sequence[Hashable]]) -> None:
        self._data = data
        self._inputs = inputs
        self._attempts: dict[Hashable, list[Bar]] = {}
        for bar in data.bars:
            self._attempts.setdefault(bar.id, []).append(bar)
        self._ended = {
            node: sorted(bars, key=lambda b: b.stopped) for node, bars in data.by_node.items() if bars
        }
        self._threads = {
            node: level_of((b.started, b.stopped, 1) for b in bars) for node, bars in data.by_node.items()
        }

    def before(self, bar: Bar, seen: set[tuple[Hashable, int]]) -> tuple[Bar | None, str]:
        """Return the attempt whose end allowed this one to start, and the reason, as in :class:`Step`."""
        holder = self._holder(bar, seen)
        if holder is not None:
            return holder, "capacity"
        for other in self._attempts[bar.id]:
            if other.attempt == bar.attempt - 1 and (other.id, other.attempt) not in seen:
                return other, "retry"
        latest = None
        for id in self._inputs.get(bar.id, ()):
            finished = [b for b in self._attempts.get(id, ()) if b.outcome == "finished"]
            # A lost result is computed again: what counts is the result that existed at the start.
            available = [b for b in finished if b.stopped <= bar.started] or finished
            available = [b for b in available if (b.id, b.attempt) not in seen]
            if available and (latest is None or available[-1].stopped > latest.stopped):
                latest = available[-1]
        return (latest, "input") if latest is not None else (None, "start")

    def _holder(self, bar: Bar, seen: set[tuple[Hashable, int]]) -> Bar | None:
        """Return the last attempt to free a resource that this one waited for, or None."""
        if bar.queued is None or bar.queued >= bar.started:
            return None
        ended = self._ended[bar.node]
        first = bisect_right(ended, bar.queued, key=lambda b: b.stopped)
        last = bisect_right(ended, bar.started, key=lambda b: b.stopped)
        for other in reversed(ended[first:last]):
            if (other.id, other.attempt) in seen or other.started >= other.stopped:
                continue
            if self._competed(bar, other):
                return other
        return None

    def _competed(self, bar: Bar, other: Bar) -> bool:
        """Return whether the other attempt held a resource of which the node had too little for both."""
        data, node = self._data, bar.node
        capacity = data.capacities.get(node, {})
        for name, amount in bar.cost.items():
            if not amount or not other.cost.get(name) or (capacity and name not in capacity):
                continue
            level = data.utilisation.get((node, name))
            if level is None or name not in capacity:
                return True
            if level.before(other.stopped) + amount > capacity[name] + 1e-9:
                return True
        threads = capacity.get(THREADS)
        return threads is not None and self._threads[node].before(other.stopped) + 1 > threads


def prepare(
    records: Mapping[Hashable, FunctionRecord],
    inputs: Mapping[Hashable, Sequence[Hashable]] | None = None,
    capacities: Mapping[Any, Mapping[str, float]] | None = None,
    now: float | None = None,
) -> TimelineData:
    """Compute the timeline data of records.

    Parameters
    ----------
    records : mapping of id to FunctionRecord
    inputs : mapping of id to ids, optional
        Dependencies of each function, for the critical path.
    capacities : mapping of node to mapping of resource to number, optional
    now : float, optional
        End of the bars of running attempts, in the same clock as the records. By default, the latest time in
        the records.
    """
    capacities = capacities or {}
    counts: dict[str, int] = {}
    attempts = []
    for id, record in records.items():
        if not record.attempts:
            counts["not run"] = counts.get("not run", 0) + 1
        for a in record.attempts:
            counts[a.outcome] = counts.get(a.outcome, 0) + 1
            attempts.append((id, record.cost if a.cost is None else a.cost, a))
    times = [t for _, _, a in attempts for t in (a.queued, a.started, a.stopped) if t is not None]
    begin = min(times, default=0.0)
    end = max((*times, begin if now is None else now), default=0.0)
    on_node: dict[Any, list[int]] = {}
    for number, (_, _, a) in enumerate(attempts):
        if any(t is not None for t in (a.queued, a.started, a.stopped)):
            on_node.setdefault(a.node, []).append(number)
    bars = []
    lanes = {}
    for node in sorted({*on_node, *capacities}, key=lambda node: (node is None, str(node))):
        lanes[node] = 0
        numbers = on_node.get(node, [])
        spans = _spans_of([attempts[number][2] for number in numbers], begin, end)
        ran = sorted_by_start((*span, number) for span, number in zip(spans, numbers, strict=True))
        for lane, (started, stopped, number) in assign_lanes(ran):
            id, cost, a = attempts[number]
            lanes[node] = max(lanes[node], lane + 1)
            queued = None if a.queued is None else a.queued - begin
            used = (a.cpu_seconds, a.peak_memory, a.peak_exact)
            facts = (cost, a.devices, a.error, a.started is None, *used)
            bars.append(Bar(id, node, lane, a.number, a.outcome, queued, started, stopped, *facts))
    bars.sort(key=lambda b: (b.started, b.stopped))
    return TimelineData(tuple(bars), begin, end - begin, lanes, inputs, capacities, counts)


def _spans_of(attempts: Sequence[Attempt], begin: float, end: float) -> list[tuple[float, float]]:
    """Return start and end of the attempts on one node.

    An attempt with an unknown start is assumed to have started when another attempt on the node ended.
    """
    spans: list[tuple[float, float]] = [(0.0, 0.0)] * len(attempts)
    unknown = []
    freed = []
    for i, a in enumerate(attempts):
        stopped = end if a.stopped is None else a.stopped
        if a.started is None:
            unknown.append((stopped, i))
        else:
            spans[i] = (a.started - begin, max(a.started, stopped) - begin)
            freed.append(spans[i][1] + begin)
    freed.sort()
    for stopped, i in sorted(unknown, reverse=True):
        earliest = attempts[i].queued
        earliest = stopped if earliest is None else earliest
        while freed and freed[-1] > stopped:
            freed.pop()
        started = max(earliest, freed.pop()) if freed else earliest
        spans[i] = (started - begin, max(started, stopped) - begin)
    return spans
