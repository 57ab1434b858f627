"""Attempts in processes of their own are ended on their nodes when the core says so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING

from handoff_dask._adapter._dask.workers import call_on
from handoff_dask._adapter.process_pool import stop_attempts

if TYPE_CHECKING:
    from distributed import Scheduler

logger = logging.getLogger(__name__)

#: How often a node is told, and seconds between: after that its attempts go on to their timeouts.
TRIES, PAUSE = 5, 1.0


class Stopping:
    """Tells nodes to end attempts. What they report then is the end of these attempts.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._tasks: set[asyncio.Task[None]] = set()

    def stop(self, address: str, attempts: Iterable[Hashable]) -> None:
        """Tell a node, in the background."""
        task = asyncio.get_running_loop().create_task(self._tell(address, list(attempts)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, address: str, attempts: list[Hashable]) -> None:
        problem: object = None
        for _ in range(TRIES):
            if address not in self._scheduler.workers:
                return  # it is gone, and so is what ran there
            try:
                answer = await call_on(self._scheduler, address, stop_attempts, attempts=attempts)
                if answer.problem is None:
                    return
                problem = answer.problem
            except Exception as error:
                problem = error
            await asyncio.sleep(PAUSE)
        logger.warning("Node %s could not be told to end functions of runs that ended: %s", address, problem)
