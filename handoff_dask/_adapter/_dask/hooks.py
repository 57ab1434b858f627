"""Handlers and methods of Dask's scheduler that the plugin replaces while it is installed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Scheduler

logger = logging.getLogger(__name__)

#: Receives a message, whose fields are its keyword arguments.
Callback = Callable[..., None]

#: Takes the original handler and returns its replacement.
Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


class Patches:
    """Replaces handlers and methods of a scheduler, and undoes the changes in reverse order."""

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
        """Register an action for :meth:`undo`."""
        self._undo.append(action)

    def undo(self) -> None:
        """Undo all changes. An error is logged and does not stop the remaining actions."""
        while self._undo:
            try:
                self._undo.pop()()
            except Exception:
                logger.exception("handoff_dask could not undo one of its changes to the scheduler")


def _before(callback: Callback, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a handler that passes each message to ``callback`` before ``original`` handles it."""

    def handler(*args: Any, **message: Any) -> Any:
        _notify(callback, args, message)
        return original(*args, **message)

    return handler


def _after(original: Callable[..., Any], callback: Callback) -> Callable[..., Any]:
    """Return a handler that passes each message to ``callback`` after ``original``, a plain function."""

    def handler(*args: Any, **message: Any) -> Any:
        answer = original(*args, **message)
        _notify(callback, args, message)
        return answer

    return handler


def _notify(callback: Callback, args: tuple[Any, ...], message: dict[str, Any]) -> None:
    try:
        callback(*args, **message)
    except Exception:
        logger.exception("handoff_dask failed on the message %r", message)


# ---------------------------------------------------------------------- messages from workers


def before_task_erred(patches: Patches, scheduler: Scheduler, callback: Callback) -> None:
    """Report each failed attempt before Dask decides whether to retry it.

    Reaches: the stream handler ``task-erred``, with ``key``, ``worker``, ``run_id``, ``exception``,
    ``exception_text``, ``traceback_text`` and ``startstops``.
    Why: Dask calls ``SchedulerPlugin.transition`` only after it has counted a retry, or failed the task
    permanently.
    From: Dask 2025.7.
    """
    table = scheduler.stream_handlers
    patches.replace(table, "task-erred", _before(callback, table["task-erred"]))


def before_status_change(patches: Patches, scheduler: Scheduler, callback: Callback) -> None:
    """Report that a worker pauses or resumes.

    Reaches: the stream handler ``worker-status-change``, with ``status`` and ``worker``.
    Why: no plugin hook is called when a worker's status changes.
    From: Dask 2025.7.
    """
    table = scheduler.stream_handlers
    patches.replace(table, "worker-status-change", _before(callback, table["worker-status-change"]))


def before_long_running(patches: Patches, scheduler: Scheduler, callback: Callback) -> None:
    """Report that a task has seceded from its worker's threads.

    Reaches: the stream handler ``long-running``, with ``key`` and ``run_id``.
    Why: secession is no transition on the scheduler, so no plugin hook is called.
    From: Dask 2025.7.
    """
    table = scheduler.stream_handlers
    patches.replace(table, "long-running", _before(callback, table["long-running"]))


def after_steal_response(patches: Patches, scheduler: Scheduler, callback: Callback) -> None:
    """Report a worker's reply to a request to give a task back, even if work stealing is turned off.

    Reaches: the stream handler ``steal-response``, with ``key``, ``state`` and ``worker``. Without work
    stealing, the handler that this function adds stays after the plugin is removed, since replies may be on
    their way.
    Why: only work stealing can ask a worker for a task that has not started.
    From: Dask 2025.7.
    """
    table = scheduler.stream_handlers
    original = table.setdefault("steal-response", lambda **message: None)
    patches.replace(table, "steal-response", _after(original, callback))


def after_resources(patches: Patches, scheduler: Scheduler, callback: Callback) -> None:
    """Report that a worker's resources have changed.

    Reaches: the request handler ``set_resources``, a plain function, with ``worker``.
    Why: no plugin hook is called when a worker's resources change.
    From: Dask 2025.7.
    """
    table = scheduler.handlers
    patches.replace(table, "set_resources", _after(table["set_resources"], callback))


# ---------------------------------------------------------------------- messages from clients


def around_update_graph(patches: Patches, scheduler: Scheduler, wrap: Wrap) -> None:
    """Wrap the handler of submitted graphs, to learn of graphs that the scheduler cannot read.

    Reaches: the stream handler ``update-graph``, a coroutine function, with ``keys``; it raises no exception.
    Why: Dask does not call ``SchedulerPlugin.update_graph`` for a graph that it cannot read.
    From: Dask 2025.7.
    """
    table = scheduler.stream_handlers
    patches.replace(table, "update-graph", wrap(table["update-graph"]))


