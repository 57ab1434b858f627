"""Entries of Dask's tables that are ours while the plugin is installed, and Dask's own again afterwards."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

logger = logging.getLogger(__name__)


class Patches:
    """Replaces handlers and methods of a scheduler, and undoes that in reverse order."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], Any]] = []

    def replace(self, table: dict[str, Any], name: str, value: Any) -> None:
        """Set an entry of a table until :meth:`undo`."""
        if name in table:
            self.on_undo(partial(table.__setitem__, name, table[name]))
        else:
            self.on_undo(partial(table.pop, name, None))
        table[name] = value

    def on_undo(self, action: Callable[[], Any]) -> None:
        """Have :meth:`undo` call this."""
        self._undo.append(action)

    def undo(self) -> None:
        """Put everything back. What fails is logged, and the rest is put back all the same."""
        while self._undo:
            try:
                self._undo.pop()()
            except Exception:
                logger.exception("handoff_dask could not put back all that it had changed")


def before(note: Callable[..., None], original: Callable[..., Any]) -> Callable[..., Any]:
    """A handler that lets ``note`` see each message before ``original`` handles it."""

    def handler(*args: Any, **message: Any) -> Any:
        _take(note, args, message)
        return original(*args, **message)

    return handler


def after(original: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
    """A handler that lets ``note`` see each message once ``original``, which awaits nothing, is done."""

    def handler(*args: Any, **message: Any) -> Any:
        answer = original(*args, **message)
        _take(note, args, message)
        return answer

    return handler


def _take(note: Callable[..., None], args: tuple[Any, ...], message: dict[str, Any]) -> None:
    try:
        note(*args, **message)
    except Exception:
        logger.exception("handoff_dask could not take note of %r", message)
