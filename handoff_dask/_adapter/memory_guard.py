"""Memory bounds of isolated attempts: an attempt that uses more memory than it has booked is ended.

A thread looks at the processes of the attempts every 50 ms. Memory that the processes of an attempt share is
counted once.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from handoff_dask._adapter.process_memory import memory_of

#: Seconds between two looks.
_INTERVAL = 0.05


class _Attempt(NamedTuple):
    """An attempt in a process, and what to call with the MB that it uses if these exceed its bound."""

    pid: int
    base: float
    bound: float
    exceed: Callable[[float], None]


class MemoryGuard:
    """Ends attempts that use more memory than their bounds."""

    def __init__(self) -> None:
        self._watched: dict[object, _Attempt] = {}
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def watch(self, pid: int, base: float, bound: float, exceed: Callable[[float], None]) -> Iterator[None]:
        """Watch an attempt.

        Parameters
        ----------
        pid : int
            Its process, which may run another attempt afterwards.
        base : float
            MB that the process used before. They do not count.
        bound : float
            MB that the attempt may use.
        exceed : callable
            Called in another thread, with the MB that the attempt uses, if these are more. It is not called
            once the context has been left.
        """
        token = object()
        with self._lock:
            self._watched[token] = _Attempt(pid, base, bound, exceed)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="handoff-memory-guard", daemon=True)
                self._thread.start()
        self._wake.set()
        try:
            yield
        finally:
            with self._lock:
                self._watched.pop(token, None)

    def _run(self) -> None:
        while self._wake.wait():
            with self._lock:
                watched = list(self._watched.items())
                if not watched:
                    self._wake.clear()
            for token, attempt in watched:
                used = memory_of(attempt.pid, attempt.base + attempt.bound) - attempt.base
                if used > attempt.bound:
                    with self._lock:  # it may have ended, and its process may run another one
                        if self._watched.pop(token, None) is not None:
                            attempt.exceed(used)
            time.sleep(_INTERVAL)
