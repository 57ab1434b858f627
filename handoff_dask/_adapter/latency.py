"""Messages between scheduler and workers without Dask's pause before each batch, where that gains anything.

Dask sends at most one batch of messages every 5 ms to a worker and every 2 ms to the scheduler, so that a
function that waits for another costs about 6 ms however short both are. A shorter pause makes chains faster,
and graphs of many very short functions slower, since there are more messages. So a pause is short only
while few functions wait on the worker: whoever waits then, waits for a message. It holds for all messages
of a worker, Dask's own too, and is put back when the plugin is removed.
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


class Pause(float):
    """Seconds until the next batch, decided as each batch is sent.

    As a number it is Dask's own pause. Dask adds it to the time when it sends a batch, and that is when the
    question is asked: no task, and no function's thread, has to do anything for it.

    Parameters
    ----------
    own : float
        Dask's own.
    short : float
        Instead of it, unless there is enough to do.
    stocked : callable
        Whether there is enough to do until the next batch.
    """

    short: float
    stocked: Callable[[], bool]

    def __new__(cls, own: float, short: float, stocked: Callable[[], bool]) -> Pause:
        """Make one: a float's value is set here."""
        pause = super().__new__(cls, own)
        pause.short = short
        pause.stocked = stocked
        return pause

    @property
    def seconds(self) -> float:
        """The pause after a batch that is sent now."""
        return float(self) if self.stocked() else self.short

    def __radd__(self, time: float) -> float:
        """Dask asks until when to pause."""
        return time + self.seconds

    __add__ = __radd__


def shorten(stream: Any, interval: float, stocked: Callable[[], bool]) -> None:
    """Shorten a stream's pause, unless it is that short already."""
    own = float(workers.pause_of(stream))
    if own > interval:
        workers.set_pause(stream, Pause(own, interval, stocked))


def put_back(stream: Any) -> None:
    """Give a stream its own pause again, unless somebody has changed it since."""
    pause = workers.pause_of(stream)
    if isinstance(pause, Pause):
        workers.set_pause(stream, float(pause))


def set_worker_interval(dask_worker: Worker, interval: float | None) -> None:
    """Run on a worker: shorten the pause between its messages to the scheduler; None puts it back."""
    stream = workers.stream_from(dask_worker)
    if interval is None:
        put_back(stream)
    else:
        shorten(stream, interval, lambda: workers.count_waiting(dask_worker) >= SATURATION)


class StreamIntervals:
    """Shortens pauses between batches, and puts them back.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    interval : float
        Seconds; pauses that are shorter already stay as they are. 0 changes nothing.
    """

    def __init__(self, scheduler: Scheduler, interval: float) -> None:
        self._scheduler = scheduler
        self._interval = interval
        self._shortened: set[str] = set()

    async def shorten(self, address: str, node: Node) -> None:
        """Shorten pauses towards a worker, and of its own messages."""
        stream = workers.stream_to(self._scheduler, address)
        if self._interval and stream is not None:
            self._shortened.add(address)
            shorten(stream, self._interval, lambda: node.saturated)
            await self._set_on(address, self._interval)

    def forget(self, address: str) -> None:
        """A worker is gone."""
        self._shortened.discard(address)

    async def restore(self) -> None:
        """Put everything back, also where functions run still."""
        streams = {address: workers.stream_to(self._scheduler, address) for address in self._shortened}
        self._shortened.clear()
        there = [address for address, stream in streams.items() if stream is not None]  # others are leaving
        for address in there:
            put_back(streams[address])
        await asyncio.gather(*(self._set_on(address, None) for address in there))

    async def _set_on(self, address: str, interval: float | None) -> None:
        with contextlib.suppress(OSError, CommClosedError):  # it is gone
            await workers.call_on(self._scheduler, address, set_worker_interval, interval=interval)
