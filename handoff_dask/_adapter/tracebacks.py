"""Tracebacks of failed attempts: what raised the exception, and which frames users see."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

from handoff_dask._adapter.config import wants_full_tracebacks
from handoff_dask._model.retry import Origin
from handoff_dask.exceptions import FunctionFailedError, RunError

#: Packages between a user's call and the user's code. Their frames are always hidden.
_HIDDEN = ("handoff_dask", "distributed", "tornado", "concurrent.futures", "dask._task_spec")

#: Packages that call the user's code for those above. Their frames are hidden before the user's last frame,
#: but not after it: there, the user's code has called them.
_MACHINERY = ("asyncio", "cloudpickle", "importlib", "threading")

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


def hide_frames(error: BaseException) -> None:
    """Remove frames that are not the user's from the tracebacks of an exception and its causes.

    Exceptions that are chained without ``raise ... from`` are left alone: the user's code has caught them,
    possibly before it called :func:`handoff_dask.execute_local`.
    """
    seen: set[int] = set()
    todo: list[BaseException] = [error]
    while todo:
        each = todo.pop()
        if id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = _visible(each.__traceback__)
            if each.__cause__ is not None:
                todo.append(each.__cause__)
            if isinstance(each, FunctionFailedError):
                todo += each.others


class UserFrames:
    """Context manager that hides frames of a :class:`RunError` that leaves its block.

    Python adds no frame for a re-raised exception, so the traceback starts in the caller of the function that
    contains the block. ``handoff.full-tracebacks`` turns it off.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, RunError) and not wants_full_tracebacks():
            hide_frames(error)


def _entries(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _module(entry: TracebackType) -> str:
    return str(entry.tb_frame.f_globals.get("__name__"))


def _visible(traceback: TracebackType | None) -> TracebackType | None:
    """Return a copy of a traceback without hidden frames; None if no frame is the user's."""
    entries = [tb for tb in _entries(traceback) if not _is_in(_module(tb), _HIDDEN)]
    users = [n for n, tb in enumerate(entries) if not _is_in(_module(tb), _MACHINERY)]
    shown: TracebackType | None = None
    if users:
        for tb in reversed([*(entries[n] for n in users), *entries[users[-1] + 1 :]]):
            shown = TracebackType(shown, tb.tb_frame, tb.tb_lasti, tb.tb_lineno)
    return shown


def _is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in packages)
