"""Feasibility: functions that no node could hold, or that exceed their run's limits.

Shortfalls report them before a run starts. When nodes leave later, functions without an eligible node wait
for one until the node timeout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from handoff_dask._model.records import Shortfall
from handoff_dask._model.resources import THREADS, format_amounts, from_units
from handoff_dask._scheduling.decisions import Infeasible
from handoff_dask._scheduling.explain import node_lines
from handoff_dask._scheduling.functions import FunctionState
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.nodes import Nodes
from handoff_dask._scheduling.queues import Queue
from handoff_dask._scheduling.runs import CONCURRENCY, Run
from handoff_dask._scheduling.spec import Amounts, Pins

#: A cost, sorted by resource.
Need = tuple[tuple[str, int], ...]


def find_shortfalls(run: Run, nodes: Nodes) -> tuple[Shortfall, ...]:
    """Return a shortfall for each distinct need in a run that no node could hold, even if it were idle."""
    found = []
    for (need, pins), functions in _by_need(run.functions).items():
        amounts = dict(need)
        if not pins and nodes.can_hold(amounts):
            continue  # the common case, without a comparison with each node
        shortfall = shortfall_of(functions, amounts, pins, nodes.ordered)
        if shortfall is not None:
            found.append(shortfall)
    return tuple(found)


def find_limit_shortfalls(run: Run) -> tuple[Shortfall, ...]:
    """Return a shortfall for each limit cost in a run that exceeds the run's limits."""
    if run.limits is None:
        return ()
    found = []
    by_kind: dict[int, list[FunctionState]] = {}
    for f in run.functions:
        by_kind.setdefault(id(f.limit_cost), []).append(f)
    for functions in by_kind.values():
        cost = functions[0].limit_cost
        if not run.limits.holds(cost):
            asked = _to_amounts({name: units for name, units in cost.items() if name != CONCURRENCY})
            limits = format_amounts(_to_amounts({name: run.limits.capacity[name] for name in asked}))
            reason = f"too large for the run's limits ({limits})"
            found.append(Shortfall(tuple(f.id for f in functions), asked, None, {}, reason))
    return tuple(found)


def _by_need(functions: Iterable[FunctionState]) -> dict[tuple[Need, Pins], list[FunctionState]]:
    needs: dict[tuple[Need, Pins], list[FunctionState]] = {}
    known: dict[int, tuple[Need, Pins]] = {}  # by identity of the kind or the group, which are few
    for f in functions:
        source = f.group if f.group is not None else f.kind
        key = known.get(id(source))
        if key is None:
            amounts, pins = (f.cost, f.kind.pin_sets) if f.group is None else (f.group.need, f.group.pins)
            key = known[id(source)] = (tuple(sorted(amounts.items())), pins)
        needs.setdefault(key, []).append(f)
    return needs


def shortfall_of(
    functions: Sequence[FunctionState], need: Amounts, pins: Pins, nodes: Sequence[Node]
) -> Shortfall | None:
    """Return the shortfall of functions that share a need, None if a node can hold it.

    Parameters
    ----------
    functions : sequence of FunctionState
    need : mapping
        Resource → units that a node must have in total.
    pins : Pins
    nodes : sequence of Node
    """
    allowed = [n for n in nodes if n.allowed(pins)]
    if any(n.holds(need) for n in allowed):
        return None
    nearest = max(allowed, key=lambda n: _coverage(n, need), default=None)
    if not nodes:
        reason = "the cluster has no nodes"
    elif nearest is None:
        reason = _why_not_allowed(pins, nodes)
    else:
        reason = _why_too_large(need, pins, allowed)
    asked = {name: units for name, units in need.items() if name != THREADS}
    offered = {} if nearest is None else _to_amounts({name: nearest.capacity.get(name, 0) for name in asked})
    return Shortfall(
        tuple(f.id for f in functions),
        _to_amounts(asked),
        None if nearest is None else nearest.name,
        offered,
        reason,
        node_lines(need, pins, nodes),
        _awaited(asked, pins, allowed),
    )


