"""Overrides of Dask's handlers for cancel, retry and restart, which would otherwise upset a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from handoff_dask._adapter._dask import clients
from handoff_dask._adapter.keep_alive import KEEP_ALIVE

if TYPE_CHECKING:
    from handoff_dask._adapter.plugin import HandoffPlugin


class Overrides:
    """Wraps Dask's handlers: tasks that are functions get special treatment, all other tasks Dask's own."""

    def __init__(self, plugin: HandoffPlugin) -> None:
        self._plugin = plugin
        self._scheduler = plugin.scheduler

    def wrap_cancel(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap ``cancel-keys``. Dask's handler breaks on unwanted dependents, so it never sees functions."""

        def cancel(*, keys: Any, client: str, force: bool = False, **message: Any) -> Any:
            ours = [key for key in keys if key in self._plugin.functions]
            if ours:
                self._cancel(ours, client, force)
            others = [key for key in keys if key not in self._plugin.functions]
            return original(keys=others, client=client, force=force, **message)

        return cancel

    def wrap_retry(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap ``retry``. Dask's handler would restart running tasks and discard existing results too."""

        def retry(*, keys: Any, **message: Any) -> Any:
            tasks, ours = self._scheduler.tasks, self._plugin.functions
            failed = [key for key in keys if key not in ours or tasks[key].state == "erred"]
            return original(keys=failed, **message)

        return retry

    def _cancel(self, keys: list[Any], client: str, force: bool) -> None:
        """Release a client's futures of functions; with ``force``, those of every client."""
        wanting = {client}
        for key in keys:
            f = self._plugin.functions[key]
            if force or client == self._plugin.runs[f.run.spec.run_id].client:
                self._plugin.state.released(f)
            if force:
                names = {cs.client_key for cs in self._scheduler.tasks[key].who_wants or ()}
                wanting |= names - {KEEP_ALIVE}
        for name in wanting & set(self._scheduler.clients):
            clients.release(self._scheduler, keys, name)
            self._plugin.enactor.send_cancelled(keys, name)
        self._plugin.wake()

    def wrap_restart(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap ``Scheduler.restart``, which needs every key to be releasable."""

        async def restart(*args: Any, **kwargs: Any) -> Any:
            self._plugin.keep_alive.paused += 1
            try:
                return await original(*args, **kwargs)
            finally:
                self._plugin.keep_alive.paused -= 1

        return restart
