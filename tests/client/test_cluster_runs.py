"""``runs`` and ``run_records``: live runs, and recent runs whose clients are gone."""

from __future__ import annotations

import asyncio
import time
from collections import namedtuple

import dask
import pytest
from distributed import Client
from helpers import dag_of, gate, identity, pass_gate, plugin_of, settle, until

import handoff_dask as handoff
from handoff_dask import AllocationError, Function, FunctionFailedError, RunNotFoundError
from handoff_dask._adapter import requests

Point = namedtuple("Point", "x")


def fail():
    raise OSError("no disk")


@pytest.fixture
def fresh():
    """A client of a new cluster, without runs of other tests."""
    with handoff.local_cluster({"node1": {"cpu": 4}, "node2": {"cpu": 2}}) as cluster:
        with Client(cluster, set_as_default=False) as client:
            yield client
        settle(cluster)


def numbers(n, id="numbers"):
    return dag_of(
        *(Function(i, identity, extra_args=[i], cost={"cpu": 0.5 + i % 2}) for i in range(n)), id=id
    )


def test_a_new_cluster_has_no_runs(fresh):
    assert handoff.runs(fresh) == []
    with pytest.raises(RunNotFoundError, match="no run has the id 'x'; known runs: none"):
        handoff.run_records("x", fresh)
    with pytest.raises(TypeError, match="run_id must be the id of a run, not 3"):
        handoff.run_records(3, fresh)


def test_records_survive_the_client_that_submitted_the_run(fresh):
    begin = time.time()
    with Client(fresh.cluster, set_as_default=False) as other:
        result = handoff.execute(numbers(7, id=("dag", 1)), other, priority=3)
        name = other.id
    until(lambda: not plugin_of(fresh.cluster).runs)
    (info,) = handoff.runs(fresh)
    assert (info.id, info.dag_id, info.status) == (result.run_id, ("dag", 1), "finished")
    assert (info.client, info.priority, info.error) == (name, 3, None)
    assert info.counts == {"finished": 7}
    assert begin <= info.submitted <= info.ended <= time.time()
    assert info.elapsed == info.ended - info.submitted
    records = handoff.run_records(info.id, fresh)
    assert type(records) is handoff.Records
    assert dict(records) == dict(result.records)
    assert list(records.to_pandas().columns) == list(result.records.to_pandas().columns)
    assert records.allocations == result.allocations
    with pytest.raises(RunNotFoundError, match=f"known runs: '{info.id}'") as caught:
        handoff.run_records("other", fresh)
    assert caught.value.known == (info.id,)


def test_a_run_whose_client_is_gone_stays_listed(fresh):
    door = gate("vanished")
    other = Client(fresh.cluster, set_as_default=False)
    run = handoff.submit(
        dag_of(
            Function("done", identity, extra_args=["vanished"]),
            Function("inside", pass_gate, args=["done"]),
            Function("after", identity, args=["inside"]),
        ),
        other,
    )
    door.await_inside(1)
    (info,) = handoff.runs(fresh)
    assert (info.id, info.status, info.ended) == (run.id, "running", None)
    assert info.counts == {"finished": 1, "running": 1, "waiting": 1}
    assert 0 < info.elapsed < 100
    live = handoff.run_records(run.id, fresh)
    assert [record.status for record in live.values()] == ["finished", "running", "waiting"]
    assert live["inside"].node == live.allocations["inside"]
    other.close()
    until(lambda: handoff.runs(fresh)[0].status == "cancelled")
    assert handoff.runs(fresh)[0].counts == {"finished": 1, "running": 1, "cancelled": 1}
    door.open()
    until(lambda: not plugin_of(fresh.cluster).runs)
    (info,) = handoff.runs(fresh)
    assert (info.id, info.status) == (run.id, "cancelled")
    assert info.counts == {"finished": 2, "cancelled": 1}
    assert info.ended >= info.submitted
    records = handoff.run_records(run.id, fresh)
    assert records["done"] == live["done"]
    assert [a.outcome for a in records["inside"].attempts] == ["finished"]
    assert records["after"].attempts == ()


def test_concurrent_runs_are_not_mixed_up(fresh):
    doors = [gate("first"), gate("second")]
    runs = [
        handoff.submit(dag_of(Function("f", pass_gate, extra_args=[name, name], node=node), id=name), fresh)
        for name, node in (("first", "node1"), ("second", "node2"))
    ]
    for door in doors:
        door.await_inside(1)
    assert [(info.id, info.status) for info in handoff.runs(fresh)] == [
        (runs[1].id, "running"),
        (runs[0].id, "running"),
    ]
    doors[1].open()
    runs[1].result()
    assert [info.status for info in handoff.runs(fresh)] == ["finished", "running"]
    doors[0].open()
    runs[0].result()
    ids = [run.id for run in runs]
    del runs
    settle(fresh.cluster)
    assert [info.dag_id for info in handoff.runs(fresh)] == ["second", "first"]  # although "first" ended last
    assert [handoff.run_records(id, fresh)["f"].node for id in ids] == ["node1", "node2"]


def test_the_error_of_a_failed_run(fresh):
    with pytest.raises(FunctionFailedError):
        handoff.execute(
            dag_of(Function("f", fail), Function("g", identity, args=["f"])), fresh, max_retries=1
        )
    with pytest.raises(AllocationError):
        handoff.execute(dag_of(Function("large", identity, extra_args=[1], cost={"cpu": 5})), fresh)
    unplaced, failed = handoff.runs(fresh)
    assert (failed.status, unplaced.status) == ("failed", "failed")
    assert failed.error == "function 'f' failed: OSError('no disk')"
    assert "asked: cpu 5" in unplaced.error
    assert unplaced.counts == {"cancelled": 1}
    settle(fresh.cluster)
    assert handoff.runs(fresh) == [unplaced, failed]
    assert len(handoff.run_records(failed.id, fresh)["f"].attempts) == 2
    assert handoff.run_records(unplaced.id, fresh)["large"].cost == {"cpu": 5}


