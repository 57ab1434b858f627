"""Which workers are nodes, and what they have."""

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
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.state import SchedulingState
from handoff_dask._version import __version__

if TYPE_CHECKING:
    from distributed import Scheduler

logger = logging.getLogger(__name__)

#: Seconds until a worker is asked again that could not be reached.
PROBE_PAUSE = 0.5

#: Seconds to wait for a worker's answer before going on without it.
PROBE_TIMEOUT = 5.0


class Membership:
    """Keeps the core's nodes in step with the scheduler's workers.

    A worker becomes a node once it has shown that it has handoff_dask: one that lacks it goes on serving
    Dask, and gets none of our functions.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    state : SchedulingState
    intervals : StreamIntervals
        Of messages to and from the workers.
    foreign : ExternalTasks
    wake : callable
        Called when there may be something to decide.

    Attributes
    ----------
    unusable : dict of str to str
        Address of a worker that cannot run functions → why.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        state: SchedulingState,
        intervals: StreamIntervals,
        foreign: ExternalTasks,
        wake: Callable[[], None],
    ) -> None:
        self._scheduler = scheduler
        self._state = state
        self._intervals = intervals
        self._foreign = foreign
        self._wake = wake
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._detected: dict[str, dict[str, Any]] = {}
        self._registered: dict[Any, dict[str, Any]] = {}
        self.unusable: dict[str, str] = {}

    def joined(self, address: str) -> None:
        """A worker is there: ask what it has."""
        self._probes[address] = asyncio.get_running_loop().create_task(self._probe(address))

    async def _probe(self, address: str) -> None:
        try:
            await self._admit(address)
        finally:
            if self._probes.get(address) is asyncio.current_task():  # not that of a worker that came after
                del self._probes[address]

    async def _ask(self, address: str) -> Answer:
        """Ask a worker what it has; again while nothing is heard of it, though it is there."""
        while True:
            try:
                return await call_on(self._scheduler, address, probe_node)
            except OSError:
                if address not in self._scheduler.workers:
                    raise
                await asyncio.sleep(PROBE_PAUSE)

    async def _admit(self, address: str) -> None:
        try:
            answer = await self._ask(address)
            facts, problem = answer
            if problem is None and facts.get("protocol") != PROTOCOL:
                other = facts.get("version", "of an unknown version")
                problem = f"that it runs handoff_dask {other}, which does not understand {__version__}"
        except (OSError, CommClosedError):
            return  # it is gone again
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        ws = self._scheduler.workers.get(address)
        if ws is None:
            return
        if problem is not None:
            self.unusable[address] = problem
            logger.warning("No functions of handoff_dask will be placed on %s: %s", address, problem)
            return
        self._detected[address] = facts["detected"]
        node = node_of(ws, facts["detected"], self._registered.get(ws.name, {}))
        node.accepting = ws.status is Status.running
        self._state.node_joined(node, time())
        self._foreign.tell(address)
        self._wake()
        await self._intervals.shorten(address, node)

    async def settled(self) -> None:
        """Wait until every worker there is has been asked, though not for one that does not answer."""
        if self._probes:
            await asyncio.wait(list(self._probes.values()), timeout=PROBE_TIMEOUT)

    def left(self, address: str) -> None:
        """A worker is gone. Dask has taken its tasks back already."""
        self._detected.pop(address, None)
        self._intervals.forget(address)
        self._foreign.left(address)
        self.unusable.pop(address, None)
        if (probe := self._probes.pop(address, None)) is not None:
            probe.cancel()
        for name, node in list(self._state.nodes.items()):
            if address in node.aliases and self._scheduler.aliases.get(name) != address:
                self._state.node_left(name, time())
        self._wake()

    def vanished(self, node: Node) -> None:
        """A node's worker is not there, although nobody has said that it left."""
        if self._state.nodes.get(node.name) is node:
            self._state.node_left(node.name, time())
            self._wake()

    def refresh_accepting(self) -> None:
        """Look again at nodes that accepted nothing: not every way back to work is announced."""
        for node in self._state.nodes.values():
            if not node.accepting:
                ws = self._scheduler.workers.get(self._scheduler.aliases.get(node.name, ""))
                self._state.node_accepting(node.name, ws is not None and ws.status is Status.running)

    def status_changed(self, *, status: Any, worker: str, **kwargs: Any) -> None:
        """A worker was paused or goes on; Dask takes note of it after this."""
        ws = self._scheduler.workers.get(worker)
        if ws is not None:
            running = (Status[status] if isinstance(status, str) else status) is Status.running
            self._state.node_accepting(ws.name, running)
            self._wake()

    def resources_changed(self, *, worker: str, **message: Any) -> None:
        """A worker's resources are others now."""
        ws = self._scheduler.workers[worker]
        recount_resources(ws)
        node = self._state.nodes.get(ws.name)
        if node is not None and worker in self._detected:
            node.enforced |= set(ws.resources) - set(self._registered.get(ws.name, ()))
            self._resize(node, worker)

    def called(self, name: Any) -> Node | None:
        """The node of this name, whether that is text or a number."""
        return next((node for n, node in self._state.nodes.items() if str(n) == str(name)), None)

    def register(self, node: Node, capacity: Mapping[str, Any]) -> None:
        """Change what a node has, whatever its worker declares."""
        registered = self._registered.setdefault(node.name, {})
        registered.update(capacity)
        node.enforced -= set(capacity)
        self._resize(node, self._scheduler.aliases[node.name])

    def _resize(self, node: Node, address: str) -> None:
        ws, registered = self._scheduler.workers[address], self._registered.get(node.name, {})
        self._state.node_resized(node.name, capacity_of(ws, self._detected[address], registered))
        self._foreign.tell(address)
        self._wake()
