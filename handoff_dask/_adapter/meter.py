"""Measuring what attempts use: processor time and memory.

An attempt in a process of its own is measured exactly. One in a thread shares its process with others: its
processor time is that of the thread, and its memory is estimated from the growth of the process.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from typing import Any

from handoff_dask._adapter.process_memory import PAGE, freed, highest, reset_highest, resident
from handoff_dask._model.used import Used

#: Seconds between two looks at the memory of this process.
_INTERVAL = 0.05


# ---------------------------------------------------------------------- attempts in threads


class _Sampler:
    """Looks at the memory of this process now and then while any attempt is being measured.

    Attributes
    ----------
    latest : float
        The memory in use at the last look, in MB.
    samples : int
        Number of looks.
    measured : dict of Measurement or ThreadMeter to None
        Their ``peak`` is kept up to date.
    """

    def __init__(self) -> None:
        self.latest = 0.0
        self.samples = 0
        self.measured: dict[Any, None] = {}
        self._awake = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._file: int | None = None
        with contextlib.suppress(OSError):
            self._file = os.open("/proc/self/statm", os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def resident(self) -> float:
        """Return the memory in use by this process, in MB."""
        if self._file is not None:
            try:
                self.latest = int(os.pread(self._file, 64, 0).split()[1]) * PAGE
                return self.latest
            except (OSError, ValueError, IndexError):  # a function has closed the file
                self._file = None
        self.latest = resident(os.getpid())
        return self.latest

    def wake(self) -> None:
        """Start to look, if something has been added to ``measured``."""
        if self._awake.is_set():
            return
        self._awake.set()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="handoff-meter", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while self._awake.wait():
            time.sleep(_INTERVAL)
            if not self.measured:
                self._awake.clear()
                if self.measured:  # something was added before that
                    self._awake.set()
                continue
            now = self.resident()
            for measured in list(self.measured):
                measured.peak = max(measured.peak, now)
            self.samples += 1


class Measurement:
    """Measures an attempt in the thread that runs it.

    Attributes
    ----------
    peak : float
        The most memory seen since the beginning, in MB.
    """

    __slots__ = ("_cpu", "_start", "peak")

    def __init__(self) -> None:
        self._start = self.peak = _sampler.resident()
        _sampler.measured[self] = None
        _sampler.wake()
        self._cpu = time.thread_time()

    def end(self) -> Used:
        """End the attempt; return what it used."""
        cpu = time.thread_time() - self._cpu
        _sampler.measured.pop(self, None)
        return Used(cpu, max(0.0, max(self.peak, _sampler.resident()) - self._start))


class ThreadMeter:
    """Measures the attempts of one thread, which may be too short for a :class:`Measurement` of each.

    Takes one microsecond for each attempt instead of six, since it looks at the clock and at the memory less
    often. An attempt's processor time includes what the thread has used since the end of the attempt before
    it. The memory of an attempt that ends before the sampler's next look is unknown.

    Attributes
    ----------
    peak : float
        The most memory seen since the beginning of the attempt, in MB.
    """

    __slots__ = ("_cpu", "_samples", "_start", "peak")

    def __init__(self) -> None:
        self._start = self.peak = _sampler.resident()
        self._samples = _sampler.samples
        _sampler.measured[self] = None
        _sampler.wake()
        self._cpu = time.thread_time()

    def begin(self) -> None:
        """Begin an attempt."""
        self._start = self.peak = _sampler.latest
        self._samples = _sampler.samples

    def end(self) -> Used:
        """End the attempt; return what it used."""
        before = self._cpu
        self._cpu = now = time.thread_time()
        if self._samples == _sampler.samples:
            return Used(now - before)
        return Used(now - before, max(0.0, max(self.peak, _sampler.resident()) - self._start))

    def close(self) -> None:
        """Stop measuring."""
        _sampler.measured.pop(self, None)


_sampler = _Sampler()


def _after_fork() -> None:
    """Start over: a forked process has no sampling thread, and the parent's open file is about the parent."""
    global _sampler
    if _sampler._file is not None:
        with contextlib.suppress(OSError):
            os.close(_sampler._file)
    _sampler = _Sampler()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# ---------------------------------------------------------------------- attempts in processes of their own


class ProcessMeter:
    """Measures the attempts of the process that it is created in, one after another."""

    def __init__(self) -> None:
        self._base = self._cpu = 0.0
        self._first = math.inf  # the least that the process has used before any attempt
        self._children: Any = None

    def begin(self, base: float) -> None:
        """Begin an attempt.

        ``base`` is the memory in MB that the process used before it received the attempt: the interpreter,
        and what earlier attempts have left behind. It does not count, unless they have freed it: the process
        keeps freed memory, and what the attempt uses of that is its own.
        """
        reset_highest()
        self._first = min(base, self._first)
        self._base = max(self._first, base - freed())
        self._children = _of_children()
        self._cpu = time.process_time()

    def end(self) -> Used:
        """End the attempt; return what it used.

        The peak is not exact if the attempt has started other processes, or if the system cannot tell.
        """
        cpu = time.process_time() - self._cpu
        peak, exact = highest()
        children = _of_children()
        if children != self._children:
            cpu += children[0] - self._children[0]
            exact = False
        return Used(cpu, max(0.0, peak - self._base), exact)


def _of_children() -> tuple[float, int]:
    """Return the processor time of the children that have ended, and the most memory any of them had."""
    try:
        import resource
    except ImportError:  # on Windows
        return 0.0, 0
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime, used.ru_maxrss
