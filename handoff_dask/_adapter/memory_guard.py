"""Memory bounds of isolated attempts: an attempt that uses more memory than it has booked is ended.

A thread looks at the processes of the attempts every 50 ms. Memory that the processes of an attempt share is
counted once, and what an idle process uses is not counted.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Protocol

import psutil

#: Bytes per MB.
MB = 2**20

#: Seconds between two looks.
_INTERVAL = 0.05

_PAGE = os.sysconf("SC_PAGE_SIZE") / MB if hasattr(os, "sysconf") else 0.0


class Bounded(Protocol):
    """A process whose memory is bounded.

    Attributes
    ----------
    pid : int
    idle_memory : float
        MB that it used before its first attempt.
    """

    pid: int
    idle_memory: float

    def exceed(self, megabytes: float) -> None:
        """End the attempt, which uses this much memory."""


class MemoryGuard:
    """Ends attempts that use more memory than their bounds."""

    def __init__(self) -> None:
        self._bounds: dict[Bounded, float] = {}
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def watch(self, process: Bounded, bound: float | None) -> Iterator[None]:
        """Watch a process. ``bound`` is in MB; None for no bound."""
        if bound is None:
            yield
            return
        self._bounds[process] = bound
        self._wake.set()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="handoff-memory-guard", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            self._bounds.pop(process, None)

    def _run(self) -> None:
        while self._wake.wait():
            if not self._bounds:
                self._wake.clear()
                if self._bounds:  # one was added before that
                    self._wake.set()
                continue
            for process, bound in list(self._bounds.items()):
                used = memory_of(process.pid, bound + process.idle_memory) - process.idle_memory
                if used > bound and self._bounds.pop(process, None) is not None:
                    process.exceed(used)
            time.sleep(_INTERVAL)


def memory_of(pid: int, enough: float) -> float:
    """Return the memory in MB that a process and its descendants use; 0 if it has ended.

    Memory that they share is counted once, if counting it several times gives more than ``enough``.
    """
    family = [pid, *_descendants(pid)]
    resident = [_resident(process) for process in family]
    total = sum(resident)
    if len(family) > 1 and total > enough:
        return max(resident[0], sum(map(_proportional, family)))
    return total


def _resident(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except ProcessLookupError:
        return 0.0
    except OSError:
        with contextlib.suppress(psutil.Error):
            resident: float = psutil.Process(pid).memory_info().rss / MB
            return resident
        return 0.0


def _proportional(pid: int) -> float:
    """Return the proportional set size in MB: a page shared by two processes counts half in each."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) / 1024
    return _resident(pid)


def _descendants(pid: int) -> list[int]:
    if not os.path.exists("/proc/self/task"):
        with contextlib.suppress(psutil.Error):
            return [child.pid for child in psutil.Process(pid).children(recursive=True)]
        return []
    family = [pid]
    for process in family:  # grows
        family += _children(process)
    return family[1:]


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with contextlib.suppress(OSError):  # it has ended
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                children += map(int, file.read().split())
    return children
