"""Short functions are sent to a node a little before there is room, so that it has the next one at once."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from handoff_dask._model.resources import GPU
from handoff_dask._scheduling.durations import Durations
from handoff_dask._scheduling.functions import FunctionState
from handoff_dask._scheduling.ledger import Node

#: No function is counted as shorter: about what a worker needs to start one. Seconds.
_SHORTEST = 0.00025

#: Among so many nodes the one that holds least is chosen; more are not worth the time to look at.
_LOOKED_AT = 64


class Ahead:
    """Which functions may be sent ahead, and where.

    Parameters
    ----------
    horizon : float
        Seconds of work that a node may hold ahead; 0 turns it off.
    limit : int
        Functions that a node may hold ahead.
    durations : Durations
    """

    def __init__(self, horizon: float, limit: int, durations: Durations) -> None:
        self.horizon = horizon
        self._limit = limit
        self._durations = durations

    def is_likely(self) -> bool:
        """Whether any functions are known to be short."""
        return bool(self.horizon) and self._durations.least() <= self.horizon

    def is_short(self, f: FunctionState) -> bool:
        """Whether functions of its code are known to be short."""
        seconds = self._durations.most(f.kind.code)
        return seconds is not None and seconds <= self.horizon

    def may(self, f: FunctionState) -> bool:
        """Whether a function is short, and nothing but its node holds it back."""
        if not self.horizon or f.run.limits is not None or GPU in f.cost:
            return False
        return self.is_short(f) and (f.group is None or f.group.node is not None)

    def node(self, f: FunctionState, nodes: Iterable[Node]) -> Node | None:
        """The node that should hold a function ahead, None when none should.

        It waits there for short functions only: behind one of which nobody knows how long it takes, it could
        wait while other nodes idle, and for ever if that one waits for it.
        """
        cost = f.cost
        seconds = max(self._durations.most(f.kind.code) or 0.0, _SHORTEST)
        each = int(self.horizon / seconds)
        best: Node | None = None
        able = (n for n in nodes if n.accepting and n.enforces(cost) and n.soon_fits(cost))
        for node in islice(able, _LOOKED_AT):
            if len(node.ahead) < min(self._limit, node.at_once(cost) * each) and (
                best is None or len(node.ahead) < len(best.ahead)
            ):
                best = node
        return best
