"""A Dask client in its own process: what it sends and hears, and the state of its futures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from distributed import Client, Future
from distributed.client import SpanMetadata
from distributed.protocol import ToPickle
from distributed.versions import get_versions

#: Reason that Dask gives for futures which it takes for cancelled since the connection broke.
CONNECTION_LOST = "scheduler-connection-lost"


async def request(client: Client, op: str, /, **arguments: Any) -> Any:
    """Ask the scheduler something that Dask answers, or :func:`hooks.answer` has answered.

    Reaches: ``Client.scheduler``, which makes a request of each of its methods.
    Why: ``Client.run_on_scheduler``, which is public, needs ``distributed.scheduler.pickle``.
    From: Dask 2025.7.

    Raises
    ------
    OSError
        The connection broke.
    Exception
        What is raised there.
    """
    return await getattr(client.scheduler, op)(**arguments)


async def ask_versions(
    client: Client, packages: Iterable[str]
) -> tuple[dict[str, str | None], dict[str, str | None], dict[str, dict[str, str | None]]]:
    """Versions of packages at the client, at the scheduler, and by address at each worker; None if not there.

    Reaches: the requests ``versions``, and ``broadcast`` of it to the workers, of the scheduler; and
    ``distributed.versions.get_versions``.
    Why: ``Client.get_versions`` blocks, unless the whole client is asynchronous.
    From: Dask 2025.7.

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

    def chosen(answer: Any) -> dict[str, str | None]:
        return {name: answer["packages"].get(name) for name in names}

    here = chosen(get_versions(packages=names))
    return here, chosen(scheduler), {address: chosen(answer) for address, answer in workers.items()}


def send(client: Client, message: dict[str, Any]) -> None:
    """Send the scheduler a message, which :func:`hooks.hear` hears there. From any thread, at any time.

    Reaches: ``Client._send_to_scheduler``.
    Why: there is no public way to take part in the protocol.
    From: Dask 2025.7.

    Raises
    ------
    RuntimeError
        The client's event loop is closed.
    """
    client.loop.add_callback(client._send_to_scheduler, message)


def hear(client: Client, op: str, handler: Callable[..., None]) -> None:
    """Hear messages that :func:`clients.send` sends, by the name ``op``.

    Reaches: the table ``Client._stream_handlers``.
    Why: there is no public way to take part in the protocol.
    From: Dask 2025.7.
    """
    client._stream_handlers[op] = handler


def has_stopped_listening(client: Client) -> bool:
    """Whether a client that is connecting hears nothing from the scheduler any more, and never will.

    Reaches: ``Client._handle_report_task``, which connects again after it has heard that a connection broke.
    Why: Dask's status of such a client stays ``connecting`` for ever.
    From: Dask 2025.7.
    """
    task = client._handle_report_task
    return bool(client.status == "connecting" and task is not None and task.done())


def connection(client: Client) -> Any:
    """A client's connection to the scheduler: another object whenever it has connected again; None at first.

    Reaches: ``Client.scheduler_comm``, a ``BatchedSend`` with ``abort()``, or None.
    Why: Dask announces to nobody that it has connected again.
    From: Dask 2025.7.
    """
    return client.scheduler_comm


def is_connected_by(client: Client, comm: Any) -> bool:
    """Whether this is a client's connection still, and it is open.

    Reaches: ``Client.scheduler_comm`` and ``BatchedSend.closed()``.
    Why: as :func:`connection`.
    From: Dask 2025.7.
    """
    return client.scheduler_comm is comm and not comm.closed()


def was_made_by_worker(client: Client) -> bool:
    """Whether a worker in this process has made a client, for its tasks.

    Reaches: the form of ``Client.id`` of a client whose name is ``worker``.
    Why: ``default_client`` gives such a client to all threads, even after the worker has closed.
    From: Dask 2025.7.
    """
    return client.id.startswith("Client-worker-")


# ---------------------------------------------------------------------- graphs and results


def send_graph(client: Client, graph: Any, keys: Iterable[Hashable], priority: Any) -> dict[Any, Future]:
    """Send the scheduler a graph as it is, and get futures of these keys.

    Reaches: ``Client._graph_to_futures(expr=, keys=, span_metadata=, internal_priority=)``. What stands for
    the expression is pickled; the scheduler asks it for ``__dask_graph__()`` and ``__dask_annotations__()``.
    The priority needs ``in`` and ``[key]`` only.
    Why: ``Client.get`` and ``Client.compute`` optimise, and tokenise the whole graph to name it.
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
    Why: ``Client.gather`` blocks, unless the whole client is asynchronous.
    From: Dask 2025.7.
    """
    values: list[Any] = await client._gather(list(futures))
    return values


def is_held(client: Client, future: Future) -> bool:
    """Whether somebody holds a future of this key.

    Reaches: ``Client.refcount``.
    Why: ``Client.futures`` loses the key when the connection breaks.
    From: Dask 2025.7.
    """
    return bool(client.refcount.get(future.key))


def is_known(client: Client, future: Future) -> bool:
    """Whether a client knows the key of a future, which it does not when its last one was released.

    Reaches: ``Client.futures``: key → state.
    Why: a future that was released has a status like any other.
    From: Dask 2025.7.
    """
    return future.key in client.futures


def error_of(future: Future) -> BaseException | None:
    """The exception of a future, without waiting; None if there is none yet.

    Reaches: ``Future._state.exception``.
    Why: ``Future.exception`` waits, and needs a client that is open.
    From: Dask 2025.7.
    """
    error: BaseException | None = future._state.exception
    return error


def lost_connection(future: Future) -> bool:
    """Whether a future was cancelled since the connection to the scheduler broke.

    Reaches: ``FutureCancelledError.reason``.
    Why: Dask does not say otherwise why futures are cancelled.
    From: Dask 2025.7.
    """
    return getattr(error_of(future), "reason", None) == CONNECTION_LOST


def take_up(client: Client, future: Future) -> None:
    """Let a future that Dask cancelled as the connection broke be one that is pending.

    Reaches: ``Future._state`` with ``status``, ``exception`` and ``reset()``; and ``Client.futures``,
    written.
    Why: Dask's client connects again, but never asks again for what it wants.
    From: Dask 2025.7.
    """
    state = future._state
    if state.status == "cancelled":
        client.futures[future.key] = state
        state.exception = None
        state.reset()


def cancel_here(client: Client, future: Future, text: str) -> None:
    """Cancel a future without a word to the scheduler, which does not know it.

    Reaches: ``Future._state.cancel(reason, msg)``, and ``Client.futures``, written.
    Why: ``Future.cancel`` asks the scheduler.
    From: Dask 2025.7.
    """
    future._state.cancel(reason=CONNECTION_LOST, msg=text)
    client.futures.pop(future.key, None)
