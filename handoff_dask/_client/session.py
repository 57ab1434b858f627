"""Resolution of the ``client=`` argument to a Dask client, and installation of the scheduler plugin."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

from distributed import Client, default_client

from handoff_dask._adapter._dask.client import was_made_by_worker
from handoff_dask._adapter._dask.running import in_task
from handoff_dask._adapter.cluster import embedded_cluster
from handoff_dask._adapter.forks import explain_inherited, is_inherited
from handoff_dask._adapter.install import check_protocol, install
from handoff_dask._adapter.probe import check_address, check_answers
from handoff_dask._adapter.shared import shared
from handoff_dask._adapter.versions import with_versions
from handoff_dask._client.connection import is_closed, retry_on_disconnect, wait_until_connected
from handoff_dask.exceptions import ClusterNotReadyError


def resolve_client(client: Any, *, reuse: bool) -> tuple[Client, bool]:
    """Return the Dask client to use.

    Parameters
    ----------
    client : Client, cluster, str or None
        A client, a cluster object, or the address of a scheduler. None: the default client if there is one,
        otherwise the client of the embedded cluster.
    reuse : bool
        Whether to keep a newly created client for later calls. If False, the caller closes it.

    Returns
    -------
    client : distributed.Client
    owned : bool
        Whether the caller must close the client.

    Raises
    ------
    TypeError
        ``client`` is none of these.
    ValueError
        The string is not an address.
    ClusterNotReadyError
        The client is closed or was created before this process was forked, or no scheduler answers.
    """
    if client is None:
        if (found := _default_client()) is not None:
            return found, False
        client, reuse = embedded_cluster(), True
    if is_inherited(client):
        raise ClusterNotReadyError(explain_inherited(client))
    if isinstance(client, Client):
        if client.status in ("closed", "closing"):
            raise ClusterNotReadyError(
                f"{client!r} is closed; pass an open client, or none to use an embedded cluster"
            )
        return client, False
    address = client if isinstance(client, str) else getattr(client, "scheduler_address", None)
    if not isinstance(address, str) or not address:
        raise TypeError(
            "client must be a distributed.Client, a cluster, the address of a scheduler or None,"
            f" not {client!r}"
        )
    if reuse:
        return shared(address, partial(_connect, client)), False
    return _connect(client), True


def _connect(target: Any) -> Client:
    if isinstance(target, str):
        check_address(target)
        check_answers(target)
    try:
        return Client(target, set_as_default=False)
    except ValueError as error:
        raise ValueError(f"client: {target!r} is not the address of a scheduler: {error}") from error
    except OSError as error:
        raise ClusterNotReadyError(f"client: no scheduler answers at {target!r}: {error}") from error


def _default_client() -> Client | None:
    """Return Dask's default client if it is usable, else None."""
    with contextlib.suppress(ValueError):
        found = default_client()
        # A worker in this process may have created a client for its tasks and left it behind on closing.
        for_worker_tasks = was_made_by_worker(found) and not in_task()
        if found.status not in ("closed", "closing") and not for_worker_tasks:
            return found
    return None


async def ensure_plugin(client: Client) -> None:
    """Install the scheduler plugin unless it is installed already.

    Raises
    ------
    ClusterNotReadyError
        The cluster refuses plugins, lacks handoff_dask, or runs a version with another protocol.
    """
    if not await wait_until_connected(client):
        raise ClusterNotReadyError(f"{client!r} is closed because it could not connect to its scheduler")
    # Never cached: the plugin may have been removed, or the scheduler restarted, since the last call.
    installed = await retry_on_disconnect(client, partial(install, client))
    if is_closed(client):
        raise ClusterNotReadyError(f"{client!r} was closed or lost its connection to the scheduler")
    try:
        check_protocol(installed)
    except ClusterNotReadyError as error:
        raise await with_versions(client, error) from None


def ask(client: Any, question: Any, *args: Any) -> Any:
    """Await ``question(client, *args)``: block, or return an awaitable with an asynchronous client."""
    resolved, owned = resolve_client(client, reuse=False)

    async def answer() -> Any:
        try:
            await ensure_plugin(resolved)
            return await question(resolved, *args)
        finally:
            if owned and resolved.asynchronous:
                await resolved.close()

    if resolved.asynchronous:
        return answer()
    try:
        return resolved.sync(answer)
    finally:
        if owned:
            resolved.close()
