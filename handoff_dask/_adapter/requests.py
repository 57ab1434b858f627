"""RPC handlers of the scheduler plugin, which answer clients' requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distributed.metrics import time
from distributed.protocol import pickle

from handoff_dask._adapter._dask.tasks import learnt_duration
from handoff_dask._adapter.active import ActiveRun
from handoff_dask._adapter.archive import declared_costs, error_of
from handoff_dask._adapter.messages import NAME, PROTOCOL
from handoff_dask._adapter.run_progress import progress
from handoff_dask._model.code_keys import name_in, without_stem
from handoff_dask._model.records import Summary
from handoff_dask._model.resources import THREADS, UNIT, from_units, parse_amounts
from handoff_dask._scheduling.runs import RunStatus
from handoff_dask._scheduling.spec import Hint, RunSpec
from handoff_dask._version import __version__

if TYPE_CHECKING:
    from handoff_dask._adapter.plugin import HandoffPlugin

#: Number of function summaries to pickle before yielding to the scheduler's event loop.
CHUNK = 2_000


class Requests:
    """The plugin's RPC handlers. Each public method except :meth:`handlers` handles ``handoff_<name>``."""

    def __init__(self, plugin: HandoffPlugin) -> None:
        self._plugin = plugin

    def handlers(self) -> dict[str, Callable[..., Any]]:
        """Return the handlers: operation → method."""
        of_runs = (
            "prepare",
            "reattach",
            "cancel",
            "report",
            "summaries",
            "progress",
            "explain",
            "runs",
            "records",
        )
        names = (*of_runs, "nodes", "register_node", "available")
        return {f"{NAME}_{name}": getattr(self, name) for name in names}

    async def prepare(self, spec: bytes, client: str, protocol: int) -> dict[str, Any]:
        """Register a run whose graph follows. Return its status, or why it cannot run.

        A run that lacks nodes waits, up to the node timeout, for workers that have joined but have not
        answered yet: one that has just started may need long to import handoff_dask.

        Returns
        -------
        dict
            ``status``, with further fields that depend on it:

            - a run status, with ``waiting``: the run is registered;
            - ``"unplaceable"``, with the pickled ``shortfalls``;
            - ``"protocol"``, with the scheduler's ``version``: client and scheduler are incompatible;
            - ``"unreadable"``, with the ``error``: the scheduler cannot unpickle ``spec``;
            - ``"unusable"``, with the ``workers`` and their problems: no worker can run functions;
            - ``"removed"``: the plugin was removed.
        """
        plugin = self._plugin
        if protocol != PROTOCOL:
            return {"status": "protocol", "version": __version__}
        try:
            run_spec: RunSpec = pickle.loads(spec)
        except Exception as error:
            return {"status": "unreadable", "error": f"{type(error).__name__}: {error}"}
        membership = plugin.membership
        await membership.settled()
        deadline = time() + plugin.state.placement.infeasible.timeout
        while membership.probing and time() < deadline and self._lacks_nodes(run_spec):
            await membership.answered(deadline - time())
        if membership.unusable and not plugin.state.nodes:
            return {"status": "unusable", "workers": dict(membership.unusable)}
        if plugin.closed:
            return {"status": "removed"}
        known = plugin.runs.get(run_spec.run_id)
        if known is not None:  # a repeated request: the first answer was lost
            return {"status": known.run.status.value, "waiting": known.run.waiting(time())}
        if client not in plugin.scheduler.clients:
            plugin.disconnected.expect(client, [])  # the connection has just broken
        self._hint_durations(run_spec)
        now = time()
        active = ActiveRun(run := plugin.state.run_added(run_spec, now), client, now)
        if run.status is RunStatus.FAILED:
            active.ended = now
            plugin.state.run_removed(run_spec.run_id)
            plugin.archive.add(active.info(now), run)
            return {"status": "unplaceable", "shortfalls": pickle.dumps(run.shortfalls)}
        plugin.runs[run_spec.run_id] = active
        plugin.wake()
        return {"status": run.status.value, "waiting": run.waiting(now)}

    def _lacks_nodes(self, spec: RunSpec) -> bool:
        plugin = self._plugin
        return not plugin.closed and spec.run_id not in plugin.runs and plugin.state.lacks_nodes(spec)

    def _hint_durations(self, spec: RunSpec) -> None:
        """Pass the durations that Dask knows by function name, measured or configured, to the core.

        Names are ambiguous. Once functions of a name have run here, their keys tell more than Dask's mean.
        """
        estimates = self._plugin.state.placement.estimates
        has_run = estimates.names
        for key in dict.fromkeys(without_stem(kind.code) for kind in spec.kinds):
            name = name_in(key)
            if name == "lambda" or name in has_run:
                continue
            seconds = learnt_duration(self._plugin.scheduler, name)
            if seconds is not None:
                estimates.hint(key, Hint(seconds))

    async def reattach(self, client: str, runs: dict[str, list[int]]) -> dict[str, Any]:
        """Reattach a client that has reconnected to its runs.

        Parameters
        ----------
        client : str
        runs : dict of str to list of int
            Run id → numbers of the functions whose results the client wants.

        Returns
        -------
        dict
            ``runs``: id → (status, whether the graph has arrived) of each known run; or ``absent`` if the
            client is disconnected again.
        """
        plugin = self._plugin
        if client not in plugin.scheduler.clients:
            return {"absent": True}  # the connection broke again
        for run_id, active in plugin.runs.items():
            if active.client == client and run_id not in runs:
                plugin.release_handle(active)
        answer = {}
        for run_id, numbers in runs.items():
            if (found := plugin.runs.get(run_id)) is not None:
                plugin.enactor.want([found.keys[n] for n in numbers], client)
                answer[run_id] = (found.run.status.value, found.task_count is not None)
        plugin.disconnected.returned(client)
        plugin.wake()
        return {"runs": answer}

    async def cancel(self, run_id: str, reason: str) -> bool:
        """Cancel a run for this reason. Return False if the run is unknown or has already ended."""
        active = self._plugin.runs.get(run_id)
        if active is None or active.run.ended:
            return False
        self._plugin.cancel(active, reason)
        self._plugin.wake()
        return True

    async def report(self, run_id: str) -> dict[str, Any] | None:
        """Return a run's status and its causes, without its functions; None if the run is unknown."""
        active = self._plugin.runs.get(run_id)
        if active is None:
            return None
        run = active.run
        return {
            "status": run.status.value,
            "broken": active.broken,
            "fault": run.fault,
            "shortfalls": pickle.dumps(run.shortfalls),
            "error": error_of(run, active.broken, active.cancelled),
            "failed": [f.number for f in run.failed],
        }

    async def summaries(self, run_id: str, cursor: Any) -> dict[str, Any] | None:
        """Return a chunk of the functions that changed since the answer with this cursor.

        Starting without a cursor, repeated requests return all functions; ``more`` tells whether to continue.
        Returns None if the run is unknown.
        """
        active = self._plugin.runs.get(run_id)
        if active is None:
            return None
        changes = active.run.changes(cursor, CHUNK)
        functions = [active.run.functions[number] for number in changes.numbers]
        failed = [number for number in changes.numbers if number in active.errors]
        return {
            "piece": pickle.dumps((changes.numbers, [f.summary() for f in functions])),
            "failed": failed,
            "errors": [active.errors[number] for number in failed],
            "cursor": changes.cursor,
            "more": changes.more,
            "nodes": None
            if changes.more
            else {
                node.name: {r: from_units(n) for r, n in node.capacity.items() if n}
                for node in self._plugin.state.placement.nodes.ordered
            },
        }

    async def progress(self, run_id: str, seen: int) -> dict[str, Any]:
        """Return a run's progress, with failed and lost attempts only after the first ``seen``."""
        active = self._plugin.runs.get(run_id)
        return {} if active is None else progress(active, self._plugin.state, seen)

    async def explain(self, run_id: str, number: int) -> str | None:
        """Explain as text what a function waits for; None if the run is unknown."""
        active = self._plugin.runs.get(run_id)
        if active is None:
            return None
        return self._plugin.state.explain(active.run.functions[number], time())

    async def runs(self) -> bytes:
        """Return the pickled list of all known runs, the newest first."""
        now = time()
        known = [(active.run.sequence, active.info(now)) for active in self._plugin.runs.values()]
        known += [(run.sequence, run.info) for run in self._plugin.archive.runs]
        known.sort(key=lambda item: item[0], reverse=True)
        return pickle.dumps([info for _, info in known])

    async def records(self, run_id: str) -> dict[str, Any]:
        """Return a run's functions with their summaries, in pickled chunks.

        Returns
        -------
        dict
            ``asked``, the pickled costs, and ``pieces``. Or ``known``, the ids of all known runs, if this run
            is not among them. Or ``most``, the number of functions that the archive may hold, if the run was
            archived without its functions.
        """
        plugin = self._plugin
        active, archived = plugin.runs.get(run_id), plugin.archive.find(run_id)
        if active is not None:
            run = active.run
            ids, kind_of, asked = run.spec.ids, run.spec.kind_of, declared_costs(run)

            def summaries(start: int, end: int) -> list[Summary]:
                return [f.summary() for f in run.functions[start:end]]

        elif archived is None:
            return {"known": [info.id for info in pickle.loads(await self.runs())]}
        elif archived.functions is None:
            return {"most": plugin.archive.max_functions}
        else:
            kept = archived.functions
            ids, kind_of, asked, summaries = kept.ids, kept.kind_of, kept.costs, kept.summaries
        pieces = []
        for start in range(0, len(ids), CHUNK):
            end = start + CHUNK
            pieces.append(pickle.dumps((ids[start:end], kind_of[start:end], summaries(start, end))))
            await asyncio.sleep(0)
        return {"asked": pickle.dumps(asked), "pieces": pieces}

    async def nodes(self) -> list[dict[str, Any]]:
        """Return the name, address, capacity and free capacity of every node, ordered by name."""
        await self._plugin.membership.settled()
        return [
            {
                "name": node.name,
                "address": self._plugin.scheduler.aliases.get(node.name),
                "capacity": {r: from_units(n) for r, n in node.capacity.items() if n and r != THREADS},
                "free": {r: from_units(node.available(r)) for r, n in node.capacity.items() if n},
            }
            for node in self._plugin.state.placement.nodes.ordered
        ]

    async def register_node(self, name: Any, capacity: dict[str, Any]) -> bool | list[Any]:
        """Change a node's capacity. Return True, or the names of all nodes if there is no such node."""
        await self._plugin.membership.settled()
        node = self._plugin.membership.find(name)
        if node is None:
            return sorted(self._plugin.state.nodes, key=str)
        self._plugin.membership.register(node, capacity)
        return True

    async def available(self, name: Any, cost: dict[str, Any]) -> bool | list[Any]:
        """Return whether a cost fits into a node's free capacity, or the names of all nodes as above."""
        await self._plugin.membership.settled()
        node = self._plugin.membership.find(name)
        if node is None:
            return sorted(self._plugin.state.nodes, key=str)
        return node.accepting and node.fits({THREADS: UNIT, **parse_amounts(cost)})
