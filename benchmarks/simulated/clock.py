"""The virtual clock of the whole process, and identifiers drawn from the seed.

Install it before Dask is imported: ``distributed.metrics`` imports the functions of :mod:`time` by name.
"""

from __future__ import annotations

import logging  # noqa: F401 - import this and the next two with the real clock, for real waits
import queue  # noqa: F401
import random
import threading  # noqa: F401
import time
import uuid

#: Start of a seed in seconds since the epoch. Small, so that floats can represent nanoseconds.
EPOCH = 1_000_000.0

#: The real clock, to time the search itself.
real_time = time.perf_counter


class Clock:
    """Virtual time.

    Attributes
    ----------
    now : float
        Seconds since the start of the seed.
    rng : random.Random
        Source of identifiers.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.rng = random.Random(0)

    def reset(self, seed: int) -> None:
        """Start a seed."""
        self.now = 0.0
        self.rng = random.Random(f"identifiers {seed}")
        random.seed(f"random {seed}")

    def time(self) -> float:
        """Replace the clock functions of :mod:`time`."""
        return EPOCH + self.now

    def uuid4(self) -> uuid.UUID:
        """Replace :func:`uuid.uuid4`."""
        return uuid.UUID(int=self.rng.getrandbits(128), version=4)


CLOCK = Clock()


def install() -> None:
    """Replace the process's clocks and identifiers."""
    for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time"):
        setattr(time, name, CLOCK.time)
    for name in ("time_ns", "monotonic_ns", "perf_counter_ns"):
        setattr(time, name, lambda: int(CLOCK.time() * 1e9))
    uuid.uuid4 = CLOCK.uuid4
