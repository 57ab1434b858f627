"""Attempts with a timeout: they run in a process beside the node, which can be killed.

A thread that is stuck in a C call, or asleep, cannot be ended from outside; a process can. Code, arguments
and results are pickled on the way there and back. Processes are kept and used again.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from distributed.protocol import pickle

from handoff_dask._adapter._dask.running import unpacked_error
from handoff_dask._adapter.child import packed, read, unpacked, write
from handoff_dask._adapter.current import Current
from handoff_dask.exceptions import FunctionCrashedError, FunctionTimeoutError

#: Seconds until a new process must be able to run functions.
_START_TIMEOUT = 60.0

#: Idle processes that are kept.
_MOST_IDLE = max(4, os.cpu_count() or 1)

#: Attempts to stop that are remembered until they start. Most of them never do.
_MOST_STOPPED = 10_000

_idle: list[Child] = []
_running: dict[Hashable, Child] = {}
_stopped: OrderedDict[Hashable, None] = OrderedDict()
_lock = threading.Lock()

# Linux ends a child when the thread that started it ends: all are started by one that stays.
_starter = ThreadPoolExecutor(1, thread_name_prefix="handoff-starter")


class Child:
    """A process that runs one attempt at a time.

    Threads talk to it: whoever waits for an answer can stop waiting, whatever holds the pipes open.
    """

    def __init__(self) -> None:
        self.stopped = False
        self.process = _starter.submit(_start).result()
        self._requests: queue.SimpleQueue[Sequence[Any] | None] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[Sequence[Any] | None] = queue.SimpleQueue()
        self._ready = False
        for work in (self._write, self._read):
            name = f"handoff-child{work.__name__}-{self.process.pid}"
            threading.Thread(target=work, name=name, daemon=True).start()

    def _write(self) -> None:
        stream = self.process.stdin
        assert stream is not None
        with contextlib.suppress(OSError), stream:
            while (request := self._requests.get()) is not None:
                write(stream, request)
                del request  # not kept while the process is idle
        self._replies.put(None)

    def _read(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        with contextlib.suppress(EOFError, OSError), stream:
            while True:
                self._replies.put(read(stream))
        self._replies.put(None)
        self._requests.put(None)
        with _lock:
            idle = self in _idle
            if idle:
                _idle.remove(self)
        if idle:
            self.close()

    def _reply(self, timeout: float) -> Sequence[Any] | None:
        return self._replies.get(timeout=min(timeout, threading.TIMEOUT_MAX))

    def ask(self, request: Sequence[Any], timeout: float) -> Sequence[Any] | None:
        """Hand over an attempt, and wait for what became of it; None when there is nothing to wait for.

        It was stopped, or the process has gone.

        Raises
        ------
        queue.Empty
            It takes longer.
        RuntimeError
            The process has not started.
        """
        if not self._ready:
            try:
                if self._reply(_START_TIMEOUT) is None:
                    if self.stopped:
                        return None
                    raise EOFError
            except (EOFError, queue.Empty) as error:
                how = f"exit status {self.close()}, see the node's standard error"
                raise RuntimeError(f"a process for functions with a timeout did not start: {how}") from error
            self._ready = True
        self._requests.put(request)
        return self._reply(timeout)

    def stop(self) -> None:
        """Have whoever waits for an answer close this. From any thread."""
        self.stopped = True
        self._replies.put(None)

    def close(self) -> int:
        """End the process and what it has started; its exit status."""
        self._requests.put(None)
        if not self.stopped:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.1)  # it may be about to end by itself, which tells more
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        return self.process.wait()


def _start() -> subprocess.Popen[bytes]:
    code = f"import sys; sys.path[:] = {_paths()!r}; from handoff_dask._adapter.child import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is the node's to handle
    )


class StoppedError(Exception):
    """An attempt was ended since its run had. A task of Dask's own that needs its result gets this error."""

    def __init__(self) -> None:
        super().__init__("the function was stopped, as its run has ended")

    def __reduce__(self) -> tuple[type[StoppedError], tuple[()]]:
        return StoppedError, ()


def stop_attempts(attempts: Iterable[Hashable]) -> None:
    """End attempts in processes of this node, and those that have not started as soon as they do."""
    with _lock:
        for attempt in attempts:
            child = _running.get(attempt)
            if child is not None:
                child.stop()
            else:
                _stopped[attempt] = None
        while len(_stopped) > _MOST_STOPPED:
            _stopped.popitem(last=False)


def run_killable(
    function: Callable[..., Any],
    args: Sequence[Any],
    facts: Current | None,
    timeout: float,
    attempt: Hashable,
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
    attempt : hashable
        Under which :func:`stop_attempts` knows it.

    Raises
    ------
    StoppedError
        It was stopped, maybe before it began.
    FunctionTimeoutError
        It took longer. The process was killed.
    FunctionCrashedError
        The process ended by itself.
    BaseException
        What the function raised.
    """
    request = [pickle.dumps(_paths()), *packed((function, args, facts))]
    with _lock:
        child = _idle.pop() if _idle else None
    if child is None or child.process.poll() is not None:
        child = Child()
    with _lock:
        stopped = attempt in _stopped
        if stopped:
            del _stopped[attempt]
        else:
            _running[attempt] = child
    if stopped:
        _give_back(child)
        raise StoppedError
    try:
        reply = child.ask(request, timeout)
    except queue.Empty:
        child.close()
        raise FunctionTimeoutError(timeout) from None
    except BaseException:
        child.close()
        raise
    finally:
        with _lock:
            del _running[attempt]
    if child.stopped:
        child.close()
        raise StoppedError
    if reply is None:
        raise FunctionCrashedError(child.close())
    _give_back(child)
    succeeded, value = unpacked(reply)
    if succeeded:
        return value
    raise unpacked_error(*value)


def _give_back(child: Child) -> None:
    with _lock:
        keep = len(_idle) < _MOST_IDLE
        if keep:
            _idle.append(child)
    if not keep:
        child.close()


def _paths() -> list[str]:
    return [str(path) for path in sys.path]


def _after_fork() -> None:
    """A fork has neither the threads nor the processes of the one it was made from."""
    global _lock, _starter
    _lock = threading.Lock()
    _starter = ThreadPoolExecutor(1, thread_name_prefix="handoff-starter")
    for child in [*_idle, *_running.values()]:
        child.process.returncode = 0  # not ours to wait for
    _idle.clear()
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
