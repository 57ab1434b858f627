"""Runs on a cluster and in this process are written to their history, however they end."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time

import pytest
from distributed import Client
from helpers import add, dag_of, gate, identity, pass_gate, plugin_of, settle, until

import handoff_dask as handoff
from handoff_dask import (
    AllocationError,
    Function,
    FunctionFailedError,
    History,
    HistoryError,
    RunCancelledError,
    RunTimeoutError,
)
from handoff_dask._client import history_file


def fail():
    raise OSError("no disk")


def spoil(path):
    """Make a history one that cannot be written while a run is under way."""
    os.remove(path)
    os.mkdir(path)
    return 3


def two(id="dag"):
    return dag_of(
        Function(("f", 1), identity, extra_args=[1], cost={"cpu": 1, "memory": 10.5}, node="node1"),
        Function("sum", add, args=[("f", 1)], extra_args=[2]),
        id=id,
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.db"


def only_run(path):
    with History(path) as history:
        (run,) = history.runs()
        return run, history.records(run.id)


@pytest.mark.parametrize("given", ["path", "text", "history"])
def test_a_run_that_finished(client, path, given):
    with History(path) as history:
        where = {"path": path, "text": str(path), "history": history}[given]
        result = handoff.execute(two(("nightly", 3)), client, priority=4, history=where)
    run, records = only_run(path)
    assert (run.id, run.dag_id, run.status) == (result.run_id, ("nightly", 3), "finished")
    assert (run.client, run.priority, run.error) == (client.id, 4, None)
    assert run.counts == {"finished": 2}
    assert run.elapsed == result.elapsed
    assert dict(records) == dict(result.records)
    with History(path) as history:
        assert history.allocations(run.id) == result.allocations
        assert sorted(history.durations()) == ["add", "identity"]


def test_a_run_in_this_process(path):
    result = handoff.execute_local(two(), history=path)
    run, records = only_run(path)
    assert (run.id, run.status, run.client) == (result.run_id, "finished", None)
    assert run.ended == run.submitted + result.elapsed
    assert dict(records) == dict(result.records)


def test_a_run_that_was_submitted_is_written_when_it_ends(client, path):
    door = gate("submitted")
    run = handoff.submit(dag_of(Function("f", pass_gate, extra_args=["submitted"])), client, history=path)
    door.await_inside(1)
    with History(path) as history:
        assert history.runs() == []
        door.open()
        run.wait()
        assert [info.id for info in history.runs()] == [run.id]


def test_a_run_that_failed(client, path):
    dag = dag_of(
        Function("first", identity, extra_args=[1]),
        Function("f", fail),
        Function("g", identity, args=["f"]),
    )
    with pytest.raises(FunctionFailedError) as caught:
        handoff.execute(dag, client, max_retries=1, history=path)
    run, records = only_run(path)
    assert (run.status, run.error) == ("failed", "function 'f' failed: OSError('no disk')")
    assert [a.error for a in records["f"].attempts] == ["OSError('no disk')"] * 2
    assert records["f"].attempts == caught.value.attempts
    assert records["g"].attempts == ()


def test_a_run_in_this_process_that_failed(path):
    with pytest.raises(FunctionFailedError):
        handoff.execute_local(dag_of(Function("f", fail)), max_retries=2, history=path)
    run, records = only_run(path)
    assert run.status == "failed"
    assert "OSError('no disk')" in run.error
    assert len(records["f"].attempts) == 3


def test_a_run_that_could_not_be_placed(client, path):
    with pytest.raises(AllocationError):
        handoff.execute(dag_of(Function("f", fail, cost={"cpu": 99})), client, history=path)
    run, records = only_run(path)
    assert (run.status, run.counts) == ("failed", {"cancelled": 1})
    assert "asked: cpu 99" in run.error
    assert records["f"].cost == {"cpu": 99}


def test_a_run_that_took_too_long(client, path):
    door = gate("long")
    dag = dag_of(Function("f", pass_gate, extra_args=["long"]), Function("g", identity, args=["f"]))
    with pytest.raises(RunTimeoutError):
        handoff.execute(dag, client, timeout=0.3, history=path)
    door.open()
    run, records = only_run(path)
    assert (run.status, run.error) == ("cancelled", "it exceeded its timeout of 0.3 s")
    assert records["f"].status == "running"  # so it was then
    assert records["g"].status == "cancelled"


def test_a_run_that_was_cancelled(client, path):
    door = gate("cancelled")
    run = handoff.submit(dag_of(Function("f", pass_gate, extra_args=["cancelled"])), client, history=path)
    door.await_inside(1)
    run.cancel()
    door.open()
    written, _ = only_run(path)
    assert (written.id, written.status, written.error) == (run.id, "cancelled", None)
    with pytest.raises(RunCancelledError):
        run.result()


def test_a_run_in_this_process_that_was_interrupted(path):
    def interrupt(x):
        raise KeyboardInterrupt

    dag = dag_of(Function("f", identity, extra_args=[1]), Function("g", interrupt, args=["f"]))
    with pytest.raises(KeyboardInterrupt):
        handoff.execute_local(dag, max_concurrency=1, history=path)
    run, records = only_run(path)
    assert (run.status, run.error, list(records)) == ("cancelled", "it was interrupted", ["f"])


def test_runs_at_once_are_not_mixed_up(client, path):
    runs = [handoff.submit(two(id), client, history=path) for id in range(5)]
    results = [run.result() for run in runs]
    with History(path) as history:
        assert [info.dag_id for info in history.runs()] == [4, 3, 2, 1, 0]
        for result in results:
            assert dict(history.records(result.run_id)) == dict(result.records)


def test_an_empty_dag(client, path):
    handoff.execute(dag_of(), client, history=path)
    run, records = only_run(path)
    assert (run.status, dict(records)) == ("finished", {})


def test_with_an_asynchronous_client(path):
    async def run(address):
        async with Client(address, asynchronous=True, set_as_default=False) as client:
            result = await handoff.execute(two(), client, history=path)
            submitted = handoff.submit(dag_of(Function("f", fail)), client, max_retries=0, history=path)
            with pytest.raises(FunctionFailedError):
                await submitted
            with pytest.raises(AllocationError):
                await handoff.submit(dag_of(Function("f", fail, cost={"cpu": 9})), client, history=path)
            with History(path) as history:
                assert [info.status for info in history.runs()] == ["failed", "failed", "finished"]
                assert dict(history.records(result.run_id)) == dict(result.records)

    with handoff.local_cluster({"node1": {"cpu": 2, "memory": 100}}, processes=True) as cluster:
        asyncio.run(run(cluster.scheduler_address))


OPENINGS: list = []


def count_openings():
    return len(OPENINGS)


def opened_by(monkeypatch):
    """Whether each opening of a history was in a thread that runs an event loop."""
    openings = OPENINGS
    openings.clear()
    connect = history_file.connect

    def noted(path):
        openings.append(asyncio._get_running_loop() is not None)
        return connect(path)

    monkeypatch.setattr(history_file, "connect", noted)
    return openings


@pytest.mark.parametrize("how", [handoff.execute, lambda *a, **o: handoff.submit(*a, **o).result()])
def test_it_is_opened_once_before_a_run_and_once_after(client, path, monkeypatch, how):
    openings = opened_by(monkeypatch)
    result = how(dag_of(Function("f", count_openings)), client, history=path)
    assert (result["f"], openings) == (1, [False, False])


@pytest.mark.parametrize("how", ["execute", "submit"])
def test_an_event_loop_does_not_wait_for_others_that_write(path, monkeypatch, how):
    """Only the run waits, and whatever else happens on the loop goes on."""
    monkeypatch.setattr(history_file, "BUSY_TIMEOUT", 10.0)
    openings = opened_by(monkeypatch)
    History(path).close()
    openings.clear()

    async def run(address):
        async with Client(address, asynchronous=True, set_as_default=False) as client:
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN EXCLUSIVE")
            task = asyncio.ensure_future(awaited(getattr(handoff, how)(two(), client, history=path)))
            while not openings:
                await asyncio.sleep(0.001)
            other.execute("ROLLBACK")
            other.close()
            result = await task
            assert result["sum"] == 3
            assert openings == [False, False]

            path.unlink()
            path.mkdir()
            with pytest.raises(HistoryError, match="unable to open database file"):
                await getattr(handoff, how)(two(), client, history=path)

    async def awaited(run):
        return await run

    with handoff.local_cluster({"node1": {"cpu": 2, "memory": 100}}, processes=True) as cluster:
        asyncio.run(run(cluster.scheduler_address))


# ---------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("how", ["execute", "submit", "execute_local"])
def test_nothing_runs_if_the_history_cannot_be_opened(client, tmp_path, how):
    ran = []
    dag = dag_of(Function("f", ran.append, extra_args=[1]))
    arguments = () if how == "execute_local" else (client,)
    with pytest.raises(HistoryError, match="unable to open database file"):
        getattr(handoff, how)(dag, *arguments, history=tmp_path / "missing" / "history.db")
    with pytest.raises(TypeError, match="history must be a path or a History, not 3"):
        getattr(handoff, how)(dag, *arguments, history=3)
    assert ran == []


def test_no_file_is_made_for_a_dag_that_cannot_run(client, path):
    with pytest.raises(handoff.InvalidDAGError):
        handoff.execute(dag_of(Function("f", identity, args=["missing"])), client, history=path)
    assert not path.exists()


def test_a_run_that_cannot_be_written_still_has_its_result(client, path):
    dag = dag_of(Function("f", spoil, extra_args=[str(path)]), id="spoiling")
    expected = r"run \w+ of DAG 'spoiling' \(finished\) could not be written to its history:.*history\.db"
    with pytest.warns(RuntimeWarning, match=expected):
        assert handoff.execute(dag, client, history=path)["f"] == 3
    path.rmdir()
    with pytest.warns(RuntimeWarning, match=expected):
        assert handoff.execute_local(dag, history=path)["f"] == 3


def test_a_failed_run_that_cannot_be_written_has_its_own_error(client, path):
    def both():
        spoil(path)
        raise OSError("no disk")

    dag = dag_of(Function("f", both, max_retries=0))
    with pytest.warns(RuntimeWarning, match="could not be written"), pytest.raises(FunctionFailedError):
        handoff.execute(dag, client, history=path)


def test_the_file_is_free_afterwards(client, path):
    handoff.execute(two(), client, history=path)
    connection = sqlite3.connect(path, timeout=0)
    connection.execute("BEGIN EXCLUSIVE")
    connection.close()


# ---------------------------------------------------------------------- what it is good for


def test_the_scheduler_is_told_how_long_functions_took(tmp_path):
    """On a new cluster nothing has been learnt: only the history knows which function is long."""
    path = tmp_path / "history.db"
    with handoff.local_cluster({"a": {"cpu": 1}}) as cluster, Client(cluster, set_as_default=False) as client:
        door = gate("hint")
        dag = dag_of(
            Function("first", brief, cost={"cpu": 1}),
            Function("second", lengthy, cost={"cpu": 1}),
            Function("end", brief, args=["first"], cost={"cpu": 1}),
        )
        door.open()
        before = handoff.execute(dag, client, history=path)
        assert starts(before)[0] == "first"  # by the number of functions its path is the longer one
        settle(cluster)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE functions SET seconds = CASE code WHEN 'lengthy' THEN 60 ELSE 0.001 END")
    connection.close()
    with handoff.local_cluster({"a": {"cpu": 1}}) as cluster, Client(cluster, set_as_default=False) as client:
        after = handoff.execute(dag, client, history=path)
        assert starts(after)[0] == "second"
        settle(cluster)


def brief(x=None):
    return pass_gate("hint", x)


def lengthy(x=None):
    return x


def starts(result):
    return sorted(result.records, key=lambda id: result.records[id].started)


def test_a_simulation_knows_what_a_real_run_took(client, path):
    result = handoff.execute(two(), client, history=path)
    with History(path) as history:
        schedule = handoff.simulate(two(), {"node1": {"cpu": 1, "memory": 20}}, history)
    for id, record in result.records.items():
        assert schedule.records[id].duration == pytest.approx(record.duration)


def test_a_run_whose_client_was_closed_is_written_when_somebody_asks(cluster, client, path):
    door = gate("closed")
    other = Client(cluster, set_as_default=False)
    run = handoff.submit(dag_of(Function("f", pass_gate, extra_args=["closed"])), other, history=path)
    door.await_inside(1)
    other.close()
    door.open()
    assert run.status == "cancelled"
    with pytest.raises(RunCancelledError):
        run.result()
    written, records = only_run(path)
    assert (written.id, written.status) == (run.id, "cancelled")
    assert records["f"].status == "cancelled"


def test_what_was_only_loaded_says_nothing_of_how_long_it_takes(client, tmp_path):
    dag = dag_of(Function("slow", time.sleep, extra_args=[0.2]))
    path, checkpoint = tmp_path / "history.db", tmp_path / "checkpoint"
    for run in (handoff.execute, handoff.execute, lambda dag, client, **o: handoff.execute_local(dag, **o)):
        last = run(dag, client, history=path, checkpoint=checkpoint)
    assert last.restored == ("slow",)
    with handoff.History(path) as history:
        assert len(history.runs()) == 3
        (taken,) = history.durations().values()
    assert taken.count == 1
    assert taken.mean >= 0.2
    with handoff.History(path) as history:
        loaded = [history.records(run.id)["slow"].attempts[0].loaded for run in history.runs()]
    assert loaded == [True, True, False]


def test_what_was_loaded_after_it_was_lost_took_what_it_took_to_compute(tmp_path):
    """The second attempt of it finds what the first has written."""
    door = gate("lost after it was computed")
    path = tmp_path / "history.db"
    dag = dag_of(
        Function("slow", takes_long, extra_args=[0.5], node=["a", "b"]),
        Function("held", pass_gate, extra_args=["lost after it was computed", 0], node="c"),
        Function("end", add, args=["slow", "held"]),
    )
    with handoff.local_cluster({name: {"cpu": 2} for name in "abc"}) as cluster, Client(cluster) as client:
        run = handoff.submit(dag, client, checkpoint=tmp_path / "checkpoint", history=path)
        until(lambda: run.records["slow"].status == "finished")
        cluster.sync(cluster.workers[run.allocations["slow"]].close)
        door.open()
        computed, loaded = run.result(timeout=30).records["slow"].attempts
        assert (computed.loaded, loaded.loaded) == (False, True)
        learnt = plugin_of(cluster).state.placement.estimates
        assert learnt.most("takes_long slow") >= 0.5
        assert learnt.expected([("takes_long slow", 0.0)])[0] >= 0.5, "not the mean of that and of loading"
        written, records = only_run(path)
        assert written.id == run.id
        assert dict(records) == dict(run.records)
    with History(path) as history:
        taken = history.durations()["takes_long"]
    assert taken.count == 1
    assert taken.mean == computed.stopped - computed.started >= 0.5


def takes_long(seconds):
    time.sleep(seconds)
    return seconds


def load(seconds):
    return takes_long(seconds)


def test_loading_is_not_taken_for_a_function_of_that_name(tmp_path):
    dag = dag_of(Function("f", load, extra_args=[0.2]))
    with handoff.local_cluster({"a": {"cpu": 1}}) as cluster, Client(cluster) as client:
        handoff.execute(dag, client, checkpoint=tmp_path)
        learnt = plugin_of(cluster).state.placement.estimates
        for _ in range(5):
            assert handoff.execute(dag, client, checkpoint=tmp_path).restored == ("f",)
        assert learnt.expected([("load f", 0.0)])[0] >= 0.2
        prefixes = cluster.scheduler.task_prefixes
        assert prefixes["load"].duration_average >= 0.2, "Dask, too, has learnt it by another name"
        settle(cluster)