def around_cancel(patches: Patches, scheduler: Scheduler, wrap: Wrap) -> None:
    """Wrap the handler of cancellations by clients.

    Reaches: the stream handler ``cancel-keys``, with ``keys``, ``client`` and ``force``.
    Why: no plugin hook is called before Dask cancels tasks, and its handler raises on dependents that no
    client wants.
    From: Dask 2025.7.
    """
    table = scheduler.stream_handlers
    patches.replace(table, "cancel-keys", wrap(table["cancel-keys"]))


def around_retry(patches: Patches, scheduler: Scheduler, wrap: Wrap) -> None:
    """Wrap the handler of retries by clients.

    Reaches: the request handler ``retry``, with ``keys``.
    Why: no plugin hook is called before Dask retries tasks, and its handler restarts running tasks too.
    From: Dask 2025.7.
    """
    table = scheduler.handlers
    patches.replace(table, "retry", wrap(table["retry"]))


def before_release(patches: Patches, scheduler: Scheduler, callback: Callback) -> None:
    """Report the keys that a client is about to release, by whatever path.

    Reaches: ``Scheduler.client_releases_keys(keys, client)``, which every path calls, replaced on the
    instance; and the stream handler ``client-releases-keys``, which holds the original method.
    Why: no plugin hook is called before Dask forgets a task that no client wants.
    From: Dask 2025.7.
    """
    releases = _before(callback, scheduler.client_releases_keys)
    patches.replace(vars(scheduler), "client_releases_keys", releases)
    patches.replace(scheduler.stream_handlers, "client-releases-keys", releases)


def before_connection_lost(patches: Patches, scheduler: Scheduler, callback: Callback) -> None:
    """Report that a client's connection broke, before Dask releases the keys that the client wants.

    Reaches: ``Scheduler.remove_client(client)``, replaced on the instance. The stream handler
    ``close-client`` keeps the original method, so a client that closes is forgotten before the replaced
    method is called.
    Why: Dask calls ``SchedulerPlugin.remove_client`` afterwards, and alike for broken and closed connections.
    From: Dask 2025.7.
    """
    patches.replace(vars(scheduler), "remove_client", _before(callback, scheduler.remove_client))


def around_restart(patches: Patches, scheduler: Scheduler, wrap: Wrap) -> None:
    """Wrap the restart of all workers.

    Reaches: ``Scheduler.restart``, a coroutine function, replaced on the instance; and the request handler
    ``restart``.
    Why: Dask calls ``SchedulerPlugin.restart`` halfway through the restart.
    From: Dask 2025.7.
    """
    restart = wrap(scheduler.restart)
    patches.replace(vars(scheduler), "restart", restart)
    patches.replace(scheduler.handlers, "restart", restart)


def replace_unregister(patches: Patches, scheduler: Scheduler, handler: Callable[..., Any]) -> None:
    """Replace the handler that removes plugins.

    Reaches: the request handler ``unregister_scheduler_plugin``, with ``name``.
    Why: no plugin hook is called when a plugin is removed.
    From: Dask 2025.7.
    """
    patches.replace(scheduler.handlers, "unregister_scheduler_plugin", handler)


# ---------------------------------------------------------------------- custom messages


def add_handler(patches: Patches, scheduler: Scheduler, op: str, handler: Callable[..., Any]) -> None:
    """Register a handler of the client request ``op`` until the plugin is removed.

    Reaches: the table ``Server.handlers``.
    Why: plugins have no public way to extend the protocol.
    From: Dask 2025.7.
    """
    patches.replace(scheduler.handlers, op, handler)


def add_stream_handler(patches: Patches, scheduler: Scheduler, op: str, handler: Callback) -> None:
    """Register a handler of the stream message ``op`` from clients and workers until the plugin is removed.

    Messages from a worker have a field ``worker``.

    Reaches: the table ``Server.stream_handlers``. The entry stays after the plugin is removed, and then
    ignores messages: Dask closes a connection on which an unknown message arrives.
    Why: plugins have no public way to extend the protocol.
    From: Dask 2025.7.
    """
    table = scheduler.stream_handlers
    table[op] = handler
    patches.on_undo(partial(table.__setitem__, op, _ignore))


def _ignore(**message: Any) -> None:
    """Ignore a message that was in transit when the plugin was removed."""
