"""Placement: which ready function goes to which node.

The most urgent function goes first, to the node that the allocator of its run chooses; a queue whose first
function fits nowhere waits until capacity is freed, and is compared with that only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import Any

from handoff_dask._scheduling.allocators import ALLOCATORS, Rejected, best_fit, move_costs, propose
from handoff_dask._scheduling.claims import Claims
from handoff_dask._scheduling.decisions import Place, Settings, Starved
from handoff_dask._scheduling.estimates import Estimates
from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.ledger import Ledger
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.nodes import Nodes
from handoff_dask._scheduling.prefetch import Prefetch
from handoff_dask._scheduling.queues import Entry, Queue, sort_key
from handoff_dask._scheduling.room import Room
from handoff_dask._scheduling.runs import Group, Run
from handoff_dask._scheduling.spec import Amounts
from handoff_dask._scheduling.starved import StarvedQueues
from handoff_dask._scheduling.waiting import WaitingRuns

#: After so many functions that a claim kept from a node, a decision leaves that node alone.
_MOST_REFUSALS = 32

#: A run that takes part in a decision: its place in the order, a number that tells such entries apart, the
#: run, and its most urgent function that may fit with its queue. None for a run with an allocator of its own.
_Candidate = tuple[tuple[float, float, int, int], int, Run, tuple[Entry, Queue] | None]


class Placement:
    """The nodes, the ledger and the runs with ready functions.

    Attributes
    ----------
    nodes : Nodes
    ledger : Ledger
    estimates : Estimates
    claims : Claims
    starved : StarvedQueues
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.nodes = Nodes()
        self.ledger = Ledger(self.nodes)
        self.estimates = Estimates(settings.prefetch_horizon)
        self.claims = Claims(self.nodes)
        self._prefetch = Prefetch(settings.prefetch_horizon, settings.prefetch_limit, self.estimates)
        self._waiting = WaitingRuns()
        self.ledger.moved = self._waiting.moved
        self.starved = StarvedQueues(self.nodes, settings.node_timeout)
        self._version = -1  # of the nodes that the shares of runs are for
        self._shrunk = False  # a node has left, paused or become smaller
        self._offered = 0
        self._idle: list[Run] = []  # runs that turned out to have no ready function
        self._overtakes = 0  # placements until the most urgent function that waits is looked at
        self._most_urgent: FunctionState | None = None

    # ------------------------------------------------------------------ nodes

    def join(self, node: Node) -> None:
        """Add a node."""
        self.nodes.by_name[node.name] = node
        self.nodes.invalidate()
        self.ledger.freed[node] = None

    def leave(self, name: Any) -> Node | None:
        """Remove a node. What is booked there is for the caller to release."""
        node = self.nodes.by_name.pop(name, None)
        if node is not None:
            node.accepting = False
            self._shrunk = True
            for orphan in list(node.orphans):
                self.ledger.release_orphan(orphan)
            self.nodes.invalidate()
        return node

    def resize(self, name: Any, capacity: Amounts) -> None:
        """Change a node's capacity."""
        self.ledger.resize(self.nodes.by_name[name], capacity)
        self._shrunk = True
        self.nodes.invalidate()

    def set_external(self, name: Any, amounts: Amounts) -> None:
        """Record what Dask's own tasks hold of a node."""
        node = self.nodes.by_name.get(name)
        if node is not None:
            self.ledger.set_external(node, amounts)

    def accept(self, name: Any, accepting: bool) -> None:
        """Pause or resume a node."""
        node = self.nodes.by_name.get(name)
        if node is not None and node.accepting != accepting:
            node.accepting = accepting
            self._shrunk |= not accepting
            self.ledger.freed[node] = None
            self.nodes.invalidate()

    # ------------------------------------------------------------------ runs and functions

    def enqueue(self, f: FunctionState) -> None:
        """Let a ready function wait for a node."""
        run = f.run
        if not run.active:  # a pending run's functions are queued when it starts
            return
        if self.claims.any:
            self.claims.ready(f)
        queue = run.backlog.push(f)
        self._waiting.add(run)
        if not queue.clean:
            self._waiting.dirty[run] = None
        if not queue.is_possible(self.nodes):
            self.starved.add(queue)

    def ended(self, run: Run) -> None:
        """Forget what waits in a run's queues; there are new ones if a result is lost afterwards."""
        self.claims.forget(run)
        if self._most_urgent is not None and self._most_urgent.run is run:
            self._most_urgent = None
        self.starved.forget(run)
        run.backlog.clear()
        self._waiting.discard(run)

    def bind(self, group: Group, node: Node | None) -> None:
        """Bind a collocated group to a node, or to none yet."""
        if group.node is not None:
            group.node.groups.pop(group, None)
        group.node = node
        if node is not None:
            node.groups[group] = None
        for f in group.members:
            if f.state is State.READY:
                self.enqueue(f)

    # ------------------------------------------------------------------ decisions

    def place(self, now: float) -> list[Place | Starved | Rejected]:
        """Place everything that can be placed now."""
        room = self._begin(now)
        decided: list[Place | Starved | Rejected] = []
        aside: list[Queue] = []  # clean again at the end of the decision
        heap: list[_Candidate] = []
        runs = self._waiting.in_order() if room.free is not None else self._waiting.dirty_in_order()
        upcoming = 0
        refusals = 0
        while True:
            while upcoming < len(runs) and (not heap or runs[upcoming][0] < heap[0][0]):
                key, run = runs[upcoming]
                upcoming += 1
                if room.free is None and len(runs) > len(self._waiting.dirty):  # nothing is left of it
                    runs, upcoming = self._waiting.dirty_in_order(key), 0
                    if run not in self._waiting.dirty:
                        continue
                self._offer(heap, run, room)
            if not heap:
                break
            _, _, run, found = heappop(heap)
            if found is None:
                decided += self._ask_allocator(run, now)
                room.stale = True
                continue
            entry, queue = found
            f = entry[4]
            if run.limits is not None and not run.limits.fits(f.limit_cost):
                run.backlog.soil(queue)  # it waits for the limits, and then for any node
                self._waiting.dirty[run] = None
                self._offer(heap, run, room)
                continue
            node, prefetch, refused = self._choose(f, queue, room, now)
            if node is not None:
                decided.append(self._carry_out(f, node, now, prefetch=prefetch))
                run.backlog.took(queue)
                if not queue.clean:
                    self._waiting.dirty[run] = None
                room.took(node)
            elif queue.clean and room.stale:
                room.refresh()
            else:
                run.backlog.set_aside(queue)
                aside.append(queue)
                refusals += refused
                if refusals > _MOST_REFUSALS:
                    room.leave_out(self.claims.refused)
            if room.free is not None or run in self._waiting.dirty:
                self._offer(heap, run, room)
        for queue in aside:
            queue.run.backlog.clean(queue)
        for run in self._idle:
            self._waiting.discard(run)
        self._idle.clear()
        self.ledger.freed.clear()
        if self.starved:
            decided += self.starved.fail(now)
        self._look_after_the_most_urgent(len(decided), now)
        return decided

    def _begin(self, now: float) -> Room:
        """A decision begins: the capacity that was freed since the last one."""
        freed = self.ledger.freed
        if refused := self.claims.begin(now):
            freed.update(refused)
        nodes = self.nodes
        if self._version != nodes.version:
            self._version = nodes.version
            for run in self._waiting:
                run.weigh(nodes)
        if self._shrunk:
            self._shrunk = False
            for run in self._waiting:
                for queue in run.backlog.queues.values():
                    if not queue.is_possible(nodes):
                        self.starved.add(queue)
                    elif queue.clean and queue.key.avoid:
                        run.backlog.soil(queue)  # others may not be able to take over any more
                        self._waiting.dirty[run] = None
        if self.starved:
            for queue in self.starved.bound():
                self._unbind(queue)
        self._waiting.sort()
        if not freed:
            return Room((), (), False)
        return Room([n for n in freed if n.accepting], self._waiting.least, self._prefetch.is_likely)

    def _offer(self, heap: list[_Candidate], run: Run, room: Room) -> None:
        """Let the most urgent function of a run that may fit take part in a decision."""
        own = run.has_allocator
        limits = None if own or run.limits is None else run.limits.free
        found = run.backlog.first(limits, room.free, room.nodes)
        if found is None:
            if not run.counts[State.READY]:
                self._idle.append(run)
            elif not run.backlog.any_dirty:
                self._waiting.dirty.pop(run, None)
        else:
            key = (-run.spec.priority, found[0][0], run.share, run.sequence)
            self._offered += 1
            heappush(heap, (key, self._offered, run, None if own else found))

    def _choose(
        self, f: FunctionState, queue: Queue, room: Room, now: float
    ) -> tuple[Node | None, bool, bool]:
        """The node for a function, if any; whether it is prefetched there; whether a claim refused it."""
        nodes: Iterable[Node]
        refused = False
        only = room.only if queue.clean else None
        if only is None:
            nodes = self._fitting(f, queue)
        else:
            nodes = (only,) if only.takes(queue.cost) and queue.admits(only, self.nodes) else ()
        for node in nodes:
            if not self.claims.any or not self.claims.refuse(f, node, now):
                return node, False, False
            refused = True
        if refused or self.claims.any or not self._prefetch.allows(f):
            return None, False, refused
        nodes = room.nodes if queue.clean else self.nodes.ordered
        able = (n for n in nodes if queue.admits(n, self.nodes))
        return self._prefetch.choose(f, able), True, False

    def _fitting(self, f: FunctionState, queue: Queue) -> Iterator[Node]:
        """Nodes on which a function can start now, the best first."""
        run = f.run
        score = ALLOCATORS[run.spec.strategy]
        moves = None
        if run.heavy and score is best_fit:
            moves = move_costs(f, self.nodes, self.settings.bandwidth)
        found = self.nodes.fitting(queue.cost, score, queue.rows(self.nodes), moves)
        avoided = queue.avoided(self.nodes)
        return (node for node in found if node.name not in avoided) if avoided else found

    def _ask_allocator(self, run: Run, now: float) -> Iterator[Place | Rejected]:
        """Let a run's own allocator place its functions."""
        for answer in propose(run, self.nodes):
            if isinstance(answer, Rejected):
                yield answer
                return
            f, node = answer
            queue = run.backlog.queue_of(f)
            yield self._carry_out(f, node, now, prefetch=False)
            run.backlog.took(queue)

    def _carry_out(self, f: FunctionState, node: Node, now: float, *, prefetch: bool) -> Place:
        peer = self._peer(f, node)
        f.short = self._prefetch.is_short(f)
        if prefetch:
            self.ledger.prefetch(f, node, now)
        else:
            self.ledger.book(f, node, now)
        f.move(State.RUNNING)
        if f.run.ranking.scarce:
            self.claims.started(f)
        if f.group is not None and f.group.node is None:
            self.bind(f.group, node)
        return Place(f, node, peer)

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
            score = best_fit if f.run.has_allocator else ALLOCATORS[f.run.spec.strategy]
            ordered = self.nodes.ordered
            rows = self.nodes.holders(group.need, group.pins)
            there = next(self.nodes.fitting(group.need, score, rows), None)
            if there is None:
                able = [ordered[row] for row in rows.tolist()]
                there = next((n for n in able if n.accepting), able[0] if able else None)
            if there is None:
                return None
            self.bind(group, there)
        return None if group.node is None else group.node.name

    # ------------------------------------------------------------------ functions that wait for long

    def _look_after_the_most_urgent(self, decided: int, now: float) -> None:
        """Let the most urgent function claim a node once as many others as run at once have overtaken it."""
        self._overtakes -= decided
        f = self._most_urgent
        if f is not None and f.state is not State.READY:
            self._most_urgent = f = None
            self.claims.withdraw()
        if not decided or self._overtakes > 0:
            return
        self._overtakes = sum(run.counts[State.RUNNING] for run in self._waiting)
        heads = [run.backlog.most_urgent() for run in self._waiting if run.active and not run.has_allocator]
        first = min((head[0][4] for head in heads if head is not None), default=None, key=sort_key)
        if f is not None and first is f and now - (f.queued or 0.0) > f.run.ranking.expected(f):
            self.claims.overtaken(f, f.run.backlog.queue_of(f), now)
        self._most_urgent = first

    def _unbind(self, queue: Queue) -> None:
        """Let groups go whose node has become too small, as soon as none of them runs there."""
        for group in {f.group: None for f in queue}:
            if group is not None and not any(f.state is State.RUNNING for f in group.members):
                self.bind(group, None)
