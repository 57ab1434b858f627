"""A process that was forked has none of the threads in which clients and clusters run: they are closed there.

Otherwise whatever is asked of them is never answered, since it waits for an event loop that does not turn.
"""

from __future__ import annotations

import os
from typing import Any

from handoff_dask._adapter._dask import forked
from handoff_dask.exceptions import ClusterNotReadyError

#: Clients, clusters and servers of the process that this one was forked from. If collected, they would
#: close connections, and take them from an event loop's selector, which both processes share.
_inherited: list[Any] = []


def inherited(client: Any) -> bool:
    """Whether a client or a cluster was made before this process was forked."""
    return any(client is other for other in _inherited)


def explain_inherited(client: Any) -> str:
    """Why it cannot be used, and what to do."""
    return (
        f"{client!r} was made before this process was forked, and works only in the process that made it:"
        " make a client here, Client(address), or pass none to use an embedded cluster of this process; or"
        ' start processes with multiprocessing.get_context("spawn")'
    )


def _after_fork() -> None:
    forked.renew_offload()
    _inherited.extend(client for client in forked.clients() if forked.shut_client(client, _refusing(client)))
    _inherited.extend(cluster for cluster in forked.clusters() if forked.shut_cluster(cluster))
    for server in forked.servers():
        forked.keep_directory(server)
        _inherited.append(server)


def _refusing(client: Any) -> Any:
    def sync(*args: Any, **kwargs: Any) -> Any:
        raise ClusterNotReadyError(explain_inherited(client))

    return sync


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
