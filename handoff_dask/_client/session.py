"""From whatever a user passes as ``client=`` to a Dask client on a cluster that can run handoff DAGs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

import dask
from dask.utils import parse_timedelta
from distributed import Client, Security, default_client
from distributed.comm.addressing import parse_address, parse_host_port
from distributed.comm.core import connect
from distributed.comm.registry import get_backend
from distributed.protocol import pickle

from handoff_dask._adapter._dask.client import request, was_made_by_worker
from handoff_dask._adapter._dask.running import in_task
from handoff_dask._adapter.cluster import close_at_exit, embedded_cluster
from handoff_dask._adapter.forks import explain_inherited, inherited
from handoff_dask._adapter.messages import NAME, PROTOCOL
from handoff_dask._adapter.plugin import HandoffPlugin
from handoff_dask._adapter.versions import with_versions
from handoff_dask._client.connection import connected, is_closed, retried
from handoff_dask._version import __version__
from handoff_dask.exceptions import ClusterNotReadyError

_embedded_client: Client | None = None
_by_address: dict[str, Client] = {}


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
        return _default_client(), False
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
        known = _by_address.get(address)
        if known is None or known.status != "running":
            known = _by_address[address] = _connect(client)
            close_at_exit(known)
        return known, False
    return _connect(client), True


def _connect(target: Any) -> Client:
    if isinstance(target, str):
        _check_address(target)
        _check_answers(target)
    try:
        return Client(target, set_as_default=False)
    except ValueError as error:
        raise ValueError(f"client: {target!r} is not the address of a scheduler: {error}") from error
    except OSError as error:
        raise ClusterNotReadyError(f"client: no scheduler answers at {target!r}: {error}") from error


def _check_address(address: str) -> None:
    """Raise for what no client can connect to.

    Dask would find it out, too, but leave a client behind that is half made. Closing itself whenever the
    garbage collector comes upon it, it may stop this process for ever: it waits for a lock that is held by
    what was interrupted.
    """
    try:
        scheme, location = parse_address(address)
        get_backend(scheme)
        if scheme in ("tcp", "tls"):
            parse_host_port(location)
    except ValueError as error:
        raise ValueError(f"client: {address!r} is not the address of a scheduler: {error}") from error
    if scheme == "tls" and Security().get_connection_args("client").get("ssl_context") is None:
        raise ClusterNotReadyError(
            f"client: the scheduler at {address!r} is to be reached with TLS: pass a client that has"
            " certificates, Client(address, security=Security(...)), or configure distributed.comm.tls"
        )


def _check_answers(address: str) -> None:
    """Raise if what is at an address does not greet as a scheduler does.

    Dask's client waits for the greeting for ever, such as that of a dashboard, whose port is easily mistaken
    for the scheduler's, and takes whatever it reads for the length of one.
    """
    if parse_address(address)[0] not in ("tcp", "tls"):
        return
    timeout = parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"), "s")
    raised: list[BaseException] = []

    async def greet() -> None:
        comm = await connect(address, **Security().get_connection_args("client"))
        comm.abort()

    def ask() -> None:
        try:
            # Dask itself gives up in time when nothing listens there.
            asyncio.run(asyncio.wait_for(greet(), timeout + 1))
        except BaseException as error:
            raised.append(error)

    # In a thread of its own, since this one may have an event loop already, as in a notebook.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join()
    if not raised:
        return
    (error,) = raised
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        raise ClusterNotReadyError(f"client: no scheduler answers at {address!r}: {error}") from error
    raise ClusterNotReadyError(
        f"client: what answers at {address!r} is no scheduler. The port of a scheduler usually is 8786, that"
        " of its dashboard 8787"
    ) from error


def _default_client() -> Client:
    global _embedded_client
    with contextlib.suppress(ValueError):
        found = default_client()
        # A node in this process may have made a client for its functions, and left it when it closed.
        others = was_made_by_worker(found) and not in_task()
        if found.status not in ("closed", "closing") and not others:
            return found
    cluster = embedded_cluster()
    if _embedded_client is None or _embedded_client.status != "running":
        _embedded_client = Client(cluster, set_as_default=False)
        close_at_exit(_embedded_client)
    return _embedded_client


async def ensure_plugin(client: Client) -> None:
    """Install the scheduler plugin unless it is there.

    Raises
    ------
    ClusterNotReadyError
        The cluster does not let us, lacks handoff_dask, or has a version that speaks otherwise.
    """
    if not await connected(client):
        raise ClusterNotReadyError(f"{client!r} is closed, as it could not connect to its scheduler")
    # Asked each time: somebody may have removed the plugin, or restarted the scheduler.
    installed = await retried(client, partial(_installed, client))
    if is_closed(client):
        raise ClusterNotReadyError(f"{client!r} was closed, or lost the connection to its scheduler")
    try:
        check_protocol(installed)
    except ClusterNotReadyError as error:
        raise await with_versions(client, error) from None


async def _installed(client: Client) -> Any:
    """What the plugin says of itself, which is installed unless it is there."""
    installed = await request(client, "get_metadata", keys=[NAME], default=None)
    if installed is None:
        try:
            plugin = pickle.dumps(HandoffPlugin())
            await request(client, "register_scheduler_plugin", plugin=plugin, name=NAME, idempotent=True)
        except OSError:
            raise
        except Exception as error:
            raise await with_versions(client, ClusterNotReadyError(explain_failure(error))) from error
        installed = await request(client, "get_metadata", keys=[NAME], default=None)
    return installed


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


def explain_failure(error: Exception) -> str:
    """Why the plugin could not be installed, and what to do, in one sentence."""
    text = str(error)
    if "pickle" in text and isinstance(error, ValueError):
        return (
            "the scheduler accepts no plugins from clients (distributed.scheduler.pickle is false):"
            " start it with `dask scheduler --preload handoff_dask.preload`"
        )
    if isinstance(error, ModuleNotFoundError) or "No module named" in text:
        return (
            f"the scheduler cannot import what it needs ({text}): install handoff-dask"
            f" {__version__} in the environment of the scheduler and of every worker"
        )
    return (
        f"the scheduler could not install the handoff_dask plugin ({type(error).__name__}: {text}):"
        " start it with `dask scheduler --preload handoff_dask.preload`"
    )


def explain_unusable(workers: Mapping[str, str]) -> str:
    """Why no worker can run functions, and what to do."""
    address, problem = next(iter(workers.items()))
    others = f" (and {len(workers) - 1} more)" if len(workers) > 1 else ""
    return (
        f"no worker can run functions of handoff_dask: {address}{others} answered {problem}; install"
        f" handoff-dask {__version__} in the environment of every worker"
    )


def check_protocol(installed: Any) -> None:
    """Raise unless the scheduler's handoff_dask and this one understand each other."""
    if not isinstance(installed, dict) or installed.get("protocol") != PROTOCOL:
        version = installed.get("version") if isinstance(installed, dict) else "of an unknown version"
        raise ClusterNotReadyError(
            f"the scheduler runs handoff_dask {version}, this client {__version__}, and they do"
            " not understand each other: install the same version on both"
        )
