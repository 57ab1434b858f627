"""Orphaned attempts: Dask took their functions back from a node that is still there, but a thread goes on."""

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

#: Seconds between questions to a worker. Longer than Dask's messages to it wait, so that the one that takes
#: the function back has arrived before the first.
INTERVAL = 0.1


def keys_in_threads(dask_worker: Worker) -> list[Hashable]:
    """Run on a worker: keys of tasks in its threads."""
    return running_keys(dask_worker)


class Orphans:
    """Asks workers about orphaned attempts, and tells the core when they have ended.

    Dask does not tell: for the scheduler such a task has not run. Nothing is asked while there is none.

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
        """Ask about an orphaned attempt until it has ended."""
        if orphan is None:
            return
        if node in self._watched:
            self._watched[node][orphan] = key
            return
        self._watched[node] = {orphan: key}
        task = asyncio.get_running_loop().create_task(self._look(node))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Ask nothing more."""
        for task in self._tasks:
            task.cancel()

    async def _look(self, node: Node) -> None:
        try:
            await self._ask(node, self._watched[node])
        finally:
            del self._watched[node]

    async def _ask(self, node: Node, orphans: dict[Orphan, Hashable]) -> None:
        while orphans:
            await asyncio.sleep(INTERVAL)
            address = self._scheduler.aliases.get(node.name)
            if address is None or self._state.nodes.get(node.name) is not node:
                break  # the node is gone, and all that was booked there with it
            try:
                answer = await call_on(self._scheduler, address, keys_in_threads)
            except OSError:
                continue
            except Exception:
                logger.exception("handoff_dask could not ask node %r what it runs; it will again", node.name)
                continue
            if answer.problem is not None:
                logger.warning("Node %r does not say what it runs: %s", node.name, answer.problem)
                await asyncio.sleep(1)
                continue
            for orphan, key in list(orphans.items()):
                if key not in answer.value:
                    del orphans[orphan]
                    self._state.orphan_ended(orphan)
                    self._wake()
