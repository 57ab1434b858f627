"""Placement: which ready function goes to which node.

The most urgent function goes first, to the node that the allocator of its run chooses. A queue whose first
function fits nowhere is clean: it waits until capacity is freed, and is compared with that alone.
"""

from __future__ import annotations

from typing import Any

from handoff_dask._scheduling.allocators import BuiltIn, Proposal, Rejected, View, best_fit
from handoff_dask._scheduling.candidates import Candidates, Freed, RunOrder
from handoff_dask._scheduling.claims import Claims
from handoff_dask._scheduling.decisions import Infeasible, Place, Settings
from handoff_dask._scheduling.estimates import Estimates
from handoff_dask._scheduling.feasibility import InfeasibleQueues
from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.ledger import Ledger
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.nodes import Nodes
from handoff_dask._scheduling.prefetch import Prefetch
from handoff_dask._scheduling.queues import Queue
from handoff_dask._scheduling.runs import Group, Run
from handoff_dask._scheduling.spec import Amounts


class Placement:
    """The nodes, the ledger and the runs with ready functions.

    Attributes
    ----------
    nodes : Nodes
    ledger : Ledger
    estimates : Estimates
    claims : Claims
    starved : InfeasibleQueues
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.nodes = Nodes()
        self.ledger = Ledger(self.nodes)
        self.estimates = Estimates(settings.prefetch_horizon)
        self.claims = Claims(self.nodes)
        self.infeasible = InfeasibleQueues(self.nodes, settings.node_timeout)
        self._prefetch = Prefetch(settings.prefetch_horizon, settings.prefetch_limit, self.estimates)
        self._order = RunOrder()
        self.ledger.share_changed = self._order.share_changed
        self._version = -1  # of the nodes that the shares of runs are for
        self._shrunk = False  # whether a node left, paused or became smaller

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
        if run.allocator.once:
            run.backlog.mark_dirty(queue)  # it may choose any function, not just the first
        self._order.add(run)
        if not queue.is_feasible(self.nodes):
            self.infeasible.add(queue)

    def forget(self, run: Run) -> None:
        """Forget what waits in a run's queues; there are new ones if a result is lost afterwards."""
        self.claims.forget(run)
        self.infeasible.forget(run)
        run.backlog.clear()
        self._order.discard(run)

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

    def place(self, now: float) -> list[Place | Infeasible | Rejected]:
        """Place everything that can be placed now."""
        view = self._begin(now)
        candidates = Candidates(self._order, view.freed)
        decided: list[Place | Infeasible | Rejected] = []
        while (queue := candidates.first()) is not None:
            allocator = queue.run.allocator
            placed = [self._carry_out(proposal, view) for proposal in allocator.propose(queue, view)]
            decided += placed
            if not placed or allocator.once:
                candidates.settle(queue, placed=bool(placed))
        candidates.close()
        self.ledger.freed.clear()
        if self.infeasible:
            decided += self.infeasible.expire(now)
        self.claims.track_overtaking(self._order, len(decided), now)
        return decided

    def _begin(self, now: float) -> View:
        """Bring everything up to date for a decision."""
        nodes, order = self.nodes, self._order
        self.ledger.freed.update(self.claims.begin(now))
        if self._version != nodes.version:
            self._version = nodes.version
            for run in order:
                run.update_weights(nodes)
                order.share_changed[run] = None
                if run.allocator.once:
                    run.backlog.mark_all_dirty()
        if self._shrunk:
            self._shrunk = False
            for run in order:
                for queue in run.backlog.queues.values():
                    if not queue.is_feasible(nodes):
                        self.infeasible.add(queue)
                    elif queue.clean and queue.key.avoid:
                        run.backlog.mark_dirty(queue)  # no other node may be left to take over
        if self.infeasible:
            for queue in self.infeasible.bound_queues():
                self._unbind(queue)
        order.sort()
        accepting = [node for node in self.ledger.freed if node.accepting]
        freed = Freed(accepting, order.min_cost, self._prefetch.is_likely)
        return View(nodes, self.claims, freed, self._prefetch, self.settings.bandwidth, now)

    def _carry_out(self, proposal: Proposal | Rejected, view: View) -> Place | Rejected:
        """Book a proposal."""
        if isinstance(proposal, Rejected):
            return proposal
        queue, f, node, prefetch = proposal
        run = f.run
        peer = self._peer(f, node)
        f.short = self._prefetch.is_short(f)
        if prefetch:
            self.ledger.prefetch(f, node, view.now)
        else:
            self.ledger.allocate(f, node, view.now)
        f.move(State.RUNNING)
        if run.ranking.scarce:
            self.claims.started(f)
        if f.group is not None and f.group.node is None:
            self.bind(f.group, node)
        run.backlog.advance(queue)
        view.freed.consume(node)
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
            score = f.run.allocator.score if isinstance(f.run.allocator, BuiltIn) else best_fit
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

    def _unbind(self, queue: Queue) -> None:
        """Let groups go whose node has become too small, as soon as none of them runs there."""
        for group in {f.group: None for f in queue}:
            if group is not None and not any(f.state is State.RUNNING for f in group.members):
                self.bind(group, None)
