"""Prefetch: send short functions to a node before they fit, which saves round trips to the scheduler."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from handoff_dask._model.resources import GPU
from handoff_dask._scheduling.estimates import Estimates
from handoff_dask._scheduling.functions import FunctionState
from handoff_dask._scheduling.node import Node

#: Lower bound of durations: about the time in which a worker starts a function. Seconds.
_SHORTEST = 0.00025

#: Maximum number of suitable nodes to compare per function, which bounds the time of a decision.
_MAX_COMPARED = 64


class Prefetch:
    """Decides which functions may be prefetched, and by which node.

    Parameters
    ----------
    horizon : float
        Seconds of work that a node may prefetch; 0 turns prefetching off.
    limit : int
        Maximum number of functions that a node may prefetch.
    estimates : Estimates
    """

    def __init__(self, horizon: float, limit: int, estimates: Estimates) -> None:
        self._horizon = horizon
        self._limit = limit
        self._estimates = estimates

    @property
    def is_likely(self) -> bool:
        """Whether any code is known to be short."""
        return self._estimates.any_short

    def is_short(self, f: FunctionState) -> bool:
        """Return whether the function's code is known to be short."""
        return self._estimates.is_short(f.kind.code)

    def allows(self, f: FunctionState) -> bool:
        """Return whether a function may be prefetched.

        It must be short. Its run must have no limits and its cost no GPU, because workers enforce neither. If
        it belongs to a group, the group must be bound to a node.
        """
        if f.run.limits is not None or GPU in f.cost or not self.is_short(f):
            return False
        return f.group is None or f.group.node is not None

    def choose(self, f: FunctionState, nodes: Iterable[Node]) -> Node | None:
        """Return the node that should prefetch a function: the one with the fewest. None if none may.

        A function is prefetched only behind short functions. Behind a function of unknown duration it might
        wait while other nodes idle, and forever if that function waits for its result.

        Parameters
        ----------
        f : FunctionState
        nodes : iterable of Node
            The eligible nodes.
        """
        cost = f.cost
        each = int(self._horizon / max(self._estimates.most(f.kind.code) or 0.0, _SHORTEST))
        best: Node | None = None
        suitable = (n for n in nodes if n.accepting and n.enforces(cost) and n.fits_after_short(cost))
        for node in islice(suitable, _MAX_COMPARED):
            if len(node.prefetched) < min(self._limit, node.slots(cost) * each) and (
                best is None or len(node.prefetched) < len(best.prefetched)
            ):
                best = node
        return best
