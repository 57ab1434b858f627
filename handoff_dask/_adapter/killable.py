"""Attempts with a timeout: they run in a process beside the node, which can be killed.

A thread that is stuck in a C call, or asleep, cannot be ended from outside; a process can. Code, arguments
and results are pickled on the way there and back. Processes are kept and used again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from distributed.core import clean_exception
from distributed.protocol import pickle

from handoff_dask._adapter.child import packed, read, unpacked, write
from handoff_dask._adapter.current import Current
from handoff_dask.exceptions import FunctionCrashedError, FunctionTimeoutError

#: Seconds until a new process must be able to run functions.
_START_TIMEOUT = 60.0

#: Idle processes that are kept.
_MOST_IDLE = max(4, os.cpu_count() or 1)

_idle: list[Child] = []
_lock = threading.Lock()

# Linux ends a child when the thread that started it ends: all are started by one that stays.
_starter = ThreadPoolExecutor(1, thread_name_prefix="handoff-starter")


class Child:
    """A process that runs one attempt at a time."""

    def __init__(self) -> None:
        self.process = _starter.submit(_start).result()
        self.overdue = False
        try:
            with self.limited(_START_TIMEOUT):
                self.receive()
        except (EOFError, OSError) as error:
            self.close()
            how = f"exit status {self.process.returncode}, see the node's standard error"
            raise RuntimeError(f"a process for functions with a timeout did not start: {how}") from error

    @contextlib.contextmanager
    def limited(self, seconds: float) -> Iterator[None]:
        """Kill the process unless the block is left in time."""
        timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self._expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _expire(self) -> None:
        self.overdue = True
        self.kill()

    def send(self, frames: Sequence[Any]) -> None:
        """Hand over an attempt."""
        assert self.process.stdin is not None
        write(self.process.stdin, frames)

    def receive(self) -> Any:
        """Wait for what became of it."""
        assert self.process.stdout is not None
        return unpacked(read(self.process.stdout))

    def kill(self) -> None:
        """End the process and what it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()

    def close(self) -> None:
        """End the process and clean up after it."""
        self.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()


def _start() -> subprocess.Popen[bytes]:
    code = f"import sys; sys.path[:] = {sys.path!r}; from handoff_dask._adapter.child import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is the node's to handle
    )


def run_killable(
    function: Callable[..., Any], args: Sequence[Any], facts: Current | None, timeout: float
) -> Any:
    """Call a function in another process, for so many seconds at most.

    Parameters
    ----------
    function : callable
    args : sequence
        Pickled, as the result is.
    facts : Current or None
        What ``current()`` says there.
    timeout : float
        Seconds. To start a process does not count.

    Raises
    ------
    FunctionTimeoutError
        It took longer. The process was killed.
    FunctionCrashedError
        The process ended by itself.
    BaseException
        What the function raised.
    """
    request = [pickle.dumps(sys.path), *packed((function, args, facts))]
    with _lock:
        child = _idle.pop() if _idle else None
    if child is None or child.process.poll() is not None:
        child = Child()
    try:
        with child.limited(timeout):
            child.send(request)
            succeeded, value = child.receive()
    except (EOFError, OSError) as error:
        overdue, status = child.overdue, child.process.wait()
        child.close()
        if overdue:
            raise FunctionTimeoutError(timeout) from None
        raise FunctionCrashedError(status) from error
    except BaseException:
        child.close()
        raise
    with _lock:
        keep = not child.overdue and len(_idle) < _MOST_IDLE
        if keep:
            _idle.append(child)
    if not keep:
        child.close()
    if succeeded:
        return value
    exception, trace = value
    _, raised, traceback = clean_exception(exception, trace)
    assert raised is not None
    raise raised.with_traceback(traceback)
