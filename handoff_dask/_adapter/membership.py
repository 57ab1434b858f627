"""Membership: which workers are nodes, and the capacity of each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from distributed import Status
from distributed.comm import CommClosedError
from distributed.metrics import time

from handoff_dask._adapter._dask.workers import Answer, call_on, recount_resources
from handoff_dask._adapter.capacity import capacity_of, node_of, probe_node
from handoff_dask._adapter.external import ExternalTasks
from handoff_dask._adapter.latency import StreamIntervals
from handoff_dask._adapter.messages import PROTOCOL
from handoff_dask._model.resources import hint_at_bytes
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.state import SchedulingState
from handoff_dask._version import __version__

if TYPE_CHECKING:
    from distributed import Scheduler

logger = logging.getLogger(__name__)

#: Seconds until an unreachable worker is probed again.
PROBE_PAUSE = 0.5

#: Seconds to wait for the running probes before continuing without their answers.
PROBE_TIMEOUT = 5.0


class Membership:
    """Keeps the core's nodes in step with the scheduler's workers.

    A worker becomes a node once a probe has shown that it can import a compatible handoff_dask. Other workers
    continue to run Dask's own tasks, but get no functions.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    state : SchedulingState
    intervals : StreamIntervals
        Shortens the intervals between messages to and from the workers.
    external : ExternalTasks
    wake : callable
        Called when there may be something to decide.

    Attributes
    ----------
    unusable : dict of str to str
        Address of a worker that cannot run functions → the reason.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        state: SchedulingState,
        intervals: StreamIntervals,
        external: ExternalTasks,
        wake: Callable[[], None],
    ) -> None:
        self._scheduler = scheduler
        self._state = state
        self._intervals = intervals
        self._external = external
        self._wake = wake
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._detected: dict[str, dict[str, Any]] = {}
        self._registered: dict[Any, dict[str, Any]] = {}
        self.unusable: dict[str, str] = {}

    def joined(self, address: str) -> None:
        """Probe a worker that has joined."""
        self._probes[address] = asyncio.get_running_loop().create_task(self._probe(address))

    async def _probe(self, address: str) -> None:
        try:
            await self._admit(address)
        finally:
            # A later worker at the same address may have its own probe by now.
            if self._probes.get(address) is asyncio.current_task():
                del self._probes[address]

    async def _call_probe(self, address: str) -> Answer:
        """Probe a worker, and try again while it is unreachable but still a member of the cluster."""
        while True:
            try:
                return await call_on(self._scheduler, address, probe_node)
            except OSError:
                if address not in self._scheduler.workers:
                    raise
                await asyncio.sleep(PROBE_PAUSE)

    async def _admit(self, address: str) -> None:
        try:
            answer = await self._call_probe(address)
            facts, problem = answer
            if problem is None and facts.get("protocol") != PROTOCOL:
                other = facts.get("version", "of an unknown version")
                problem = f"that it runs handoff_dask {other}, which is incompatible with {__version__}"
        except (OSError, CommClosedError):
            return  # the worker left before it answered
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        ws = self._scheduler.workers.get(address)
        if ws is None:
            return
        if problem is not None:
            self.unusable[address] = problem
            logger.warning("handoff_dask places no functions on %s, which answered %s", address, problem)
            return
        self._detected[address] = facts["detected"]
        if (hint := hint_at_bytes(ws.resources)) is not None:
            logger.warning("the resources of node %r: %s", ws.name, hint)
        node = node_of(ws, facts["detected"], self._registered.get(ws.name, {}))
        node.accepting = ws.status is Status.running
        self._state.node_joined(node, time())
        self._external.report(address)
        self._wake()
        await self._intervals.shorten(address, node)

    @property
    def probing(self) -> bool:
        """Whether any probe is running."""
        return bool(self._probes)

    async def settled(self) -> None:
        """Wait until all running probes have ended, for at most :data:`PROBE_TIMEOUT` seconds."""
        if self._probes:
            await asyncio.wait(list(self._probes.values()), timeout=PROBE_TIMEOUT)

    async def answered(self, timeout: float) -> None:
        """Wait until any running probe has ended, for at most ``timeout`` seconds."""
        if self._probes:
            running = list(self._probes.values())
            await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)

    def left(self, address: str) -> None:
        """Remove the node of a worker that has left. Dask has taken back the worker's tasks already."""
        self._detected.pop(address, None)
        self._intervals.forget(address)
        self._external.left(address)
        self.unusable.pop(address, None)
        if (probe := self._probes.pop(address, None)) is not None:
            probe.cancel()
        for name, node in list(self._state.nodes.items()):
            if address in node.aliases and self._scheduler.aliases.get(name) != address:
                self._state.node_left(name, time())
        self._wake()

    def vanished(self, node: Node) -> None:
        """Remove a node whose worker is missing, although Dask has not announced that it left."""
        if self._state.nodes.get(node.name) is node:
            self._state.node_left(node.name, time())
            self._wake()

    def refresh_accepting(self) -> None:
        """Check whether paused nodes accept functions again: Dask does not announce every resumption."""
        for node in self._state.nodes.values():
            if not node.accepting:
                ws = self._scheduler.workers.get(self._scheduler.aliases.get(node.name, ""))
                self._state.node_accepting(node.name, ws is not None and ws.status is Status.running)

    def status_changed(self, *, status: Any, worker: str, **kwargs: Any) -> None:
        """Pause or resume the node of a worker whose status is about to change."""
        ws = self._scheduler.workers.get(worker)
        if ws is not None:
            running = (Status[status] if isinstance(status, str) else status) is Status.running
            self._state.node_accepting(ws.name, running)
            self._wake()

    def resources_changed(self, *, worker: str, **message: Any) -> None:
        """Update the node of a worker whose resources have changed."""
        ws = self._scheduler.workers[worker]
        recount_resources(ws)
        node = self._state.nodes.get(ws.name)
        if node is not None and worker in self._detected:
            node.enforced |= set(ws.resources) - set(self._registered.get(ws.name, ()))
            self._resize(node, worker)

    def find(self, name: Any) -> Node | None:
        """Return the node with this name, or None. Names are compared as text, so ``1`` matches ``"1"``."""
        return next((node for n, node in self._state.nodes.items() if str(n) == str(name)), None)

    def register(self, node: Node, capacity: Mapping[str, Any]) -> None:
        """Change a node's capacity, overriding the resources that its worker declares."""
        registered = self._registered.setdefault(node.name, {})
        registered.update(capacity)
        node.enforced -= set(capacity)
        self._resize(node, self._scheduler.aliases[node.name])

    def _resize(self, node: Node, address: str) -> None:
        ws, registered = self._scheduler.workers[address], self._registered.get(node.name, {})
        self._state.node_resized(node.name, capacity_of(ws, self._detected[address], registered))
        self._external.report(address)
        self._wake()
