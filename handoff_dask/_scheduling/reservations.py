"""Room that is kept free on nodes, for functions that need it more than those that would take it now.

Two kinds of functions get room kept:

* those about to be ready, whose inputs are being computed, when the few nodes that can hold them will be busy
  until the end of the run anyway: what takes such a node now delays the run by as long as it stays there;
* the most urgent function that waits, when it has waited for long while less urgent ones took what it needs
  bit by bit.

Less urgent functions may still go where room is kept when they are expected to have ended in time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from handoff_dask._scheduling.fleet import Fleet
from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.ledger import Node
from handoff_dask._scheduling.queues import Queue, Urgency, urgency_of
from handoff_dask._scheduling.runs import Run
from handoff_dask._scheduling.spec import Amounts

#: Room is kept for functions of no more kinds at once.
_MOST_KINDS = 16


class _Soon:
    """Functions of one kind that are about to be ready, and the nodes that they will need.

    Attributes
    ----------
    functions : dict of FunctionState
        The first to be ready come first, more or less.
    before : dict of Node to int
        How many of them the nodes before this one take.
    """

    __slots__ = ("at", "before", "cost", "expected", "functions", "turn", "urgency")

    def __init__(self, nodes: Iterable[Node], cost: Amounts) -> None:
        self.functions: dict[FunctionState, None] = {}
        self.cost = cost
        self.before: dict[Node, int] = {}
        count = 0
        for node in sorted(nodes, key=lambda n: n.position):
            self.before[node] = count
            count += node.at_once(cost)
        self.turn = -1
        self.urgency: Urgency = (0, 0, 0, 0, 0, 0)
        self.expected = self.at = 0.0

    def refresh(self, turn: int, now: float) -> bool:
        """See when the first of them is expected; False when there is none any more."""
        if self.turn != turn:
            for f in list(self.functions):
                if f.state is State.WAITING and _is_soon(f):
                    break
                del self.functions[f]
            else:
                return False
            self.turn = turn
            self.urgency = urgency_of(f)
            inputs = [g for g in _inputs(f) if g.state is State.RUNNING]
            self.expected = max((_end(g, -math.inf) for g in inputs), default=now)
            self.at = max((_end(g, now) for g in inputs), default=now)
        return bool(self.functions)

    def kept(self, node: Node) -> int:
        """For how many of them a node is to have room."""
        before = self.before.get(node)
        if before is None:
            return 0
        return max(0, min(len(self.functions) - before, node.at_once(self.cost)))


class Reservations:
    """What is kept for whom.

    Parameters
    ----------
    fleet : Fleet

    Attributes
    ----------
    recheck : float or None
        When functions that were turned away could be let in although nothing happens.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._soon: dict[tuple[Run, int], _Soon] = {}
        self._kept: tuple[FunctionState, Node] | None = None
        self._denied: dict[Node, None] = {}
        self._turn = 0
        self.recheck: float | None = None

    @property
    def active(self) -> bool:
        """Whether room is kept for anybody."""
        return bool(self._soon) or self._kept is not None

    @property
    def kept_node(self) -> Node | None:
        """The node that is kept for the most urgent function."""
        return None if self._kept is None else self._kept[1]

    def begin(self, now: float) -> dict[Node, None]:
        """A decision begins: the nodes from which functions were turned away that may go there now."""
        self._turn += 1
        if self._denied:
            self._give_up(now)
        if not self._denied or (self.active and (self.recheck is None or now < self.recheck)):
            return {}
        denied, self._denied = self._denied, {}
        self.recheck = None
        return denied

    # ------------------------------------------------------------------ for whom

    def started(self, f: FunctionState) -> None:
        """A function was placed: those that need only its result are ready soon."""
        if self._kept is not None and self._kept[0] is f:
            self.keep_for_nobody()
        run = f.run
        scarce = run.ranking.scarce
        if not scarce:
            return
        for n in run.spec.dependents[f.number]:
            kind = run.spec.kind_of[n]
            nodes = scarce.get(kind)
            g = run.functions[n]
            if nodes is None or g.group is not None or g.state is not State.WAITING or not _is_soon(g):
                continue
            soon = self._soon.get((run, kind))
            if soon is None:
                if len(self._soon) >= _MOST_KINDS:
                    continue
                there = [n for n in nodes if self._fleet.nodes.get(n.name) is n]  # others left meanwhile
                if not there:
                    continue
                soon = self._soon[run, kind] = _Soon(there, g.cost)
            soon.functions[g] = None

    def ready(self, f: FunctionState) -> None:
        """A function is ready: it takes the room itself."""
        key = (f.run, f.run.spec.kind_of[f.number])
        soon = self._soon.get(key)
        if soon is not None:
            soon.functions.pop(f, None)
            if not soon.functions:
                del self._soon[key]

    def changed(self) -> None:
        """Nodes are others now."""
        self._soon.clear()
        self._kept = None

    def forget(self, run: Run) -> None:
        """Nothing is kept for a run any more."""
        for key in [key for key in self._soon if key[0] is run]:
            del self._soon[key]
        if self._kept is not None and self._kept[0].run is run:
            self.keep_for_nobody()

    def keep_for(self, f: FunctionState, queue: Queue) -> None:
        """Keep the node free that comes nearest to holding a function that has waited for long."""
        if self._kept is not None and self._kept[0] is f:
            return
        self.keep_for_nobody()
        nodes = queue.eligible if queue.restricted else self._fleet.ordered
        candidates = [n for n in nodes if n.accepting and n.holds(queue.need)]
        if candidates:
            self._kept = f, max(candidates, key=lambda n: _share(n, queue.cost))

    def _give_up(self, now: float) -> None:
        """Keep nothing for those that will not come: what they need failed, or their run has ended."""
        if self._kept is not None and self._kept[0].state is not State.READY:
            self.keep_for_nobody()
        gone = [key for key, soon in self._soon.items() if not soon.refresh(self._turn, now)]
        for key in gone:
            del self._soon[key]
            self.recheck = -math.inf

    def keep_for_nobody(self) -> None:
        """Nothing is kept any more for a function that had waited for long."""
        if self._kept is not None:
            self._denied[self._kept[1]] = None
            self.recheck = -math.inf
            self._kept = None

    # ------------------------------------------------------------------ from whom

    def denies(self, f: FunctionState, urgency: Urgency, node: Node, now: float) -> bool:
        """Whether room on a node is kept for more urgent functions than this one, which would take it."""
        if self._kept is not None and node is self._kept[1]:
            waiting = self._kept[0]
            if waiting.state is not State.READY:
                self.keep_for_nobody()
            elif urgency_of(waiting) < urgency and not _both_fit(node, f.cost, waiting.cost, 1, ()):
                self._denied[node] = None
                return True
        seconds = None
        for key, soon in list(self._soon.items()):
            count = soon.kept(node)
            if not count:
                continue
            if not soon.refresh(self._turn, now):
                del self._soon[key]
                continue
            if seconds is None:
                seconds = f.run.ranking.expected(f)
            if soon.urgency >= urgency or not seconds or now + seconds < soon.at:
                continue
            if _both_fit(node, f.cost, soon.cost, count, ()):
                continue
            ending = [g for g in node.running if _end(g, now) <= soon.at]
            if not ending or not _both_fit(node, f.cost, soon.cost, count, ending):
                self._denied[node] = None
                again = max(soon.expected + seconds, now + seconds / 4)
                if self.recheck is None or again < self.recheck:
                    self.recheck = again
                return True
        return False


def _both_fit(node: Node, cost: Amounts, other: Amounts, count: int, ending: Iterable[FunctionState]) -> bool:
    """Whether a node has room for a function and so many others, after some functions have ended."""
    for name, units in other.items():
        free = node.free(name) - cost.get(name, 0) + sum(g.cost.get(name, 0) for g in ending)
        if free < count * units:
            return False
    return True


def _inputs(f: FunctionState) -> list[FunctionState]:
    functions = f.run.functions
    return [functions[n] for n in f.run.inputs[f.number]]


def _is_soon(f: FunctionState) -> bool:
    """Whether all that a function needs is there or being computed."""
    return all(g.state in (State.RUNNING, State.FINISHED) for g in _inputs(f))


def _end(f: FunctionState, now: float) -> float:
    """When a function that runs is expected to end; one that is late, later by as much again."""
    end = f.placed + f.run.ranking.expected(f)
    return end if end >= now else now + (now - end)


def _share(node: Node, cost: Amounts) -> float:
    """How much of a cost is free on a node."""
    return min(min(1.0, node.free(name) / units) for name, units in cost.items())
