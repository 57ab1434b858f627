"""One seed: its cluster, its clients, and their actions."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from typing import Any

import distributed.client
import distributed.core
import distributed.utils
from distributed import Client

import handoff_dask as handoff
from handoff_dask.exceptions import HandoffError
from handoff_dask.preload import dask_setup
from simulated import monitor, network, work
from simulated.clock import CLOCK
from simulated.cluster import Cluster
from simulated.invariants import check_outcome, check_records, describe_stuck, find_leaks, still_parked
from simulated.loop import StuckError, VirtualLoop
from simulated.scenario import BEFORE, PlannedRun, Scenario, draw_scenario
from simulated.trace import Trace, on_machine

#: Virtual seconds after which an unended run counts as hanging.
RUN_LIMIT = 120.0

#: Virtual seconds after which everything without a handle must be forgotten.
FORGET_LIMIT = 60.0

#: Virtual seconds after which an ended run must have no parked tasks: longer than lost results wait for a
#: node (``handoff.node-timeout``).
PARKED_LIMIT = 40.0


class Seed:
    """Plays a scenario.

    Attributes
    ----------
    scenario : Scenario
    trace : Trace
    """

    def __init__(self, seed: int, keep: int | None = 400) -> None:
        self.number = seed
        self.scenario: Scenario = draw_scenario(seed)
        self.trace = Trace(keep)
        self.cluster: Cluster
        self.clients: dict[str, asyncio.Future[Client]] = {}
        self._handles: dict[str, Any] = {}

    def run(self) -> None:
        """Play the scenario in a new event loop."""
        CLOCK.reset(self.number)
        rng = random.Random(f"network {self.number}")
        net = network.Network(rng, self.trace)
        network.install(net)
        self.cluster = Cluster(net)
        loop = VirtualLoop(rng)
        loop.set_exception_handler(monitor.handle_loop_exception)
        asyncio.set_event_loop(loop)
        monitor.TRACE[:] = [self.trace]
        work.LEDGER[:] = [work.UsageLedger(self.trace)]
        try:
            loop.run_until_complete(self._play())
        except StuckError as error:
            self.trace.report(f"stuck: {error}")
        finally:
            self._close(loop)

    async def _play(self) -> None:
        scenario, cluster = self.scenario, self.cluster
        for node in scenario.nodes:
            threads = max(1, int(node.capacity["cpu"]))
            work.LEDGER[0].capacity[node.machine] = {**node.capacity, "threads": threads}
        await cluster.start()
        if scenario.preload == BEFORE:
            await self._preload()
        await asyncio.gather(
            *(cluster.join(n.machine, n.name, n.capacity, n.declares) for n in scenario.nodes if n.joins == 0)
        )
        events = [
            self._do_at(n.joins, cluster.join, n.machine, n.name, n.capacity, n.declares)
            for n in scenario.nodes
            if n.joins
        ]
        events += [
            self._do_at(n.dies, cluster.leave if n.gracefully else self._kill, n.machine)
            for n in scenario.nodes
            if n.dies is not None
        ]
        if scenario.preload not in (None, BEFORE):
            events.append(self._do_at(scenario.preload, self._preload))
        for name, at in scenario.clients.items():
            self.clients[name] = asyncio.ensure_future(self._connect(name, at))
        events += [self._do_at(at, self._close_client, c) for c, at in scenario.closes.items()]
        events += [self._do_at(at, self._break, c) for c, at in scenario.breaks.items()]
        faults = [asyncio.ensure_future(other) for other in events]
        runs = {}
        for run in scenario.runs:
            with on_machine(run.client):
                runs[run.name] = asyncio.ensure_future(self._run(run))
        await asyncio.wait([*runs.values(), *faults], timeout=RUN_LIMIT)
        for name, task in runs.items():
            if not task.done():
                handle = self._handles.get(name)
                text = describe_stuck(cluster, name)
                self.trace.report(f"{name} hangs: {handle if handle else 'not submitted'}; {text}")
                task.cancel()
        for task in faults:
            if not task.done():
                self.trace.report("a fault did not end")
                task.cancel()
            elif (error := task.exception()) is not None:
                self.trace.note("fault failed:", repr(error), monitor.describe_location(error))
        if any("hangs" in c for c in self.trace.violations):
            return  # its leaks are not a second violation
        del runs, task, run
        self._handles.clear()
        await self._check_leaks()

    async def _do_at(self, at: float, what: Any, *args: Any) -> None:
        await asyncio.sleep(at)
        result = what(*args)
        if result is not None:
            await result

    async def _preload(self) -> None:
        with on_machine("scheduler"):
            await dask_setup(self.cluster.scheduler)

    def _kill(self, machine: str) -> None:
        if machine in self.cluster.machines:
            self.cluster.kill(machine)

    async def _connect(self, name: str, at: float) -> Client:
        await asyncio.sleep(at)
        return await self.cluster.connect(name)

    async def _close_client(self, name: str) -> None:
        client = await asyncio.shield(self.clients[name])
        self.trace.note(f"{name} closes")
        with on_machine(name):
            await client.close()

    async def _break(self, name: str) -> None:
        await asyncio.shield(self.clients[name])
        self.trace.note(f"connections of {name} break")
        self.cluster.network.cut(name, "scheduler")

    async def _run(self, run: PlannedRun) -> None:
        """Play a run, and check its outcome."""
        client = await asyncio.shield(self.clients[run.client])
        await asyncio.sleep(run.at)
        outcome: Any
        try:
            outcome = await self._outcome(run, client)
        except asyncio.CancelledError as error:
            if asyncio.current_task().cancelling():
                raise
            outcome = error
        except Exception as error:
            outcome = error
            if not isinstance(error, HandoffError):
                self.trace.note(repr(error), monitor.describe_location(error))
        self.trace.note(run.name, "ended with", type(outcome).__name__, str(outcome)[:200])
        if outcome is None:
            return
        for violation in check_outcome(self.scenario, run, outcome):
            self.trace.report(violation)
        handle = self._handles.get(run.name) or getattr(outcome, "run", None)
        if handle is not None and client.status == "running" and run.client not in self.scenario.breaks:
            await asyncio.sleep(PARKED_LIMIT)
            for violation in still_parked(self.cluster, run, handle.id):
                self.trace.report(violation)

    async def _outcome(self, run: PlannedRun, client: Client) -> Any:
        dag = run.dag()
        self.trace.note(run.name, run.how)
        if run.how in ("execute", "timeout"):
            timeout = run.after if run.how == "timeout" else None
            return await handoff.execute(dag, client, timeout=timeout, **run.options)
        handle = handoff.submit(dag, client, **run.options)
        if run.how == "drop":
            await asyncio.sleep(run.after)
            return None
        self._handles[run.name] = handle
        if run.how == "cancel":
            await asyncio.sleep(run.after)
            self.trace.note(run.name, "is cancelled")
            await handle.cancel()
        try:
            return await handle
        finally:
            if not handle.done():
                self.trace.report(f"{run.name} has ended, but is not done: {handle}")
            if client.status == "running":
                for violation in check_records(run, await handle.records):
                    self.trace.report(violation)

    async def _check_leaks(self) -> None:
        """Check that everything is forgotten once all handles are gone."""
        gc.collect()
        loop = asyncio.get_running_loop()
        end = loop.time() + FORGET_LIMIT
        while (left := list(find_leaks(self.cluster))) and loop.time() < end:
            await asyncio.sleep(0.5)
            gc.collect()  # a handle and its error form a cycle, and may have been in use a moment ago
        for violation in left:
            self.trace.report(violation)

    def _close(self, loop: VirtualLoop) -> None:
        """Clean up for the next seed."""
        self.trace.ended = True
        monitor.TRACE.clear()
        for machine in self.cluster.machines.values():
            machine.pool.abandon()
        loop.set_exception_handler(lambda loop, context: None)
        for client in list(Client._instances):  # including clients of workers
            client.status = "closed"
        with contextlib.suppress(StuckError):
            for _ in range(20):
                tasks = asyncio.all_tasks(loop)
                for task in tasks:
                    task.cancel()
                if not tasks:
                    break
                loop.call_soon(loop.stop)
                loop.run_forever()
        loop.close()
        asyncio.set_event_loop(None)
        distributed.client._global_clients.clear()
        for cache in (distributed.core._expects_comm, distributed.utils.has_keyword):
            cache.cache_clear()  # they keep methods alive, and with these every server
