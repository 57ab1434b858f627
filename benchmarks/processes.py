"""A cluster whose nodes are processes that can be killed, frozen and replaced."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distributed import Scheduler, SpecCluster

TIMEOUT = 60.0  # seconds to wait for anything that should happen at once


class ProcessCluster:
    """A scheduler in this process, and nodes that are ``dask worker`` processes.

    A context manager. Clients connect to ``cluster.scheduler_address``.

    Parameters
    ----------
    nodes : mapping of str to mapping of str to number
        Initial nodes: name → declared resources.
    threads : int
        Threads of every node.
    environment : mapping of str to str, optional
        Environment variables of the nodes, in addition to those of this process.

    Attributes
    ----------
    processes : dict of str to subprocess.Popen
        Nodes that were not killed, by name.
    logs : Path
        Folder with the output of every process.
    """

    def __init__(
        self,
        nodes: Mapping[str, Mapping[str, float]],
        *,
        threads: int = 4,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._nodes = nodes
        self._threads = threads
        # Nodes can import the same modules of tests and benchmarks as this process.
        path = os.pathsep.join(filter(None, sys.path))
        self._environment = {**os.environ, "PYTHONPATH": path, **(environment or {})}
        options = {
            "protocol": "tcp",
            "host": "127.0.0.1",
            "port": 0,
            "dashboard": False,
            "dashboard_address": ":0",
        }
        self._cluster = SpecCluster(
            workers={},
            scheduler={"cls": Scheduler, "options": options},
            silence_logs=logging.CRITICAL,  # nodes that vanish cause many messages
        )
        self.scheduler: Scheduler = self._cluster.scheduler
        self.scheduler_address: str = self._cluster.scheduler_address
        self._folder = tempfile.TemporaryDirectory()
        self.logs = Path(self._folder.name)

    def __enter__(self) -> ProcessCluster:
        try:
            for name, resources in self._nodes.items():
                self.start(name, resources)
            self.await_nodes(self._nodes)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()
        self._cluster.close()
        self._folder.cleanup()

    def sync(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a function on the scheduler's event loop."""
        return self._cluster.sync(function, *args, **kwargs)

    def start(self, name: str, resources: Mapping[str, float]) -> None:
        """Start a node, without waiting the second or two until it joins."""
        declared = ",".join(f"{r}={amount:g}" for r, amount in resources.items())
        command = [sys.executable, "-m", "distributed.cli.dask_worker", self.scheduler_address]
        command += ["--no-nanny", "--no-dashboard", "--memory-limit", "0", "--name", name]
        command += ["--nthreads", str(self._threads), "--local-directory", str(self.logs)]
        command += ["--resources", declared] if declared else []
        with open(self.logs / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)

    def await_nodes(self, names: Any) -> None:
        """Wait until the scheduler knows these nodes."""
        self.wait_until(lambda: set(names) <= set(self.scheduler.aliases), f"{set(names)} have joined")

    def kill(self, name: str) -> None:
        """Kill a node with SIGKILL, so that it cannot send any message."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def freeze(self, name: str) -> None:
        """Suspend a node's process until :meth:`thaw`."""
        self.processes[name].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Resume a frozen node."""
        self.processes[name].send_signal(signal.SIGCONT)

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Poll until a condition without an event holds.

        Raises
        ------
        TimeoutError
            It did not hold within ``TIMEOUT`` seconds.
        """
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"timed out after {TIMEOUT:g} s, waiting until {what}")
            time.sleep(0.01)
