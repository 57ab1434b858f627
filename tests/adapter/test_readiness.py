"""Errors of clusters that cannot run DAGs name the cause and the remedy."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import dask
import distributed
import pytest
from distributed import Client, Scheduler, Worker
from helpers import dag_of, identity

import handoff_dask as handoff
from handoff_dask import ClusterNotReadyError, Function
from handoff_dask._adapter import capacity, membership, plugin, requests, versions

DAG = dag_of(Function("f", identity, extra_args=[1]))


def test_a_scheduler_that_accepts_no_plugins_names_the_preload():
    """As with ``distributed.scheduler.pickle: false`` in old versions of Dask; new ones refuse to start."""

    async def refuse(**kwargs):
        raise ValueError(
            "Cannot register a scheduler plugin as the scheduler has been explicitly disallowed pickle"
        )

    with handoff.local_cluster({"a": {"cpu": 1}}) as cluster, Client(cluster) as client:
        cluster.scheduler.handlers["register_scheduler_plugin"] = refuse
        with pytest.raises(ClusterNotReadyError, match=r"`dask scheduler --preload handoff_dask.preload`"):
            handoff.execute(DAG, client)


def test_the_preload_installs_the_plugin_without_a_client():
    async def main():
        preload = ["handoff_dask.preload"]
        async with Scheduler(
            protocol="inproc", port=0, dashboard=False, dashboard_address=":0", preload=preload
        ) as scheduler:
            assert "handoff" in scheduler.plugins
            async with (
                Worker(scheduler.address, name="a", preload=preload, dashboard=False),
                Client(scheduler.address, asynchronous=True, set_as_default=False) as client,
            ):
                del scheduler.handlers["register_scheduler_plugin"]
                result = await handoff.execute(DAG, client)
                assert result.allocations == {"f": "a"}

    asyncio.run(main())


def test_a_scheduler_of_another_version(monkeypatch):
    with handoff.local_cluster({"a": {"cpu": 1}}) as cluster, Client(cluster) as client:
        for module in (plugin, requests, capacity, membership):
            monkeypatch.setattr(module, "PROTOCOL", 0)
        with pytest.raises(ClusterNotReadyError, match=r"install the same version on both") as caught:
            handoff.execute(DAG, client)
        assert_names_versions(caught.value, cluster)


def test_a_scheduler_whose_protocol_changes(monkeypatch):
    """The plugin is replaced after the client has checked it."""
    with handoff.local_cluster({"a": {"cpu": 1}}) as cluster, Client(cluster) as client:
        handoff.discover_nodes(client)
        monkeypatch.setattr(requests, "PROTOCOL", 0)
        with pytest.raises(ClusterNotReadyError, match=r"install the same version on both") as caught:
            handoff.execute(DAG, client)
        assert_names_versions(caught.value, cluster)


@pytest.mark.parametrize(
    ("answer", "version"), [({"version": "0.0.7"}, "0.0.7"), ({}, "of an unknown version")]
)
def test_a_worker_of_another_version(monkeypatch, answer, version):
    monkeypatch.setattr(membership, "probe_node", lambda dask_worker: {"protocol": 0, **answer})
    with handoff.local_cluster({"a": {"cpu": 1}}) as cluster, Client(cluster) as client:
        match = rf"handoff_dask {version}.*in the environment of every worker"
        with pytest.raises(ClusterNotReadyError, match=match) as caught:
            handoff.execute(DAG, client)
        assert_names_versions(caught.value, cluster)


def test_a_plugin_that_cannot_start(monkeypatch):
    async def start(self, scheduler):
        raise AttributeError("'Scheduler' object has no attribute 'stream_handlers'")

    monkeypatch.setattr(plugin.HandoffPlugin, "start", start)
    with handoff.local_cluster({"a": {"cpu": 1}}) as cluster, Client(cluster) as client:
        with pytest.raises(ClusterNotReadyError, match=r"could not install .* 'stream_handlers'") as caught:
            handoff.execute(DAG, client)
        assert_names_versions(caught.value, cluster)


def assert_names_versions(error, cluster):
    """The error ends with the versions of client, scheduler and workers."""
    here = f"dask {dask.__version__}, distributed {distributed.__version__}"
    here = f"handoff_dask {handoff.__version__}, {here}"
    (address,) = cluster.scheduler.workers
    assert str(error).endswith(f" Versions: client: {here}; scheduler: {here}; worker {address}: {here}")


def test_description_of_versions():
    new = {"handoff_dask": "2.0", "dask": "2026.8.0", "distributed": "2026.8.1"}
    old = {"handoff_dask": None, "dask": "2025.1.0", "distributed": "2025.1.0"}
    workers = {"tcp://old": old, **{f"tcp://{n}": new for n in range(5)}}
    assert versions.describe_versions(new, old, workers) == (
        "client: handoff_dask 2.0, dask 2026.8.0, distributed 2026.8.1;"
        " scheduler: handoff_dask not installed, dask 2025.1.0, distributed 2025.1.0;"
        " worker tcp://old: handoff_dask not installed, dask 2025.1.0, distributed 2025.1.0;"
        " workers tcp://0, tcp://1, tcp://2 and 2 more: handoff_dask 2.0, dask 2026.8.0, distributed 2026.8.1"
    )


def test_an_error_is_raised_without_versions_if_they_do_not_arrive_in_time(monkeypatch):
    async def silent(client, packages):
        await asyncio.sleep(3600)

    error = ClusterNotReadyError("something")
    monkeypatch.setattr(versions, "ask_versions", silent)
    monkeypatch.setattr(versions, "TIMEOUT", 0.01)
    assert asyncio.run(versions.with_versions(None, error)) is error


def test_a_worker_without_handoff_dask_is_no_node(monkeypatch):
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


@pytest.fixture
def late_answers(monkeypatch):
    """Let workers answer the scheduler's probes after so many seconds, for which only some requests wait."""
    monkeypatch.setattr(membership, "PROBE_TIMEOUT", 0.01)
    call_on, seconds = membership.call_on, [0.3]

    async def call_late(*args, **kwargs):
        await asyncio.sleep(seconds[0])
        return await call_on(*args, **kwargs)

    monkeypatch.setattr(membership, "call_on", call_late)
    return seconds


