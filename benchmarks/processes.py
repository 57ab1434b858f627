"""A cluster of nodes to be killed, stopped and replaced: processes, with a scheduler in this one."""

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

PATIENCE = 60.0  # seconds to wait for a process to do what it should do at once


class ProcessCluster:
    """A scheduler in this process, and nodes that are ``dask worker`` processes.

    A context manager. What it is given where a client is needed is ``cluster.scheduler_address``.

    Parameters
    ----------
    nodes : mapping of str to mapping of str to number
        What to start with: name → what it declares.
    threads : int
        Of every node.
    environment : mapping of str to str, optional
        Variables of the nodes, besides those of this process.

    Attributes
    ----------
    processes : dict of str to subprocess.Popen
        Those that were not killed, by name.
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
        # Modules of tests and benchmarks can be imported there as they can be here.
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
            silence_logs=logging.CRITICAL,  # it has much to say about nodes that vanish
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
        """Start a node; it takes a second or two until it is there."""
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
        """Kill a node: it has no time to say anything."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def freeze(self, name: str) -> None:
        """Stop a node's process in its tracks; :meth:`thaw` lets it go on."""
        self.processes[name].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let a frozen node go on."""
        self.processes[name].send_signal(signal.SIGCONT)

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something that no event announces.

        Raises
        ------
        TimeoutError
            It has not come true.
        """
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not so within {PATIENCE:g} s: {what}")
            time.sleep(0.01)
