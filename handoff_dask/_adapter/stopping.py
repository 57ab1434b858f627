"""Attempts in processes of their own are ended on their nodes when the core says so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING

from distributed.protocol import pickle

from handoff_dask._adapter.killable import stop_attempts

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
        arguments = pickle.dumps({"attempts": attempts})
        problem: object = None
        for _ in range(TRIES):
            if address not in self._scheduler.workers:
                return  # it is gone, and so is what ran there
            try:
                answer = await self._scheduler.rpc(address).run(
                    function=pickle.dumps(stop_attempts), kwargs=arguments
                )
                if answer["status"] == "OK":
                    return
                problem = answer.get("exception_text")
            except Exception as error:
                problem = error
            await asyncio.sleep(PAUSE)
        logger.warning("Node %s could not be told to end functions of runs that ended: %s", address, problem)
