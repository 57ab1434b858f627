"""Handling of Ctrl-C: the command ends promptly, and its node processes print no tracebacks."""

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

#: Seconds after Ctrl-C in which everything is closed gracefully. Then the process exits anyway.
GRACE = 15.0


@contextmanager
def exit_on_interrupt() -> Iterator[None]:
    """Make Ctrl-C end this process gracefully, or immediately after a second Ctrl-C or :data:`GRACE` seconds.

    A Dask client that was interrupted during its creation blocks forever in Python's exit handlers. Therefore
    the exit handlers run here, where the timer can still end the process. Runs on a cluster end in either
    case: the scheduler notices that its client is gone.
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
                if active_children():  # without processes, handlers only wait for threads
                    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # hide the messages of closing processes
                    atexit._run_exitfuncs()
            os._exit(ExitCode.INTERRUPTED)


@contextmanager
def defer_interrupts() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block; a second Ctrl-C takes effect immediately.

    A cluster that is interrupted while it starts cannot be closed. The signal is deferred, not blocked:
    threads started in the block, and processes that functions start in these threads, would inherit the
    blocked signal permanently.
    """
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    deferred: list[FrameType | None] = []

    def defer(number: int, frame: FrameType | None) -> None:
        deferred.append(frame)
        if len(deferred) > 1:
            before(number, frame)

    signal.signal(signal.SIGINT, defer)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if len(deferred) == 1:
            before(signal.SIGINT, deferred[0])


@contextmanager
def block_interrupts_in_children() -> Iterator[None]:
    """Block Ctrl-C in processes started in the block, until :class:`IgnoreInterrupts` takes over.

    A terminal sends Ctrl-C to all processes of the command, and each node process would print a traceback.
    Threads started in the block inherit the blocked signal, as do processes that they start later, such as
    the replacement of a node that died.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Starting the first process would start the tracker too, and that unblocks the signal again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class IgnoreInterrupts(WorkerPlugin):
    """Makes node processes do nothing on Ctrl-C, since the command ends them.

    Processes that functions start still end on Ctrl-C, as they would without nodes. Therefore the signal is
    neither blocked nor ignored, which child processes would inherit, but caught by a handler.
    """

    name = "handoff-dask-ignore-interrupts"

    def setup(self, worker: Worker) -> None:
        """Install the handler, in the main thread of the node."""
        before = signal.getsignal(signal.SIGINT)  # asyncio's handler, or ignored, as in background jobs
        if callable(before) and before is not _do_nothing:
            signal.signal(signal.SIGINT, _do_nothing)
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=_restore_default)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Handle the signal by doing nothing."""


def _restore_default() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
