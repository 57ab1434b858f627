"""The clock that everything in the process reads, and identifiers that come from the seed.

Install it before Dask is imported: ``distributed.metrics`` takes the functions of :mod:`time` by name.
"""

from __future__ import annotations

import logging  # noqa: F401 - this and the next two keep the real clock for what really waits
import queue  # noqa: F401
import random
import threading  # noqa: F401
import time
import uuid

#: Seconds since the epoch when a seed begins. Small, so that a float has digits left for nanoseconds.
EPOCH = 1_000_000.0

#: The real clock, for what the search itself takes.
real_time = time.perf_counter


class Clock:
    """Virtual time: seconds since the seed began.

    Attributes
    ----------
    now : float
    rng : random.Random
        Of identifiers.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.rng = random.Random(0)

    def reset(self, seed: int) -> None:
        """Begin a seed."""
        self.now = 0.0
        self.rng = random.Random(f"identifiers {seed}")
        random.seed(f"random {seed}")

    def time(self) -> float:
        """Instead of every function of :mod:`time` that tells one."""
        return EPOCH + self.now

    def uuid4(self) -> uuid.UUID:
        """Instead of :func:`uuid.uuid4`."""
        return uuid.UUID(int=self.rng.getrandbits(128), version=4)


CLOCK = Clock()


def install() -> None:
    """Replace the process's clocks and identifiers."""
    for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time"):
        setattr(time, name, CLOCK.time)
    for name in ("time_ns", "monotonic_ns", "perf_counter_ns"):
        setattr(time, name, lambda: int(CLOCK.time() * 1e9))
    uuid.uuid4 = CLOCK.uuid4
