"""Allocators: which of the nodes with room gets a function. The built-in ones score nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

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
    from handoff_dask._scheduling.prefetch import Prefetch
    from handoff_dask._scheduling.runs import Run

#: Scores the nodes in some rows for a cost; see :class:`~handoff_dask._scheduling.nodes.Nodes`.
Score = Callable[[Nodes, Rows, Amounts], Scores]


class Proposal(NamedTuple):
    """Start ``function``, which waits in ``queue``, on ``node``."""

    queue: Queue
    function: FunctionState
    node: Node
    prefetch: bool = False  # it waits on the node until it fits


class Rejected(NamedTuple):
    """A custom allocator raised an exception, or proposed what cannot be carried out."""

    run: Run
    reason: str


class View(NamedTuple):
    """What allocators see in one decision.

    Attributes
    ----------
    nodes : Nodes
    claims : Claims
    freed : Freed
        Nodes on which capacity was freed since the last decision: the only ones that may have room for the
        first function of a clean queue.
    prefetch : Prefetch
    bandwidth : float
        Bytes per second between two nodes.
    now : float
    """

    nodes: Nodes
    claims: Claims
    freed: Freed
    prefetch: Prefetch
    bandwidth: float
    now: float


class Allocator(ABC):
    """Chooses nodes for the ready functions of a run.

    Attributes
    ----------
    once : bool
        Whether it is asked once in a decision, for all queues of its run.
    """

    once = False

    @abstractmethod
    def propose(self, queue: Queue, view: View) -> Iterator[Proposal | Rejected]:
        """Propose what to start.

        Parameters
        ----------
        queue : Queue
            The queue of the most urgent function that may fit.
        view : View

        Yields
        ------
        Proposal
            It can be carried out, and must have been before the next one is asked for.
        Rejected
            The last answer, if there is one.
        """


# ---------------------------------------------------------------------- built-in

#: How many functions a decision tests for backfilling: when more were refused, the nodes that refused them
#: are left out of the decision.
_BACKFILL_DEPTH = 32

#: Results smaller than this are moved without a second thought. Bytes.
LARGE_RESULT = 100_000

#: However long a move takes, it counts for no more than so many resources of a node left unused.
_MOST_MOVE = 4.0


def first_available(nodes: Nodes, rows: Rows, cost: Amounts) -> Scores:
    """The first node by name. Handoff: ``lib/handoff/simple_allocator.ex``."""
    return None


def load_balanced(nodes: Nodes, rows: Rows, cost: Amounts) -> Scores:
    """The node that stays least loaded: whose fullest resource is least full afterwards."""
    return nodes.load(rows, cost)


def best_fit(nodes: Nodes, rows: Rows, cost: Amounts) -> Scores:
    """The node with least left over, all resources added up, each in its own unit.

    Resources that were not asked for count too: this keeps functions that need no GPU off the nodes that
    have one, as long as others will do.
    """
    return nodes.slack(rows)


ALLOCATORS: Mapping[str, Score] = {
    "first_available": first_available,
    "load_balanced": load_balanced,
    "best_fit": best_fit,
}


class BuiltIn(Allocator):
    """Places the most urgent function on the node with the best score.

    Parameters
    ----------
    strategy : str
        Name of the score, a key of :data:`ALLOCATORS`.
    """

    def __init__(self, strategy: str) -> None:
        self.score = ALLOCATORS[strategy]

    def propose(self, queue: Queue, view: View) -> Iterator[Proposal]:
        """Propose a node for the first function of a queue, if one has room for it or may prefetch it."""
        f = queue.heap[0][4]
        claims = view.claims
        refused = False
        for node in self._fitting(f, queue, view):
            if not claims.any or not claims.blocks(f, node, view.now):
                yield Proposal(queue, f, node)
                return
            refused = True
        if refused:
            claims.blocked_functions += 1
            if claims.blocked_functions > _BACKFILL_DEPTH:
                view.freed.discard(claims.blocked_nodes)
        if not claims.any and view.prefetch.allows(f):
            nodes = view.freed.nodes if queue.clean else view.nodes.ordered
            able = (node for node in nodes if queue.admits(node, view.nodes))
            where = view.prefetch.choose(f, able)
            if where is not None:
                yield Proposal(queue, f, where, prefetch=True)

    def _fitting(self, f: FunctionState, queue: Queue, view: View) -> Iterable[Node]:
        """Return the nodes on which a function can start now, the best first."""
        nodes = view.nodes
        if queue.clean and len(view.freed.nodes) == 1:
            (node,) = view.freed.nodes
            return (node,) if node.can_start(queue.cost) and queue.admits(node, nodes) else ()
        moves = None
        if f.run.has_large_results and self.score is best_fit:
            moves = move_costs(f, nodes, view.bandwidth)
        found = nodes.fitting(queue.cost, self.score, queue.rows(nodes), moves)
        avoided = queue.avoided(nodes)
        return (node for node in found if node.name not in avoided) if avoided else found


def held_inputs(f: FunctionState) -> dict[Node, int]:
    """Node → bytes of a function's inputs that were computed there."""
    functions = f.run.functions
    held: dict[Node, int] = {}
    for n in f.run.inputs[f.number]:
        g = functions[n]
        if g.nbytes and g.node is not None and g.state is State.FINISHED:
            held[g.node] = held.get(g.node, 0) + g.nbytes
    return held


def move_costs(f: FunctionState, nodes: Nodes, bandwidth: float) -> Callable[[Rows, Scores], Scores] | None:
    """Add the time to move a function's inputs to each node, over the time that it runs, to the scores.

    A move that takes as long as the function counts as much as one resource of a node left unused.

    Parameters
    ----------
    f : FunctionState
    nodes : Nodes
    bandwidth : float
        Bytes per second between two nodes.

    Returns
    -------
    callable or None
        None if the inputs are too small to matter.
    """
    held = held_inputs(f)
    total = sum(held.values())
    if total < LARGE_RESULT:
        return None
    scale = 1 / (bandwidth * max(f.run.ranking.expected(f), 1e-3))

    def adjust(rows: Rows, scores: Scores) -> Scores:
        if scores is None:
            return None
        moves = np.full(rows.size, min(_MOST_MOVE, total * scale))
        for node, nbytes in held.items():
            if nodes.by_name.get(node.name) is not node:
                continue
            at = int(np.searchsorted(rows, node.position))
            if at < rows.size and rows[at] == node.position:
                moves[at] = min(_MOST_MOVE, (total - nbytes) * scale)
        adjusted: NDArray[np.float64] = np.round(scores + moves, 9)
        return adjusted

    return adjust
