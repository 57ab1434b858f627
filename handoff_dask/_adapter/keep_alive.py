"""A virtual client that keeps running tasks alive after every real client has released them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from distributed.metrics import time

from handoff_dask._adapter._dask import clients

if TYPE_CHECKING:
    from distributed import Scheduler

#: Id of the virtual client among the scheduler's clients.
KEEP_ALIVE = "handoff-keep-alive"


class KeepAlive:
    """Keeps tasks known to Dask until they stop running, even if no client wants their results.

    Dask forgets a released task at once, but a worker's thread keeps running it. A virtual client that wants
    the task keeps it, and the allocation of its function, until the task has really ended.

    Parameters
    ----------
    scheduler : distributed.Scheduler

    Attributes
    ----------
    paused : int
        Number of restarts in progress. A restart ends everything that runs on the workers, so no more tasks
        are kept meanwhile.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._kept: set[Any] = set()
        self._ended: list[Any] = []
        self.paused = 0
        # Register now, as Dask does for fire-and-forget: later, the scheduler may be iterating over clients.
        clients.want(scheduler, (), KEEP_ALIVE)

    def keep(self, keys: Iterable[Any]) -> None:
        """Keep tasks that are being processed until they have ended."""
        new = [key for key in keys if key not in self._kept]
        if new and not self.paused:
            self._kept.update(new)
            clients.want(self._scheduler, new, KEEP_ALIVE)

    def ended(self, key: Any) -> None:
        """Note that a task no longer runs; :meth:`release` releases it."""
        if key in self._kept:
            self._kept.discard(key)
            self._ended.append(key)

    def release(self) -> None:
        """Release tasks that have ended. Call this outside transitions and before the next placements."""
        if self._ended:
            keys, self._ended = self._ended, []
            clients.release(self._scheduler, keys, KEEP_ALIVE, f"{KEEP_ALIVE}-{time()}")

    def close(self) -> None:
        """Release all tasks and remove the virtual client."""
        for key in list(self._kept):
            self.ended(key)
        self.release()
        clients.forget_virtual_client(self._scheduler, KEEP_ALIVE)
