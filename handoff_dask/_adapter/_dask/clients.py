"""Clients as Dask's scheduler sees them: the keys they want, and the messages it sends them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import ClientState, TaskState


def want(scheduler: Scheduler, keys: Iterable[Hashable], name: str) -> None:
    """Let a client want keys, so that the scheduler keeps their tasks.

    ``name`` is the id of a client, or of a virtual client: one without a connection.

    Reaches: ``Scheduler.client_desires_keys(keys, client)``, which registers an unknown name as a client, and
    notifies a connected client of keys whose results exist already.
    Why: only a client can publicly say which keys it wants, by submitting a graph or by a message.
    From: Dask 2025.7.
    """
    scheduler.client_desires_keys(list(keys), name)


def release(
    scheduler: Scheduler, keys: Iterable[Hashable], name: str, stimulus_id: str | None = None
) -> None:
    """Release keys on behalf of a client or a virtual client.

    Reaches: ``Scheduler.client_releases_keys(keys, client, stimulus_id)``, which forgets tasks that no other
    client wants and no other task needs.
    Why: as :func:`want`.
    From: Dask 2025.7.
    """
    scheduler.client_releases_keys(list(keys), name, stimulus_id)


def forget_virtual_client(scheduler: Scheduler, name: str) -> None:
    """Forget a virtual client that has released all its keys. An unknown name is ignored.

    Reaches: ``SchedulerState.clients``, written.
    Why: ``Scheduler.remove_client`` would notify all plugins that a client has left.
    From: Dask 2025.7.
    """
    scheduler.clients.pop(name, None)


def restore_wants(ts: TaskState, client: ClientState) -> None:
    """Let a client that has registered again under the same id want a task that it wanted before.

    Reaches: ``TaskState.who_wants`` and ``ClientState.wants_what``, written. Client states are equal by their
    id, and Dask leaves the former one in ``who_wants``, so the task would never be forgotten.
    Why: ``Scheduler.client_desires_keys`` leaves the former one there too.
    From: Dask 2025.7.
    """
    if ts.who_wants and client in ts.who_wants:
        ts.who_wants.discard(client)
        ts.who_wants.add(client)
        client.wants_what.add(ts)


def is_reachable(scheduler: Scheduler, client: str) -> bool:
    """Return whether it is safe to send a client a message.

    Dask logs an error for a message to a disconnected client. A client that has just connected breaks if
    another message arrives in the same batch as Dask's first.

    Reaches: ``Scheduler.client_comms``, and ``BatchedSend.closed()`` and ``batch_count`` of its values.
    Why: ``Scheduler.client_send`` does not tell whether the client can receive the message.
    From: Dask 2025.7.
    """
    comm = scheduler.client_comms.get(client)
    return comm is not None and not comm.closed() and comm.batch_count > 0


def send(scheduler: Scheduler, client: str, message: dict[str, Any]) -> None:
    """Send a client a stream message if the client is reachable. ``message["op"]`` names its handler there.

    Reaches: ``Scheduler.client_send(client, message)``.
    Why: the public alternative, events, reaches all subscribers of a topic, and is logged.
    From: Dask 2025.7.
    """
    if is_reachable(scheduler, client):
        scheduler.client_send(client, message)


def send_cancelled(scheduler: Scheduler, client: str, keys: list[Hashable], reason: str, text: str) -> None:
    """Cancel a client's futures of these keys, if the client is reachable.

    Reaches: the message ``cancelled-keys`` to clients, with ``keys``, ``reason`` and ``msg``.
    Why: the public ``Client.cancel`` exists on clients only.
    From: Dask 2025.7.
    """
    if keys and is_reachable(scheduler, client):
        message = {"op": "cancelled-keys", "keys": keys, "reason": reason, "msg": text}
        scheduler.client_send(client, message)
