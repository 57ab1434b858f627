"""``forked``: Dask's objects in a forked process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from distributed import Client, SpecCluster, Status, utils

from handoff_dask._adapter._dask import forked


def test_replace_offload_executor(monkeypatch):
    former = utils._offload_executor
    assert isinstance(former, ThreadPoolExecutor), "large messages are serialized elsewhere: forks"
    monkeypatch.setattr(utils, "_offload_executor", former)  # restores it afterwards
    forked.replace_offload_executor()
    assert utils._offload_executor is not former
    assert utils.offload.__globals__["_offload_executor"] is utils._offload_executor


def test_clients(client):
    assert client in forked.clients(), "Dask registers clients elsewhere: forks"


def test_clusters(cluster):
    assert cluster in forked.clusters(), "Dask registers clusters elsewhere: forks"


def test_servers(cluster):
    assert {id(cluster.scheduler), *map(id, cluster.workers.values())} <= set(map(id, forked.servers())), (
        "Dask registers servers elsewhere: forks"
    )


def test_mark_client_closed(cluster):
    with Client(cluster, set_as_default=False) as client:
        assert forked.mark_client_closed(client, lambda *args, **kwargs: "replaced")
        assert not forked.mark_client_closed(client, lambda *args, **kwargs: "again")
        assert (client.status, client.ncores()) == ("closed", "replaced"), (
            "a blocking method does not go through sync: forks"
        )
        client.status = "running"
        del vars(client)["sync"]


def test_mark_cluster_closed():
    cluster = SpecCluster.__new__(SpecCluster)
    cluster.status = Status.running
    assert forked.mark_cluster_closed(cluster)
    assert cluster.status is Status.closed, "the status of a cluster cannot be set: forks"
    assert not forked.mark_cluster_closed(cluster)


def test_disown_directory(cluster):
    worker = cluster.workers["a"]
    finalizer = worker._workdir._finalizer
    assert finalizer.atexit, (
        "Dask no longer removes a server's directory at exit: forked.disown_directory is obsolete"
    )
    forked.disown_directory(worker)
    assert not finalizer.atexit
    finalizer.atexit = True
    forked.disown_directory(object())
