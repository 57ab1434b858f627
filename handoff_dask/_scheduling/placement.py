"""Nodes, what is booked on them, what waits for them, and which function goes to which node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import Any

from handoff_dask._model.records import Shortfall
from handoff_dask._model.resources import GPU
from handoff_dask._scheduling.durations import Durations
from handoff_dask._scheduling.feasibility import shortfall_of
from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.ledger import Node
from handoff_dask._scheduling.queues import Queue, QueueKey, Urgency, eligible_nodes, queue_key
from handoff_dask._scheduling.runs import Group, Run
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
    durations : Durations
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.nodes: dict[Any, Node] = {}
        self.durations = Durations()
        self.sorted_nodes: list[Node] = []
        self._largest: Amounts = {}
        self._topology = 0  # version of the set of nodes and their capacities
        self._version = 0  # version of what is free
        self._queues: dict[QueueKey, Queue] = {}
        self._rebound: list[Queue] = []  # got functions of groups that were bound since they were looked at
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
        node = self.nodes[name]
        node.resize(capacity)
        self._move_up(node)
        self._nodes_changed()

    def accept(self, name: Any, accepting: bool) -> None:
        """Pause a node, or let it go on."""
        node = self.nodes.get(name)
        if node is not None and node.accepting != accepting:
            node.accepting = accepting
            self._topology += 1
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
        else:
            del node.ahead[f]
        f.booked = False
        self._move_up(node)
        self._version += 1

    def _move_up(self, node: Node) -> None:
        for f in list(node.ahead):  # the node starts these now, in this order
            if not node.fits(f.cost):
                break
            del node.ahead[f]
            self.book(f, node, ahead=False)

    # ------------------------------------------------------------------ queues

    def enqueue(self, f: FunctionState) -> None:
        """Let a ready function wait for a node."""
        if f.run.active:  # a pending run's functions are queued when it starts
            self._enqueue(f)

    def _enqueue(self, f: FunctionState) -> Queue:
        key = queue_key(f)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = Queue(key)
        queue.push(f)
        return queue

    def reorder(self) -> None:
        """Take note that ranks of functions have changed."""
        for queue in self._queues.values():
            queue.reorder()

    def bind(self, group: Group, node: Node | None) -> None:
        """Put a collocated group on a node, or on none yet."""
        group.node = node
        for f in group.members:
            if f.state is State.READY and f.run.active:
                self._rebound.append(self._enqueue(f))

    # ------------------------------------------------------------------ decisions

    def place(self, now: float) -> Iterator[Place | Starved]:
        """Place everything that can be placed now.

        The most urgent function of all queues goes first; a queue whose head fits nowhere is left alone
        until something is released.
        """
        self.next_starved = None
        waiting = _Heap()
        self._rebound.clear()  # all queues are looked at now
        for queue in list(self._queues.values()):
            if queue.head() is None:
                del self._queues[queue.key]
            else:
                yield from self._consider(queue, waiting, now)
        while True:
            while self._rebound:
                queue = self._rebound.pop()
                if queue.head() is not None:
                    yield from self._consider(queue, waiting, now)
            if (first := waiting.pop()) is None:
                return
            queue = first
            if queue.blocked == self._version:
                continue
            f = queue.head()
            assert f is not None
            placed = self._place(f, queue)
            if placed is None:
                queue.blocked = self._version
                continue
            yield placed
            waiting.push(queue)

    def _consider(self, queue: Queue, waiting: _Heap, now: float) -> Iterator[Starved]:
        """Let a queue take part in a decision, unless it cannot get anything."""
        if queue.topology != self._topology:
            queue.eligible = eligible_nodes(queue.key, self.sorted_nodes)
            queue.topology = self._topology
        if queue.eligible:
            queue.starved_since = None
            if queue.blocked != self._version:
                waiting.push(queue)
        elif queue.key.bound is not None:
            # Their node has become too small. They move as soon as none of their group is there.
            for group in {f.group: None for f in queue}:
                if group is not None and not any(f.state is State.RUNNING for f in group.members):
                    self.bind(group, None)
        else:
            yield from self._starved(queue, now)

    def _place(self, f: FunctionState, queue: Queue) -> Place | None:
        limits = f.run.limits
        if limits is not None and not limits.fits(f.limit_cost):
            return None
        cost = queue.cost
        free = [n for n in queue.eligible if n.accepting and n.fits(cost) and (not n.ahead or n.spares(cost))]
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
        seconds = self.durations.most(f.kind.code)
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
            nodes = eligible_nodes(queue_key(other), self.sorted_nodes)
            nodes = [n for n in nodes if n.accepting] or nodes
            nodes = [n for n in nodes if n.fits(group.need)] or nodes
            if not nodes:
                return None
            self.bind(group, STRATEGIES[f.run.spec.strategy](group.need, nodes, self._largest))
        return None if group.node is None else group.node.name

    def _starved(self, queue: Queue, now: float) -> Iterator[Starved]:
        """The functions of a queue that no node could ever hold, once they have waited long enough."""
        if queue.starved_since is None:
            queue.starved_since = now
        due = queue.starved_since + self.settings.node_timeout
        if now < due:
            self.next_starved = due if self.next_starved is None else min(due, self.next_starved)
            return
        by_run: dict[Run, list[FunctionState]] = {}
        for f in queue:
            by_run.setdefault(f.run, []).append(f)
        for functions in by_run.values():
            shortfall = shortfall_of(functions, dict(queue.key.need), queue.key.pins, self.sorted_nodes)
            assert shortfall is not None
            lost = max(sum(a.outcome == "lost" for a in f.attempts) for f in functions)
            if lost > 1:  # it may be what takes the nodes down
                reason = f"{shortfall.reason}, after {lost} of its attempts were lost with their nodes"
                shortfall = replace(shortfall, reason=reason)
            yield Starved(tuple(functions), shortfall)


class _Heap:
    """Queues that take part in a decision; the one with the most urgent function comes first."""

    __slots__ = ("_entries", "_pushed")

    def __init__(self) -> None:
        self._entries: list[tuple[Urgency, int, Queue]] = []
        self._pushed = 0

    def push(self, queue: Queue) -> None:
        """Add a queue, if there is anything in it."""
        if queue.head() is not None:
            self._pushed += 1
            heappush(self._entries, (queue.urgency, self._pushed, queue))

    def pop(self) -> Queue | None:
        """Take the first queue away; it has a function. None when there is none left."""
        while self._entries:
            urgency, _, queue = heappop(self._entries)
            if queue.head() is not None and queue.urgency == urgency:
                return queue
            self.push(queue)  # its head was bound, or its run has ended
        return None
