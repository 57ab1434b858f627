"""What a forked process inherits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from distributed import Client, SpecCluster, Status, utils

from handoff_dask._adapter._dask import forked


def test_renew_offload(monkeypatch):
    former = utils._offload_executor
    assert isinstance(former, ThreadPoolExecutor), "large messages are packed elsewhere: forks"
    monkeypatch.setattr(utils, "_offload_executor", former)  # to have it back
    forked.renew_offload()
    assert utils._offload_executor is not former
    assert utils.offload.__globals__["_offload_executor"] is utils._offload_executor


def test_clients(client):
    assert client in forked.clients(), "clients are noted elsewhere: forks"


def test_clusters(cluster):
    assert cluster in forked.clusters(), "clusters are noted elsewhere: forks"


def test_servers(cluster):
    assert {id(cluster.scheduler), *map(id, cluster.workers.values())} <= set(map(id, forked.servers())), (
        "forks"
    )


def test_shut_client(cluster):
    with Client(cluster, set_as_default=False) as client:
        assert forked.shut_client(client, lambda *args, **kwargs: "shut")
        assert not forked.shut_client(client, lambda *args, **kwargs: "again")
        assert (client.status, client.ncores()) == ("closed", "shut"), (
            "not all that blocks leads through sync: forks"
        )
        client.status = "running"
        del vars(client)["sync"]


def test_shut_cluster():
    cluster = SpecCluster.__new__(SpecCluster)
    cluster.status = Status.running
    assert forked.shut_cluster(cluster)
    assert cluster.status is Status.closed, "the status of a cluster cannot be set: forks"
    assert not forked.shut_cluster(cluster)


def test_keep_directory(cluster):
    worker = cluster.workers["a"]
    finalizer = worker._workdir._finalizer
    assert finalizer.atexit, "a server's directory is not removed at exit: forked.keep_directory can go"
    forked.keep_directory(worker)
    assert not finalizer.atexit
    finalizer.atexit = True
    forked.keep_directory(object())
