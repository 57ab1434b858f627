"""Clients as Dask's scheduler sees them: which keys they want, and what they are sent."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import ClientState, TaskState


def want(scheduler: Scheduler, keys: Iterable[Hashable], name: str) -> None:
    """Keep tasks on the scheduler on behalf of a client, or of a name that stands for none.

    Reaches: ``Scheduler.client_desires_keys(keys, client)``, which makes a client of a name that is not
    known, and tells a client that is connected of what is there already.
    Why: a client says what it wants with a graph, or by a message; the scheduler itself has no public way.
    From: Dask 2025.7.
    """
    scheduler.client_desires_keys(list(keys), name)


def unwant(scheduler: Scheduler, keys: Iterable[Hashable], name: str, stimulus_id: str | None = None) -> None:
    """Give up what was wanted on behalf of a client, or of a name that stands for none.

    Reaches: ``Scheduler.client_releases_keys(keys, client, stimulus_id)``, which forgets what nobody else
    wants or needs.
    Why: as :func:`want`.
    From: Dask 2025.7.
    """
    scheduler.client_releases_keys(list(keys), name, stimulus_id)


def forget_name(scheduler: Scheduler, name: str) -> None:
    """Forget a name that stands for no client, and that wants nothing any more.

    Reaches: ``SchedulerState.clients``, written.
    Why: ``Scheduler.remove_client`` tells all plugins that a client has left.
    From: Dask 2025.7.
    """
    scheduler.clients.pop(name, None)


def restore_wish(ts: TaskState, client: ClientState) -> None:
    """Let a client that has registered again under the same id want what it has wanted.

    Reaches: ``TaskState.who_wants`` and ``ClientState.wants_what``, written. Clients are equal by their id,
    and Dask leaves the former one in ``who_wants``: the task would be kept for ever.
    Why: ``Scheduler.client_desires_keys`` leaves it there, too.
    From: Dask 2025.7.
    """
    if ts.who_wants and client in ts.who_wants:
        ts.who_wants.discard(client)
        ts.who_wants.add(client)
        client.wants_what.add(ts)


def hears(scheduler: Scheduler, client: str) -> bool:
    """Whether a client may be sent something.

    Dask complains aloud of messages to a client that is not connected, and one that has just connected breaks
    if anything comes with the first message.

    Reaches: ``Scheduler.client_comms``, and ``BatchedSend.closed()`` and ``batch_count`` of its values.
    Why: ``Scheduler.client_send`` does not say whether anybody hears.
    From: Dask 2025.7.
    """
    comm = scheduler.client_comms.get(client)
    return comm is not None and not comm.closed() and comm.batch_count > 0


def send(scheduler: Scheduler, client: str, message: dict[str, Any]) -> None:
    """Send a client a message, which :func:`client.hear` hears there, if it may be sent one.

    Reaches: ``Scheduler.client_send(client, message)``.
    Why: events, which are public, go to all who have subscribed to a topic, and are logged.
    From: Dask 2025.7.
    """
    if hears(scheduler, client):
        scheduler.client_send(client, message)


def tell_cancelled(scheduler: Scheduler, client: str, keys: list[Hashable], reason: str, text: str) -> None:
    """Let a client's futures be cancelled ones, if it may be sent a message.

    Reaches: the message ``cancelled-keys`` to clients, with ``keys``, ``reason`` and ``msg``.
    Why: ``Client.cancel`` is public on clients only.
    From: Dask 2025.7.
    """
    if keys and hears(scheduler, client):
        message = {"op": "cancelled-keys", "keys": keys, "reason": reason, "msg": text}
        scheduler.client_send(client, message)
