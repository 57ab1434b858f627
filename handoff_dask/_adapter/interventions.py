"""What Dask's users do to tasks that are functions: cancel, retry, restart."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from handoff_dask._adapter._dask import clients
from handoff_dask._adapter.keeper import KEEPER

if TYPE_CHECKING:
    from handoff_dask._adapter.plugin import HandoffPlugin


class Interventions:
    """Stands before what Dask does about them, where that would upset a run."""

    def __init__(self, plugin: HandoffPlugin) -> None:
        self._plugin = plugin
        self._scheduler = plugin.scheduler

    def cancelling(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Dask's ``cancel-keys``, which fails over dependents that nobody wants: it is not told of ours."""

        def cancel(*, keys: Any, client: str, force: bool = False, **message: Any) -> Any:
            ours = [key for key in keys if key in self._plugin.functions]
            if ours:
                self._cancel(ours, client, force)
            others = [key for key in keys if key not in self._plugin.functions]
            return original(keys=others, client=client, force=force, **message)

        return cancel

    def retrying(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Dask's ``retry``, which also starts again what runs, and gives up results that are there."""

        def retry(*, keys: Any, **message: Any) -> Any:
            tasks, ours = self._scheduler.tasks, self._plugin.functions
            failed = [key for key in keys if key not in ours or tasks[key].state == "erred"]
            return original(keys=failed, **message)

        return retry

    def _cancel(self, keys: list[Any], client: str, force: bool) -> None:
        """A client gives up these futures of functions; with ``force`` nobody is to have them."""
        wanting = {client}
        for key in keys:
            f = self._plugin.functions[key]
            if force or client == self._plugin.runs[f.run.spec.run_id].client:
                self._plugin.state.released(f)
            if force:
                wanting |= {cs.client_key for cs in self._scheduler.tasks[key].who_wants or ()} - {KEEPER}
        for name in wanting & set(self._scheduler.clients):
            clients.unwant(self._scheduler, keys, name)
            self._plugin.enactor.tell_cancelled(keys, name)
        self._plugin.wake()

    def restarting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """The scheduler's ``restart``, which expects that every key can be released."""

        async def restart(*args: Any, **kwargs: Any) -> Any:
            self._plugin.keeper.paused += 1
            try:
                return await original(*args, **kwargs)
            finally:
                self._plugin.keeper.paused -= 1

        return restart
