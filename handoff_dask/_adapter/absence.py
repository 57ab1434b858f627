"""Clients whose connection broke: what their runs need stays alive for a while, since they may come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distributed.metrics import time

from handoff_dask._adapter._dask import clients
from handoff_dask._adapter.messages import NAME

if TYPE_CHECKING:
    from distributed import Scheduler


class AbsentClients:
    """Stands in for clients that left without a word, until they return or a grace period is over.

    Dask forgets what only such a client wanted as soon as its connection breaks. A stand-in wants the same
    keys instead. A client that closes itself needs none: it says so.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    grace : float
        Seconds; 0 gives a client up as soon as its connection breaks.
    gone : callable
        Called with the id of a client that has not returned in time.
    """

    def __init__(self, scheduler: Scheduler, grace: float, gone: Callable[[str], None]) -> None:
        self._scheduler = scheduler
        self._grace = grace
        self._gone = gone
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def __contains__(self, client: str) -> bool:
        return client in self._timers

    def expect(self, client: str, keys: list[Any]) -> None:
        """Keep these keys for a client that is not connected, or not yet."""
        if not self._grace:
            return
        if keys:
            clients.want(self._scheduler, keys, stand_in(client))
        if client not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[client] = loop.call_later(self._grace, self._give_up, client)

    def returned(self, client: str) -> None:
        """A client is back, and wants again what it wants."""
        timer = self._timers.pop(client, None)
        if timer is not None:
            timer.cancel()
            self._release(client)

    def _give_up(self, client: str) -> None:
        # It may be connected again; but then there is nobody left who would ask about these runs.
        del self._timers[client]
        self._gone(client)
        self._release(client)

    def _release(self, client: str) -> None:
        name = stand_in(client)
        state = self._scheduler.clients.get(name)
        if state is not None:
            keys = [ts.key for ts in state.wants_what]
            clients.unwant(self._scheduler, keys, name, f"{name}-{time()}")
            clients.forget_name(self._scheduler, name)

    def close(self) -> None:
        """Expect nobody any more."""
        for client in list(self._timers):
            self.returned(client)


def stand_in(client: str) -> str:
    """Name under which the scheduler notes what is kept for an absent client."""
    return f"{NAME}-absent-{client}"
