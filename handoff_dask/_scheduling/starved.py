"""Queues whose functions no node can hold, and when these fail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from handoff_dask._scheduling.decisions import Starved
from handoff_dask._scheduling.explain import shortfall_of
from handoff_dask._scheduling.nodes import Nodes
from handoff_dask._scheduling.queues import Queue
from handoff_dask._scheduling.runs import Run


class StarvedQueues:
    """Queues whose functions no node can hold.

    Parameters
    ----------
    nodes : Nodes
    timeout : float
        Seconds that a function waits for a node that can hold it.

    Attributes
    ----------
    timeout : float
    due : float or None
        When the next functions will have waited for so long.
    """

    def __init__(self, nodes: Nodes, timeout: float) -> None:
        self.due: float | None = None
        self._nodes = nodes
        self.timeout = timeout
        self._since: dict[Queue, float | None] = {}

    def __bool__(self) -> bool:
        return bool(self._since) or self.due is not None

    def add(self, queue: Queue) -> None:
        """Add a queue that no node can hold; its time begins with the next :meth:`fail`."""
        self._since.setdefault(queue, None)

    def forget(self, run: Run) -> None:
        """Forget the queues of a run."""
        for queue in run.backlog.queues.values():
            self._since.pop(queue, None)

    def bound(self) -> list[Queue]:
        """Queues of groups whose node has become too small for them."""
        return [queue for queue in self._since if queue.key.bound is not None]

    def fail(self, now: float) -> Iterator[Starved]:
        """The functions that have waited long enough."""
        self.due = None
        for queue, since in list(self._since.items()):
            if queue.head is None or queue.is_possible(self._nodes):
                del self._since[queue]
                continue
            if queue.key.bound is not None:
                continue  # others of its group run on their node, which is too small now
            if since is None:
                since = self._since[queue] = now
            due = since + self.timeout
            if now >= due:
                yield self._starved(queue)
            elif self.due is None or due < self.due:
                self.due = due

    def _starved(self, queue: Queue) -> Starved:
        functions = list(queue)
        shortfall = shortfall_of(functions, queue.need, queue.key.pins, self._nodes.ordered)
        assert shortfall is not None
        lost = max(sum(a.outcome == "lost" for a in f.attempts) for f in functions)
        if lost > 1:  # it may be what takes the nodes down
            reason = f"{shortfall.reason}, after {lost} of its attempts were lost with their nodes"
            shortfall = replace(shortfall, reason=reason)
        return Starved(tuple(functions), shortfall)
