"""A pool of child processes for the attempts of isolated functions.

A thread that sleeps or is stuck in a C call cannot be interrupted; a process can be killed. Code, arguments
and results are pickled between the node and the child. Idle children are reused.
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
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

if sys.platform == "linux":
    import fcntl

from distributed.protocol import pickle

from handoff_dask._adapter._dask.running import unpickle_error
from handoff_dask._adapter.cgroup import CgroupGuard
from handoff_dask._adapter.child import from_frames, read_frames, to_frames, write_frames
from handoff_dask._adapter.current import Current
from handoff_dask._adapter.isolation import as_seen_inside, environment_of
from handoff_dask._adapter.process_memory import resident
from handoff_dask._model.resources import MEMORY
from handoff_dask._model.used import Used
from handoff_dask.exceptions import FunctionCrashedError, FunctionMemoryError, FunctionTimeoutError

#: Seconds within which a new process must be ready to run functions.
_START_TIMEOUT = 60.0

#: Idle processes to keep at most, unless more are running: a node may have more threads than cores.
_MAX_IDLE = max(4, os.cpu_count() or 1)

#: Attempts to remember as stopped before they start. Most never start, so the oldest entries are evicted.
_MAX_STOPPED = 10_000

#: MB that an idle process may use: that of large libraries and caches, but not of a leak.
_MAX_LEFT = 1024.0

#: Bytes in the pipes to and from a child. With the 64 kB of Linux, a large array takes about twice as long.
_PIPE_SIZE = 2**20

_idle: list[Child] = []
_running: dict[Hashable, Child] = {}
_stopped: OrderedDict[Hashable, None] = OrderedDict()
_lock = threading.Lock()
_guard = CgroupGuard()

# On Linux a child is killed when the *thread* that started it ends (see ``child``): one permanent thread
# therefore starts all children.
_starter = ThreadPoolExecutor(1, thread_name_prefix="handoff-starter")


class Child:
    """A child process, which runs one attempt at a time.

    Two threads read and write its pipes. A caller that waits for a reply can therefore give up at any time,
    even if a process that the function has started keeps the pipes open.

    Parameters
    ----------
    environment : mapping of str to str
        Environment variables that differ from those of this process.

    Attributes
    ----------
    stopped : bool
        Whether the attempt must end.
    used : float or None
        MB that the attempt used when it exceeded its memory bound; None if it did not.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.stopped = False
        self.used: float | None = None
        self.process = _starter.submit(_start, environment).result()
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
                write_frames(stream, request)
                del request  # free it while idle
        self._replies.put(None)

    def _read(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        with contextlib.suppress(EOFError, OSError, MemoryError), stream:
            while True:
                self._replies.put(read_frames(stream))
        self._replies.put(None)
        self._requests.put(None)
        with _lock:
            idle = self in _idle
            if idle:
                _idle.remove(self)
        if idle:
            self.close()

    def _reply(self, timeout: float | None) -> Sequence[Any] | None:
        return self._replies.get(timeout=None if timeout is None else min(timeout, threading.TIMEOUT_MAX))

    def ask(
        self, request: Sequence[Any], timeout: float | None, memory: float | None
    ) -> Sequence[Any] | None:
        """Run an attempt, and wait for its outcome.

        Parameters
        ----------
        request : sequence of frames
        timeout : float or None
            Seconds, from the moment the process is ready; None for no limit.
        memory : float or None
            MB that the attempt may use; None for no limit.

        Returns
        -------
        sequence of frames or None
            None if the attempt was stopped or the process has exited.

        Raises
        ------
        queue.Empty
            The attempt has timed out.
        RuntimeError
            The process did not start.
        """
        if not self._ready:
            try:
                ready = self._reply(_START_TIMEOUT)
                if ready is None:
                    if self.stopped:
                        return None
                    raise EOFError
            except (EOFError, queue.Empty) as error:
                reason = f"exit status {self.close()}, see the node's standard error"
                raise RuntimeError(f"a process for isolated functions did not start: {reason}") from error
            self._ready = True
        base = resident(self.process.pid)
        message = [pickle.dumps((_paths(), base)), *request]
        if memory is None:
            self._requests.put(message)
            return self._reply(timeout)
        with _guard.watch(self.process.pid, base, memory, self.exceed):
            self._requests.put(message)
            return self._reply(timeout)

    def stop(self) -> None:
        """Make the caller that waits for a reply close this process. Thread-safe."""
        self.stopped = True
        self._replies.put(None)

    def exceed(self, megabytes: float) -> None:
        """Stop, because the attempt uses this much memory. Thread-safe."""
        self.used = megabytes
        self.stop()

    def close(self) -> int:
        """Kill the process and its process group; return its exit status."""
        self._requests.put(None)
        if not self.stopped:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.1)  # if it is about to exit, its own status says more than SIGKILL
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        status = self.process.wait()
        _guard.release(self.process.pid)
        return status


