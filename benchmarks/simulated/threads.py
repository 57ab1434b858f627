"""Threads of workers, of which one runs at a time, and only while the event loop stands still.

They are real threads, so that a function finds what Dask puts into its thread; a baton goes to and fro.
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
    """The thread's process is no more."""


class VirtualThread(threading.Thread):
    """Runs one function, and gives the baton back when it waits or has ended."""

    def __init__(self, pool: VirtualThreadPoolExecutor, function: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.pool = pool
        self._function = function
        self._go = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._abandoned = False
        self.ended = False

    def run(self) -> None:
        """Run the function once the baton is there."""
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
        """Give it the baton, and wait until it is back. On the event loop."""
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
        """Give the baton back, until somebody resumes this thread. In the thread."""
        self._back.release()
        self._go.acquire()
        if self._abandoned:
            raise AbandonedError

    def abandon(self) -> None:
        """Let it go no further."""
        self._abandoned = True
        if self.ident is not None:
            self.resume()
        self.ended = True


def here() -> VirtualThread:
    """The virtual thread that calls this."""
    thread = threading.current_thread()
    assert isinstance(thread, VirtualThread)
    return thread


def sleep(seconds: float) -> None:
    """Wait, in a virtual thread."""
    thread = here()
    thread.pool.loop.call_later(seconds, thread.resume)
    thread.park()


def rejoin() -> None:
    """Instead of Dask's: take a place among the threads of the pool again, without waiting for one."""
    here().pool._threads.add(here())


class VirtualEvent(threading.Event):
    """Waits in a virtual thread, until it is set on the event loop."""

    _waiting: VirtualThread | None = None

    def set(self) -> None:
        """Set it."""
        super().set()
        if self._waiting is not None:
            thread, self._waiting = self._waiting, None
            thread.pool.loop.call_soon(thread.resume)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for it; however long that takes in a virtual thread."""
        if not isinstance(threading.current_thread(), VirtualThread):
            return super().wait(timeout)
        while not self.is_set():
            self._waiting = here()
            self._waiting.park()
        return True


class VirtualThreadPoolExecutor(Executor):
    """A worker's threads. Dask knows a pool of threads by the name of its class.

    Parameters
    ----------
    size : int
        How many functions run at a time.
    delay : callable
        Seconds until a thread begins with what it was given.
    """

    def __init__(self, size: int, delay: Callable[[], float]) -> None:
        self.loop = asyncio.get_running_loop()
        self.machine = MACHINE.get()
        self._size = size
        self._delay = delay
        self._queue: deque[VirtualThread] = deque()
        self._threads: set[threading.Thread] = set()  # Dask's secede() takes a thread out
        self._all: dict[VirtualThread, None] = {}
        self._abandoned = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function in a thread of its own, when one of the pool's is free."""
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
        """Start what there is room for. Dask calls this, too, when a thread has seceded."""
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
        """Dask closes the worker; :meth:`abandon` follows when that is done."""

    def abandon(self) -> None:
        """The process has ended, and its threads with it."""
        self._abandoned = True
        self._queue.clear()
        for thread in list(self._all):
            thread.abandon()
