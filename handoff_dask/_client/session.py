"""From whatever a user passes as ``client=`` to a Dask client on a cluster that can run handoff DAGs."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

from distributed import Client, default_client

from handoff_dask._adapter._dask.client import was_made_by_worker
from handoff_dask._adapter._dask.running import in_task
from handoff_dask._adapter.cluster import embedded_cluster
from handoff_dask._adapter.forks import explain_inherited, inherited
from handoff_dask._adapter.install import check_protocol, install
from handoff_dask._adapter.probe import check_address, check_answers
from handoff_dask._adapter.shared import shared
from handoff_dask._adapter.versions import with_versions
from handoff_dask._client.connection import is_closed, retry_on_disconnect, wait_until_connected
from handoff_dask.exceptions import ClusterNotReadyError


def resolve_client(client: Any, *, reuse: bool) -> tuple[Client, bool]:
    """The Dask client to use.

    Parameters
    ----------
    client : Client, cluster, str or None
        A client, a cluster object or an address; None: the default client if there is one, otherwise that
        of the embedded cluster.
    reuse : bool
        Keep a client that has to be made, for the next call; otherwise the caller closes it.

    Returns
    -------
    client : distributed.Client
    owned : bool
        Whether the caller has to close it.

    Raises
    ------
    TypeError
        Nothing of the above.
    ValueError
        A text that is no address.
    ClusterNotReadyError
        The client is closed or was made before this process was forked, or no scheduler answers.
    """
    if client is None:
        if (found := _default_client()) is not None:
            return found, False
        client, reuse = embedded_cluster(), True
    if inherited(client):
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
    """Return Dask's default client, if there is one that can be used."""
    with contextlib.suppress(ValueError):
        found = default_client()
        # A node in this process may have made a client for its functions, and left it when it closed.
        others = was_made_by_worker(found) and not in_task()
        if found.status not in ("closed", "closing") and not others:
            return found
    return None


async def ensure_plugin(client: Client) -> None:
    """Install the scheduler plugin unless it is there.

    Raises
    ------
    ClusterNotReadyError
        The cluster does not let us, lacks handoff_dask, or has a version that speaks otherwise.
    """
    if not await wait_until_connected(client):
        raise ClusterNotReadyError(f"{client!r} is closed, as it could not connect to its scheduler")
    # Asked each time: somebody may have removed the plugin, or restarted the scheduler.
    installed = await retry_on_disconnect(client, partial(install, client))
    if is_closed(client):
        raise ClusterNotReadyError(f"{client!r} was closed, or lost the connection to its scheduler")
    try:
        check_protocol(installed)
    except ClusterNotReadyError as error:
        raise await with_versions(client, error) from None


def ask(client: Any, question: Any, *args: Any) -> Any:
    """Put a question to the cluster: at once with a blocking client, as an awaitable with another."""
    resolved, owned = resolve_client(client, reuse=False)

    async def asked() -> Any:
        try:
            await ensure_plugin(resolved)
            return await question(resolved, *args)
        finally:
            if owned and resolved.asynchronous:
                await resolved.close()

    if resolved.asynchronous:
        return asked()
    try:
        return resolved.sync(asked)
    finally:
        if owned:
            resolved.close()
