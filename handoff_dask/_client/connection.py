"""Each client's connection to the scheduler, as its runs use it, across disconnects.

Dask's client reconnects by itself, but cancels all its futures when the connection breaks. If the scheduler
still knows the runs after a reconnect, their futures are revived; otherwise the runs end.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

import dask
from dask.utils import parse_timedelta
from distributed import Client, Future
from tornado.ioloop import PeriodicCallback

from handoff_dask._adapter._dask import client as dask_client
from handoff_dask._adapter.messages import RUN_BEGUN, RUN_ENDED, RUN_RELEASED

if TYPE_CHECKING:
    from handoff_dask._client.run_lifecycle import RunLifecycle

#: Seconds between checks for a new connection of the client: Dask does not announce a reconnect.
CHECK_INTERVAL = 0.25

#: Seconds to wait for the scheduler's answer when reattaching runs, before asking again.
REATTACH_TIMEOUT = 5.0

#: How to protect results against lost runs; the end of error texts.
CHECKPOINT_ADVICE = "With checkpoint=, the next run resumes from the functions that have finished"

#: Client statuses that precede a connection.
CONNECTING_STATUSES = ("newly-created", "connecting")

_connections: weakref.WeakKeyDictionary[Client, Connection] = weakref.WeakKeyDictionary()


def connection_of(client: Client) -> Connection:
    """Return the connection that all runs of a client share. Call it on the client's event loop."""
    connection = _connections.get(client)
    if connection is None:
        connection = _connections[client] = Connection(client)
    return connection


def is_closed(client: Client) -> bool:
    """Whether a client is closed, or has stopped listening to the scheduler and will never reconnect."""
    return dask_client.has_stopped_listening(client) or client.status in ("closing", "closed")


async def wait_until_connected(client: Client) -> bool:
    """Wait while a client connects or reconnects. Return False if it is closed instead."""
    if client.asynchronous and client.status == "newly-created":
        await client  # an asynchronous client connects when awaited
    # Another thread may be creating this client, or its connection may have broken.
    while client.status in CONNECTING_STATUSES and not is_closed(client):
        await asyncio.sleep(0.01)
    return bool(client.status == "running")


async def retry_on_disconnect(client: Client, ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask the scheduler a question, again if the connection breaks. Return None if the client is closed.

    Raises
    ------
    OSError
        The client is connected, but got no answer for ``distributed.comm.timeouts.connect``.
    """
    timeout = parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"), "s")
    deadline = time.monotonic() + timeout
    while await wait_until_connected(client):
        try:
            # The timeout catches connections that vanish without an error, as when a NAT drops their state.
            return await asyncio.wait_for(ask(), timeout)
        except OSError:  # Dask reconnects, or closes the client
            if time.monotonic() >= deadline:
                raise
            await asyncio.sleep(CHECK_INTERVAL)
    return None


class Connection:
    """A client's connection to the scheduler, shared by all its runs.

    Parameters
    ----------
    client : distributed.Client
        Held by weak reference only.

    Attributes
    ----------
    runs : mapping of str to RunLifecycle
        Run id → run, weakly referenced.
    """

    def __init__(self, client: Client) -> None:
        self._client = weakref.ref(client)
        self.runs: weakref.WeakValueDictionary[str, RunLifecycle] = weakref.WeakValueDictionary()
        self._comm = dask_client.connection(client)
        self._reattaching = asyncio.Lock()
        self._tasks: set[asyncio.Task[bool]] = set()
        self._checks = PeriodicCallback(self._check, CHECK_INTERVAL * 1000)
        dask_client.add_stream_handler(client, RUN_BEGUN, self._run_begun)
        dask_client.add_stream_handler(client, RUN_ENDED, self._run_ended)

    def add(self, run: RunLifecycle) -> None:
        """Register a run to be notified of its begin, its end, reconnects and its loss."""
        self.runs[run.id] = run
        if not self._checks.is_running():
            self._checks.start()

    def _run_begun(self, run_id: str) -> None:
        run = self.runs.get(run_id)
        if run is not None:
            run._on_begun()

    def _run_ended(self, run_id: str, status: str) -> None:
        run = self.runs.get(run_id)
        if run is not None:
            run._finish(status)

    def _check(self) -> None:
        client = self._client()
        if client is None or is_closed(client) or not self.runs:
            self._checks.stop()
        elif (
            client.status == "running"
            and dask_client.connection(client) is not self._comm
            and not self._tasks
        ):
            task = asyncio.get_running_loop().create_task(self.wait_until_attached())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def wait_until_attached(self) -> bool:
        """Wait until the scheduler has this client's runs and can be asked; False if the client is closed."""
        client = self._client()
        while client is not None and await wait_until_connected(client):
            async with self._reattaching:
                if dask_client.connection(client) is self._comm:
                    return True
                with contextlib.suppress(OSError):  # the connection broke again
                    await self._reattach(client)
            if dask_client.connection(client) is not self._comm:
                await asyncio.sleep(CHECK_INTERVAL)
        return False

    async def _reattach(self, client: Client) -> None:
        """Reattach this client's runs over a new connection."""
        comm = dask_client.connection(client)
        runs = list(self.runs.values())
        wanted = {run.id: run._submission.revive_futures() for run in runs}
        ask = dask_client.request(client, "handoff_reattach", client=client.id, runs=wanted)
        answer = await asyncio.wait_for(ask, REATTACH_TIMEOUT)
        if dask_client.connection(client) is not comm:
            return  # the connection broke again
        if answer is not None and "runs" not in answer:
            # The scheduler noticed that the old connection had broken only after this one was made, and then
            # removed the client, which has the same id. Aborting makes Dask reconnect once more.
            comm.abort()
            return
        self._comm = comm
        known = {} if answer is None else answer["runs"]
        for run in runs:
            if run.id in known:
                run._on_reattached(*known[run.id])
            else:
                run._on_lost(
                    "the connection to the scheduler broke, and the scheduler that answers now does not know"
                    " the run: either it was restarted, or the connection was down for longer than"
                    f" handoff.client-grace. {CHECKPOINT_ADVICE}"
                )


def release_run(client: Callable[[], Client | None], run_id: str) -> None:
    """Tell the scheduler that the client's handle to a run is gone. Also called by the garbage collector."""
    live = client()
    if live is not None and live.status in ("running", *CONNECTING_STATUSES):
        with contextlib.suppress(RuntimeError):  # the event loop is closed, and so is the client
            dask_client.send(live, {"op": RUN_RELEASED, "released": run_id})


def explain_closed(client: Client, futures: Iterable[Future]) -> str:
    """Explain why the runs of a closed client ended. Its futures tell whether the connection broke."""
    if any(map(dask_client.lost_connection, futures)):
        return (
            "its client lost the connection to the scheduler and closed because it could not reconnect in"
            f" time. {CHECKPOINT_ADVICE}"
        )
    return "its client was closed"
