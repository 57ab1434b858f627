"""What is written down of the plugin and the scheduler while a seed runs, and what must never happen."""

from __future__ import annotations

import functools
import logging
import traceback
from typing import Any

from handoff_dask._adapter.plugin import HandoffPlugin
from handoff_dask._scheduling.state import SchedulingState
from simulated.trace import Trace

#: Of the seed that is running.
TRACE: list[Trace] = []


def install() -> None:
    """Have the plugin's hooks noted, and the core's books checked after every decision. Once per process."""
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
                trace.complain(f"the books are wrong: {error!r} {where(error)}")
        return decisions

    SchedulingState.decide = checked
    logging.getLogger().handlers[:] = [Complaints()]
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


class Complaints(logging.Handler):
    """What handoff_dask logs as an error, or has raised where Dask logs it, is wrong."""

    def emit(self, record: logging.LogRecord) -> None:
        """Take note of it."""
        if record.levelno < logging.ERROR:
            return
        error = record.exc_info[1] if record.exc_info else None
        text = record.getMessage().split("\n")[0][:300]
        for trace in TRACE:
            if record.name.startswith("handoff_dask") or (error is not None and ours(error)):
                trace.complain(f"logged by {record.name}: {text}: {error!r} {where(error)}")
            else:
                trace.note("Dask logs", record.name, text, repr(error), where(error))


def unhandled(loop: Any, context: dict[str, Any]) -> None:
    """The event loop's handler of exceptions."""
    error = context.get("exception")
    for trace in TRACE:
        text = f"{context['message']}: {error!r} {where(error)}"
        if error is not None and ours(error):
            trace.complain(f"in the event loop: {text}")
        else:
            trace.note("Dask in the event loop:", text)


def ours(error: BaseException) -> bool:
    """Whether an exception came through code of handoff_dask."""
    return any("/handoff_dask/" in f.filename for f in traceback.extract_tb(error.__traceback__))


def where(error: BaseException | None) -> str:
    """Where an exception was raised, in short."""
    if error is None or error.__traceback__ is None:
        return ""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return "at " + " < ".join(
        f"{f.name} {f.filename.rpartition('/')[2]}:{f.lineno}" for f in reversed(frames)
    )
