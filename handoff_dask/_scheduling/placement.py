"""Which function goes to which node, and what waits until one does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from heapq import heapify, heappop
from math import isinf
from typing import Any

from handoff_dask._model.resources import THREADS, UNIT
from handoff_dask._scheduling.ahead import Ahead
from handoff_dask._scheduling.board import Board
from handoff_dask._scheduling.bookings import Bookings
from handoff_dask._scheduling.decisions import Place, Settings, Starved
from handoff_dask._scheduling.durations import Durations
from handoff_dask._scheduling.feasibility import shortfall_of
from handoff_dask._scheduling.fleet import Fleet
from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.ledger import Node
from handoff_dask._scheduling.locality import Move
from handoff_dask._scheduling.proposals import Rejected, propose
from handoff_dask._scheduling.queues import Parked, Queue, QueueHeap, QueueKey, queue_key
from handoff_dask._scheduling.reservations import Reservations
from handoff_dask._scheduling.runs import Group, Run
from handoff_dask._scheduling.spec import Amounts
from handoff_dask._scheduling.strategies import STRATEGIES, Strategy, best_fit

#: When so many nodes have room again, blocked queues are looked at as if they were new.
_MANY_FREED = 8

#: Functions that are turned away in one decision, since room is kept for others, before it is left at that.
_TURNED_AWAY = 30


class Placement:
    """The nodes, and the queues in front of them.

    Attributes
    ----------
    fleet : Fleet
    nodes : dict of name to Node
    bookings : Bookings
    durations : Durations
    next_starved : float or None
        When the next queue will have starved.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.fleet = Fleet()
        self.nodes = self.fleet.nodes
        self.bookings = Bookings(self.fleet, self._open_again)
        self.durations = Durations()
        self.reservations = Reservations(self.fleet)
        self.next_starved: float | None = None
        self._ahead = Ahead(settings.ahead_horizon, settings.ahead_limit, self.durations)
        self._queues: dict[QueueKey, Queue] = {}
        # Every queue that has functions is in one of these; parked says in which.
        self._open: dict[Queue, None] = {}
        self._board = Board()
        self._starved: dict[Queue, None] = {}
        self._own: dict[Run, None] = {}  # runs with an allocator of their own
        self._shrunk = False  # a node has left or become smaller
        self._turn = 0
        self._next_look = 0.0

    # ------------------------------------------------------------------ nodes

    def join(self, node: Node) -> None:
        """Add a node."""
        self.nodes[node.name] = node
        self.bookings.freed[node] = None
        self._nodes_changed()

    def leave(self, name: Any) -> Node | None:
        """Take a node away. What is booked there is for the caller to release."""
        node = self.nodes.pop(name, None)
        if node is not None:
            node.accepting = False
            self._shrunk = True
            for hold in list(node.lingering):
                self.bookings.ended_at_last(hold)
            self._nodes_changed()
        return node

    def resize(self, name: Any, capacity: Amounts) -> None:
        """Change a node's capacity."""
        self.bookings.resize(self.nodes[name], capacity)
        self._shrunk = True
        self._nodes_changed()

    def occupy(self, name: Any, amounts: Amounts) -> None:
        """Tasks other than functions hold this much of a node now."""
        node = self.nodes.get(name)
        if node is not None:
            self.bookings.occupy(node, amounts)

    def accept(self, name: Any, accepting: bool) -> None:
        """Pause a node, or let it go on."""
        node = self.nodes.get(name)
        if node is not None and node.accepting != accepting:
            node.accepting = accepting
            self.bookings.freed[node] = None
            self.fleet.moved(node)
            self.fleet.topology += 1
            self._open_restricted()

    def _nodes_changed(self) -> None:
        self.fleet.changed()
        self.reservations.changed()
        self._open_restricted()
        for run in self._own:
            for queue in run.queues:
                if queue.parked is Parked.ALLOCATOR:
                    self._open_again(queue)
        for queue in self._starved:
            self._open_again(queue)
        self._starved.clear()

    def _open_restricted(self) -> None:
        """Let the queues be looked at anew for which other nodes may come into question now."""
        for queue in self._board:
            if queue.restricted:
                self._board.discard(queue)
                self._open_again(queue)

    def _open_again(self, queue: Queue) -> None:
        queue.parked = None
        self._open[queue] = None

    # ------------------------------------------------------------------ queues

    def enqueue(self, f: FunctionState) -> None:
        """Let a ready function wait for a node."""
        run = f.run
        if not run.active:  # a pending run's functions are queued when it starts
            return
        if self.reservations.active:
            self.reservations.ready(f)
        queue = None
        usual = f.group is None and not f.avoid
        if usual:
            queue = run.usual_queues.get(id(f.kind))
        if queue is None:
            key = queue_key(f)
            queue = self._queues.get(key)
            if queue is None:
                queue = self._queues[key] = Queue(key, run)
            run.queues[queue] = None
            if usual:
                run.usual_queues[id(f.kind)] = queue
        queue.push(f)
        if queue.parked is None:
            self._open[queue] = None
        elif queue.parked is Parked.NODES:
            if self.reservations.active and queue.head() is f:
                self._board.discard(queue)  # nobody is more urgent than this one, perhaps
                self._open_again(queue)
            else:
                self._board.update(queue)

    def reorder(self, run: Run) -> None:
        """Take note that ranks of a run's functions have changed."""
        for queue in run.queues:
            queue.reorder()
            self._board.update(queue)

    def ended(self, run: Run) -> None:
        """Nothing waits in a run's queues any more; there are new ones if a result was lost."""
        self.reservations.forget(run)
        self._own.pop(run, None)
        for queue in run.queues:
            self._queues.pop(queue.key, None)
            self._board.discard(queue)
            self._open.pop(queue, None)
            self._starved.pop(queue, None)
        run.queues.clear()
        run.usual_queues.clear()
        if run.limits is not None:
            run.limits.waiting.clear()

    def bind(self, group: Group, node: Node | None) -> None:
        """Put a collocated group on a node, or on none yet."""
        group.node = node
        for f in group.members:
            if f.state is State.READY:
                self.enqueue(f)

    # ------------------------------------------------------------------ decisions

    def place(self, now: float) -> Iterator[Place | Starved | Rejected]:
        """Place everything that can be placed now.

        The most urgent function of all queues goes first; a queue whose head fits nowhere is left alone
        until something is freed, and is compared with that only.
        """
        roomy = self._begin(now)
        turn = QueueHeap()
        turned_away = 0
        left_at_that: dict[Node, None] = {}
        asked: set[Run] = set()  # of runs with an allocator of their own
        woken: Queue | None = None
        stale = True
        while True:
            while self._open:
                self._consider(turn, now)
            first = turn.pop()
            if stale and (roomy or (self.bookings.freed and self._ahead.horizon)):
                woken = self._board.first(roomy, self._turn, self._ahead)
                stale = False
            elif stale:
                woken = None
            freed_only = woken is not None and (first is None or woken.urgency < first.urgency)
            if freed_only:
                if first is not None:
                    turn.push(first)
                first = woken
                stale = True
            if first is None:
                break
            queue = first
            if before := [run for run in self._own if run not in asked and _goes_before(run, queue)]:
                for run in sorted(before, key=_run_urgency):
                    asked.add(run)
                    yield from self._ask_allocator(run, now)
                roomy = {n: None for n in roomy if n.free(THREADS) >= UNIT}
                stale = True
                if not freed_only:
                    turn.push(queue)
                continue
            f = queue.head()
            assert f is not None
            if f.run.limits is not None and not f.run.limits.fits(f.limit_cost):
                self._board.discard(queue)
                queue.parked = Parked.LIMITS
                f.run.limits.waiting[queue] = None
                continue
            node, ahead, denied = self._node_for(f, queue, now, freed_only)
            if node is None:
                queue.tried = self._turn
                queue.parked = Parked.NODES
                self._board.add(queue)
                turned_away += denied
                if denied and self.reservations.kept_node in roomy:
                    del roomy[self.reservations.kept_node]  # not for others in this decision
                if turned_away > _TURNED_AWAY:
                    left_at_that = dict(self.bookings.freed)
                    break
                continue
            yield self._carry_out(f, node, now, ahead)
            if f.group is not None or woken is not None:
                stale = True  # others of its group may have left their queues; its run has a larger share
            if node in roomy:
                stale = True
                if node.free(THREADS) < UNIT:
                    del roomy[node]
            if not freed_only:
                turn.push(queue)
        for queue in turn:
            self._open[queue] = None
        self.bookings.freed = left_at_that
        if self._own:
            for run in sorted(self._own.keys() - asked, key=_run_urgency):
                yield from self._ask_allocator(run, now)
        if self._starved or self.next_starved is not None:
            yield from self._starving(now)

    def _begin(self, now: float) -> dict[Node, None]:
        """A decision begins; the nodes on which there may be more room than in the last one."""
        self._turn += 1
        if now >= self._next_look:
            self._look_after_the_most_urgent(now)
        self.bookings.freed.update(self.reservations.begin(now))
        if self._starved:
            for queue in [queue for queue in self._starved if queue.key.bound is not None]:
                del self._starved[queue]
                self._open_again(queue)
        if self._shrunk:
            self._shrunk = False
            for queue in list(self._queues.values()):
                if queue.parked not in (Parked.NODES, Parked.LIMITS):
                    continue
                if queue.restricted or not self._possible(queue):
                    self._board.discard(queue)
                    if queue.run.limits is not None:
                        queue.run.limits.waiting.pop(queue, None)
                    self._open_again(queue)
        roomy = {n: None for n in self.bookings.freed if n.accepting and n.free(THREADS) >= UNIT}
        if len(roomy) > _MANY_FREED and not self._board.is_large:
            for queue in self._board:  # the shelves have fewer nodes to look at
                self._board.discard(queue)
                self._open_again(queue)
        return roomy

    def _consider(self, turn: QueueHeap, now: float) -> None:
        """Let open queues take part in a decision, unless no node could ever hold their functions."""
        opened, self._open = self._open, {}
        for queue in opened:
            if queue.parked is not None:
                continue
            f = queue.head()
            if f is None:
                queue.starved_since = None  # nobody waits for a node there: who comes later waits anew
                continue
            if self._possible(queue):
                queue.starved_since = None
                if f.run.has_allocator:
                    queue.parked = Parked.ALLOCATOR
                    self._own[f.run] = None
                else:
                    turn.push(queue)
            elif queue.key.bound is None:
                queue.parked = Parked.CAPACITY
                self._starved[queue] = None
                if queue.starved_since is None:
                    queue.starved_since = now
            else:
                # Their node has become too small. They move as soon as none of their group is there.
                queue.parked = Parked.CAPACITY
                self._starved[queue] = None
                for group in {f.group: None for f in queue}:
                    if group is not None and not any(f.state is State.RUNNING for f in group.members):
                        self.bind(group, None)

    def _node_for(
        self, f: FunctionState, queue: Queue, now: float, freed_only: bool
    ) -> tuple[Node | None, bool, bool]:
        """Where a function goes; whether ahead of its time; whether room was kept for others."""
        cost = queue.cost
        nodes: Iterable[Node]
        alike = False  # whether the order of the nodes does not matter, or is right
        if freed_only:
            nodes = [n for n in self.bookings.freed if n.takes(cost) and self._admits(queue, n)]
            alike = len(nodes) < 2
        elif queue.restricted:
            nodes = [n for n in queue.eligible if n.takes(cost)]
            alike = len(nodes) < 2
        else:
            nodes = self.fleet.fitting(queue)
            alike = STRATEGIES[queue.key.strategy] is best_fit
        strategy = STRATEGIES[queue.key.strategy]
        move = None
        if f.run.heavy and strategy is best_fit:
            move = Move(f, self.settings.bandwidth)
            if move:
                holders = [n for n in move.holders if n.takes(cost) and self._admits(queue, n)]
                nodes = dict.fromkeys([*nodes, *holders])
                alike = False
        if not alike:
            nodes = self._ranked(nodes, cost, strategy, move)
        best: Node | None = None
        denied = False
        for node in nodes:
            if self.reservations.active and self.reservations.denies(f, queue.urgency, node, now):
                denied = True
                continue
            best, denied = node, False
            break
        if best is None and not denied and self._ahead.may(f):
            eligible: Iterable[Node] = queue.eligible if queue.restricted else self.fleet.ordered
            if freed_only:
                eligible = [n for n in self.bookings.freed if self._admits(queue, n)]
            if not self.reservations.active:
                return self._ahead.node(f, eligible), True, False
        return best, False, denied

    def _ask_allocator(self, run: Run, now: float) -> Iterator[Place | Rejected]:
        """Let a run's own allocator place its functions."""
        queues = [q for q in run.queues if q.parked is Parked.ALLOCATOR]
        for answer in propose(run, queues, self.nodes, self._admits):
            if isinstance(answer, Rejected):
                yield answer
                return
            f, node = answer
            yield self._carry_out(f, node, now, False)

    def _ranked(
        self, nodes: Iterable[Node], cost: Amounts, strategy: Strategy, move: Move | None
    ) -> Iterator[Node]:
        """Nodes, those that suit a function best first."""
        unit = self.fleet.unit
        scored = [(strategy(cost, n, unit) + (move.cost(n) if move else 0.0), n.position, n) for n in nodes]
        heapify(scored)
        while scored:
            yield heappop(scored)[2]

    def _possible(self, queue: Queue) -> bool:
        """Whether any node could hold a queue's functions if nothing else ran there."""
        if queue.topology != self.fleet.topology:
            queue.topology = self.fleet.topology
            if queue.restricted:
                queue.eligible = dict.fromkeys(self.fleet.eligible(queue.key))
                queue.possible = bool(queue.eligible)
            else:
                queue.possible = self.fleet.can_hold(queue.need)
        return queue.possible

    def _eligible(self, queue: Queue) -> dict[Node, None]:
        """Nodes that could hold a restricted queue's functions if nothing else ran there, by name."""
        self._possible(queue)
        return queue.eligible

    def _admits(self, queue: Queue, node: Node) -> bool:
        """Whether a node is one of those that could hold a queue's functions."""
        if queue.restricted:
            return node in self._eligible(queue)
        return queue.need is queue.cost or node.holds(queue.need)

    def _carry_out(self, f: FunctionState, node: Node, now: float, ahead: bool) -> Place:
        peer = self._peer(f, node)
        f.short = self._ahead.is_short(f)
        self.bookings.book(f, node, now, ahead=ahead)
        f.move(State.RUNNING)
        self.reservations.started(f)
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
            nodes = self.fleet.eligible(queue_key(other))
            nodes = [n for n in nodes if n.accepting] or nodes
            nodes = [n for n in nodes if n.fits(group.need)] or nodes
            if not nodes:
                return None
            strategy = best_fit if f.run.has_allocator else STRATEGIES[f.run.spec.strategy]
            self.bind(group, min(nodes, key=lambda n: strategy(group.need, n, self.fleet.unit)))
        return None if group.node is None else group.node.name

    # ------------------------------------------------------------------ those that wait for long

    def _look_after_the_most_urgent(self, now: float) -> None:
        """Keep a node for the most urgent function when it has been overtaken for too long."""
        self._next_look = now + self.settings.patience / 4
        if isinf(self.settings.patience):
            return
        waiting = [queue for queue in self._board if queue.head() is not None]
        first = min(waiting, key=lambda queue: queue.urgency, default=None)
        f = None if first is None else first.head()
        if first is not None and f is not None and f.queued is not None:
            enough = max(self.settings.patience, f.run.ranking.expected(f))
            if now - f.queued > enough:
                self.reservations.keep_for(f, first)
                return
        self.reservations.keep_for_nobody()

    def _starving(self, now: float) -> Iterator[Starved]:
        """The functions that no node could ever hold, once they have waited long enough."""
        self.next_starved = None
        for queue in list(self._starved):
            if queue not in self._starved:
                continue  # its run has ended, since another one starved
            if queue.head() is None:
                del self._starved[queue]
                queue.parked = queue.starved_since = None
                continue
            if queue.starved_since is None:
                continue  # bound to a node that is too small now, but on which others of the group run
            due = queue.starved_since + self.settings.node_timeout
            if now < due:
                self.next_starved = due if self.next_starved is None else min(due, self.next_starved)
                continue
            yield self._starved_of(list(queue), queue)

    def _starved_of(self, functions: list[FunctionState], queue: Queue) -> Starved:
        shortfall = shortfall_of(functions, queue.need, queue.key.pins, self.fleet.ordered)
        assert shortfall is not None
        lost = max(sum(a.outcome == "lost" for a in f.attempts) for f in functions)
        if lost > 1:  # it may be what takes the nodes down
            reason = f"{shortfall.reason}, after {lost} of its attempts were lost with their nodes"
            shortfall = replace(shortfall, reason=reason)
        return Starved(tuple(functions), shortfall)


def _run_urgency(run: Run) -> tuple[float, int, int]:
    return -run.spec.priority, run.share, run.sequence


def _goes_before(run: Run, queue: Queue) -> bool:
    """Whether a run goes before the first function of a queue."""
    return _run_urgency(run) < _run_urgency(queue.run)
