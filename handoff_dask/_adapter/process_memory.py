"""The memory that processes use, in MB: of one process, of a process and its descendants, and its highest."""

from __future__ import annotations

import contextlib
import ctypes
import os
from functools import lru_cache
from typing import Any

import psutil

from handoff_dask._model.resources import MB

#: MB per page, of which the system counts those in memory.
PAGE = os.sysconf("SC_PAGE_SIZE") / MB if hasattr(os, "sysconf") else 0.0


def memory_of(pid: int, enough: float) -> float:
    """Return the memory in MB that a process and its descendants use; 0 if it has ended.

    Memory that they share is counted once, if counting it several times gives more than ``enough``.
    """
    family = [pid, *_descendants(pid)]
    each = [resident(process) for process in family]
    total = sum(each)
    if len(family) > 1 and total > enough:
        return max(each[0], sum(map(_proportional, family)))
    return total


def resident(pid: int) -> float:
    """Return the memory that a process uses; 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGE
    except ProcessLookupError:
        return 0.0
    except OSError:
        with contextlib.suppress(psutil.Error):
            used: float = psutil.Process(pid).memory_info().rss / MB
            return used
        return 0.0


def _proportional(pid: int) -> float:
    """Return the proportional set size in MB: a page shared by two processes counts half in each."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) / 1024
    return resident(pid)


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


def reset_highest() -> None:
    """Let :func:`highest` start over."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def highest() -> tuple[float, bool]:
    """Return the highest memory use of this process in MB, and whether it was since the last reset."""
    try:
        with open("/proc/self/status", "rb") as file:
            for line in file:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1]) / 1024, True
    except OSError:
        pass
    return psutil.Process().memory_info().rss / MB, False


class _MallInfo(ctypes.Structure):
    """``struct mallinfo2`` of the GNU C library, version 2.33 and later: see mallinfo(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


@lru_cache(maxsize=1)
def _mallinfo() -> Any:
    try:
        function = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError, TypeError):  # another C library
        return None
    function.restype = _MallInfo
    return function


def freed() -> float:
    """Return the memory in MB that this process keeps although it has freed it; 0 if that is unknown.

    That of other threads than the main one is left out.
    """
    function = _mallinfo()
    return 0.0 if function is None else function().fordblks / MB
