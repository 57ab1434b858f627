"""Placement: the loop that assigns ready functions to nodes.

The most urgent candidate goes first, to the node that its run's allocator chooses. A queue that no node can
serve becomes clean; from then on it is compared only with nodes on which capacity is freed.
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
from handoff_dask._scheduling.pacing import Pacing
from handoff_dask._scheduling.prefetch import Prefetch
from handoff_dask._scheduling.queues import Queue
from handoff_dask._scheduling.runs import Group, Run
from handoff_dask._scheduling.spec import Amounts


class Placement:
    """The state that a decision needs, and the loop that makes the decision.

    Parameters
    ----------
    settings : Settings

    Attributes
    ----------
    nodes : Nodes
    ledger : Ledger
    estimates : Estimates
    claims : Claims
    pacing : Pacing
    infeasible : InfeasibleQueues
        Queues with functions that no node could ever hold.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.nodes = Nodes()
        self._freed = Freed()
        self.ledger = Ledger(self.nodes, self._freed.nodes)
        self.estimates = Estimates(settings.prefetch_horizon)
        self.claims = Claims(self.nodes)
        self.infeasible = InfeasibleQueues(self.nodes, settings.node_timeout)
        self._prefetch = Prefetch(settings.prefetch_horizon, settings.prefetch_limit, self.estimates)
        self._order = RunOrder()
        self.ledger.share_changed = self._order.share_changed
        self.pacing = Pacing(self.nodes, self.estimates.speeds)
        self._view = View(
            self.nodes, self.claims, self._freed, self._prefetch, self.pacing, settings.bandwidth
        )
        self._version = -1  # version of the nodes from which the runs' shares were computed
        self._shrunk = False  # whether a node has left, paused or shrunk since the last decision

    # ------------------------------------------------------------------ nodes

    def join(self, node: Node) -> None:
        """Add a node."""
        self.nodes.by_name[node.name] = node
        self.nodes.invalidate()
        self.ledger.freed[node] = None

    def leave(self, name: Any) -> Node | None:
        """Remove a node and return it, None if there is none of this name.

        Its orphaned attempts are released here. The caller releases the functions placed there and unbinds
        the groups.
        """
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
        """Set the amounts that external tasks hold on a node."""
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
        """Queue a ready function."""
        run = f.run
        if not run.active:  # the functions of a pending run are queued when the run starts
            return
        if self.claims.active:
            self.claims.ready(f)
        queue = run.backlog.push(f)
        if run.allocator.once:
            run.backlog.mark_dirty(queue)  # a custom allocator may choose any function, not only the head
        self._order.add(run)
        if not queue.is_feasible(self.nodes):
            self.infeasible.add(queue)

    def forget(self, run: Run) -> None:
        """Discard a run's queues and claims. A result that is lost later creates new queues."""
        self.claims.forget(run)
        self.pacing.forget(run)
        self.infeasible.forget(run)
        run.backlog.clear()
        self._order.discard(run)

    def bind(self, group: Group, node: Node | None) -> None:
        """Bind a collocation group to a node, or unbind it if ``node`` is None.

        Ready members move to other queues, since the node of the group is part of the queue's key.
        """
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
        """Place ready functions until no candidate is left.

        Take the most urgent candidate, a queue, and carry out its allocator's proposals. A queue without a
        proposal is settled: it becomes clean, and is no candidate for the rest of the decision. Any other
        queue remains a candidate with its next function as the head. Custom allocators are asked once per
        decision, so all their queues are settled then.

        Parameters
        ----------
        now : float
            Seconds on the clock that all events use.

        Returns
        -------
        list of Place, Infeasible or Rejected
            In the order of the decisions. The ledger already includes the placed functions.
        """
        view = self._begin(now)
        candidates = Candidates(self._order, self._freed)
        decided: list[Place | Infeasible | Rejected] = []
        while (queue := candidates.first()) is not None:
            allocator = queue.run.allocator
            before = len(decided)
            for proposal in allocator.propose(queue, view):
                decided.append(self._carry_out(proposal, now))
            placed = len(decided) > before
            if not placed or allocator.once:
                candidates.settle(queue, placed)
        candidates.close()
        self._freed.nodes.clear()  # every clean queue has been compared with these nodes
        self.claims.track_overtaking(self._order, len(decided), now)
        if self.infeasible.since or self.infeasible.due is not None:
            decided += self.infeasible.expire(now)
        return decided

    def _begin(self, now: float) -> View:
        """Update claims, shares and queues to the current nodes, and return the view for the allocators."""
        nodes, order, freed = self.nodes, self._order, self._freed
        freed.nodes.update(self.claims.begin(now))
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
                        # If no other eligible node is left, its functions may return to the avoided ones.
                        run.backlog.mark_dirty(queue)
        if self.infeasible.since:
            for queue in self.infeasible.bound_queues():
                self._unbind(queue)
        if order.share_changed:
            order.sort()
        freed.begin(order.min_cost, self._prefetch.is_likely)
        self._view.now = now
        return self._view

    def _carry_out(self, proposal: Proposal | Rejected, now: float) -> Place | Rejected:
        """Carry out a proposal: allocate or prefetch, and update everything that depends on it."""
        if isinstance(proposal, Rejected):
            return proposal
        queue, f, node, prefetch = proposal
        run = f.run
        peer = self._peer(f, node) if run.spec.peers else None
        f.short = self._prefetch.is_short(f)
        if prefetch:
            self.ledger.prefetch(f, node, now)
        else:
            self.ledger.allocate(f, node, now)
        f.move(State.RUNNING)
        if run.ranking.scarce:
            self.claims.started(f)
        if f.group is not None and f.group.node is None:
            self.bind(f.group, node)
        run.backlog.advance(queue)
        self._freed.consume(node)
        return Place(f, node, peer)

    def _peer(self, f: FunctionState, node: Node) -> Any:
        """Return the node name of a transfer's other half, None if there is none or it is unknown.

        A serializer is told where its deserializer will run. If the deserializer's group has no node yet,
        bind the group now: to the best node on which it fits, or else to an eligible one.
        """
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
            chosen = next(self.nodes.fitting(group.need, score, rows), None)
            if chosen is None:
                eligible = [ordered[row] for row in rows.tolist()]
                chosen = next((n for n in eligible if n.accepting), eligible[0] if eligible else None)
            if chosen is None:
                return None
            self.bind(group, chosen)
        return None if group.node is None else group.node.name

    def _unbind(self, queue: Queue) -> None:
        """Unbind groups whose node has become too small, once no member runs there."""
        for group in {f.group: None for f in queue}:
            if group is not None and not any(f.state is State.RUNNING for f in group.members):
                self.bind(group, None)
