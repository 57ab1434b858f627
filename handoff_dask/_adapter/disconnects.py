"""Grace period for clients whose connection broke: the results their runs need survive until it expires."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distributed.metrics import time

from handoff_dask._adapter._dask import clients
from handoff_dask._adapter.messages import NAME

if TYPE_CHECKING:
    from distributed import Scheduler


class DisconnectedClients:
    """Holds on to the keys of disconnected clients until they reconnect or their grace period expires.

    When a client's connection breaks, Dask forgets at once all keys that only this client wanted. A
    placeholder, a virtual client that wants the same keys, prevents that. A client that closes says so, and
    gets no placeholder.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    grace : float
        Seconds; 0 gives a client up as soon as its connection breaks.
    gone : callable
        Called with the id of a client that did not reconnect in time.
    """

    def __init__(self, scheduler: Scheduler, grace: float, gone: Callable[[str], None]) -> None:
        self._scheduler = scheduler
        self._grace = grace
        self._gone = gone
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def __contains__(self, client: str) -> bool:
        return client in self._timers

    def expect(self, client: str, keys: list[Any]) -> None:
        """Keep these keys for a client that is disconnected or has not connected yet."""
        if not self._grace:
            return
        if keys:
            clients.want(self._scheduler, keys, placeholder(client))
        if client not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[client] = loop.call_later(self._grace, self._expire, client)

    def returned(self, client: str) -> None:
        """Remove the placeholder of a client that has reconnected and wants its keys again."""
        timer = self._timers.pop(client, None)
        if timer is not None:
            timer.cancel()
            self._release(client)

    def _expire(self, client: str) -> None:
        # The client may have reconnected, but since it did not reattach, it will not ask about its runs.
        del self._timers[client]
        self._gone(client)
        self._release(client)

    def _release(self, client: str) -> None:
        name = placeholder(client)
        state = self._scheduler.clients.get(name)
        if state is not None:
            keys = [ts.key for ts in state.wants_what]
            clients.release(self._scheduler, keys, name, f"{name}-{time()}")
            clients.forget_virtual_client(self._scheduler, name)

    def close(self) -> None:
        """Remove all placeholders and cancel their timers."""
        for client in list(self._timers):
            self.returned(client)


def placeholder(client: str) -> str:
    """Return the id of the virtual client that keeps the keys of a disconnected client."""
    return f"{NAME}-disconnected-{client}"
