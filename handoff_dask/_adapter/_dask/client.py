"""A Dask client in its own process: its messages, its connection, and the state of its futures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from distributed import Client, Future
from distributed.client import SpanMetadata
from distributed.protocol import ToPickle
from distributed.versions import get_versions

#: The reason that Dask records for futures it cancelled because the connection to the scheduler broke.
CONNECTION_LOST = "scheduler-connection-lost"


async def request(client: Client, op: str, /, **arguments: Any) -> Any:
    """Send the scheduler a request, and return its reply. ``op`` is a key of ``Scheduler.handlers``.

    Reaches: ``Client.scheduler``, whose methods each send the request of that name.
    Why: the public ``Client.run_on_scheduler`` needs ``distributed.scheduler.pickle``.
    From: Dask 2025.7.

    Raises
    ------
    OSError
        The connection broke.
    Exception
        Any exception that the scheduler's handler raises.
    """
    return await getattr(client.scheduler, op)(**arguments)


async def ask_versions(
    client: Client, packages: Iterable[str]
) -> tuple[dict[str, str | None], dict[str, str | None], dict[str, dict[str, str | None]]]:
    """Return versions of packages in all processes of a cluster.

    Reaches: the scheduler's request ``versions``, the same request sent to the workers by ``broadcast``, and
    ``distributed.versions.get_versions``.
    Why: ``Client.get_versions`` blocks unless the client is asynchronous.
    From: Dask 2025.7.

    Returns
    -------
    client, scheduler : dict of str to str or None
        Package → version; None for a missing package.
    workers : dict of str to dict
        Address of a worker → the same dict for it. Workers that do not answer are left out.

    Raises
    ------
    OSError
        The connection broke.
    """
    names = list(packages)
    scheduler, workers = await asyncio.gather(
        client.scheduler.versions(packages=names),
        client.scheduler.broadcast(msg={"op": "versions", "packages": names}, on_error="ignore"),
    )

    def select(answer: Any) -> dict[str, str | None]:
        return {name: answer["packages"].get(name) for name in names}

    here = select(get_versions(packages=names))
    return here, select(scheduler), {address: select(answer) for address, answer in workers.items()}


def send(client: Client, message: dict[str, Any]) -> None:
    """Send the scheduler a stream message. ``message["op"]`` names its handler there. Thread-safe.

    Reaches: ``Client._send_to_scheduler``.
    Why: Dask has no public API for custom stream messages.
    From: Dask 2025.7.

    Raises
    ------
    RuntimeError
        The client's event loop is closed.
    """
    client.loop.add_callback(client._send_to_scheduler, message)


def add_stream_handler(client: Client, op: str, handler: Callable[..., None]) -> None:
    """Register a handler of the stream messages ``op`` from the scheduler.

    Reaches: the table ``Client._stream_handlers``.
    Why: Dask has no public API for custom stream messages.
    From: Dask 2025.7.
    """
    client._stream_handlers[op] = handler


def has_stopped_listening(client: Client) -> bool:
    """Return whether a connecting client has given up: its task that reads messages and reconnects has ended.

    Reaches: ``Client._handle_report_task``, which reads messages, and reconnects when the connection breaks.
    Why: the status of such a client stays ``connecting`` forever.
    From: Dask 2025.7.
    """
    task = client._handle_report_task
    return bool(client.status == "connecting" and task is not None and task.done())


def connection(client: Client) -> Any:
    """Return a client's connection to the scheduler: a new object after each reconnect, None before any.

    Reaches: ``Client.scheduler_comm``, a ``BatchedSend`` with ``abort()``, or None.
    Why: Dask notifies nobody when it has reconnected.
    From: Dask 2025.7.
    """
    return client.scheduler_comm


def is_connected_by(client: Client, comm: Any) -> bool:
    """Return whether ``comm`` is still the client's connection, and open.

    Reaches: ``Client.scheduler_comm`` and ``BatchedSend.closed()``.
    Why: as :func:`connection`.
    From: Dask 2025.7.
    """
    return client.scheduler_comm is comm and not comm.closed()


def was_made_by_worker(client: Client) -> bool:
    """Return whether a worker in this process created the client for its tasks.

    Reaches: the prefix of ``Client.id`` that the name ``worker`` gives.
    Why: ``default_client`` returns such a client in all threads, even after the worker has closed.
    From: Dask 2025.7.
    """
    return client.id.startswith("Client-worker-")


# ---------------------------------------------------------------------- graphs and results


def send_graph(client: Client, graph: Any, keys: Iterable[Hashable], priority: Any) -> dict[Any, Future]:
    """Send the scheduler a graph unchanged, and return futures of the keys.

    Reaches: ``Client._graph_to_futures(expr=, keys=, span_metadata=, internal_priority=)``. ``expr`` is
    pickled, and the scheduler calls its ``__dask_graph__()`` and ``__dask_annotations__()``.
    ``internal_priority`` needs only ``in`` and ``[key]``.
    Why: ``Client.get`` and ``Client.compute`` optimise the graph, and tokenise all of it to name it.
    From: Dask 2025.7.
    """
    futures: dict[Any, Future] = client._graph_to_futures(
        expr=graph,
        keys=list(keys),
        span_metadata=SpanMetadata(collections=[{"type": "low-level-graph"}]),
        internal_priority=ToPickle(priority),
    )
    return futures


async def gather(client: Client, futures: Iterable[Future]) -> list[Any]:
    """Fetch results, on the client's event loop.

    Reaches: ``Client._gather(futures)``.
    Why: ``Client.gather`` blocks unless the client is asynchronous.
    From: Dask 2025.7.
    """
    values: list[Any] = await client._gather(list(futures))
    return values


def is_referenced(client: Client, future: Future) -> bool:
    """Return whether a future with this key exists that has not been released.

    Reaches: ``Client.refcount``.
    Why: ``Client.futures`` loses the key when the connection breaks.
    From: Dask 2025.7.
    """
    return bool(client.refcount.get(future.key))


def is_known(client: Client, future: Future) -> bool:
    """Return whether a client knows the key of a future. It forgets the key with the last future of it.

    Reaches: ``Client.futures``: key → state.
    Why: the status of a future does not show that it was released.
    From: Dask 2025.7.
    """
    return future.key in client.futures


def error_of(future: Future) -> BaseException | None:
    """Return the exception of a future without waiting; None if it has none yet.

    Reaches: ``Future._state.exception``.
    Why: ``Future.exception`` waits, and needs an open client.
    From: Dask 2025.7.
    """
    error: BaseException | None = future._state.exception
    return error


def lost_connection(future: Future) -> bool:
    """Return whether Dask cancelled a future because the connection to the scheduler broke.

    Reaches: ``FutureCancelledError.reason``.
    Why: nothing public tells why a future was cancelled.
    From: Dask 2025.7.
    """
    return getattr(error_of(future), "reason", None) == CONNECTION_LOST


def reset_to_pending(client: Client, future: Future) -> None:
    """Make a future pending again that Dask cancelled because the connection broke.

    Reaches: ``Future._state`` with ``status``, ``exception`` and ``reset()``; and ``Client.futures``,
    written.
    Why: Dask's client reconnects, but does not request its keys again.
    From: Dask 2025.7.
    """
    state = future._state
    if state.status == "cancelled":
        client.futures[future.key] = state
        state.exception = None
        state.reset()


def cancel_locally(client: Client, future: Future, text: str) -> None:
    """Cancel a future in this process only. For futures that the scheduler does not know.

    Reaches: ``Future._state.cancel(reason, msg)``, and ``Client.futures``, written.
    Why: ``Future.cancel`` sends a request to the scheduler.
    From: Dask 2025.7.
    """
    future._state.cancel(reason=CONNECTION_LOST, msg=text)
    client.futures.pop(future.key, None)
