"""Shorter intervals between Dask's message batches, while a worker waits for messages.

The scheduler sends each worker at most one batch of messages every 5 ms, and a worker sends one every 2 ms.
Each step of a chain therefore costs about 6 ms, however short its functions are. Shorter intervals speed up
chains, but slow down graphs of many very short functions, because they cause more messages. An interval is
thus short only while few functions wait on the worker, since then the worker depends on the next message.
Intervals apply to all messages of a worker, including Dask's own. Removing the plugin restores them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distributed.comm import CommClosedError

from handoff_dask._adapter._dask import workers
from handoff_dask._scheduling.node import SATURATION, Node

if TYPE_CHECKING:
    from distributed import Scheduler, Worker


class AdaptiveInterval(float):
    """Seconds between two batches, decided when each batch is sent.

    As a number it equals Dask's own interval. When Dask sends a batch, it adds the interval to the current
    time. That addition chooses between Dask's own interval and the short one, so no task or thread has to
    switch them.

    Parameters
    ----------
    own : float
        Dask's own interval, in seconds.
    short : float
        The interval while the worker is not saturated, in seconds.
    saturated : callable
        Returns whether the worker has enough functions to last until the next batch.
    """

    short: float
    saturated: Callable[[], bool]

    def __new__(cls, own: float, short: float, saturated: Callable[[], bool]) -> AdaptiveInterval:
        """Create the number: a float's value is set here, not in ``__init__``."""
        interval = super().__new__(cls, own)
        interval.short = short
        interval.saturated = saturated
        return interval

    @property
    def seconds(self) -> float:
        """The interval after a batch that is sent now."""
        return float(self) if self.saturated() else self.short

    def __radd__(self, time: float) -> float:
        """Return the time before which Dask sends no further batch."""
        return time + self.seconds

    __add__ = __radd__


def shorten(stream: Any, interval: float, saturated: Callable[[], bool]) -> None:
    """Shorten a stream's interval to ``interval`` seconds, unless it is that short already."""
    own = float(workers.send_interval(stream))
    if own > interval:
        workers.set_send_interval(stream, AdaptiveInterval(own, interval, saturated))


def restore(stream: Any) -> None:
    """Restore a stream's own interval, unless other code has changed it since."""
    interval = workers.send_interval(stream)
    if isinstance(interval, AdaptiveInterval):
        workers.set_send_interval(stream, float(interval))


def set_worker_interval(dask_worker: Worker, interval: float | None) -> None:
    """Shorten the interval of messages from a worker; None restores it. Called on the worker."""
    stream = workers.stream_from(dask_worker)
    if interval is None:
        restore(stream)
    else:
        shorten(stream, interval, lambda: workers.count_waiting(dask_worker) >= SATURATION)


class StreamIntervals:
    """Shortens the intervals of the streams between the scheduler and its workers, and restores them.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    interval : float
        Seconds. Intervals that are shorter already stay as they are; 0 changes none.
    """

    def __init__(self, scheduler: Scheduler, interval: float) -> None:
        self._scheduler = scheduler
        self._interval = interval
        self._shortened: set[str] = set()

    async def shorten(self, address: str, node: Node) -> None:
        """Shorten the intervals of both streams: from the scheduler to a worker, and back."""
        stream = workers.stream_to(self._scheduler, address)
        if self._interval and stream is not None:
            self._shortened.add(address)
            shorten(stream, self._interval, lambda: node.saturated)
            await self._set_on(address, self._interval)

    def forget(self, address: str) -> None:
        """Forget a worker that has left."""
        self._shortened.discard(address)

    async def restore(self) -> None:
        """Restore all intervals, even on workers that are running functions."""
        streams = {address: workers.stream_to(self._scheduler, address) for address in self._shortened}
        self._shortened.clear()
        connected = [address for address, stream in streams.items() if stream is not None]
        for address in connected:
            restore(streams[address])
        await asyncio.gather(*(self._set_on(address, None) for address in connected))

    async def _set_on(self, address: str, interval: float | None) -> None:
        with contextlib.suppress(OSError, CommClosedError):  # the worker has left
            await workers.call_on(self._scheduler, address, set_worker_interval, interval=interval)
