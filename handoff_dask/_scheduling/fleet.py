"""All nodes, sorted so that a function that could go anywhere looks at few of them.

Nodes of equal capacity with equal amounts in use are interchangeable: they lie on one *shelf*, and only the
first of them is looked at. A thousand nodes that run functions of a few kinds lie on some dozens of shelves.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Mapping
from heapq import heappop, heappush
from operator import attrgetter
from typing import Any

from handoff_dask._model.resources import CPU, GPU, THREADS, UNIT
from handoff_dask._scheduling.ledger import Node
from handoff_dask._scheduling.queues import Queue, QueueKey, eligible_nodes
from handoff_dask._scheduling.spec import Amounts, Pins
from handoff_dask._scheduling.strategies import slack, units_of

_slack_of = attrgetter("slack")
_position_of = attrgetter("position")

#: What differs by less in slack has the same.
_SAME = 1e-9

#: So many shelves that nothing lies on any more are remembered at most, and as many as there are others.
_REMEMBERED = 256


class Shelf:
    """Interchangeable nodes, by their positions.

    Once the last one is taken away it is not used any more.

    Attributes
    ----------
    slack : float
        What each of them has left; see :func:`~handoff_dask._scheduling.strategies.slack`.
    count : int
        How many there are.
    """

    __slots__ = ("_heap", "_listed", "count", "key", "slack")

    def __init__(self, key: tuple[Any, ...], slack: float) -> None:
        self.key = key
        self.slack = slack
        self.count = 0
        self._heap: list[int] = []
        self._listed: set[int] = set()

    def put(self, node: Node) -> None:
        """Add a node."""
        self.count += 1
        node.shelf = self
        if node.position not in self._listed:
            self._listed.add(node.position)
            heappush(self._heap, node.position)

    def first(self, nodes: list[Node]) -> Node:
        """The first of the nodes that lie here; there must be one."""
        heap = self._heap
        while nodes[heap[0]].shelf is not self:  # it has been taken away meanwhile
            self._listed.remove(heappop(heap))
        return nodes[heap[0]]


class Fleet:
    """The nodes there are.

    Attributes
    ----------
    nodes : dict of name to Node
    topology : int
        Grows whenever a node joins, leaves, changes its capacity, pauses or goes on.
    """

    def __init__(self) -> None:
        self.nodes: dict[Any, Node] = {}
        self.topology = 0
        self._stale = False
        self._ordered: list[Node] = []
        self._unit: dict[str, float] = {}
        self._called: dict[str, list[Node]] = {}
        self._capacities: list[Node] = []  # one node of each capacity
        self._shelves: dict[tuple[Any, ...], Shelf] = {}
        self._by_slack: list[Shelf] = []
        self._made: list[Shelf] = []  # all shelves since the number _first_made, in order
        self._first_made = 0
        self._moved: dict[Node, None] = {}
        self._holders: dict[frozenset[Any], frozenset[Node]] = {}

    @property
    def ordered(self) -> list[Node]:
        """The nodes by name."""
        if self._stale:
            self._sort()
        return self._ordered

    @property
    def unit(self) -> Mapping[str, float]:
        """See :func:`~handoff_dask._scheduling.strategies.units_of`."""
        if self._stale:
            self._sort()
        return self._unit

    def changed(self) -> None:
        """Nodes or capacities are others now."""
        self.topology += 1
        self._stale = True

    def _sort(self) -> None:
        self._stale = False
        self._ordered = sorted(self.nodes.values(), key=lambda n: str(n.name))
        self._called = {}
        self._shelves = {}
        self._by_slack = []
        self._first_made += len(self._made) + 1  # nothing is left of what queues have seen
        self._made = []
        self._holders = {}
        self._moved = dict.fromkeys(self._ordered)
        different: dict[Any, Node] = {}
        for position, node in enumerate(self._ordered):
            node.position = position
            node.shelf = None
            for alias in node.aliases:
                self._called.setdefault(alias, []).append(node)
            node.form = tuple(sorted(node.capacity.items()))
            different.setdefault(node.form, node)
        self._capacities = list(different.values())
        self._unit = units_of([node.capacity for node in self._capacities])

    def moved(self, node: Node) -> None:
        """What is in use on a node, or whether it accepts functions, has changed."""
        self._moved[node] = None

    def _pinned(self, pins: Pins) -> set[Node]:
        """Nodes that all pins allow."""
        if self._stale:
            self._sort()
        called = self._called
        return set.intersection(*({n for alias in pin for n in called.get(alias, ())} for pin in pins))

    def eligible(self, key: QueueKey) -> list[Node]:
        """Nodes that could hold functions of this key if nothing else ran there, by name."""
        nodes = self.ordered
        if key.bound is not None:
            nodes = [node for node in [self.nodes.get(key.bound)] if node is not None]
        elif key.pins:
            nodes = sorted(self._pinned(key.pins), key=_position_of)
        return eligible_nodes(key, nodes)

    def holders(self, need: Amounts, pins: Pins) -> frozenset[Node] | None:
        """Nodes that could hold this; None when all could."""
        if pins:
            return frozenset(n for n in self._pinned(pins) if n.holds(need))
        capacities = self._different()
        forms = frozenset(node.form for node in capacities if node.holds(need))
        if len(forms) == len(capacities):
            return None
        found = self._holders.get(forms)
        if found is None:
            found = self._holders[forms] = frozenset(n for n in self.ordered if n.form in forms)
        return found

    def capacity(self, name: str) -> int:
        """Units of a resource that all nodes together have."""
        return sum(node.capacity.get(name, 0) for node in self.ordered)

    def can_hold(self, need: Amounts) -> bool:
        """Whether some node could hold this if nothing else ran there."""
        return any(node.holds(need) for node in self._different())

    def _different(self) -> list[Node]:
        """One node of each capacity."""
        if self._stale:
            self._sort()
        return self._capacities

    def fitting(self, queue: Queue) -> Iterator[Node]:
        """Nodes where a queue's cost is free and that can hold its need: the first of each shelf.

        They come in the order of :func:`~handoff_dask._scheduling.strategies.best_fit`.
        """
        nodes = self.ordered
        equal: list[Node] = []
        level = 0.0
        for shelf in self._with_room(queue):
            if not shelf.count:
                continue
            if equal and shelf.slack > level + _SAME:
                yield from sorted(equal, key=_position_of) if len(equal) > 1 else equal
                equal = []
            equal.append(shelf.first(nodes))
            level = shelf.slack
        yield from sorted(equal, key=_position_of) if len(equal) > 1 else equal

    def _with_room(self, queue: Queue) -> list[Shelf]:
        """Shelves whose nodes have room for a queue's functions, by slack; some may be empty by now.

        What lies on a shelf stays as it is, so that a queue looks at each shelf once.
        """
        nodes = self.ordered
        if self._moved:
            self._put_away()
        shelves = queue.shelves
        if shelves is None or queue.seen < self._first_made:
            shelves, new = [], self._by_slack
        else:
            new = self._made[queue.seen - self._first_made :]
        cost, need = queue.cost, queue.need
        found = []
        for shelf in new:
            if shelf.count:
                node = shelf.first(nodes)
                if node.takes(cost) and (need is cost or node.holds(need)):
                    found.append(shelf)
        queue.seen = self._first_made + len(self._made)
        if found:
            shelves = [shelf for shelf in shelves if shelf.count]
            shelves += found
            shelves.sort(key=_slack_of)
        queue.shelves = shelves
        return shelves

    def _put_away(self) -> None:
        for node in self._moved:
            shelf = node.shelf
            if self.nodes.get(node.name) is not node:
                continue
            if node.accepting and node.free(THREADS) >= UNIT:
                used = node.used
                key: tuple[Any, ...] = (node.form, *[used.get(name, 0) for name, _ in node.form])
                if GPU in node.capacity:
                    key += tuple(sorted(node.devices.free))
                if node.ahead:  # see Node.spares()
                    key += (node.position, any(CPU in f.cost for f in node.ahead))
            else:
                key = ()  # every function takes a thread
            if shelf is not None:
                if shelf.key == key:
                    continue
                shelf.count -= 1
                node.shelf = None
                if not shelf.count:
                    del self._shelves[shelf.key]
                    self._by_slack.remove(shelf)
            if key:
                found = self._shelves.get(key)
                if found is None:
                    found = self._shelves[key] = Shelf(key, slack(node, self._unit))
                    insort(self._by_slack, found, key=_slack_of)
                    self._made.append(found)
                found.put(node)
        self._moved.clear()
        if len(self._made) > _REMEMBERED + 2 * len(self._by_slack):
            self._first_made += len(self._made)
            self._made = []
