"""Pacing: which function a slow node should run, if any, once nodes are known to differ in speed.

A function that starts on a slow node may end later than if it had waited for a fast one, and later than
everything else. So the next function in a queue starts on a slow node only if it would not be the last to
end; otherwise the node gets a shorter function that is further behind, or waits. This is list scheduling by
earliest finish times on related machines (HEFT: Topcuoglu et al., IEEE TPDS 2002), applied to what is free
now. While all nodes are alike, none of this has an effect.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from handoff_dask._scheduling.claim import end_of
from handoff_dask._scheduling.functions import FINAL, FunctionState, State
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.nodes import Nodes, Rows, Scores
from handoff_dask._scheduling.queues import Queue, QueueKey
from handoff_dask._scheduling.speeds import Speeds

if TYPE_CHECKING:
    from handoff_dask._scheduling.runs import Run

#: Maximum number of functions of a queue, and of slots on faster nodes, to compare.
_MAX_COMPARED = 64

#: Maximum number of queues whose eligible nodes are remembered.
_MAX_QUEUES = 1_000

#: The remaining work of a run is counted again when this fraction of it has started or ended.
_STALE = 0.02

#: A node is slow if functions take longer there than on the fastest node by more than this fraction.
_SLOWER = 0.05


class Pacing:
    """Chooses functions for slow nodes.

    Parameters
    ----------
    nodes : Nodes
    speeds : Speeds
    """

    def __init__(self, nodes: Nodes, speeds: Speeds) -> None:
        self._nodes = nodes
        self._speeds = speeds
        self._left: dict[Run, _Left] = {}
        self._versions = (-1, -1)  # of the nodes and the speeds for which the following is valid
        self._factors: NDArray[np.float64] = np.zeros(0)
        self._eligible: dict[QueueKey, _Eligible] = {}

    def applies_to(self, run: Run) -> bool:
        """Return whether the speeds of nodes matter to a run."""
        return bool(self._speeds.factors) and not run.estimates.given

    def forget(self, run: Run) -> None:
        """Forget a run."""
        self._left.pop(run, None)

    def _refresh(self) -> None:
        versions = self._nodes.version, self._speeds.version
        if self._versions != versions or len(self._eligible) > _MAX_QUEUES:
            self._versions = versions
            self._factors = np.array([self._speeds.factor(node.name) for node in self._nodes.ordered])
            self._eligible.clear()

    def factor(self, node: Node) -> float:
        """Return by how much functions take longer on a node than on one of ordinary speed."""
        return self._speeds.factor(node.name)

    def penalties(self, rows: Rows, scores: Scores) -> Scores:
        """Add to the scores of nodes how much longer functions take there than on the fastest of them.

        A node on which they take twice as long costs as much as one resource of a node left unused.
        """
        if scores is None:
            return None
        self._refresh()
        factors = self._factors[rows]
        adjusted: NDArray[np.float64] = np.round(scores + factors / factors.min() - 1, 9)
        return adjusted

    def choose(self, queue: Queue, node: Node, now: float) -> FunctionState | None:
        """Return the function of a queue that should start on a node on which its cost fits now.

        Returns
        -------
        FunctionState or None
            The head, or a function behind it. None if each of them is expected to end earlier on a faster
            node, although it has to wait there: then no slower node should start one either.
        """
        self._refresh()
        head: FunctionState = queue.heap[0][4]
        run = head.run
        eligible = self._eligible.get(queue.key)
        if eligible is None:
            eligible = self._eligible[queue.key] = _Eligible(queue, self._nodes, self._speeds)
        slower = self._speeds.factor(node.name)
        faster = bisect_left(eligible.factors, slower / (1 + _SLOWER))
        if not faster:
            return head
        left = self._left.get(run)
        if left is None or left.is_stale(run):
            left = self._left[run] = _Left(run)
        fastest = eligible.factors[0]
        end = left.end(eligible.speeds[faster - 1] + node.slots(queue.cost) / slower, fastest)
        slots: list[list[float]] | None = None
        for f in islice(queue, _MAX_COMPARED):
            seconds = run.estimates.seconds(f)
            if seconds * slower + left.after(f) * fastest <= end:
                return f
            if slots is None:
                slots = self._slots(queue, eligible.nodes[: min(faster, _MAX_COMPARED)], now)
            if not slots:
                return head
            soonest = min(slots, key=lambda slot: slot[0] + seconds * slot[1])
            soonest[0] += seconds * soonest[1]
            if seconds * slower <= soonest[0]:
                return f
        return None

    def _slots(self, queue: Queue, nodes: Sequence[Node], now: float) -> list[list[float]]:
        """Return the slots for functions of a queue on nodes: seconds until each is free, and its factor."""
        slots: list[list[float]] = []
        for node in nodes:
            factor = self._speeds.factor(node.name)
            idle = min(node.available(name) // units for name, units in queue.cost.items() if units)
            ends = sorted(max(0.0, end_of(f, now) - now) for f in node.running)
            slots += [[0.0, factor] for _ in range(min(idle, _MAX_COMPARED))]
            slots += [[end, factor] for end in ends[: node.slots(queue.cost) - idle]]
        slots.sort()
        return slots[:_MAX_COMPARED]


class _Eligible:
    """The nodes that may serve a queue, the fastest first.

    Attributes
    ----------
    nodes : list of Node
    factors : list of float
        Their factors.
    speeds : list of float
        The sum of the speeds of all slots on each node and on those before it.
    """

    __slots__ = ("factors", "nodes", "speeds")

    def __init__(self, queue: Queue, nodes: Nodes, speeds: Speeds) -> None:
        rows, ordered, avoided = queue.rows(nodes), nodes.ordered, queue.avoided(nodes)
        eligible = ordered if rows is None else [ordered[row] for row in rows.tolist()]
        able = [n for n in eligible if n.accepting and n.name not in avoided and n.holds(queue.cost)]
        self.nodes = sorted(able, key=lambda n: speeds.factor(n.name))
        self.factors = [speeds.factor(n.name) for n in self.nodes]
        slots = (n.slots(queue.cost) / f for n, f in zip(self.nodes, self.factors, strict=True))
        self.speeds = list(accumulate(slots))


class _Left:
    """The work of a run that is left, on nodes of ordinary speed.

    Attributes
    ----------
    seconds : float
        Total duration of the functions that have not ended; those that are running count half.
    longest : float
        The longest critical path of these functions.
    """

    __slots__ = ("_paths", "_progress", "_total", "longest", "seconds")

    def __init__(self, run: Run) -> None:
        self._progress = _progress_of(run)
        self._paths = run.ranking.paths
        left = [f for f in run.functions if f.state not in FINAL]
        self._total = len(left)
        seconds = run.estimates.seconds
        self.seconds = sum(seconds(f) * (0.5 if f.state is State.RUNNING else 1.0) for f in left)
        self.longest = max((self._paths[f.number] for f in left), default=0.0) if self._paths else 0.0

    def is_stale(self, run: Run) -> bool:
        """Return whether much has started or ended since."""
        return (
            abs(_progress_of(run) - self._progress) > _STALE * self._total
            or self._paths is not run.ranking.paths
        )

    def end(self, speed: float, fastest: float) -> float:
        """Return the seconds that the rest takes at least, given the sum of the speeds of all slots."""
        return max(self.seconds / speed if speed else 0.0, self.longest * fastest)

    def after(self, f: FunctionState) -> float:
        """Return the length of the critical path behind a function."""
        return max(0.0, self._paths[f.number] - f.run.estimates.seconds(f)) if self._paths else 0.0


def _progress_of(run: Run) -> int:
    """Return a number that grows whenever a function starts or ends."""
    counts = run.counts
    return counts[State.RUNNING] + 2 * counts[State.FINISHED] + 2 * counts[State.FAILED]
