"""Functions that no node can hold, and functions that their run's limits never allow."""

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
    """What of a run no node could hold even if nothing else ran there: one for each kind of need."""
    found = []
    for (need, pins), functions in _by_need(run.functions).items():
        amounts = dict(need)
        if not pins and nodes.can_hold(amounts):
            continue  # without a look at each node
        shortfall = shortfall_of(functions, amounts, pins, nodes.ordered)
        if shortfall is not None:
            found.append(shortfall)
    return tuple(found)


def find_limit_shortfalls(run: Run) -> tuple[Shortfall, ...]:
    """What of a run its own limits never allow, whatever nodes there are: one for each kind."""
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
            reason = f"asks for more than the run's limits, {limits}, allow at once"
            found.append(Shortfall(tuple(f.id for f in functions), asked, None, {}, reason))
    return tuple(found)


def _by_need(functions: Iterable[FunctionState]) -> dict[tuple[Need, Pins], list[FunctionState]]:
    needs: dict[tuple[Need, Pins], list[FunctionState]] = {}
    known: dict[int, tuple[Need, Pins]] = {}  # by identity: few kinds, many functions
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
    """The shortfall of functions with this need, None when some node can hold it."""
    allowed = [n for n in nodes if n.allowed(pins)]
    if any(n.holds(need) for n in allowed):
        return None
    nearest = max(allowed, key=lambda n: _coverage(n, need), default=None)
    if not nodes:
        reason = "the cluster has no nodes"
    elif nearest is None:
        reason = _why_not_allowed(pins, nodes)
    elif pins:
        reason = "too much for the nodes it is pinned to"
    else:
        reason = "too much for every node"
    if nearest is not None:
        reason += _what_none_has(need, allowed)
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
    """The node that is missing: its name, and what it must have that none of these nodes has enough of."""
    lacking = {r: units for r, units in need.items() if all(n.capacity.get(r, 0) < units for n in nodes)}
    amounts = _to_amounts(lacking or need)
    names = " and ".join(sorted(" or ".join(map(repr, sorted(pin))) for pin in pins))
    return (f"node {names}" if pins else "a node") + (f" with {format_amounts(amounts)}" if amounts else "")


def _what_none_has(need: Amounts, nodes: Sequence[Node]) -> str:
    """Resources that are asked for and that none of the nodes has: a misspelt one, perhaps."""
    offered = {name for n in nodes for name, units in n.capacity.items() if units and name != THREADS}
    absent = [name for name in need if name not in offered and name != THREADS]
    if not absent:
        return ""
    known = f"they have {', '.join(sorted(offered))}" if offered else "they have nothing"
    return f": none has {' or '.join(map(repr, absent))}, {known}"


def _why_not_allowed(pins: Pins, nodes: Sequence[Node]) -> str:
    called = sorted(" or ".join(repr(name) for name in sorted(pin)) for pin in pins)
    if all(any(n.allowed(frozenset({pin})) for n in nodes) for pin in pins):
        return f"its collocated functions are pinned to different nodes, {' and '.join(called)}"
    names = ", ".join(repr(n.name) for n in nodes)
    return f"pinned to {' and '.join(called)}, but the nodes are {names}"


def _coverage(node: Node, need: Amounts) -> tuple[int, float]:
    """How near a node comes: resources that it has enough of, then the shares it has of the others."""
    shares = [min(1.0, node.capacity.get(name, 0) / units) for name, units in need.items()]
    return sum(share == 1.0 for share in shares), sum(shares)


def _to_amounts(amounts: Mapping[str, int]) -> dict[str, float]:
    return {name: from_units(units) for name, units in amounts.items()}


class InfeasibleQueues:
    """Queues whose functions no node can hold.

    Parameters
    ----------
    nodes : Nodes
    timeout : float
        Seconds that a function waits for a node that can hold it.

    Attributes
    ----------
    timeout : float
    due : float or None
        When the next functions will have waited for so long.
    """

    def __init__(self, nodes: Nodes, timeout: float) -> None:
        self.due: float | None = None
        self._nodes = nodes
        self.timeout = timeout
        self._since: dict[Queue, float | None] = {}

    def __bool__(self) -> bool:
        return bool(self._since) or self.due is not None

    def add(self, queue: Queue) -> None:
        """Add a queue that no node can hold; its time begins with the next :meth:`fail`."""
        self._since.setdefault(queue, None)

    def forget(self, run: Run) -> None:
        """Forget the queues of a run."""
        for queue in run.backlog.queues.values():
            self._since.pop(queue, None)

    def bound_queues(self) -> list[Queue]:
        """Queues of groups whose node has become too small for them."""
        return [queue for queue in self._since if queue.key.bound is not None]

    def expire(self, now: float) -> Iterator[Infeasible]:
        """The functions that have waited long enough."""
        self.due = None
        for queue, since in list(self._since.items()):
            if queue.head is None or queue.is_feasible(self._nodes):
                del self._since[queue]
                continue
            if queue.key.bound is not None:
                continue  # others of its group run on their node, which is too small now
            if since is None:
                since = self._since[queue] = now
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
        if lost > 1:  # it may be what takes the nodes down
            reason = f"{shortfall.reason}, after {lost} of its attempts were lost with their nodes"
            shortfall = replace(shortfall, reason=reason)
        return Infeasible(tuple(functions), shortfall)
