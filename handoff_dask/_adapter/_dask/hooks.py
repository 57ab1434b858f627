"""Handlers and methods of Dask's scheduler that are ours while the plugin is installed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Scheduler

logger = logging.getLogger(__name__)

#: Sees a message, whose fields are its keyword arguments.
Note = Callable[..., None]

#: Makes a handler that takes the place of another one, which it is given.
Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


class Patches:
    """Replaces handlers and methods of a scheduler, and undoes that in reverse order."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], Any]] = []

    def replace(self, table: dict[str, Any], name: str, value: Any) -> None:
        """Set an entry of a table until :meth:`undo`."""
        if name in table:
            self.on_undo(partial(table.__setitem__, name, table[name]))
        else:
            self.on_undo(partial(table.pop, name, None))
        table[name] = value

    def on_undo(self, action: Callable[[], Any]) -> None:
        """Have :meth:`undo` call this."""
        self._undo.append(action)

    def undo(self) -> None:
        """Put everything back. What fails is logged, and the rest is put back all the same."""
        while self._undo:
            try:
                self._undo.pop()()
            except Exception:
                logger.exception("handoff_dask could not put back all that it had changed")


def _before(note: Note, original: Callable[..., Any]) -> Callable[..., Any]:
    """A handler that lets ``note`` see each message before ``original`` handles it."""

    def handler(*args: Any, **message: Any) -> Any:
        _take(note, args, message)
        return original(*args, **message)

    return handler


def _after(original: Callable[..., Any], note: Note) -> Callable[..., Any]:
    """A handler that lets ``note`` see each message once ``original``, which awaits nothing, is done."""

    def handler(*args: Any, **message: Any) -> Any:
        answer = original(*args, **message)
        _take(note, args, message)
        return answer

    return handler


def _take(note: Note, args: tuple[Any, ...], message: dict[str, Any]) -> None:
    try:
        note(*args, **message)
    except Exception:
        logger.exception("handoff_dask could not take note of %r", message)


# ---------------------------------------------------------------------- messages from workers


def before_task_erred(patches: Patches, scheduler: Scheduler, note: Note) -> None:
    """See that an attempt failed before Dask decides whether it is tried again.

    Reaches: the stream handler ``task-erred``, with ``key``, ``worker``, ``run_id``, ``exception``,
    ``exception_text``, ``traceback_text`` and ``startstops``.
    Why: ``SchedulerPlugin.transition`` is called after Dask has counted a retry, or failed the task for good.
    From: Dask 2025.7.
    """
    table = scheduler.stream_handlers
    patches.replace(table, "task-erred", _before(note, table["task-erred"]))


def before_status_change(patches: Patches, scheduler: Scheduler, note: Note) -> None:
    """See that a worker is paused or goes on.

    Reaches: the stream handler ``worker-status-change``, with ``status`` and ``worker``.
    Why: no hook of plugins is called when a worker's status changes.
    From: Dask 2025.7.
    """
    table = scheduler.stream_handlers
    patches.replace(table, "worker-status-change", _before(note, table["worker-status-change"]))


def before_long_running(patches: Patches, scheduler: Scheduler, note: Note) -> None:
    """See that a task has seceded from its worker's threads.

    Reaches: the stream handler ``long-running``, with ``key`` and ``run_id``.
    Why: it is no transition on the scheduler, so no hook of plugins is called.
    From: Dask 2025.7.
    """
    table = scheduler.stream_handlers
    patches.replace(table, "long-running", _before(note, table["long-running"]))


def after_steal_response(patches: Patches, scheduler: Scheduler, note: Note) -> None:
    """See whether a worker has given a task back, also where work stealing is turned off.

    Reaches: the stream handler ``steal-response``, with ``key``, ``state`` and ``worker``. What answers
    without work stealing stays when the plugin is removed: an answer may be on its way.
    Why: only work stealing can ask a worker for a task that has not started.
    From: Dask 2025.7.
    """
    table = scheduler.stream_handlers
    confirm = table.setdefault("steal-response", lambda **message: None)
    patches.replace(table, "steal-response", _after(confirm, note))


def after_resources(patches: Patches, scheduler: Scheduler, note: Note) -> None:
    """See that a worker's resources have changed.

    Reaches: the request handler ``set_resources``, with ``worker``; it awaits nothing.
    Why: no hook of plugins is called when a worker's resources change.
    From: Dask 2025.7.
    """
    table = scheduler.handlers
    patches.replace(table, "set_resources", _after(table["set_resources"], note))


# ---------------------------------------------------------------------- messages from clients


