"""Dask's own scheduler, workers and clients, without what costs time and shows nothing."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import dask
import distributed.core
import distributed.node
import distributed.scheduler
import distributed.utils
import distributed.versions
import distributed.worker
from distributed import Client, Scheduler, Worker

from simulated.network import Network
from simulated.threads import VirtualEvent, VirtualThreadPoolExecutor
from simulated.trace import on

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
    "distributed.scheduler.work-stealing-interval": "1s",
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.profile.enabled": False,
    "distributed.worker.validate": True,
    "handoff.dashboard": False,
}


class _Monitor:
    """Instead of Dask's, which asks the operating system."""

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
    """A directory that nobody makes, since nothing is spilled to it."""

    dir_path = base_dir = "/nowhere/dask-scratch-space"

    def __init__(self, *names: Any) -> None:
        pass

    def new_work_dir(self, **options: Any) -> _Folder:
        return self

    def release(self) -> None:
        pass


class _Threading:
    """:mod:`threading` as ``distributed.utils.sync`` sees it: it waits with the baton given back."""

    Event = VirtualEvent

    def __getattr__(self, name: str) -> Any:
        return getattr(__import__("threading"), name)


def prepare() -> None:
    """Take off Dask what a process needs only once, or not at all here."""
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


class Machine:
    """A node: a worker, its threads, and what it is to have."""

    def __init__(self, name: str, worker: Any, capacity: Mapping[str, float], pool: Any) -> None:
        self.name = name
        self.worker = worker
        self.capacity = capacity
        self.pool = pool
        self.alive = True


class Cluster:
    """A scheduler, the workers of a seed and its clients, each on a machine of its own.

    Parameters
    ----------
    network : Network
    """

    def __init__(self, network: Network) -> None:
        distributed.scheduler.TaskState._run_id_iterator = itertools.count()  # one for the whole process
        self.network = network
        self.scheduler: Any = None
        self.machines: dict[str, Machine] = {}
        self.clients: dict[str, Any] = {}

    async def start(self) -> None:
        """Start the scheduler."""
        with on("scheduler"):
            self.scheduler = await Scheduler(protocol="inproc", dashboard=False, host=None)

    async def join(self, machine: str, name: str, capacity: Mapping[str, float]) -> None:
        """Start a worker."""
        threads = max(1, int(capacity.get("cpu", 1)))
        with on(machine):
            pool = VirtualThreadPoolExecutor(threads, self.network.delay)
            worker = Worker(
                self.scheduler.address,
                name=name,
                nthreads=threads,
                executor={"default": pool, "actor": pool},
                resources=dict(capacity),
                memory_limit=0,
                heartbeat_interval="5s",
            )
            self.machines[machine] = Machine(name, worker, capacity, pool)
            await worker

    def kill(self, machine: str) -> None:
        """End a worker as the operating system would: its threads, its connections, all at once."""
        dead = self.machines[machine]
        dead.alive = False
        self.network.trace.note(f"{machine} dies")
        dead.pool.abandon()
        self.network.die(machine)

    async def leave(self, machine: str) -> None:
        """Close a worker in good order; its process ends when that is done."""
        gone = self.machines[machine]
        self.network.trace.note(f"{machine} is closed")
        gone.alive = False
        with on(machine):
            await gone.worker.close()
        gone.pool.abandon()
        self.network.die(machine)

    async def connect(self, machine: str) -> Any:
        """Make a client."""
        with on(machine):
            client = Client(
                self.scheduler.address, asynchronous=True, set_as_default=False, name=machine, timeout=30
            )
            self.clients[machine] = client
            return await client

    def plugins(self) -> list[Any]:
        """The plugin, if it is there."""
        return [p for name, p in self.scheduler.plugins.items() if name == "handoff"]
