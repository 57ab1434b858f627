"""An event loop on virtual time: if nothing is due, the clock advances to the next timer."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable
from typing import Any

from simulated.clock import CLOCK
from simulated.threads import VirtualThreadPoolExecutor

#: Virtual seconds per turn of the loop, so that time advances even in a busy loop.
TURN = 1e-6


class StuckError(Exception):
    """The simulation is deadlocked, or does not end."""


class VirtualSelector(selectors.SelectSelector):
    """Selects nothing, and advances the clock by the timeout.

    Parameters
    ----------
    until : float
        Virtual time limit of a seed, in seconds.
    turns : int
        Maximum number of turns of the loop.
    """

    def __init__(self, until: float, turns: int) -> None:
        super().__init__()
        self.until = until
        self.turns = turns

    def select(self, timeout: float | None = None) -> list[Any]:
        """Advance the clock."""
        self.turns -= 1
        if timeout is None:
            raise StuckError("deadlock: no callback or timer is pending")
        if CLOCK.now > self.until:
            raise StuckError(f"the seed did not end within {self.until:g} virtual seconds")
        if self.turns < 0:
            raise StuckError("livelock: too many turns of the event loop")
        CLOCK.now += max(timeout, TURN)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on the virtual clock, which also runs functions meant for threads.

    Parameters
    ----------
    rng : random.Random
        Source of the durations of these functions.
    until, turns
        As for :class:`VirtualSelector`.
    """

    def __init__(self, rng: random.Random, until: float = 1_000.0, turns: int = 300_000) -> None:
        super().__init__(VirtualSelector(until, turns))
        self._clock_resolution = 1e-7  # differences of times are rounded
        self._rng = rng

    def time(self) -> float:
        """Return the virtual time."""
        return CLOCK.time()

    def _write_to_self(self) -> None:
        """Do nothing: a thread calls this only while the loop waits for that thread."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Run a worker's function in a virtual thread, and anything else on the loop, a little later."""
        if isinstance(executor, VirtualThreadPoolExecutor):
            return super().run_in_executor(executor, func, *args)
        future = self.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:
                future.set_exception(error)

        self.call_later(self._rng.expovariate(1 / 0.002), run)
        return future
