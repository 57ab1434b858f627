"""Allocators choose a node for a function among the nodes where it fits. Built-in allocators score nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.nodes import Nodes, Rows, Scores
from handoff_dask._scheduling.queues import Queue
from handoff_dask._scheduling.spec import Amounts

if TYPE_CHECKING:
    from handoff_dask._scheduling.candidates import Freed
    from handoff_dask._scheduling.claims import Claims
    from handoff_dask._scheduling.pacing import Pacing
    from handoff_dask._scheduling.prefetch import Prefetch
    from handoff_dask._scheduling.runs import Run

#: Returns the scores of the nodes at some positions for a cost, the lowest score the best.
Score = Callable[[Nodes, Rows, Amounts], Scores]


#: Adjusts the scores of the nodes at some positions for one function.
Adjust = Callable[[Rows, Scores], Scores]


class Proposal(NamedTuple):
    """Start ``function``, which waits in ``queue``, on ``node``."""

    queue: Queue
    function: FunctionState
    node: Node
    prefetch: bool = False  # send it before it fits; it waits on the node


class Rejected:
    """A custom allocator raised an exception, or its proposal is invalid. ``reason`` says which and why."""

    __slots__ = ("reason", "run")

    def __init__(self, run: Run, reason: str) -> None:
        self.run = run
        self.reason = reason


class View:
    """The state that allocators see in a decision.

    Attributes
    ----------
    nodes : Nodes
    claims : Claims
    freed : Freed
        The freed nodes: the only ones that may serve the head of a clean queue.
    prefetch : Prefetch
    pacing : Pacing
    bandwidth : float
        Bytes per second between two nodes.
    now : float
    """

    __slots__ = ("bandwidth", "claims", "freed", "nodes", "now", "pacing", "prefetch")

    def __init__(
        self,
        nodes: Nodes,
        claims: Claims,
        freed: Freed,
        prefetch: Prefetch,
        pacing: Pacing,
        bandwidth: float,
    ) -> None:
        self.nodes = nodes
        self.claims = claims
        self.freed = freed
        self.prefetch = prefetch
        self.pacing = pacing
        self.bandwidth = bandwidth
        self.now = 0.0


class Allocator(Protocol):
    """Chooses nodes for the ready functions of a run.

    Attributes
    ----------
    once : bool
        Whether one answer per decision covers all queues of its run.
    """

    once: bool

    def propose(self, queue: Queue, view: View) -> Iterable[Proposal | Rejected]:
        """Propose placements.

        Parameters
        ----------
        queue : Queue
            The most urgent candidate.
        view : View

        Returns
        -------
        iterable of Proposal or Rejected
            Valid placements; the caller carries out each one before it requests the next one. ``Rejected`` is
            the last item if the user's allocator has failed.
        """
        ...


# ---------------------------------------------------------------------- built-in

#: Maximum number of functions per decision that claims may block on every node where they fit. Beyond it,
#: clean queues no longer try the nodes with such claims until the claims are rechecked.
_BACKFILL_DEPTH = 32

#: Inputs smaller than this do not influence the choice of a node. Bytes.
LARGE_RESULT = 100_000

#: Upper bound of the penalty for moving inputs, in resources of a node left unused.
_MAX_MOVE_COST = 4.0


def first_available(nodes: Nodes, rows: Rows, cost: Amounts) -> Scores:
    """Prefer the first node by name, like Handoff's ``lib/handoff/simple_allocator.ex``."""
    return None


def load_balanced(nodes: Nodes, rows: Rows, cost: Amounts) -> Scores:
    """Prefer the node whose fullest resource is least full after the placement."""
    return nodes.load(rows, cost)


def best_fit(nodes: Nodes, rows: Rows, cost: Amounts) -> Scores:
    """Prefer the node with the least free capacity, summed over all resources in normalised units.

    Resources that the function does not ask for count too. This keeps functions that need no GPU off nodes
    with a free GPU while other nodes fit. A simplified form of multi-resource packing (Grandl et al., SIGCOMM
    2014).
    """
    return nodes.slack(rows)


ALLOCATORS: Mapping[str, Score] = {
    "first_available": first_available,
    "load_balanced": load_balanced,
    "best_fit": best_fit,
}


