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
    """Keep Ctrl-C until the end of the block, and from the processes that are started in it.

    A cluster that is interrupted while it starts cannot be closed; its processes, to which a terminal sends
    Ctrl-C, too, would each print a traceback.
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


def ignore_interrupts() -> None:
    """Run on workers: those of a platform without signal masks get Ctrl-C otherwise."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
