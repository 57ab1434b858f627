"""Dask's own scheduler, workers and clients, without parts that cost time and do not matter here."""

from __future__ import annotations

import asyncio
import functools
import itertools
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import dask
import distributed.client
import distributed.core
import distributed.node
import distributed.scheduler
import distributed.utils
import distributed.versions
import distributed.worker
from distributed import Client, Scheduler, Worker

from simulated.network import Network
from simulated.threads import VirtualEvent, VirtualThreadPoolExecutor, rejoin
from simulated.trace import MACHINE, on_machine

CONFIG = {
    "distributed.admin.tick.interval": "1h",
    "distributed.admin.tick.limit": "1000h",
    "distributed.admin.system-monitor.interval": "1h",
    "distributed.client.heartbeat": "10s",
    "distributed.client.scheduler-info-interval": "1h",
    "distributed.comm.timeouts.connect": "10s",
    "distributed.diagnostics.nvml": False,
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.scheduler.allowed-failures": 1_000,
    "distributed.scheduler.http.routes": [],
    "distributed.scheduler.validate": True,
    "distributed.scheduler.work-stealing-interval": "5s",
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.profile.enabled": False,
    "distributed.worker.validate": True,
    "handoff.dashboard": False,
}


class _Monitor:
    """Replaces Dask's system monitor, which queries the operating system."""

    count = 0

    def __init__(self, **options: Any) -> None:
        pass

    def update(self) -> dict[str, Any]:
        return {}

    def recent(self) -> dict[str, Any]:
        return {"cpu": 0.0, "memory": 0, "time": 0.0}

    def get_process_memory(self) -> int:
        return 0

    def close(self) -> None:
        pass


class _Folder:
    """Replaces Dask's work directory. It does not exist, because nothing is spilled."""

    dir_path = base_dir = "/nowhere/dask-scratch-space"

    def __init__(self, *names: Any) -> None:
        pass

    def new_work_dir(self, **options: Any) -> _Folder:
        return self

    def release(self) -> None:
        pass


class _Threading:
    """Replaces :mod:`threading` in ``distributed.utils``: ``sync`` gives the baton back while it waits."""

    Event = VirtualEvent

    def __getattr__(self, name: str) -> Any:
        return getattr(__import__("threading"), name)


def _separate_default_clients() -> None:
    """Give each machine, which stands for a process, a separate default client."""
    dask_client = distributed.client
    original = dask_client._set_global_client

    def set_global_client(client: Any) -> None:
        original(client)
        if client is not None:
            client.machine = MACHINE.get()

    def get_global_client() -> Any:
        newest_first = sorted(dask_client._global_clients.items(), reverse=True)
        alive = [client for _, client in newest_first if client.status != "closed"]
        return next((client for client in alive if client.machine == MACHINE.get()), None)

    dask_client._set_global_client = set_global_client
    dask_client._get_global_client = get_global_client


def prepare() -> None:
    """Patch out the parts of Dask that are needed only once per process, or not needed here."""
    dask.config.set(CONFIG)
    distributed.core.SystemMonitor = _Monitor
    distributed.core.WorkSpace = _Folder
    versions = functools.cache(distributed.versions.get_versions)()
    distributed.versions.get_versions = lambda packages=None: versions
    distributed.node.ServerNode.start_http_server = lambda self, *args, **kwargs: None
    distributed.scheduler.enable_gc_diagnosis = distributed.scheduler.disable_gc_diagnosis = lambda: None
    distributed.scheduler.heartbeat_interval = lambda n: 5.0
    distributed.worker.DEFAULT_METRICS.clear()
    distributed.worker.DEFAULT_STARTUP_INFORMATION.clear()
    for module in (distributed.scheduler, distributed.worker):
        module.setproctitle = lambda title: None
    distributed.utils.threading = _Threading()
    sys.modules["distributed.worker_client"].rejoin = rejoin  # a function of the same name hides the module
    _separate_default_clients()


class Machine:
    """A node: a worker, the future of its start, and its thread pool."""

    def __init__(self, name: str, worker: Any, joining: asyncio.Future[Any], pool: Any) -> None:
        self.name = name
        self.worker = worker
        self.joining = joining
        self.pool = pool
        self.alive = True


class Cluster:
    """A scheduler, workers and clients, each on a separate machine.

    Parameters
    ----------
    network : Network
    """

    def __init__(self, network: Network) -> None:
        distributed.scheduler.TaskState._run_id_iterator = (
            itertools.count()
        )  # otherwise shared by the whole process
        self.network = network
        self.scheduler: Any = None
        self.machines: dict[str, Machine] = {}
        self.clients: dict[str, Any] = {}

    async def start(self) -> None:
        """Start the scheduler."""
        with on_machine("scheduler"):
            self.scheduler = await Scheduler(protocol="inproc", dashboard=False, host=None)

    async def join(
        self, machine: str, name: str, capacity: Mapping[str, float], declares: bool = True
    ) -> None:
        """Start a worker, and wait until it has joined or died.

        The worker declares its capacity as resources, which it then enforces, or else only its GPUs.
        """
        threads = max(1, int(capacity.get("cpu", 1)))
        with on_machine(machine):
            pool = VirtualThreadPoolExecutor(threads, self.network.delay)
            worker = Worker(
                self.scheduler.address,
                name=name,
                nthreads=threads,
                executor={"default": pool, "actor": pool},
                resources={r: n for r, n in capacity.items() if declares or r == "gpu"},
                memory_limit=0 if declares else int(capacity["memory"]) * 2**20,
                heartbeat_interval="5s",
            )
            worker.periodic_callbacks["find-missing"].callback_time = 5_000  # milliseconds, instead of 1,000
            joining = asyncio.ensure_future(worker.start())
            self.machines[machine] = Machine(name, worker, joining, pool)
            try:
                await asyncio.shield(joining)
            except asyncio.CancelledError:
                pass  # the worker died
            except Exception as error:  # the scheduler still knows a worker of the same name
                self.network.trace.note("failed to join:", repr(error))
                self.kill(machine)

    def kill(self, machine: str) -> None:
        """Kill a worker as the operating system would: threads and connections end at once."""
        dead = self.machines[machine]
        dead.alive = False
        dead.joining.cancel()
        self.network.trace.note(f"{machine} dies")
        dead.pool.abandon()
        self.network.die(machine)

    async def leave(self, machine: str) -> None:
        """Close a worker gracefully, then end its process."""
        gone = self.machines[machine]
        self.network.trace.note(f"{machine} closes")
        gone.alive = False
        with on_machine(machine), suppress(TimeoutError):
            # Dask waits forever for a worker that is closed while it starts. After 30 s it is killed.
            await asyncio.wait_for(gone.worker.close(), 30)
        gone.joining.cancel()
        gone.pool.abandon()
        self.network.die(machine)

    async def connect(self, machine: str) -> Any:
        """Connect a client."""
        with on_machine(machine):
            client = Client(
                self.scheduler.address, asynchronous=True, set_as_default=False, name=machine, timeout=30
            )
            self.clients[machine] = client
            return await client

    def plugins(self) -> list[Any]:
        """Return the plugin in a list, which is empty before the plugin is installed."""
        return [p for name, p in self.scheduler.plugins.items() if name == "handoff"]
