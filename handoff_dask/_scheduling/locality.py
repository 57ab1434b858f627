"""Where the inputs of a function are, and how much it costs to move them."""

from __future__ import annotations

from heapq import nlargest

from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.ledger import Node

#: Results smaller than this are moved without a thought. Bytes.
HEAVY = 100_000

#: Nodes that hold most of a function's inputs; others are not worth the time to look at.
_HOLDERS = 4

#: However long the move, it counts for no more than this many resources of a node left unused.
_MOST = 4.0


def held_inputs(f: FunctionState) -> dict[Node, int]:
    """Node → bytes of a function's inputs that it computed."""
    functions = f.run.functions
    held: dict[Node, int] = {}
    for n in f.run.inputs[f.number]:
        g = functions[n]
        if g.nbytes and g.node is not None and g.state is State.FINISHED:
            held[g.node] = held.get(g.node, 0) + g.nbytes
    return held


class Move:
    """What it takes to bring a function's inputs to a node.

    Parameters
    ----------
    f : FunctionState
    bandwidth : float
        Bytes per second between two nodes.
    """

    __slots__ = ("_held", "_scale", "_total", "holders")

    def __init__(self, f: FunctionState, bandwidth: float) -> None:
        self._held = held = held_inputs(f)
        self._total = sum(held.values())
        self._scale = 1 / (bandwidth * max(f.run.ranking.expected(f), 1e-3))
        #: The nodes that have most of them.
        self.holders = nlargest(_HOLDERS, held, key=lambda n: (held[n], -n.position))

    def __bool__(self) -> bool:
        return self._total >= HEAVY

    def cost(self, node: Node) -> float:
        """Time of the move over the time of the function.

        A move that takes as long as the function counts as much as one resource of a node left unused.
        """
        return min(_MOST, (self._total - self._held.get(node, 0)) * self._scale)
