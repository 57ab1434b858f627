"""What the runs of a client hear from the scheduler, even when the connection to it breaks for a while.

Dask's client connects again by itself, but has cancelled all its futures by then. If the scheduler still has
the runs, their futures are taken up again; otherwise the runs end.
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

from handoff_dask._adapter._dask import client as border
from handoff_dask._adapter.messages import RUN_BEGUN, RUN_ENDED, RUN_RELEASED

if TYPE_CHECKING:
    from handoff_dask._client.run_life import RunLife

#: Seconds between looks at whether the client has another connection than before: Dask announces none.
INTERVAL = 0.25

#: Seconds until a scheduler that does not answer is asked again for this client's runs.
REATTACH = 5.0

#: What helps against losing runs.
ADVICE = "With checkpoint=, the next run goes on from what has finished"

#: Client statuses in which there will be a connection.
CONNECTING = ("newly-created", "connecting")

_connections: weakref.WeakKeyDictionary[Client, Connection] = weakref.WeakKeyDictionary()


def connection_of(client: Client) -> Connection:
    """The one connection that all runs of a client share. On its event loop."""
    connection = _connections.get(client)
    if connection is None:
        connection = _connections[client] = Connection(client)
    return connection


def is_closed(client: Client) -> bool:
    """Whether a client is closed, or hears nothing from the scheduler any more and will not connect again."""
    return border.has_stopped_listening(client) or client.status in ("closing", "closed")


async def connected(client: Client) -> bool:
    """Wait while a client is connecting, for the first time or again; False if it is closed then."""
    if client.asynchronous and client.status == "newly-created":
        await client  # made, but not awaited yet
    while client.status in CONNECTING and not is_closed(client):  # made by another thread, or it broke
        await asyncio.sleep(0.01)
    return bool(client.status == "running")


async def retried(client: Client, ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask the scheduler something, again when the connection breaks; None when the client is closed.

    Raises
    ------
    OSError
        There is a connection, but nobody has answered for ``distributed.comm.timeouts.connect``.
    """
    patience = parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"), "s")
    until = time.monotonic() + patience
    while await connected(client):
        try:
            # An answer may be lost without anybody's noticing: a NAT forgets connections silently.
            return await asyncio.wait_for(ask(), patience)
        except OSError:  # Dask connects again, or closes the client
            if time.monotonic() >= until:
                raise
            await asyncio.sleep(INTERVAL)
    return None


class Connection:
    """A client's connection to the scheduler, as far as its runs are concerned.

    Parameters
    ----------
    client : distributed.Client
        Only a weak reference to it is kept.

    Attributes
    ----------
    runs : mapping of str to RunLife
        Run id → run, of those that somebody holds.
    """

    def __init__(self, client: Client) -> None:
        self._client = weakref.ref(client)
        self.runs: weakref.WeakValueDictionary[str, RunLife] = weakref.WeakValueDictionary()
        self._comm = border.connection(client)
        self._reattaching = asyncio.Lock()
        self._tasks: set[asyncio.Task[bool]] = set()
        self._checks = PeriodicCallback(self._check, INTERVAL * 1000)
        border.hear(client, RUN_BEGUN, self._run_begun)
        border.hear(client, RUN_ENDED, self._run_ended)

    def add(self, run: RunLife) -> None:
        """Tell a run of its end, and of what becomes of the connection."""
        self.runs[run.id] = run
        if not self._checks.is_running():
            self._checks.start()

    def _run_begun(self, run_id: str) -> None:
        run = self.runs.get(run_id)
        if run is not None:
            run._begun()

    def _run_ended(self, run_id: str, status: str) -> None:
        run = self.runs.get(run_id)
        if run is not None:
            run._finish(status)

    def _check(self) -> None:
        client = self._client()
        if client is None or is_closed(client) or not self.runs:
            self._checks.stop()
        elif client.status == "running" and border.connection(client) is not self._comm and not self._tasks:
            task = asyncio.get_running_loop().create_task(self.settled())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def settled(self) -> bool:
        """Wait until the scheduler can be asked, and knows this client's runs; False if it is closed."""
        client = self._client()
        while client is not None and await connected(client):
            async with self._reattaching:
                if border.connection(client) is self._comm:
                    return True
                with contextlib.suppress(OSError):  # it broke again
                    await self._reattach(client)
            if border.connection(client) is not self._comm:
                await asyncio.sleep(INTERVAL)
        return False

    async def _reattach(self, client: Client) -> None:
        """Take up this client's runs over a connection that is new."""
        comm = border.connection(client)
        runs = list(self.runs.values())
        wanted = {run.id: run._submission.reclaim() for run in runs}
        ask = border.request(client, "handoff_reattach", client=client.id, runs=wanted)
        answer = await asyncio.wait_for(ask, REATTACH)
        if border.connection(client) is not comm:
            return  # it broke again
        if answer is not None and "runs" not in answer:
            # The scheduler found the former connection broken after this one was made, and took this client,
            # of the same id, for gone. Dask makes another one.
            comm.abort()
            return
        self._comm = comm
        known = {} if answer is None else answer["runs"]
        for run in runs:
            if run.id in known:
                run._resume(*known[run.id])
            else:
                run._lose(
                    "the connection to the scheduler broke, and the scheduler that answers now does not know"
                    " the run: it was restarted, or the connection was broken for longer than"
                    f" handoff.client-grace. {ADVICE}"
                )


def drop(client: Callable[[], Client | None], run_id: str) -> None:
    """Let the scheduler know that nobody will ask about a run any more. Also called by the collector."""
    live = client()
    if live is not None and live.status in ("running", *CONNECTING):
        with contextlib.suppress(RuntimeError):  # the loop is closed: so is the client
            border.send(live, {"op": RUN_RELEASED, "released": run_id})


def why_closed(client: Client, futures: Iterable[Future]) -> str:
    """Why the runs of a closed client have ended; futures of it tell whether its connection broke."""
    if any(map(border.lost_connection, futures)):
        return (
            "its client lost the connection to the scheduler, and closed as it could not connect again in"
            f" time. {ADVICE}"
        )
    return "its client was closed"
