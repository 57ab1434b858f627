"""Clients and clusters of this process that are made at first use, kept for the next, and closed at exit."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Hashable
from typing import Any

_kept: dict[Hashable, Any] = {}

#: A lock for each key: whoever waits for one scheduler to answer keeps nobody from another.
_locks: dict[Hashable, threading.Lock] = {}


def shared(key: Hashable, make: Callable[[], Any]) -> Any:
    """Return what is kept under a key, made again if it is not running any more. From any thread.

    Parameters
    ----------
    key : hashable
    make : callable
        Makes it: something with a ``status`` and a method ``close``. Called by one thread at a time.
    """
    with _locks.setdefault(key, threading.Lock()):
        kept = _kept.get(key)
        if kept is None or getattr(kept.status, "name", kept.status) != "running":
            kept = _kept[key] = make()
            close_at_exit(kept)
        return kept


def close_at_exit(resource: Any) -> None:
    """Close a cluster or a client when the interpreter exits, without a word."""

    def close() -> None:
        # Nobody wants to read how it closes, and where that would be written may be closed already.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        with contextlib.suppress(Exception, asyncio.CancelledError):
            resource.close(timeout=5)

    atexit.register(close)


if hasattr(os, "register_at_fork"):
    # Other threads may have held locks; clients and clusters are closed in a fork, and made anew.
    os.register_at_fork(after_in_child=_locks.clear)
