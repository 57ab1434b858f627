"""Clusters that cannot run handoff DAGs say so, in a sentence with the remedy."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from distributed import Client, Scheduler, Worker
from helpers import dag_of, identity

import handoff_dask as handoff
from handoff_dask import ClusterNotReadyError, Function
from handoff_dask._adapter import capacity, membership, plugin, requests

DAG = dag_of(Function("f", identity, extra_args=[1]))


def test_a_scheduler_that_takes_no_plugins_names_the_preload():
    """As an older Dask does with ``distributed.scheduler.pickle: false``; newer ones do not start so."""

    async def refuse(**kwargs):
        raise ValueError(
            "Cannot register a scheduler plugin as the scheduler has been explicitly disallowed pickle"
        )

    with handoff.local_cluster({"a": {"cpu": 1}}) as cluster, Client(cluster) as client:
        cluster.scheduler.handlers["register_scheduler_plugin"] = refuse
        with pytest.raises(ClusterNotReadyError, match=r"`dask scheduler --preload handoff_dask.preload`"):
            handoff.execute(DAG, client)


def test_the_preload_installs_everything_without_a_client_doing_so():
    async def main():
        preload = ["handoff_dask.preload"]
        options = {"protocol": "inproc", "port": 0, "dashboard": False, "dashboard_address": ":0"}
        async with Scheduler(**options, preload=preload) as scheduler:
            assert "handoff" in scheduler.plugins
            async with (
                Worker(scheduler.address, name="a", preload=preload, dashboard=False),
                Client(scheduler.address, asynchronous=True, set_as_default=False) as client,
            ):
                del scheduler.handlers["register_scheduler_plugin"]
                result = await handoff.execute(DAG, client)
                assert result.allocations == {"f": "a"}

    asyncio.run(main())


def test_a_scheduler_of_another_version_is_told_apart(monkeypatch):
    with handoff.local_cluster({"a": {"cpu": 1}}) as cluster, Client(cluster) as client:
        for module in (plugin, requests, capacity, membership):
            monkeypatch.setattr(module, "PROTOCOL", 0)
        with pytest.raises(ClusterNotReadyError, match=r"install the same version on both"):
            handoff.execute(DAG, client)


def test_a_worker_without_handoff_dask_is_left_alone(monkeypatch):
    def lacking(dask_worker):
        if dask_worker.name == "bare":
            raise ModuleNotFoundError("No module named 'handoff_dask'")
        return capacity_probe(dask_worker)

    capacity_probe = membership.probe_node
    monkeypatch.setattr(membership, "probe_node", lacking)
    with handoff.local_cluster({"bare": {"cpu": 1}}) as cluster, Client(cluster) as client:
        with pytest.raises(ClusterNotReadyError, match=r"No module named .*handoff_dask.*every worker"):
            handoff.execute(DAG, client)
        assert client.submit(identity, 3).result() == 3
    nodes = {"bare": {"cpu": 4}, "good": {"cpu": 1}}
    with handoff.local_cluster(nodes) as cluster, Client(cluster) as client:
        assert handoff.execute(DAG, client).allocations == {"f": "good"}
        assert list(handoff.discover_nodes(client)) == ["good"]


SCHEDULER_WITHOUT = """
import asyncio, sys
class Refuse:
    def find_spec(self, name, *args):
        if name.split(".")[0] == "handoff_dask":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
from distributed import Scheduler, Worker
async def main():
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler:
        async with Worker(scheduler.address, dashboard=False):
            print(scheduler.address, flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
asyncio.run(main())
"""


def test_a_scheduler_without_handoff_dask_is_told_what_to_install():
    process = subprocess.Popen(
        [sys.executable, "-c", SCHEDULER_WITHOUT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        address = process.stdout.readline().strip()
        with (
            Client(address, set_as_default=False) as client,
            pytest.raises(
                ClusterNotReadyError, match=r"install handoff-dask .* scheduler and of every worker"
            ),
        ):
            handoff.execute(DAG, client)
    finally:
        process.communicate("")
    assert process.returncode == 0