class BuiltIn:
    """An allocator that places the head of a queue on the node with the best score.

    Parameters
    ----------
    strategy : str
        A key of :data:`ALLOCATORS`.
    """

    once = False

    def __init__(self, strategy: str) -> None:
        self.score = ALLOCATORS[strategy]

    def propose(self, queue: Queue, view: View) -> Sequence[Proposal]:
        """Propose the best node on which the queue's head fits, or one that may prefetch it, or nothing."""
        f = queue.heap[0][4]
        claims = view.claims
        blocked = False
        paced = view.pacing.applies_to(f.run)
        too_slow = math.inf  # the factor of a node that should start none of the functions
        for node in self._fitting(f, queue, view, paced):
            g: FunctionState | None = f
            if paced:
                g = view.pacing.choose(queue, node, view.now) if view.pacing.factor(node) < too_slow else None
                if g is None:
                    too_slow = min(too_slow, view.pacing.factor(node))
                    claims.defer(node, view.now + f.run.estimates.seconds(f, node) / 4)
                    continue
            assert g is not None
            if not claims.active or not claims.blocks(g, node, view.now):
                return (Proposal(queue, g, node),)
            blocked = True
        if blocked:
            claims.blocked_functions += 1
            if claims.blocked_functions > _BACKFILL_DEPTH:
                view.freed.discard(claims.blocked_nodes)
        if not claims.active and view.prefetch.allows(f):
            nodes = view.freed.nodes if queue.clean else view.nodes.ordered
            eligible = (node for node in nodes if queue.admits(node, view.nodes))
            chosen = view.prefetch.choose(f, eligible)
            if chosen is not None:
                return (Proposal(queue, f, chosen, prefetch=True),)
        return ()

    def _fitting(self, f: FunctionState, queue: Queue, view: View, paced: bool) -> Iterable[Node]:
        """Return the eligible nodes on which a function fits now, the best first."""
        nodes = view.nodes
        if queue.clean and len(view.freed.nodes) == 1:
            (node,) = view.freed.nodes
            return (node,) if node.can_start(queue.cost) and queue.admits(node, nodes) else ()
        adjust = None
        if f.run.has_large_results and self.score is best_fit:
            adjust = move_costs(f, nodes, view.bandwidth)
        if paced:
            adjust = _both(adjust, view.pacing.penalties)
        found = nodes.fitting(queue.cost, self.score, queue.rows(nodes), adjust)
        avoided = queue.avoided(nodes)
        return (node for node in found if node.name not in avoided) if avoided else found


def _both(first: Adjust | None, second: Adjust) -> Adjust:
    """Return the composition of two adjustments of scores."""
    return second if first is None else lambda rows, scores: second(rows, first(rows, scores))


def held_inputs(f: FunctionState) -> dict[Node, int]:
    """Return node → bytes of a function's inputs that were computed there."""
    functions = f.run.functions
    held: dict[Node, int] = {}
    for n in f.run.inputs[f.number]:
        g = functions[n]
        if g.nbytes and g.node is not None and g.state is State.FINISHED:
            held[g.node] = held.get(g.node, 0) + g.nbytes
    return held


def move_costs(f: FunctionState, nodes: Nodes, bandwidth: float) -> Adjust | None:
    """Return a function that adds the time to move a function's inputs to the scores of nodes.

    Moving time is relative to the function's expected duration: a move that takes as long as the function
    weighs as much as one unused resource of a node.

    Parameters
    ----------
    f : FunctionState
    nodes : Nodes
    bandwidth : float
        Bytes per second between two nodes.

    Returns
    -------
    callable or None
        Takes positions and scores of nodes, and returns new scores. None if the inputs are small.
    """
    held = held_inputs(f)
    total = sum(held.values())
    if total < LARGE_RESULT:
        return None
    scale = 1 / (bandwidth * max(f.run.estimates.seconds(f), 1e-3))

    def adjust(rows: Rows, scores: Scores) -> Scores:
        if scores is None:
            return None
        moves = np.full(rows.size, min(_MAX_MOVE_COST, total * scale))
        for node, nbytes in held.items():
            if nodes.by_name.get(node.name) is not node:
                continue
            at = int(np.searchsorted(rows, node.position))
            if at < rows.size and rows[at] == node.position:
                moves[at] = min(_MAX_MOVE_COST, (total - nbytes) * scale)
        adjusted: NDArray[np.float64] = np.round(scores + moves, 9)
        return adjusted

    return adjust
