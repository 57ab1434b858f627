"""Checks of a run against the log that its functions wrote, independent of the scheduler's records."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from traces import THREADS, Nodes, Trace, node_threads

#: Tolerance in seconds: all times come from one clock, but differences of floats are inexact.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Interval:
    """One execution of a function on a node, from ``start`` to ``stop`` in seconds of the run's clock."""

    id: str
    node: str
    start: float
    stop: float


def find_violations(
    trace: Trace, nodes: Nodes, log: Sequence[Interval], makespan: float, bound: float
) -> list[str]:
    """Describe every violation in a run; return an empty list if the run was correct.

    Parameters
    ----------
    trace : Trace
        The functions that should have run, with their durations.
    nodes : mapping of node to mapping of resource to number
    log : sequence of Interval
    makespan, bound : float
        Seconds that the run took as seen by the caller, and the lower bound.
    """
    found = [*_each_once(trace, log), *_whole(trace, log), *_in_order(trace, log)]
    found += [*_on_nodes(nodes, log), *_within_capacity(trace, nodes, log)]
    if log:
        inside = max(i.stop for i in log) - min(i.start for i in log)
        if makespan < inside - _ROUNDING:
            found.append(f"the run took {makespan:.6f} s, but its functions took {inside:.6f} s")
    if makespan < bound - _ROUNDING:
        found.append(f"the makespan, {makespan:.6f} s, is below the lower bound, {bound:.6f} s")
    return found


def _each_once(trace: Trace, log: Sequence[Interval]) -> Iterable[str]:
    ran = Counter(i.id for i in log)
    for id in trace.functions:
        if not ran[id]:
            yield f"{id} never ran"
        elif ran[id] > 1:
            yield f"{id} ran {ran[id]} times"
    for id in ran.keys() - trace.functions.keys():
        yield f"{id} ran, but is not in the trace"


def _whole(trace: Trace, log: Sequence[Interval]) -> Iterable[str]:
    for i in log:
        f = trace.functions.get(i.id)
        if f is not None and i.stop - i.start < f.seconds - _ROUNDING:
            yield f"{i.id} took {i.stop - i.start:.6f} s instead of {f.seconds:.6f} s"


def _in_order(trace: Trace, log: Sequence[Interval]) -> Iterable[str]:
    stopped = {i.id: i.stop for i in log}
    for i in log:
        f = trace.functions.get(i.id)
        for dep in f.deps if f is not None else ():
            if stopped.get(dep, float("inf")) > i.start + _ROUNDING:
                yield f"{i.id} started before its input {dep} had ended"


def _on_nodes(nodes: Nodes, log: Sequence[Interval]) -> Iterable[str]:
    for i in log:
        if i.node not in nodes:
            yield f"{i.id} ran on {i.node}, which is not a node"


def _within_capacity(trace: Trace, nodes: Nodes, log: Sequence[Interval]) -> Iterable[str]:
    # Functions of zero duration never use anything. A function may start at the moment when another one
    # stops, as is common in simulated schedules: stops sort before starts.
    log = [i for i in log if i.node in nodes and i.stop > i.start]
    changes = [(i.stop, -1, i) for i in log] + [(i.start, 1, i) for i in log]
    used: dict[tuple[str, str], float] = defaultdict(float)
    reported = set()
    for time, sign, i in sorted(changes, key=lambda change: change[:2]):
        cost = trace.functions[i.id].cost if i.id in trace.functions else {}
        for name, amount in [*cost.items(), (THREADS, 1)]:
            key = i.node, name
            capacity = node_threads(nodes[i.node]) if name == THREADS else nodes[i.node].get(name, 0)
            used[key] += sign * amount
            if used[key] > capacity * (1 + 1e-9) and key not in reported:  # report only the first time
                reported.add(key)
                yield (
                    f"{i.node} has {name} {capacity:g}, but {used[key]:g} were in use"
                    f" when {i.id} started, at {time:.6f} s"
                )
