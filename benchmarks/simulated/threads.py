"""Threads of workers. Only one runs at a time, and only while the event loop is stopped.

They are real threads, because functions rely on the thread-local state that Dask sets. The event loop and the
threads pass a baton to each other; only its holder runs.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from distributed.threadpoolexecutor import thread_state

from simulated.trace import MACHINE


class AbandonedError(BaseException):
    """The process of the thread has ended."""


class VirtualThread(threading.Thread):
    """A thread that runs one function, and gives the baton back whenever it waits and when it ends."""

    def __init__(self, pool: VirtualThreadPoolExecutor, function: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.pool = pool
        self._function = function
        self._go = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._abandoned = False
        self.ended = False

    def run(self) -> None:
        """Run the function after receiving the baton."""
        self._go.acquire()
        thread_state.executor = self.pool  # where Dask's secede() looks for it
        thread_state.proceed = True
        try:
            if not self._abandoned:
                self._function()
        except AbandonedError:
            pass
        finally:
            self.ended = True
            self._back.release()

    def resume(self) -> None:
        """Pass the baton to the thread and wait for its return. Call this on the event loop."""
        if self.ended:
            return
        if self.ident is None:
            self.start()
        self._go.release()
        self._back.acquire()
        if self.ended:
            self.join()
            self.pool._ended(self)

    def park(self) -> None:
        """Give the baton back and wait for :meth:`resume`. Call this in the thread."""
        self._back.release()
        self._go.acquire()
        if self._abandoned:
            raise AbandonedError

    def abandon(self) -> None:
        """End the thread at its next wait."""
        self._abandoned = True
        if self.ident is not None:
            self.resume()
        self.ended = True


def current_thread() -> VirtualThread:
    """Return the calling virtual thread."""
    thread = threading.current_thread()
    assert isinstance(thread, VirtualThread)
    return thread


def sleep(seconds: float) -> None:
    """Sleep in a virtual thread."""
    thread = current_thread()
    thread.pool.loop.call_later(seconds, thread.resume)
    thread.park()


def rejoin() -> None:
    """Replace Dask's ``rejoin``: rejoin the pool without waiting for a free thread."""
    current_thread().pool._threads.add(current_thread())


class VirtualEvent(threading.Event):
    """An event that a virtual thread waits for and the event loop sets."""

    _waiting: VirtualThread | None = None

    def set(self) -> None:
        """Set the event."""
        super().set()
        if self._waiting is not None:
            thread, self._waiting = self._waiting, None
            thread.pool.loop.call_soon(thread.resume)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the event; virtual threads ignore the timeout."""
        if not isinstance(threading.current_thread(), VirtualThread):
            return super().wait(timeout)
        while not self.is_set():
            self._waiting = current_thread()
            self._waiting.park()
        return True


class VirtualThreadPoolExecutor(Executor):
    """A worker's thread pool. Dask recognises thread pools by the name of their class.

    Parameters
    ----------
    size : int
        Number of functions that run at a time.
    delay : callable
        Draws the seconds until a thread starts a submitted function.
    """

    def __init__(self, size: int, delay: Callable[[], float]) -> None:
        self.loop = asyncio.get_running_loop()
        self.machine = MACHINE.get()
        self._size = size
        self._delay = delay
        self._queue: deque[VirtualThread] = deque()
        self._threads: set[threading.Thread] = set()  # Dask's secede() removes a thread
        self._all: dict[VirtualThread, None] = {}
        self._abandoned = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function in a new thread once the pool has a free slot."""
        future: Future[Any] = Future()
        context = contextvars.copy_context()

        def function() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = context.run(fn, *args, **kwargs)
            except AbandonedError:
                raise
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._queue.append(VirtualThread(self, function))
        self._adjust_thread_count()
        return future

    def _adjust_thread_count(self) -> None:
        """Start queued threads while slots are free. Dask also calls this when a thread has seceded."""
        while self._queue and len(self._threads) < self._size and not self._abandoned:
            thread = self._queue.popleft()
            self._threads.add(thread)
            self._all[thread] = None
            self.loop.call_later(self._delay(), thread.resume)

    def _ended(self, thread: VirtualThread) -> None:
        self._threads.discard(thread)
        self._all.pop(thread, None)
        self._adjust_thread_count()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do nothing: :meth:`abandon` follows once Dask has closed the worker."""

    def abandon(self) -> None:
        """End all threads, together with their process."""
        self._abandoned = True
        self._queue.clear()
        for thread in list(self._all):
            thread.abandon()
