"""A cluster on a virtual network whose links can be cut. Must run inside ``unshare -rn``:

    unshare -rn python tests/network.py FOLDER SECONDS TTL

Cuts the link of one node during a run, and prints the outcome as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import dask
import distributed.scheduler
from distributed import Client, Scheduler, SpecCluster
from faulty import attempt, entered, wait_for
from helpers import add, dag_of, until

import handoff_dask as handoff
from handoff_dask import Collocated, Function


def ip(*arguments, host=None):
    """Run the command ``ip``, inside a host if one is given."""
    inside = () if host is None else ("nsenter", "-t", str(host), "-n")
    subprocess.run([*inside, "ip", *arguments], check=True, capture_output=True, text=True)


def check_permission():
    """Raise CalledProcessError if this process may not create the network."""
    ip("link", "set", "lo", "up")
    ip("link", "add", "hub", "type", "bridge")
    ip("addr", "add", "10.99.0.1/24", "dev", "hub")
    ip("link", "set", "hub", "up")


class Host:
    """A network namespace with a link to the hub."""

    def __init__(self, number, name):
        self.link = f"link{number}"
        self.address = f"10.99.0.{number}"
        self.name = name
        self.worker = None
        self._holder = subprocess.Popen(["unshare", "-n", "sleep", "600"])
        ours = os.readlink("/proc/self/ns/net")
        until(lambda: os.readlink(f"/proc/{self._holder.pid}/ns/net") != ours)
        self._pid = self._holder.pid
        ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", str(self._pid))
        ip("link", "set", self.link, "master", "hub", "up")
        ip("link", "set", "lo", "up", host=self._pid)
        ip("addr", "add", f"{self.address}/24", "dev", "eth0", host=self._pid)
        ip("link", "set", "eth0", "up", host=self._pid)

    def start(self, scheduler, folder):
        command = ["nsenter", "-t", str(self._pid), "-n", sys.executable, "-m", "distributed.cli.dask_worker"]
        command += [scheduler, "--host", self.address, "--name", self.name, "--nthreads", "2", "--no-nanny"]
        command += ["--no-dashboard", "--resources", "cpu=2", "--memory-limit", "0"]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s",
        }
        with open(Path(folder) / f"{self.name}.log", "wb") as log:
            self.worker = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def cut(self):
        ip("link", "set", self.link, "down")

    def restore(self):
        ip("link", "set", self.link, "up")

    def close(self):
        for process in (self.worker, self._holder):
            if process is not None:
                process.kill()
                process.wait()


def dag(folder):
    return dag_of(
        Function("made", attempt, extra_args=[folder, 1], node=["b", "c"], cost={"cpu": 1}),
        Function("held", wait_for, extra_args=[folder, "door", 2], node=Collocated("made"), cost={"cpu": 1}),
        *[Function(i, attempt, extra_args=[folder, i], node=["a", "c"], cost={"cpu": 1}) for i in range(20)],
        Function("near", add, args=["made", "held"], node=Collocated("made")),
        Function("end", add, args=["near", *range(20)], node="a"),
    )


def main(folder, seconds, ttl):
    """Cut the link of the node that runs "held" for ``seconds``, with ``ttl`` as Dask's ``worker-ttl``."""
    check_permission()
    distributed.scheduler.heartbeat_interval = lambda n: (
        ttl / 10
    )  # Dask requires a TTL of at least ten heartbeats
    options = {"protocol": "tcp", "host": "10.99.0.1", "port": 0, "dashboard": False}
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.scheduler.worker-ttl": f"{ttl}s"}))
        hosts = {name: Host(n, name) for n, name in enumerate("abc", 2)}
        for host in hosts.values():
            stack.callback(host.close)
        cluster = stack.enter_context(
            SpecCluster(workers={}, scheduler={"cls": Scheduler, "options": options}, silence_logs=50)
        )
        for host in hosts.values():
            host.start(cluster.scheduler_address, folder)
        client = stack.enter_context(Client(cluster.scheduler_address, set_as_default=False))
        client.wait_for_workers(len(hosts), timeout=60)
        run = handoff.submit(dag(folder), client)
        until(lambda: entered(folder, "held") and run.records["made"].status == "finished")
        cut = run.allocations["held"]
        hosts[cut].cut()
        begin = time.monotonic()
        (Path(folder) / "door").touch()  # lets "held" finish while its node is cut off
        until(lambda: all(run.records[i].status == "finished" for i in range(20)))
        others = time.monotonic() - begin
        done = run.wait(timeout=max(0.0, seconds - (time.monotonic() - begin)))
        time.sleep(max(0.0, seconds - (time.monotonic() - begin)))  # the cut lasts for the full time
        hosts[cut].restore()
        result = run.result(timeout=60)
        gone = cut not in cluster.scheduler.aliases
        if gone:
            hosts[cut].worker.wait(timeout=60)  # the worker ends once it learns that it was removed
        outcomes = {str(id): [[a.node, a.outcome] for a in r.attempts] for id, r in run.records.items()}
        print(
            json.dumps(
                {
                    "cut": cut,
                    "end": result["end"],
                    "done before": done,
                    "others": others,
                    "gone": gone,
                    "outcomes": outcomes,
                    "held": entered(folder, "held"),
                }
            )
        )


if __name__ == "__main__":
    if sys.argv[1:] == ["permission"]:
        check_permission()
    else:
        main(sys.argv[1], *map(float, sys.argv[2:]))
