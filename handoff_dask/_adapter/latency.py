"""Messages between scheduler and workers without Dask's pause before each batch.

Dask sends at most one batch of messages every 5 ms to a worker and every 2 ms to the scheduler, so that a
function that waits for another costs about 7 ms however short both are. A shorter pause makes chains faster
and wide graphs of very short functions slower, since there are more messages; so it has to be asked for. It
holds for all messages of a worker, Dask's own too, and is put back when the plugin is removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distributed.protocol import pickle

if TYPE_CHECKING:
    from distributed import Scheduler, Worker


def set_worker_interval(dask_worker: Worker, interval: float) -> float:
    """Run on a worker: set the pause between batches to the scheduler, in seconds; returns what it was."""
    stream = dask_worker.batched_stream
    before: float = stream.interval
    stream.interval = interval
    return before


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
        self.interval = interval
        self._before: dict[str, tuple[float, float]] = {}

    def shorten(self, address: str, worker_interval: float) -> bool:
        """Shorten the pause towards a worker.

        Parameters
        ----------
        address : str
        worker_interval : float
            Pause of the worker's own messages, in seconds.

        Returns
        -------
        bool
            Whether the worker should shorten its own pause, too.
        """
        stream = self._scheduler.stream_comms.get(address)
        if not self.interval or stream is None or address in self._before:
            return False
        self._before[address] = (stream.interval, worker_interval)
        stream.interval = min(stream.interval, self.interval)
        return worker_interval > self.interval

    def forget(self, address: str) -> None:
        """A worker is gone."""
        self._before.pop(address, None)

    async def restore(self) -> None:
        """Put everything back."""
        before, self._before = self._before, {}
        for address, (towards, back) in before.items():
            stream = self._scheduler.stream_comms.get(address)
            if stream is not None:
                stream.interval = towards
                await self.set_on(address, back)

    async def set_on(self, address: str, interval: float) -> None:
        """Set the pause of a worker's own messages."""
        await self._scheduler.rpc(address).run(
            function=pickle.dumps(set_worker_interval), kwargs=pickle.dumps({"interval": interval})
        )
