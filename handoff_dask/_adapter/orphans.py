"""Orphaned attempts: Dask took a function back from a live node, but the node's thread keeps running it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from handoff_dask._adapter._dask.workers import call_on, running_keys
from handoff_dask._scheduling.ledger import Orphan
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.state import SchedulingState

if TYPE_CHECKING:
    from distributed import Scheduler, Worker

logger = logging.getLogger(__name__)

#: Seconds between polls of a worker. Longer than the scheduler batches messages to the worker, so that the
#: message that takes the function back arrives before the first poll.
INTERVAL = 0.1


def keys_in_threads(dask_worker: Worker) -> list[Hashable]:
    """Return the keys of the tasks that a worker's threads are running. Called on the worker."""
    return running_keys(dask_worker)


class Orphans:
    """Polls workers for orphaned attempts and tells the core when these have ended.

    Dask does not report their end, because for the scheduler such a task never ran. A worker is polled only
    while it has orphaned attempts.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    state : SchedulingState
    wake : callable
        Called when there may be something to decide.
    """

    def __init__(self, scheduler: Scheduler, state: SchedulingState, wake: Callable[[], None]) -> None:
        self._scheduler = scheduler
        self._state = state
        self._wake = wake
        self._watched: dict[Node, dict[Orphan, Hashable]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, node: Node, key: Hashable, orphan: Orphan | None) -> None:
        """Poll a node until an orphaned attempt has ended."""
        if orphan is None:
            return
        if node in self._watched:
            self._watched[node][orphan] = key
            return
        self._watched[node] = {orphan: key}
        task = asyncio.get_running_loop().create_task(self._watch_node(node))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Stop polling."""
        for task in self._tasks:
            task.cancel()

    async def _watch_node(self, node: Node) -> None:
        try:
            await self._poll(node, self._watched[node])
        finally:
            del self._watched[node]

    async def _poll(self, node: Node, orphans: dict[Orphan, Hashable]) -> None:
        while orphans:
            await asyncio.sleep(INTERVAL)
            address = self._scheduler.aliases.get(node.name)
            if address is None or self._state.nodes.get(node.name) is not node:
                break  # the node left, and its allocations with it
            try:
                answer = await call_on(self._scheduler, address, keys_in_threads)
            except OSError:
                continue
            except Exception:
                logger.exception(
                    "handoff_dask could not ask node %r which tasks it runs; it will retry", node.name
                )
                continue
            if answer.problem is not None:
                logger.warning("Node %r could not list the tasks it runs: %s", node.name, answer.problem)
                await asyncio.sleep(1)
                continue
            for orphan, key in list(orphans.items()):
                if key not in answer.value:
                    del orphans[orphan]
                    self._state.orphan_ended(orphan)
                    self._wake()
