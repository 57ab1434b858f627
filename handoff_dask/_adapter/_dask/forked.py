"""What a process that was forked inherits of Dask's clients, clusters and servers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from distributed import Client, Scheduler, SpecCluster, Status, Worker, utils


def renew_offload() -> None:
    """Give Dask threads again in which it packs large messages.

    Reaches: ``distributed.utils._offload_executor``, written: its threads are those of the other process.
    Why: Dask does not expect to be forked.
    From: Dask 2025.7.
    """
    utils._offload_executor = ThreadPoolExecutor(1, thread_name_prefix="Dask-Offload")


def clients() -> list[Client]:
    """All clients there are.

    Reaches: ``Client._instances``.
    Why: only the default client is public.
    From: Dask 2025.7.
    """
    return list(Client._instances)


def clusters() -> list[SpecCluster]:
    """All clusters there are that were made of a specification.

    Reaches: ``SpecCluster._instances``.
    Why: Dask tells nobody of them.
    From: Dask 2025.7.
    """
    return list(SpecCluster._instances)


def servers() -> list[Any]:
    """All schedulers and workers in this process.

    Reaches: ``Scheduler._instances`` and ``Worker._instances``.
    Why: Dask tells nobody of them.
    From: Dask 2025.7.
    """
    return [*Scheduler._instances, *Worker._instances]


def shut_client(client: Client, sync: Callable[..., Any]) -> bool:
    """Have a client taken for closed, and what is asked of it answered by ``sync``; False if it is closed.

    Reaches: ``Client.status``, written; and ``Client.sync``, replaced on the instance, through which all
    leads that blocks.
    Why: ``Client.close`` waits for an event loop that does not turn.
    From: Dask 2025.7.
    """
    if client.status == "closed":
        return False
    client.status = "closed"
    vars(client)["sync"] = sync
    return True


def shut_cluster(cluster: SpecCluster) -> bool:
    """Have a cluster taken for closed; False if it is.

    Reaches: ``Cluster.status``, written: at exit Dask closes, and waits for, those that have another one.
    Why: ``Cluster.close`` waits for an event loop that does not turn.
    From: Dask 2025.7.
    """
    if cluster.status is Status.closed:
        return False
    cluster.status = Status.closed
    return True


def keep_directory(server: Any) -> None:
    """Keep this process from removing the directory of a server of another one when it exits.

    Reaches: ``Server._workdir``, None or with the ``weakref.finalize`` ``_finalizer``.
    Why: Dask does not expect to be forked.
    From: Dask 2025.7.
    """
    directory = getattr(server, "_workdir", None)
    if directory is not None:
        directory._finalizer.atexit = False
