"""What runs in a thread of a node goes on when nobody wants it any more, and keeps what is booked for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from distributed.metrics import time

from handoff_dask._adapter._dask import clients

if TYPE_CHECKING:
    from distributed import Scheduler

#: Name under which the scheduler's own wishes are noted among those of its clients.
KEEPER = "handoff-keeper"


class Keeper:
    """Wants the results of functions that run although their client is gone, or has lost interest.

    Dask forgets such a task at once; that does not end it. With somebody who wants it, it stays until it
    has really ended.

    Parameters
    ----------
    scheduler : distributed.Scheduler

    Attributes
    ----------
    paused : int
        Restarts that are going on: with its workers ends whatever runs, and nothing more is kept.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._kept: set[Any] = set()
        self._ended: list[Any] = []
        self.paused = 0
        # From the start, as Dask's own fire-and-forget: the scheduler may be going through its clients.
        clients.want(scheduler, (), KEEPER)

    def keep(self, keys: Iterable[Any]) -> None:
        """Want these keys, which are being processed, until they have ended."""
        new = [key for key in keys if key not in self._kept]
        if new and not self.paused:
            self._kept.update(new)
            clients.want(self._scheduler, new, KEEPER)

    def ended(self, key: Any) -> None:
        """A key does not run any more; :meth:`release` lets it go."""
        if key in self._kept:
            self._kept.discard(key)
            self._ended.append(key)

    def release(self) -> None:
        """Let go what has ended. Not from within a transition, and before anything is placed again."""
        if self._ended:
            keys, self._ended = self._ended, []
            clients.unwant(self._scheduler, keys, KEEPER, f"{KEEPER}-{time()}")

    def close(self) -> None:
        """Want nothing any more."""
        for key in list(self._kept):
            self.ended(key)
        self.release()
        clients.forget_name(self._scheduler, KEEPER)
