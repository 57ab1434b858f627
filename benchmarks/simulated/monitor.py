"""Tracing of the plugin and the scheduler while a seed runs, and detection of errors."""

from __future__ import annotations

import functools
import logging
import traceback
from typing import Any

from handoff_dask._adapter.plugin import HandoffPlugin
from handoff_dask._scheduling.state import SchedulingState
from simulated.trace import Trace

#: The trace of the running seed.
TRACE: list[Trace] = []


def install() -> None:
    """Trace the plugin's hooks, and check the core's ledger after every decision. Call once per process."""
    for name in ("start", "add_worker", "remove_worker", "update_graph", "remove_client", "transition"):
        _note(HandoffPlugin, name)
    decide = SchedulingState.decide

    @functools.wraps(decide)
    def checked(self: SchedulingState, *args: Any, **kwargs: Any) -> Any:
        decisions = decide(self, *args, **kwargs)
        for trace in TRACE:
            trace.note("decides", *decisions)
            try:
                self.check()
            except AssertionError as error:
                trace.report(f"the ledger is inconsistent: {error!r} {describe_location(error)}")
        return decisions

    SchedulingState.decide = checked
    logging.getLogger().handlers[:] = [ErrorHandler()]
    loggers = [logging.getLogger(name) for name in ("distributed", "tornado", "asyncio", "handoff_dask")]
    loggers += [x for x in logging.Logger.manager.loggerDict.values() if isinstance(x, logging.Logger)]
    for logger in loggers:
        logger.handlers[:] = []
        logger.propagate = True
        logger.setLevel(logging.ERROR)


def _note(cls: type, name: str) -> None:
    original = cls.__dict__[name]

    @functools.wraps(original)
    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        told = [repr(a)[:80] for a in args if not type(a).__name__.endswith("Scheduler")]
        for trace in TRACE:
            trace.note("hook", name, *told)
        return original(self, *args, **kwargs)

    setattr(cls, name, noted)


class ErrorHandler(logging.Handler):
    """Treats errors that handoff_dask logs, or raises where Dask logs them, as violations."""

    def emit(self, record: logging.LogRecord) -> None:
        """Add a record to the trace, as a violation or as an event."""
        if record.levelno < logging.ERROR:
            return
        error = record.exc_info[1] if record.exc_info else None
        text = record.getMessage().split("\n")[0][:300]
        for trace in TRACE:
            if record.name.startswith("handoff_dask") or (error is not None and is_ours(error)):
                trace.report(f"logged by {record.name}: {text}: {error!r} {describe_location(error)}")
            else:
                trace.note("Dask logs", record.name, text, repr(error), describe_location(error))


def handle_loop_exception(loop: Any, context: dict[str, Any]) -> None:
    """Handle an exception that reached the event loop."""
    error = context.get("exception")
    for trace in TRACE:
        text = f"{context['message']}: {error!r} {describe_location(error)}"
        if error is not None and is_ours(error):
            trace.report(f"in the event loop: {text}")
        else:
            trace.note("Dask in the event loop:", text)


def is_ours(error: BaseException) -> bool:
    """Return whether code of handoff_dask is in the traceback of an exception."""
    return any("/handoff_dask/" in f.filename for f in traceback.extract_tb(error.__traceback__))


def describe_location(error: BaseException | None) -> str:
    """Summarise where an exception was raised."""
    if error is None or error.__traceback__ is None:
        return ""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return "at " + " < ".join(
        f"{f.name} {f.filename.rpartition('/')[2]}:{f.lineno}" for f in reversed(frames)
    )
