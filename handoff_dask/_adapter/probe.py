"""Checks of a scheduler's address, made before Dask creates a client for it."""

from __future__ import annotations

import asyncio
import threading

import dask
from dask.utils import parse_timedelta
from distributed import Security
from distributed.comm.addressing import parse_address, parse_host_port
from distributed.comm.core import connect
from distributed.comm.registry import get_backend

from handoff_dask.exceptions import ClusterNotReadyError


def check_address(address: str) -> None:
    """Raise if no client can connect to this address.

    Dask detects the error too, but leaves a half-initialised client behind. The garbage collector closes that
    client at an arbitrary moment, which may deadlock: closing waits for a lock that the interrupted code may
    hold.

    Raises
    ------
    ValueError
        The address is malformed, or its protocol is unknown.
    ClusterNotReadyError
        The address requires TLS, and no certificates are configured.
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
            f"client: the scheduler at {address!r} requires TLS: pass a client that has certificates,"
            " Client(address, security=Security(...)), or configure distributed.comm.tls"
        )


def check_answers(address: str) -> None:
    """Raise unless a Dask server answers at this address.

    A Dask client waits forever for the handshake of any other server, for example of the dashboard, whose
    port is easily mistaken for the scheduler's: it takes the first bytes that it reads for a message length.

    Raises
    ------
    ClusterNotReadyError
        Nothing listens there, or the handshake does not complete within
        ``distributed.comm.timeouts.connect``.
    """
    if parse_address(address)[0] not in ("tcp", "tls"):
        return
    timeout = parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"), "s")
    raised: list[BaseException] = []

    async def shake_hands() -> None:
        comm = await connect(address, **Security().get_connection_args("client"))
        comm.abort()

    def run() -> None:
        try:
            # One second longer than Dask's own timeout, which applies if nothing listens.
            asyncio.run(asyncio.wait_for(shake_hands(), timeout + 1))
        except BaseException as error:
            raised.append(error)

    # In a separate thread, because this one may run an event loop already, as in a notebook.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if not raised:
        return
    (error,) = raised
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        raise ClusterNotReadyError(f"client: no scheduler answers at {address!r}: {error}") from error
    raise ClusterNotReadyError(
        f"client: the server at {address!r} is not a Dask scheduler. A scheduler usually listens on port"
        " 8786, its dashboard on port 8787"
    ) from error