def test_a_run_waits_for_workers_that_have_not_answered_yet(late_answers):
    """They may still be importing the package."""
    with handoff.local_cluster({"a": {"cpu": 1}}) as cluster, Client(cluster) as client:
        assert handoff.execute(DAG, client).allocations == {"f": "a"}
        assert [info.status for info in handoff.runs(client)] == ["finished"]


def test_a_run_that_fits_on_no_node_does_not_wait_forever_for_answers(late_answers):
    late_answers[0] = 3600
    with (
        dask.config.set({"handoff.node-timeout": "100ms"}),
        handoff.local_cluster({"a": {"cpu": 1}}) as cluster,
        Client(cluster) as client,
    ):
        with pytest.raises(handoff.AllocationError, match="the cluster has no nodes"):
            handoff.execute(DAG, client)
        assert [info.status for info in handoff.runs(client)] == ["failed"]


SCHEDULER_WITHOUT = """
import asyncio, sys
class Refuse:
    def find_spec(self, name, *args):
        if name.split(".")[0] == "handoff_dask":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
import importlib.metadata
version = importlib.metadata.version
def version_without(name):
    if name == "handoff_dask":
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
importlib.metadata.version = version_without
from distributed import Scheduler, Worker
async def main():
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address=":0") as scheduler:
        async with Worker(scheduler.address, dashboard=False):
            print(scheduler.address, flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
asyncio.run(main())
"""


def test_a_scheduler_without_handoff_dask():
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
                ClusterNotReadyError,
                match=r"install handoff-dask .* scheduler and of every worker.*"
                r"client: handoff_dask \d.*; scheduler: handoff_dask not installed, dask \d.*; worker tcp://",
            ),
        ):
            handoff.execute(DAG, client)
    finally:
        process.communicate("")
    assert process.returncode == 0
