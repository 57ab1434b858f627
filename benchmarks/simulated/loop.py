"""An event loop on virtual time: when nothing is to be done now, the clock goes on to what is next."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable
from typing import Any

from simulated.clock import CLOCK
from simulated.threads import VirtualThreadPoolExecutor

#: Virtual seconds that one turn of the loop takes, so that what goes round in circles gets somewhere, too.
TURN = 1e-6


class StuckError(Exception):
    """Nothing happens any more, or too much without an end."""


class VirtualSelector(selectors.SelectSelector):
    """Selects nothing, and lets the time pass that it was given for it.

    Parameters
    ----------
    until : float
        Virtual seconds at which a seed should have ended.
    turns : int
        Turns of the loop after which it should.
    """

    def __init__(self, until: float, turns: int) -> None:
        super().__init__()
        self.until = until
        self.turns = turns

    def select(self, timeout: float | None = None) -> list[Any]:
        """Let time pass."""
        self.turns -= 1
        if timeout is None:
            raise StuckError("nothing is left to wait for")
        if CLOCK.now > self.until:
            raise StuckError(f"it did not end within {self.until:g} virtual seconds")
        if self.turns < 0:
            raise StuckError("it goes round in circles")
        CLOCK.now += max(timeout, TURN)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Takes its time from the clock, and runs what others would run in threads.

    Parameters
    ----------
    rng : random.Random
        Of how long that takes.
    """

    def __init__(self, rng: random.Random, until: float = 1_000.0, turns: int = 300_000) -> None:
        super().__init__(VirtualSelector(until, turns))
        self._clock_resolution = 1e-7  # differences of times are rounded
        self._rng = rng

    def time(self) -> float:
        """Virtual time."""
        return CLOCK.time()

    def _write_to_self(self) -> None:
        """Nobody is to be woken: whoever calls from a thread does it while the loop waits for that thread."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Run a function in a virtual thread; what Dask only takes off the loop, on it, a little later."""
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
