"""Prefetch: short functions are sent to a node a little before it has room, so that it need not wait."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from handoff_dask._model.resources import GPU
from handoff_dask._scheduling.estimates import Estimates
from handoff_dask._scheduling.functions import FunctionState
from handoff_dask._scheduling.node import Node

#: No function counts as shorter: about what a worker needs to start one. Seconds.
_SHORTEST = 0.00025

#: Of so many nodes the one with the fewest prefetched functions is chosen; a look at more takes too long.
_MAX_COMPARED = 64


class Prefetch:
    """Which functions may be prefetched, and where.

    Parameters
    ----------
    horizon : float
        Seconds of work that a node may prefetch; 0 turns it off.
    limit : int
        Functions that a node may prefetch.
    estimates : Estimates
    """

    def __init__(self, horizon: float, limit: int, estimates: Estimates) -> None:
        self._horizon = horizon
        self._limit = limit
        self._estimates = estimates

    @property
    def is_likely(self) -> bool:
        """Whether any functions are known to be short."""
        return self._estimates.any_short

    def is_short(self, f: FunctionState) -> bool:
        """Whether functions of its code are known to be short."""
        return self._estimates.is_short(f.kind.code)

    def allows(self, f: FunctionState) -> bool:
        """Whether a function is short, and nothing but its node holds it back."""
        if f.run.limits is not None or GPU in f.cost or not self.is_short(f):
            return False
        return f.group is None or f.group.node is not None

    def choose(self, f: FunctionState, nodes: Iterable[Node]) -> Node | None:
        """The node that should prefetch a function, None if none should.

        The function waits there only for short ones. Behind a function of unknown length it could wait while
        other nodes idle, and for ever if that one waits for it.
        """
        cost = f.cost
        each = int(self._horizon / max(self._estimates.most(f.kind.code) or 0.0, _SHORTEST))
        best: Node | None = None
        able = (n for n in nodes if n.accepting and n.enforces(cost) and n.fits_after_short(cost))
        for node in islice(able, _MAX_COMPARED):
            if len(node.prefetched) < min(self._limit, node.slots(cost) * each) and (
                best is None or len(node.prefetched) < len(best.prefetched)
            ):
                best = node
        return best
