"""Whether a Dask client can be made for an address, found out before one is made."""

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


def check_answers(address: str) -> None:
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