def around_update_graph(patches: Patches, scheduler: Scheduler, wrap: Wrap) -> None:
    """Learn what becomes of a graph that the scheduler cannot read.

    Reaches: the stream handler ``update-graph``, a coroutine, with ``keys``; it raises nothing.
    Why: ``SchedulerPlugin.update_graph`` is not called for a graph that was not read.
    From: Dask 2025.7.
    """
    table = scheduler.stream_handlers
    patches.replace(table, "update-graph", wrap(table["update-graph"]))


def around_cancel(patches: Patches, scheduler: Scheduler, wrap: Wrap) -> None:
    """Stand before what a client cancels.

    Reaches: the stream handler ``cancel-keys``, with ``keys``, ``client`` and ``force``.
    Why: no hook of plugins is called before Dask cancels, and it fails over dependents that nobody wants.
    From: Dask 2025.7.
    """
    table = scheduler.stream_handlers
    patches.replace(table, "cancel-keys", wrap(table["cancel-keys"]))


def around_retry(patches: Patches, scheduler: Scheduler, wrap: Wrap) -> None:
    """Stand before what a client has tried again.

    Reaches: the request handler ``retry``, with ``keys``.
    Why: no hook of plugins is called before Dask tries again, and it starts again what runs, too.
    From: Dask 2025.7.
    """
    table = scheduler.handlers
    patches.replace(table, "retry", wrap(table["retry"]))


def before_release(patches: Patches, scheduler: Scheduler, note: Note) -> None:
    """See which keys a client is about to give up, whichever way it does.

    Reaches: ``Scheduler.client_releases_keys(keys, client)``, replaced on the instance, since every way leads
    through it; and the stream handler ``client-releases-keys``, which holds the method itself.
    Why: no hook of plugins is called before Dask forgets a task that nobody wants.
    From: Dask 2025.7.
    """
    releases = _before(note, scheduler.client_releases_keys)
    patches.replace(vars(scheduler), "client_releases_keys", releases)
    patches.replace(scheduler.stream_handlers, "client-releases-keys", releases)


def before_connection_lost(patches: Patches, scheduler: Scheduler, note: Note) -> None:
    """See that the connection of a client broke, before what it wants is released.

    Reaches: ``Scheduler.remove_client(client)``, replaced on the instance. The stream handler
    ``close-client`` keeps the original, and forgets a client that closes itself before it comes this way.
    Why: ``SchedulerPlugin.remove_client`` is called afterwards, and for both cases alike.
    From: Dask 2025.7.
    """
    patches.replace(vars(scheduler), "remove_client", _before(note, scheduler.remove_client))


def around_restart(patches: Patches, scheduler: Scheduler, wrap: Wrap) -> None:
    """Stand around a restart of all workers.

    Reaches: ``Scheduler.restart``, a coroutine, replaced on the instance; and the request handler
    ``restart``.
    Why: ``SchedulerPlugin.restart`` is called in its midst.
    From: Dask 2025.7.
    """
    restart = wrap(scheduler.restart)
    patches.replace(vars(scheduler), "restart", restart)
    patches.replace(scheduler.handlers, "restart", restart)


def instead_of_unregister(patches: Patches, scheduler: Scheduler, handler: Callable[..., Any]) -> None:
    """Handle the removal of a plugin.

    Reaches: the request handler ``unregister_scheduler_plugin``, with ``name``.
    Why: no hook of plugins is called when a plugin is removed.
    From: Dask 2025.7.
    """
    patches.replace(scheduler.handlers, "unregister_scheduler_plugin", handler)


# ---------------------------------------------------------------------- messages of our own


def answer(patches: Patches, scheduler: Scheduler, op: str, handler: Callable[..., Any]) -> None:
    """Answer a request of clients by the name ``op`` until the plugin is removed.

    Reaches: the table ``Server.handlers``.
    Why: plugins have no public way to take part in the protocol.
    From: Dask 2025.7.
    """
    patches.replace(scheduler.handlers, op, handler)


def hear(patches: Patches, scheduler: Scheduler, op: str, handler: Note) -> None:
    """Hear messages by the name ``op`` in streams of workers and clients.

    Reaches: the table ``Server.stream_handlers``. An entry stays when the plugin is removed: Dask closes a
    connection on which a message comes that nobody hears. From a worker there is ``worker`` among the fields.
    Why: plugins have no public way to take part in the protocol.
    From: Dask 2025.7.
    """
    table = scheduler.stream_handlers
    table[op] = handler
    patches.on_undo(partial(table.__setitem__, op, _ignore))


def _ignore(**message: Any) -> None:
    """Hear a message that was on its way as the plugin was removed."""