def _awaited(need: Amounts, pins: Pins, nodes: Sequence[Node]) -> str:
    """Describe the missing node: its name, and the resources of which no given node has enough."""
    lacking = {r: units for r, units in need.items() if all(n.capacity.get(r, 0) < units for n in nodes)}
    amounts = _to_amounts(lacking or need)
    names = " and ".join(sorted(" or ".join(map(repr, sorted(pin))) for pin in pins))
    return (f"node {names}" if pins else "a node") + (f" with {format_amounts(amounts)}" if amounts else "")


def _why_too_large(need: Amounts, pins: Pins, nodes: Sequence[Node]) -> str:
    """Say that nodes are too small, or which resources none of them has: perhaps a name is misspelt."""
    offered = {name for n in nodes for name, units in n.capacity.items() if units and name != THREADS}
    absent = [name for name in need if name not in offered and name != THREADS]
    if not absent:
        return "too large for " + ("the nodes it is pinned to" if pins else "every node")
    which = "no node it is pinned to" if pins else "no node"
    available = ", ".join(sorted(offered)) or "nothing"
    return f"{which} has {' or '.join(map(repr, absent))} (available: {available})"


def _why_not_allowed(pins: Pins, nodes: Sequence[Node]) -> str:
    """Say why no node satisfies the pins."""
    called = sorted(" or ".join(repr(name) for name in sorted(pin)) for pin in pins)
    if all(any(n.allowed(frozenset({pin})) for n in nodes) for pin in pins):
        return f"its collocation group is pinned to different nodes: {' and '.join(called)}"
    names = ", ".join(repr(n.name) for n in nodes)
    return f"pinned to {' and '.join(called)}, but the nodes are {names}"


def _coverage(node: Node, need: Amounts) -> tuple[int, float]:
    """Return how close a node comes to a need: the number of resources it satisfies, then total fractions."""
    shares = [min(1.0, node.capacity.get(name, 0) / units) for name, units in need.items()]
    return sum(share == 1.0 for share in shares), sum(shares)


def _to_amounts(amounts: Mapping[str, int]) -> dict[str, float]:
    return {name: from_units(units) for name, units in amounts.items()}


class InfeasibleQueues:
    """Queues without an eligible node.

    Parameters
    ----------
    nodes : Nodes
    timeout : float
        Seconds that a function waits for an eligible node.

    Attributes
    ----------
    timeout : float
    since : dict of Queue to (float or None)
        Queue → when it was found to have no eligible node, None before the next :meth:`expire`.
    due : float or None
        When the next queue reaches the timeout. Seconds.
    """

    def __init__(self, nodes: Nodes, timeout: float) -> None:
        self.due: float | None = None
        self._nodes = nodes
        self.timeout = timeout
        self.since: dict[Queue, float | None] = {}

    def add(self, queue: Queue) -> None:
        """Add a queue. Its timeout starts at the next :meth:`expire`."""
        self.since.setdefault(queue, None)

    def forget(self, run: Run) -> None:
        """Remove the queues of a run."""
        for queue in run.backlog.queues.values():
            self.since.pop(queue, None)

    def bound_queues(self) -> list[Queue]:
        """Return the queues of groups whose node has become too small for them."""
        return [queue for queue in self.since if queue.key.bound is not None]

    def expire(self, now: float) -> Iterator[Infeasible]:
        """Yield the functions that have reached the timeout, and remove queues that are empty or feasible."""
        self.due = None
        for queue, since in list(self.since.items()):
            if queue.head is None or queue.is_feasible(self._nodes):
                del self.since[queue]
                continue
            if queue.key.bound is not None:
                continue  # other members of the group still run on the node that has shrunk
            if since is None:
                since = self.since[queue] = now
            due = since + self.timeout
            if now >= due:
                yield self._infeasible(queue)
            elif self.due is None or due < self.due:
                self.due = due

    def _infeasible(self, queue: Queue) -> Infeasible:
        functions = list(queue)
        shortfall = shortfall_of(functions, queue.need, queue.key.pins, self._nodes.ordered)
        assert shortfall is not None
        lost = max(sum(a.outcome == "lost" for a in f.attempts) for f in functions)
        if lost > 1:  # the function itself may take its nodes down
            reason = f"{shortfall.reason}, after {lost} of its attempts were lost with their nodes"
            shortfall = replace(shortfall, reason=reason)
        return Infeasible(tuple(functions), shortfall)
