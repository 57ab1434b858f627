"""Stop requests to nodes for attempts that run in their own processes."""

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

#: Number of stop requests to a node, and seconds between them. If all fail, the attempts run until they end
#: or time out.
TRIES, PAUSE = 5, 1.0


class AttemptStopper:
    """Tells nodes to stop attempts. Each attempt then ends like any other, when its node reports its outcome.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._tasks: set[asyncio.Task[None]] = set()

    def stop(self, address: str, attempts: Iterable[Hashable]) -> None:
        """Tell a node in the background to stop attempts."""
        task = asyncio.get_running_loop().create_task(self._request(address, list(attempts)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _request(self, address: str, attempts: list[Hashable]) -> None:
        problem: object = None
        for _ in range(TRIES):
            if address not in self._scheduler.workers:
                return  # the attempts ended with the worker
            try:
                answer = await call_on(self._scheduler, address, stop_attempts, attempts=attempts)
                if answer.problem is None:
                    return
                problem = answer.problem
            except Exception as error:
                problem = error
            await asyncio.sleep(PAUSE)
        logger.warning("Could not tell node %s to stop functions of ended runs: %s", address, problem)