def _start(environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    code = f"import sys; sys.path[:] = {_paths()!r}; from handoff_dask._adapter.child import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
        start_new_session=True,  # so that Ctrl-C reaches the node alone
    )
    for stream in (process.stdin, process.stdout):
        if stream is not None and sys.platform == "linux":
            with contextlib.suppress(OSError):  # the user may have too many pipes
                fcntl.fcntl(stream, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    return process


class StoppedError(Exception):
    """An attempt was stopped because its run has ended."""

    def __init__(self) -> None:
        super().__init__("the function was stopped because its run has ended")

    def __reduce__(self) -> tuple[type[StoppedError], tuple[()]]:
        return StoppedError, ()


class Outcome(NamedTuple):
    """How a call in a child process ended: with a result or an exception."""

    result: Any
    error: BaseException | None
    usage: Used


def stop_attempts(attempts: Iterable[Hashable]) -> None:
    """Stop attempts: kill the child processes of running ones, and keep the others from starting.

    Parameters
    ----------
    attempts : iterable of hashable
        Identifiers that were or will be passed to :func:`run_in_process`.
    """
    with _lock:
        for attempt in attempts:
            child = _running.get(attempt)
            if child is not None:
                child.stop()
            else:
                _stopped[attempt] = None
        while len(_stopped) > _MAX_STOPPED:
            _stopped.popitem(last=False)


def run_in_process(
    function: Callable[..., Any],
    args: Sequence[Any],
    current: Current | None,
    timeout: float | None,
    attempt: Hashable,
) -> Outcome:
    """Call a function in a child process, and return its outcome.

    Function, arguments and result are pickled.

    Parameters
    ----------
    function : callable
    args : sequence
    current : Current or None
        The attempt, which ``current()`` returns in the child. The child sees only the cores and devices that
        it has booked.
    timeout : float or None
        Seconds; None for no limit. The start of a new process does not count.
    attempt : hashable
        Identifies the attempt to :func:`stop_attempts`.

    Returns
    -------
    Outcome

    Raises
    ------
    StoppedError
        The attempt was stopped, possibly before it began.
    FunctionTimeoutError
        The attempt timed out, and the process was killed.
    FunctionMemoryError
        The attempt used more memory than it has booked, and the process was killed.
    FunctionCrashedError
        The process exited during the attempt.
    """
    environment = {} if current is None else environment_of(current)
    seen = None if current is None else as_seen_inside(current)
    memory = None if current is None else current.cost.get(MEMORY)
    request = to_frames((function, args, seen))
    child = _take_idle(environment) or Child(environment)
    with _lock:
        stopped = attempt in _stopped
        if stopped:
            del _stopped[attempt]
        else:
            _running[attempt] = child
    if stopped:
        _return_to_pool(child)
        raise StoppedError
    try:
        reply = child.ask(request, timeout, memory)
    except queue.Empty:
        child.close()
        assert timeout is not None
        raise FunctionTimeoutError(timeout) from None
    except BaseException:
        child.close()
        raise
    finally:
        with _lock:
            del _running[attempt]
    if child.used is not None:
        child.close()
        assert current is not None
        assert memory is not None
        raise FunctionMemoryError(current.function_id, memory, child.used, current.node)
    if child.stopped:
        child.close()
        raise StoppedError
    if reply is None:
        raise FunctionCrashedError(child.close())
    _return_to_pool(child)
    succeeded, value, usage = from_frames(reply)
    return Outcome(value, None, usage) if succeeded else Outcome(None, unpickle_error(*value), usage)


def _take_idle(environment: Mapping[str, str]) -> Child | None:
    """Return the idle child that has run last with this environment, None if there is none.

    A child in which attempts have left much memory behind is ended instead.
    """
    with _lock:
        for child in reversed(_idle):
            if child.environment == environment:
                _idle.remove(child)
                break
        else:
            return None
    if child.process.poll() is not None:
        return None
    if resident(child.process.pid) > _MAX_LEFT:
        child.close()
        return None
    return child


def _return_to_pool(child: Child) -> None:
    """Keep a child for later attempts; of too many children, end the one that has been idle longest."""
    with _lock:
        _idle.append(child)
        surplus = _idle.pop(0) if len(_idle) > max(_MAX_IDLE, len(_running)) else None
    if surplus is not None:
        surplus.close()


def _paths() -> list[str]:
    return [str(path) for path in sys.path]


def _after_fork() -> None:
    """Forget the parent's threads and children: a forked process has neither."""
    global _lock, _starter, _guard
    _lock = threading.Lock()
    _guard = CgroupGuard()
    _starter = ThreadPoolExecutor(1, thread_name_prefix="handoff-starter")
    for child in [*_idle, *_running.values()]:
        child.process.returncode = 0  # keeps Popen from waiting for another process's child
    _idle.clear()
    _running.clear()
    _stopped.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
