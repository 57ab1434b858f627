"""Dask's clients, clusters and servers in a forked process, which inherits them from its parent."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from distributed import Client, Scheduler, SpecCluster, Status, Worker, utils


def replace_offload_executor() -> None:
    """Replace the thread pool in which Dask serializes large messages.

    Reaches: ``distributed.utils._offload_executor``, written: its threads exist only in the parent.
    Why: Dask does not support forking.
    From: Dask 2025.7.
    """
    utils._offload_executor = ThreadPoolExecutor(1, thread_name_prefix="Dask-Offload")


def clients() -> list[Client]:
    """Return all clients in this process.

    Reaches: ``Client._instances``.
    Why: only the default client is public.
    From: Dask 2025.7.
    """
    return list(Client._instances)


def clusters() -> list[SpecCluster]:
    """Return all ``SpecCluster`` objects in this process, ``LocalCluster`` included.

    Reaches: ``SpecCluster._instances``.
    Why: there is no public list of them.
    From: Dask 2025.7.
    """
    return list(SpecCluster._instances)


def servers() -> list[Any]:
    """Return all schedulers and workers in this process.

    Reaches: ``Scheduler._instances`` and ``Worker._instances``.
    Why: there is no public list of them.
    From: Dask 2025.7.
    """
    return [*Scheduler._instances, *Worker._instances]


def mark_client_closed(client: Client, sync: Callable[..., Any]) -> bool:
    """Mark a client as closed, and have ``sync`` handle all its blocking calls.

    Reaches: ``Client.status``, written; and ``Client.sync``, through which every blocking method goes,
    replaced on the instance.
    Why: ``Client.close`` waits for an event loop that has stopped.
    From: Dask 2025.7.

    Returns
    -------
    bool
        False if the client was already closed.
    """
    if client.status == "closed":
        return False
    client.status = "closed"
    vars(client)["sync"] = sync
    return True


def mark_cluster_closed(cluster: SpecCluster) -> bool:
    """Mark a cluster as closed.

    Reaches: ``Cluster.status``, written: at exit Dask closes all other clusters, and waits for them.
    Why: ``Cluster.close`` waits for an event loop that has stopped.
    From: Dask 2025.7.

    Returns
    -------
    bool
        False if the cluster was already closed.
    """
    if cluster.status is Status.closed:
        return False
    cluster.status = Status.closed
    return True


def disown_directory(server: Any) -> None:
    """Keep this process from deleting an inherited server's working directory at exit.

    Reaches: ``Server._workdir``: None, or an object whose ``_finalizer`` is a ``weakref.finalize``.
    Why: Dask does not support forking.
    From: Dask 2025.7.
    """
    directory = getattr(server, "_workdir", None)
    if directory is not None:
        directory._finalizer.atexit = False