def test_the_reason_of_a_cancellation(fresh):
    def napping(id):
        """Return a DAG that lasts until its run is cancelled, which ends the process of its function."""
        return dag_of(Function("f", time.sleep, extra_args=[50], timeout=60), id=id)

    with pytest.raises(handoff.RunTimeoutError):
        handoff.execute(napping("slow"), fresh, timeout=0.2)
    called = handoff.submit(napping("called"), fresh)
    called.cancel()
    released = handoff.submit(napping("released"), fresh)
    fresh.cancel(list(released.futures.values()))
    with Client(fresh.cluster, set_as_default=False) as other:
        left = handoff.submit(napping("left"), other)
        until(lambda: left.status == "running")
    until(lambda: all(info.status == "cancelled" for info in handoff.runs(fresh)))
    reasons = {
        "slow": "it exceeded its timeout of 0.2 s",
        "called": "its client called run.cancel()",
        "released": "futures of the run were cancelled or released",
        "left": "its client closed the connection",
    }
    assert {info.dag_id: info.error for info in handoff.runs(fresh)} == reasons
    called = released = left = None
    settle(fresh.cluster)
    assert {info.dag_id: info.error for info in handoff.runs(fresh)} == reasons, "the archive has them too"


def test_ids_that_are_not_plain_become_their_repr(fresh):
    dag = dag_of(
        Function(Point(1), identity, extra_args=[1]),
        Function(("f", 2), identity, extra_args=[1]),
        id=Point(0),
    )
    result = handoff.execute(dag, fresh)
    settle(fresh.cluster)
    (info,) = handoff.runs(fresh)
    assert info.dag_id == "Point(x=0)"
    assert set(handoff.run_records(result.run_id, fresh)) == {"Point(x=1)", ("f", 2)}


def test_recent_runs_are_bounded_and_live_runs_do_not_count():
    limits = {"handoff.recent-runs": 2, "handoff.recent-functions": 10}
    with dask.config.set(limits), handoff.local_cluster({"a": {"cpu": 2}}) as cluster:
        with Client(cluster, set_as_default=False) as client:
            kept = handoff.submit(numbers(30, id="kept"), client)
            kept.wait()
            for n in range(4):
                handoff.execute(numbers(2, id=n), client)
            until(lambda: len(plugin_of(cluster).runs) == 1)
            assert [info.dag_id for info in handoff.runs(client)] == [3, 2, "kept"]
            assert len(handoff.run_records(kept.id, client)) == 30
            result = handoff.execute(numbers(9, id="nine"), client)
            until(lambda: len(plugin_of(cluster).runs) == 1)
            assert [info.dag_id for info in handoff.runs(client)] == ["nine", "kept"]
            assert len(handoff.run_records(result.run_id, client)) == 9
            result = handoff.execute(numbers(11, id="eleven"), client)
            until(lambda: len(plugin_of(cluster).runs) == 1)
            assert [info.dag_id for info in handoff.runs(client)] == ["eleven", "nine", "kept"]
            with pytest.raises(handoff.HandoffError, match=r"handoff\.recent-functions: 10"):
                handoff.run_records(result.run_id, client)
        settle(cluster)


def test_many_records_are_sent_in_pieces(fresh, monkeypatch):
    monkeypatch.setattr(requests, "CHUNK", 3)
    result = handoff.execute(numbers(10), fresh)
    settle(fresh.cluster)
    assert dict(handoff.run_records(result.run_id, fresh)) == dict(result.records)


def test_with_an_asynchronous_client(fresh):
    async def main(address):
        async with Client(address, asynchronous=True, set_as_default=False) as client:
            result = await handoff.execute(numbers(3), client)
            (info,) = await handoff.runs(client)
            assert info.id == result.run_id
            assert dict(await handoff.run_records(info.id, client)) == dict(result.records)
            with pytest.raises(RunNotFoundError):
                await handoff.run_records("none", client)

    with handoff.local_cluster({"a": {"cpu": 2}}, processes=True) as cluster:
        asyncio.run(main(cluster.scheduler_address))


def test_with_a_cluster_and_an_address(fresh):
    handoff.execute(numbers(1), fresh)
    assert handoff.runs(fresh.cluster) == handoff.runs(fresh.cluster.scheduler_address)


@pytest.mark.parametrize("how", [handoff.submit, handoff.execute])
def test_an_interrupt_during_submission_cancels_the_run(client, monkeypatch, how):
    """The submission itself goes on in the client's event loop."""
    sync = client.sync

    def interrupted(function, *args, **kwargs):
        if function.__name__ == "_start":
            sync(function, *args, **kwargs)
            raise KeyboardInterrupt
        return sync(function, *args, **kwargs)

    monkeypatch.setattr(client, "sync", interrupted)
    naps = Function("f", time.sleep, extra_args=[50], timeout=60)  # until the run is cancelled
    with pytest.raises(KeyboardInterrupt):
        how(dag_of(naps, id=f"interrupted {how.__name__}"), client)
    monkeypatch.undo()
    (found,) = [run for run in handoff.runs(client) if run.dag_id == f"interrupted {how.__name__}"]
    assert (found.status, found.error) == ("cancelled", "it was interrupted")
