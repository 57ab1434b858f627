"""Fork safety: a forked process closes the clients and clusters that it inherits.

Their event loops run in threads, and threads do not survive a fork. Without this, any call to such a client
or cluster would wait forever.
"""

from __future__ import annotations

import os
from typing import Any

from handoff_dask._adapter._dask import forked
from handoff_dask.exceptions import ClusterNotReadyError

#: Clients, clusters and servers of the parent process. They are referenced here because garbage collection
#: would close their connections and unregister them from the event loop's selector, which the parent shares.
_inherited: list[Any] = []


def is_inherited(client: Any) -> bool:
    """Return whether a client or a cluster was created before this process was forked."""
    return any(client is other for other in _inherited)


def explain_inherited(client: Any) -> str:
    """Return why an inherited client or cluster cannot be used, and the remedy."""
    return (
        f"{client!r} was created before this process was forked, and works only in the process that created"
        " it: create a client here, Client(address), or pass none to use an embedded cluster of this process;"
        ' or start processes with multiprocessing.get_context("spawn")'
    )


def _after_fork() -> None:
    forked.replace_offload_executor()
    _inherited.extend(c for c in forked.clients() if forked.mark_client_closed(c, _refuse(c)))
    _inherited.extend(c for c in forked.clusters() if forked.mark_cluster_closed(c))
    for server in forked.servers():
        forked.disown_directory(server)
        _inherited.append(server)


def _refuse(client: Any) -> Any:
    """Return a replacement for ``client.sync`` that raises."""

    def sync(*args: Any, **kwargs: Any) -> Any:
        raise ClusterNotReadyError(explain_inherited(client))

    return sync


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
