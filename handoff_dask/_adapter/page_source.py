"""The data of the dashboard page, shared by all its readers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distributed.metrics import monotonic, time

from handoff_dask._adapter.measured import measured
from handoff_dask._adapter.run_details import RunDetails, run_details
from handoff_dask._adapter.snapshot import PageData, Snapshot, snapshot
from handoff_dask._scheduling.node import Node

if TYPE_CHECKING:
    from handoff_dask._adapter.plugin import HandoffPlugin

#: Seconds for which all readers share one snapshot, and the details of a run.
MAX_AGE = 0.5


class PageSource:
    """Reads the page's data from a plugin, no more often than every :data:`MAX_AGE` seconds."""

    def __init__(self, plugin: HandoffPlugin) -> None:
        self._plugin = plugin
        self._snapshot: tuple[float, Snapshot] | None = None
        self._details: dict[str | None, tuple[float, RunDetails | None]] = {}

    def read(self, run_id: str | None = None) -> PageData:
        """Return data at most :data:`MAX_AGE` seconds old, with the details of a run.

        Parameters
        ----------
        run_id : str, optional
            The run, by default the newest.
        """
        now = monotonic()
        if self._snapshot is None or now - self._snapshot[0] >= MAX_AGE:
            self._snapshot = now, self._take()
        self._details = {id: kept for id, kept in self._details.items() if now - kept[0] < MAX_AGE}
        if run_id not in self._details:
            plugin = self._plugin
            self._details[run_id] = now, run_details(plugin.runs, plugin.archive, run_id, time())
        return {**self._snapshot[1], "details": self._details[run_id][1]}

    def _take(self) -> Snapshot:
        plugin = self._plugin
        return snapshot(plugin.state, plugin.runs, plugin.archive, plugin.failures, time(), self._measure)

    def _measure(self, node: Node) -> dict[str, float]:
        scheduler = self._plugin.scheduler
        return measured(scheduler.workers.get(scheduler.aliases.get(node.name, "")))
