"""Shared clients and clusters: created on first use, reused, and closed at exit."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Hashable
from typing import Any

_resources: dict[Hashable, Any] = {}

#: One lock per key, so that waiting for one scheduler does not block the use of another.
_locks: dict[Hashable, threading.Lock] = {}


def shared(key: Hashable, create: Callable[[], Any]) -> Any:
    """Return the shared client or cluster of a key, created anew unless it is running. Thread-safe.

    Parameters
    ----------
    key : hashable
    create : callable
        Returns a new client or cluster: an object with ``status`` and ``close()``. One thread at a time calls
        it for a key.
    """
    with _locks.setdefault(key, threading.Lock()):
        resource = _resources.get(key)
        if resource is None or getattr(resource.status, "name", resource.status) != "running":
            resource = _resources[key] = create()
            close_at_exit(resource)
        return resource


def close_at_exit(resource: Any) -> None:
    """Close a cluster or a client silently when the interpreter exits."""

    def close() -> None:
        # Messages about the shutdown are noise, and the stream they go to may be closed already.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        with contextlib.suppress(Exception, asyncio.CancelledError):
            resource.close(timeout=5)

    atexit.register(close)


if hasattr(os, "register_at_fork"):
    # Threads of the parent may have held locks. The resources themselves are closed in the fork (see forks).
    os.register_at_fork(after_in_child=_locks.clear)
