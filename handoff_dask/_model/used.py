"""What an attempt used of its node."""

from __future__ import annotations

from typing import NamedTuple


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
