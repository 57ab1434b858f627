"""Nodes, what is booked on them, what waits for them, and which function goes to which node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any

from handoff_dask._model.records import Shortfall
from handoff_dask._model.resources import GPU
from handoff_dask._scheduling.feasibility import shortfall_of
from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.ledger import Node
from handoff_dask._scheduling.queues import Queue, QueueKey, eligible_nodes, queue_key
from handoff_dask._scheduling.runs import Group
from handoff_dask._scheduling.spec import Amounts
from handoff_dask._scheduling.strategies import STRATEGIES


@dataclass(frozen=True, slots=True)
class Place:
    """Run ``function`` on ``node``. It has been booked there already."""

    function: FunctionState
    node: Node
    peer: Any = None  # name of the node of the other half of a transfer


@dataclass(frozen=True, slots=True)
class Starved:
    """``functions`` waited too long for a node that could ever hold them."""

    functions: tuple[FunctionState, ...]
    shortfall: Shortfall


@dataclass(frozen=True, slots=True)
class Settings:
    """What an administrator can set.

    Attributes
    ----------
    node_timeout : float
        Seconds that a function waits when no node is left that could ever hold it.
    ahead_horizon : float
        Seconds of work that a node may hold ahead of time, so that short functions do not each wait for a
        message to the scheduler and back. 0 turns sending ahead off.
    ahead_limit : int
        Functions that a node may hold ahead of time at most.
    """

    node_timeout: float = 30.0
    ahead_horizon: float = 0.01
    ahead_limit: int = 40


#: No function is counted as shorter: about what a worker needs to start one. Seconds.
_SHORTEST = 0.00025


class Placement:
    """The ledger of all nodes, and the queues in front of them.

    Attributes
    ----------
    nodes : dict of name to Node
    durations : dict of str to float
        Seconds that functions of this code took lately.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.nodes: dict[Any, Node] = {}
        self.durations: dict[str, float] = {}
        self.sorted_nodes: list[Node] = []
        self._largest: Amounts = {}
        self._topology = 0  # version of the set of nodes and their capacities
        self._version = 0  # version of what is free
        self._queues: dict[QueueKey, Queue] = {}
        #: When the next queue will have starved.
        self.next_starved: float | None = None

    # ------------------------------------------------------------------ nodes

    def join(self, node: Node) -> None:
        """Add a node."""
        self.nodes[node.name] = node
        self._nodes_changed()

    def leave(self, name: Any) -> Node | None:
        """Take a node away. What is booked there is for the caller to release."""
        node = self.nodes.pop(name, None)
        if node is not None:
            node.accepting = False
            self._nodes_changed()
        return node

    def resize(self, name: Any, capacity: Amounts) -> None:
        """Change a node's capacity."""
        self.nodes[name].resize(capacity)
        self._nodes_changed()

    def accept(self, name: Any, accepting: bool) -> None:
        """Pause a node, or let it go on."""
        node = self.nodes.get(name)
        if node is not None and node.accepting != accepting:
            node.accepting = accepting
            self._version += 1

    def _nodes_changed(self) -> None:
        self.sorted_nodes = sorted(self.nodes.values(), key=lambda n: str(n.name))
        largest: dict[str, int] = {}
        for node in self.sorted_nodes:
            for name, units in node.capacity.items():
                largest[name] = max(units, largest.get(name, 0))
        self._largest = largest
        self._topology += 1
        self._version += 1

    def learn(self, code: str, seconds: float) -> None:
        """Remember how long a function took."""
        # Up at once, down slowly: a function is only sent ahead when all of its kind were short lately.
        known = self.durations.get(code, seconds)
        self.durations[code] = max(seconds, known + 0.1 * (seconds - known))

    # ------------------------------------------------------------------ ledger

    def book(self, f: FunctionState, node: Node, *, ahead: bool) -> None:
        """Book a function on a node, or note it as sent ahead."""
        f.node = node
        f.booked = not ahead
        if ahead:
            node.ahead[f] = None
        else:
            node.acquire(f.cost)
            node.running[f] = None
            if GPU in f.cost:
                f.devices = node.devices.choose(f.cost[GPU])
                assert f.devices is not None
                node.devices.take(f.devices)
            if f.run.limits is not None:
                f.run.limits.acquire(f.limit_cost)

    def release(self, f: FunctionState) -> None:
        """Give back what a function holds; functions sent ahead move up."""
        node = f.node
        assert node is not None
        if f.booked:
            del node.running[f]
            node.release(f.cost)
            if f.devices:
                node.devices.give_back(f.devices)
                f.devices = None
            if f.run.limits is not None:
                f.run.limits.release(f.limit_cost)
            for other in list(node.ahead):  # the node starts these now, in this order
                if not node.fits(other.cost):
                    break
                del node.ahead[other]
                self.book(other, node, ahead=False)
        else:
            del node.ahead[f]
        f.booked = False
        self._version += 1

    # ------------------------------------------------------------------ queues

    def enqueue(self, f: FunctionState) -> None:
        """Let a ready function wait for a node."""
        if not f.run.active:
            return  # a pending run's functions are queued when it starts
        key = queue_key(f)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = Queue(key)
        queue.push(f)

    def bind(self, group: Group, node: Node | None) -> None:
        """Put a collocated group on a node, or on none yet."""
        group.node = node
        for f in group.members:
            if f.state is State.READY:
                self.enqueue(f)

    # ------------------------------------------------------------------ decisions

    def place(self, now: float) -> Iterator[Place | Starved]:
        """Place everything that can be placed now.

        The most urgent function of all queues goes first; a queue whose head fits nowhere is left alone
        until something is released.
        """
        self.next_starved = None
        waiting: list[tuple[Any, int, Queue]] = []
        empty: list[QueueKey] = []
        for n, queue in enumerate(list(self._queues.values())):
            if queue.head() is None:
                empty.append(queue.key)
                continue
            if queue.topology != self._topology:
                queue.eligible = eligible_nodes(queue.key, self.sorted_nodes)
                queue.topology = self._topology
            if not queue.eligible:
                if (starved := self._starved(queue, now)) is not None:
                    yield starved
                continue
            queue.starved_since = None
            if queue.blocked != self._version:
                waiting.append((queue.urgency, n, queue))
        for key in empty:
            del self._queues[key]
        heapify(waiting)
        while waiting:
            _, n, queue = heappop(waiting)
            f = queue.head()
            if f is None:
                continue
            placed = self._place(f, queue)
            if placed is None:
                queue.blocked = self._version
                continue
            yield placed
            if queue.head() is not None:
                heappush(waiting, (queue.urgency, n, queue))

    def _place(self, f: FunctionState, queue: Queue) -> Place | None:
        limits = f.run.limits
        if limits is not None and not limits.fits(f.limit_cost):
            return None
        cost = queue.cost
        free = [n for n in queue.eligible if n.accepting and not n.ahead and n.fits(cost)]
        if free:
            node = free[0] if len(free) == 1 else STRATEGIES[queue.key.strategy](cost, free, self._largest)
        else:
            ahead = self._node_ahead(f, queue)
            if ahead is None:
                return None
            node = ahead
        peer = self._peer(f, node)
        self.book(f, node, ahead=not free)
        f.move(State.RUNNING)
        if f.group is not None and f.group.node is None:
            self.bind(f.group, node)
        return Place(f, node, peer)

    def _node_ahead(self, f: FunctionState, queue: Queue) -> Node | None:
        """A node to which a short function can be sent before there is room for it."""
        seconds = self.durations.get(f.kind.code)
        horizon = self.settings.ahead_horizon
        if (
            seconds is None
            or seconds > horizon
            or f.run.limits is not None
            or GPU in queue.cost
            or (f.group is not None and f.group.node is None)
        ):
            return None
        best: Node | None = None
        for node in queue.eligible:
            if not node.accepting or not node.enforces(queue.cost):
                continue
            at_once = min(node.capacity[name] // units for name, units in queue.cost.items())
            room = min(self.settings.ahead_limit, at_once * int(horizon / max(seconds, _SHORTEST)))
            if len(node.ahead) < room and (best is None or len(node.ahead) < len(best.ahead)):
                best = node
        return best

    def _peer(self, f: FunctionState, node: Node) -> Any:
        """Where the other half of a transfer is; a serializer's is decided now, since it is told."""
        number = f.run.spec.peers.get(f.number)
        if number is None:
            return None
        other = f.run.functions[number]
        if number < f.number:  # f is the deserializer
            return None if other.node is None else other.node.name
        group = other.group
        if group is None:
            return None
        if group is f.group:
            return node.name
        if group.node is None:
            need = tuple(sorted(group.need.items()))
            key = queue_key(other)._replace(need=need)
            nodes = eligible_nodes(key, self.sorted_nodes)
            fitting = [n for n in nodes if n.accepting and n.fits(group.need)] or nodes
            if not fitting:
                return None
            self.bind(group, STRATEGIES[f.run.spec.strategy](group.need, fitting, self._largest))
        return None if group.node is None else group.node.name

    def _starved(self, queue: Queue, now: float) -> Starved | None:
        """The functions of a queue that no node could ever hold, once they have waited long enough."""
        if queue.starved_since is None:
            queue.starved_since = now
        due = queue.starved_since + self.settings.node_timeout
        if now < due:
            self.next_starved = due if self.next_starved is None else min(due, self.next_starved)
            return None
        functions = tuple(queue)
        shortfall = shortfall_of(functions, dict(queue.key.need), queue.key.pins, self.sorted_nodes)
        return None if shortfall is None else Starved(functions, shortfall)
