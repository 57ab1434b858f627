"""Ctrl-C: the command ends soon whatever it is at, and what it has started is silent about it."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import active_children, resource_tracker
from types import FrameType

from distributed import Worker, WorkerPlugin

from handoff_dask._cli.errors import ExitCode

#: Seconds after Ctrl-C within which everything is closed, or is left to the operating system.
GRACE = 15.0


@contextmanager
def ended_by_interrupt() -> Iterator[None]:
    """Make Ctrl-C end this process: in an orderly way, but the second time, or if that takes long, at once.

    A client of Dask that was interrupted while it was made waits for ever when Python, about to exit, comes
    upon it. So the functions for the exit are called here, while there still is somebody to stop them. What
    runs on a cluster ends either way: the scheduler notices that its client is gone.
    """
    interrupted = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            os._exit(ExitCode.INTERRUPTED)
        interrupted.set()
        timer = threading.Timer(GRACE, os._exit, [ExitCode.INTERRUPTED])
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else ignored, as in background jobs
        signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        if interrupted.is_set():
            with suppress(BaseException):
                sys.stdout.flush()
                if active_children():  # only they need to be told; threads would be waited for
                    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # nobody wants to read how they close
                    atexit._run_exitfuncs()
            os._exit(ExitCode.INTERRUPTED)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Keep Ctrl-C until the end of the block, but for a second one.

    A cluster that is interrupted while it starts cannot be closed. The signal is not blocked: threads that
    are started in the block, and the processes that functions start in these, would never hear of it again.
    """
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[FrameType | None] = []

    def hold(number: int, frame: FrameType | None) -> None:
        held.append(frame)
        if len(held) > 1:
            before(number, frame)

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if len(held) == 1:
            before(signal.SIGINT, held[0])


@contextmanager
def children_uninterrupted() -> Iterator[None]:
    """Keep Ctrl-C from processes that are started in the block, until :class:`Deaf` is there.

    A terminal sends it to them, too, and each would print a traceback. Threads that are started in the block
    and what those start later, such as a node in place of one that died, are kept from it likewise.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting a process does it otherwise, and lets signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Deaf(WorkerPlugin):
    """Makes processes of nodes do nothing on Ctrl-C: the command ends them.

    What functions start there is not the command's, and ends on Ctrl-C as it would without nodes. So the
    signal is neither blocked nor ignored, both of which is inherited: it is caught.
    """

    name = "handoff-dask-deaf"

    def setup(self, worker: Worker) -> None:
        """Runs in the main thread of a node."""
        before = signal.getsignal(signal.SIGINT)  # that of asyncio, or ignored, as in background jobs
        if callable(before) and before is not _unheard:
            signal.signal(signal.SIGINT, _unheard)
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=_heard)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _unheard(number: int, frame: FrameType | None) -> None:
    """Do nothing."""


def _heard() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
