"""Tracebacks of failed attempts: what raised the exception."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

from handoff_dask._model.retry import Origin

#: Functions that import or unpickle code and arguments, as (module, name).
_LOADERS = frozenset(
    {
        ("handoff_dask._adapter.evaluation", "load_code"),
        ("handoff_dask._adapter.evaluation", "load_arguments"),
        ("handoff_dask._adapter.child", "from_frames"),
    }
)
#: The function that calls the user's code.
_CALLER = ("handoff_dask._adapter.evaluation", "call")


def origin_of(error: BaseException) -> Origin:
    """Return what raised an exception, according to its complete traceback.

    An exception belongs to the call itself if no Python frame is inside the called code. This includes those
    of functions that are written in C.
    """
    # By name, since the frames of a child process are copies.
    frames = [(_module(tb), tb.tb_frame.f_code.co_name) for tb in _entries(error.__traceback__)]
    if not _LOADERS.isdisjoint(frames):
        return Origin.LOADING
    return Origin.CALL if frames and frames[-1] == _CALLER else Origin.CODE


def _entries(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _module(entry: TracebackType) -> str:
    return str(entry.tb_frame.f_globals.get("__name__"))
