"""What an attempt used of its node, and the cost that would have sufficed for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

#: How many times the peak of memory a cost should be.
_RESERVE = 1.1


class Used(NamedTuple):
    """What an attempt used of its node, as its node has measured it.

    Attributes
    ----------
    cpu_seconds : float or None
        Processor time in seconds.
    peak_memory : float or None
        The most memory in use at any time, in MB (2**20 bytes).
    peak_exact : bool
        Whether ``peak_memory`` is exact. If not, it is an estimate from the growth of a process.
    """

    cpu_seconds: float | None = None
    peak_memory: float | None = None
    peak_exact: bool = False


#: Nothing was measured.
UNKNOWN = Used()


def sufficient_memory(megabytes: float) -> float:
    """Return a cost in MB that suffices for a peak of memory, with a tenth in reserve.

    It is rounded up to two significant digits, and to at least 10 MB: queues are few if costs are alike.
    """
    megabytes *= _RESERVE
    if megabytes <= 10:
        return 10.0
    step = 10.0 ** (math.floor(math.log10(megabytes)) - 1)
    return math.ceil(round(megabytes / step, 9)) * step


def sufficient_cores(cores: Sequence[float]) -> float | None:
    """Return the whole cores that suffice for 95 % of functions that used so many; None if there are none."""
    if not cores:
        return None
    return float(max(1, math.ceil(quantile(sorted(cores), 0.95) - 0.05)))


def quantile(ordered: Sequence[float], q: float) -> float:
    """Return the smallest value of a sorted sequence below which lies at least the fraction ``q`` of it."""
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]
