"""Claims: capacity held back for functions that need it soon, and backfilling by less urgent functions.

A claim reserves the cost of one or more functions, on certain nodes and from a start time on. Other functions
may use this capacity if that does not delay the claim: EASY backfilling (Lifka, JSSPP 1995; Mu'alem &
Feitelson, IEEE TPDS 2001).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from handoff_dask._scheduling.claim import Claim, OvertakenClaim, UpcomingClaim, when_free
from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.nodes import Nodes
from handoff_dask._scheduling.queues import Queue, sort_key
from handoff_dask._scheduling.runs import Run

#: The key of a claim: run and kind of upcoming functions; None for the claim of the overtaken function.
_Key = tuple[Run, int] | None


class Claims:
    """All claims, and the nodes on which they block functions.

    Two kinds of functions have a claim:

    * *Upcoming* functions of a bottleneck: all their inputs are finished or running, and the few nodes that
      can hold them bound the makespan of the run, so any delay of these nodes delays the run.
    * The most urgent waiting function, once as many functions have been placed as ran at the last check.
      Functions that wait for limits, and runs with a custom allocator, do not count.

    Parameters
    ----------
    nodes : Nodes

    Attributes
    ----------
    active : dict of key to Claim
        Claims that functions need, and some that they no longer need.
    blocked_nodes : dict of Node to None
        Nodes on which a function was blocked by a claim, or deferred for a faster node. :meth:`begin` returns
        them as freed nodes once that may have changed.
    blocked_functions : int
        Number of functions in this decision that claims blocked on every node where they fit.
    recheck : float or None
        Time at which a blocked function may be admitted although no event occurs.
    """

    #: Maximum number of claims of upcoming functions. Every placement checks every claim.
    _max_kinds = 16

    def __init__(self, nodes: Nodes) -> None:
        self.active: dict[_Key, Claim] = {}
        self.recheck: float | None = None
        self._nodes = nodes
        self._version = 0
        self.blocked_nodes: dict[Node, None] = {}
        self.blocked_functions = 0
        self._decision = 0  # number of the current decision
        self._most_urgent: FunctionState | None = None
        self._placements_left = 0  # until the next check of the most urgent waiting function

    def begin(self, now: float) -> dict[Node, None]:
        """Begin a decision: remove stale claims, or all of them if the nodes have changed.

        Returns
        -------
        dict of Node to None
            Nodes on which claims blocked functions that may be admitted now. They count as freed.
        """
        self.blocked_functions = 0
        self._decision += 1
        changed = self._version != self._nodes.version
        self._version = self._nodes.version
        if changed or self.blocked_nodes:
            for key, claim in list(self.active.items()):
                if changed or not self._is_current(claim, now):
                    self._withdraw(key)
        if not self.blocked_nodes:
            self.recheck = None
            return {}
        if self.active and (self.recheck is None or now < self.recheck):
            return {}
        blocked, self.blocked_nodes = self.blocked_nodes, {}
        self.recheck = None
        return blocked

    def _is_current(self, claim: Claim, now: float) -> bool:
        """Refresh a claim once per decision. Return whether a function still needs it."""
        if claim.decision != self._decision:
            if not claim.refresh(now):
                return False
            claim.decision = self._decision
        return True

    def _withdraw(self, key: _Key) -> None:
        """Remove a claim if it exists. Functions that it has blocked may be admitted at once."""
        if self.active.pop(key, None) is not None:
            self.recheck = -math.inf

    # ------------------------------------------------------------------ making and ending claims

    def started(self, f: FunctionState) -> None:
        """Note that a function was placed, and claim capacity for dependents that are upcoming now."""
        run = f.run
        scarce = run.ranking.scarce
        if not scarce:
            return
        for n in run.spec.dependents[f.number]:
            kind = run.spec.kind_of[n]
            if kind not in scarce:
                continue
            g = run.functions[n]
            if g.group is not None or g.state is not State.WAITING or not run.is_upcoming(g):
                continue
            claim = self.active.get((run, kind))
            if not isinstance(claim, UpcomingClaim):
                by_name = self._nodes.by_name
                present = [n for n in scarce[kind] if by_name.get(n.name) is n]  # the others have left
                if not present or len(self.active) >= self._max_kinds:
                    continue
                claim = self.active[run, kind] = UpcomingClaim(present, g.cost)
            claim.functions[g] = None

    def ready(self, f: FunctionState) -> None:
        """Note that a function is ready: it competes for the capacity itself, and needs no claim."""
        key = f.run, f.run.spec.kind_of[f.number]
        claim = self.active.get(key)
        if isinstance(claim, UpcomingClaim):
            claim.functions.pop(f, None)
            if not claim.functions:
                self._withdraw(key)

    def track_overtaking(self, runs: Iterable[Run], placed: int, now: float) -> None:
        """Give the most urgent waiting function a claim once others have overtaken it often enough.

        A check notes the function, and the number of functions that run. The next check follows after as many
        placements. If the same function is then still the most urgent one, and has waited for longer than its
        expected duration, it gets a claim.

        Parameters
        ----------
        runs : iterable of Run
            The runs with ready functions.
        placed : int
            Number of functions placed in this decision.
        now : float
        """
        self._placements_left -= placed
        f = self._most_urgent
        if f is not None and f.state is not State.READY:
            self._most_urgent = f = None
            self._withdraw(None)
        if not placed or self._placements_left > 0:
            return
        self._placements_left = sum(run.counts[State.RUNNING] for run in runs)
        heads = (self._most_urgent_in(run) for run in runs if run.active and not run.allocator.once)
        first = min((head for head in heads if head is not None), default=None, key=sort_key)
        if f is not None and first is f and now - (f.queued or 0.0) > f.run.estimates.seconds(f):
            self.claim_node(f, now)
        self._most_urgent = first

    def _most_urgent_in(self, run: Run) -> FunctionState | None:
        """Return the most urgent function of a run's clean queues that waits only for room on a node."""

        def waits_for_room(queue: Queue) -> bool:
            within_limits = run.limits is None or run.limits.fits(dict(queue.key.limit_cost))
            return within_limits and queue.is_feasible(self._nodes)

        found = run.backlog.most_urgent()
        if found is None or waits_for_room(found[1]):
            return None if found is None else found[0][4]
        queues = [queue for queue in run.backlog.queues.values() if queue.clean and waits_for_room(queue)]
        entries = (queue.head_entry() for queue in queues)
        first = min((entry for entry in entries if entry is not None), default=None)
        return None if first is None else first[4]

    def claim_node(self, f: FunctionState, now: float) -> None:
        """Give an overtaken function a claim on the eligible node that is expected to fit it first."""
        present = self.active.get(None)
        if present is not None and present.function is f:
            return
        queue = f.run.backlog.queue_of(f)
        rows = queue.rows(self._nodes)
        nodes = self._nodes.ordered
        eligible = nodes if rows is None else [nodes[row] for row in rows.tolist()]
        eligible = [
            n for n in eligible if n.accepting and n.holds(queue.need) and queue.admits(n, self._nodes)
        ]
        self._withdraw(None)
        if eligible:
            first = min(eligible, key=lambda n: when_free(n, queue.cost, now))
            self.active[None] = OvertakenClaim(f, first)

    def forget(self, run: Run) -> None:
        """Withdraw all claims of a run."""
        overtaken = self.active.get(None)
        if overtaken is not None and overtaken.function is not None and overtaken.function.run is run:
            self._withdraw(None)
        for key in [key for key in self.active if key is not None and key[0] is run]:
            self._withdraw(key)
        if self._most_urgent is not None and self._most_urgent.run is run:
            self._most_urgent = None

    # ------------------------------------------------------------------ backfilling

    def blocking(self, f: FunctionState, node: Node, now: float) -> Claim | None:
        """Return the claim that keeps a function off a node on which it fits, None if there is none."""
        for claim in self.active.values():
            if self._is_current(claim, now) and claim.is_delayed_by(f, node, now):
                return claim
        return None

    def defer(self, node: Node, until: float) -> None:
        """Note that a function was kept off a node on which it fits; ``until`` is when to try again."""
        self.blocked_nodes[node] = None
        if self.recheck is None or until < self.recheck:
            self.recheck = until

    def blocks(self, f: FunctionState, node: Node, now: float) -> bool:
        """Return whether a claim keeps a function off a node on which it fits.

        If so, set :attr:`recheck`: the start of an overdue claim recedes as time passes, so the function is
        admitted once the claim is overdue by the function's expected duration.
        """
        claim = self.blocking(f, node, now)
        if claim is None:
            return False
        seconds = f.run.estimates.seconds(f, node)
        self.defer(node, max(claim.expected_start + seconds, now + seconds / 4))
        return True
