"""Writing cluster runs and local runs to a history, whatever their outcome."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
import types

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
from handoff_dask._adapter import worker
from handoff_dask._client import history_file, local_run
from handoff_dask._model.code_keys import code_key


def fail():
    raise OSError("no disk")


def make_unwritable(path):
    """Replace a history by a directory, so that the run cannot be written."""
    os.remove(path)
    os.mkdir(path)
    return 3


def two_functions(id="dag"):
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
def test_a_finished_run(client, path, given):
    with History(path) as history:
        where = {"path": path, "text": str(path), "history": history}[given]
        result = handoff.execute(two_functions(("nightly", 3)), client, priority=4, history=where)
    run, records = only_run(path)
    assert (run.id, run.dag_id, run.status) == (result.run_id, ("nightly", 3), "finished")
    assert (run.client, run.priority, run.error) == (client.id, 4, None)
    assert run.counts == {"finished": 2}
    assert run.elapsed == result.elapsed
    assert dict(records) == dict(result.records)
    with History(path) as history:
        assert history.allocations(run.id) == result.allocations
        assert sorted(history.durations()) == ["add", "identity"]


def test_a_local_run(path):
    result = handoff.execute_local(two_functions(), history=path)
    run, records = only_run(path)
    assert (run.id, run.status, run.client) == (result.run_id, "finished", None)
    assert run.ended == run.submitted + result.elapsed
    assert dict(records) == dict(result.records)


def test_a_submitted_run_is_written_when_it_ends(client, path):
    door = gate("submitted")
    run = handoff.submit(dag_of(Function("f", pass_gate, extra_args=["submitted"])), client, history=path)
    door.await_inside(1)
    with History(path) as history:
        assert history.runs() == []
        door.open()
        run.wait()
        assert [info.id for info in history.runs()] == [run.id]


def test_a_failed_run(client, path):
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


def test_a_failed_local_run(path):
    with pytest.raises(FunctionFailedError):
        handoff.execute_local(dag_of(Function("f", fail)), max_retries=2, history=path)
    run, records = only_run(path)
    assert run.status == "failed"
    assert "OSError('no disk')" in run.error
    assert len(records["f"].attempts) == 3


def test_a_run_with_an_allocation_error(client, path):
    with pytest.raises(AllocationError):
        handoff.execute(dag_of(Function("f", fail, cost={"cpu": 99})), client, history=path)
    run, records = only_run(path)
    assert (run.status, run.counts) == ("failed", {"cancelled": 1})
    assert "asked: cpu 99" in run.error
    assert records["f"].cost == {"cpu": 99}


def test_a_run_with_a_timeout(client, path):
    door = gate("long")
    dag = dag_of(Function("f", pass_gate, extra_args=["long"]), Function("g", identity, args=["f"]))
    with pytest.raises(RunTimeoutError):
        handoff.execute(dag, client, timeout=2, history=path)  # long enough for "f" to start anywhere
    door.open()
    run, records = only_run(path)
    assert (run.status, run.error) == ("cancelled", "it exceeded its timeout of 2 s")
    assert records["f"].status == "running"  # as of the end of the run
    assert records["g"].status == "cancelled"


def test_a_cancelled_run(client, path):
    door = gate("cancelled")
    run = handoff.submit(dag_of(Function("f", pass_gate, extra_args=["cancelled"])), client, history=path)
    door.await_inside(1)
    run.cancel()
    door.open()
    written, _ = only_run(path)
    assert (written.id, written.status, written.error) == (
        run.id,
        "cancelled",
        "its client called run.cancel()",
    )
    with pytest.raises(RunCancelledError, match=r"was cancelled: its client called run.cancel\(\)"):
        run.result()


def test_an_interrupted_local_run(path):
    def interrupt(x):
        raise KeyboardInterrupt

    dag = dag_of(Function("f", identity, extra_args=[1]), Function("g", interrupt, args=["f"]))
    with pytest.raises(KeyboardInterrupt):
        handoff.execute_local(dag, max_concurrency=1, history=path)
    run, records = only_run(path)
    assert (run.status, run.error, list(records)) == ("cancelled", "it was interrupted", ["f"])


def test_concurrent_runs_are_not_mixed_up(client, path):
    runs = [handoff.submit(two_functions(id), client, history=path) for id in range(5)]
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
            result = await handoff.execute(two_functions(), client, history=path)
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


def record_openings(monkeypatch):
    """Record for each opening of a history whether its thread was running an event loop."""
    openings = OPENINGS
    openings.clear()
    connect = history_file.connect

    def recording_connect(path):
        openings.append(asyncio._get_running_loop() is not None)
        return connect(path)

    monkeypatch.setattr(history_file, "connect", recording_connect)
    return openings


@pytest.mark.parametrize("how", [handoff.execute, lambda *a, **o: handoff.submit(*a, **o).result()])
def test_a_history_is_opened_once_before_and_once_after_a_run(client, path, monkeypatch, how):
    openings = record_openings(monkeypatch)
    result = how(dag_of(Function("f", count_openings)), client, history=path)
    assert (result["f"], openings) == (1, [False, False])


@pytest.mark.parametrize("how", ["execute", "submit"])
def test_the_event_loop_does_not_block_on_other_writers(path, monkeypatch, how):
    """Only the run waits; everything else on the loop continues."""
    monkeypatch.setattr(history_file, "BUSY_TIMEOUT", 10.0)
    openings = record_openings(monkeypatch)
    History(path).close()
    openings.clear()

    async def run(address):
        async with Client(address, asynchronous=True, set_as_default=False) as client:
            writer = sqlite3.connect(path, isolation_level=None)
            writer.execute("BEGIN EXCLUSIVE")
            task = asyncio.ensure_future(
                await_result(getattr(handoff, how)(two_functions(), client, history=path))
            )
            while not openings:
                await asyncio.sleep(0.001)
            writer.execute("ROLLBACK")
            writer.close()
            result = await task
            assert result["sum"] == 3
            assert openings == [False, False]

            path.unlink()
            path.mkdir()
            with pytest.raises(HistoryError, match="unable to open database file"):
                await getattr(handoff, how)(two_functions(), client, history=path)

    async def await_result(run):
        return await run

    with handoff.local_cluster({"node1": {"cpu": 2, "memory": 100}}, processes=True) as cluster:
        asyncio.run(run(cluster.scheduler_address))


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize("how", ["execute", "submit", "execute_local"])
def test_no_function_runs_if_the_history_cannot_be_opened(client, tmp_path, how):
    ran = []
    dag = dag_of(Function("f", ran.append, extra_args=[1]))
    arguments = () if how == "execute_local" else (client,)
    with pytest.raises(HistoryError, match="unable to open database file"):
        getattr(handoff, how)(dag, *arguments, history=tmp_path / "missing" / "history.db")
    with pytest.raises(TypeError, match="history must be a path or a History, not 3"):
        getattr(handoff, how)(dag, *arguments, history=3)
    assert ran == []


def test_no_file_is_created_for_an_invalid_dag(client, path):
    with pytest.raises(handoff.InvalidDAGError):
        handoff.execute(dag_of(Function("f", identity, args=["missing"])), client, history=path)
    assert not path.exists()


def test_a_run_that_cannot_be_written_still_returns_its_result(client, path):
    dag = dag_of(Function("f", make_unwritable, extra_args=[str(path)]), id="spoiling")
    expected = r"run \w+ of DAG 'spoiling' \(finished\) could not be written to its history:.*history\.db"
    with pytest.warns(RuntimeWarning, match=expected):
        assert handoff.execute(dag, client, history=path)["f"] == 3
    path.rmdir()
    with pytest.warns(RuntimeWarning, match=expected):
        assert handoff.execute_local(dag, history=path)["f"] == 3


def test_a_failed_run_that_cannot_be_written_raises_its_own_error(client, path):
    def make_unwritable_and_fail():
        make_unwritable(path)
        raise OSError("no disk")

    dag = dag_of(Function("f", make_unwritable_and_fail, max_retries=0))
    with pytest.warns(RuntimeWarning, match="could not be written"), pytest.raises(FunctionFailedError):
        handoff.execute(dag, client, history=path)


def test_the_file_is_not_locked_after_a_run(client, path):
    handoff.execute(two_functions(), client, history=path)
    connection = sqlite3.connect(path, timeout=0)
    connection.execute("BEGIN EXCLUSIVE")
    connection.close()


# ---------------------------------------------------------------------- durations


def test_the_scheduler_uses_durations_from_the_history(tmp_path):
    """A new cluster has learnt nothing: only the history knows which function takes long."""
    path = tmp_path / "history.db"
    with handoff.local_cluster({"a": {"cpu": 1}}) as cluster, Client(cluster, set_as_default=False) as client:
        door = gate("hint")
        dag = dag_of(
            Function("first", brief_code, cost={"cpu": 1}),
            Function("second", lengthy_code, cost={"cpu": 1}),
            Function("end", brief_code, args=["first"], cost={"cpu": 1}),
        )
        door.open()
        before = handoff.execute(dag, client, history=path)
        assert order_of_starts(before)[0] == "first"  # its path has more functions
        settle(cluster)
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE functions SET seconds = CASE code WHEN 'lengthy_code' THEN 60 ELSE 0.001 END"
        )
    connection.close()
    with handoff.local_cluster({"a": {"cpu": 1}}) as cluster, Client(cluster, set_as_default=False) as client:
        after = handoff.execute(dag, client, history=path)
        assert order_of_starts(after)[0] == "second"
        settle(cluster)


def brief_code(x=None):
    return pass_gate("hint", x)


def lengthy_code(x=None):
    return x


def order_of_starts(result):
    return sorted(result.records, key=lambda id: result.records[id].started)


def test_a_simulation_uses_durations_of_a_real_run(client, path):
    result = handoff.execute(two_functions(), client, history=path)
    with History(path) as history:
        schedule = handoff.simulate(two_functions(), {"node1": {"cpu": 1, "memory": 20}}, history)
    for id, record in result.records.items():
        assert schedule.records[id].duration == pytest.approx(record.duration)


def test_a_run_whose_client_is_closed_is_written_when_its_result_is_asked_for(cluster, client, path):
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


def test_loading_a_checkpoint_does_not_count_as_a_duration(client, tmp_path):
    dag = dag_of(Function("slow", time.sleep, extra_args=[0.2]))
    path, checkpoint = tmp_path / "history.db", tmp_path / "checkpoint"
    for run in (handoff.execute, handoff.execute, lambda dag, client, **o: handoff.execute_local(dag, **o)):
        last = run(dag, client, history=path, checkpoint=checkpoint)
    assert last.restored == ("slow",)
    with handoff.History(path) as history:
        assert len(history.runs()) == 3
        (durations,) = history.durations().values()
    assert durations.count == 1
    assert durations.mean >= 0.2
    with handoff.History(path) as history:
        loaded = [history.records(run.id)["slow"].attempts[0].loaded for run in history.runs()]
    assert loaded == [True, True, False]


def test_a_result_lost_and_reloaded_keeps_its_computed_duration(tmp_path):
    """The second attempt loads the checkpoint that the first one wrote."""
    door = gate("lost after it was computed")
    path = tmp_path / "history.db"
    dag = dag_of(
        Function("slow", sleep_for, extra_args=[0.5], node=["a", "b"]),
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
        assert learnt.most(f"{code_key(sleep_for)} slow") >= 0.5
        assert learnt.expected([(f"{code_key(sleep_for)} slow", 0.0)])[0] >= 0.5, (
            "not the mean of computing and loading"
        )
        written, records = only_run(path)
        assert written.id == run.id
        assert dict(records) == dict(run.records)
    with History(path) as history:
        durations = history.durations()["sleep_for"]
    assert durations.count == 1
    assert durations.mean == computed.stopped - computed.started >= 0.5


def sleep_for(seconds):
    time.sleep(seconds)
    return seconds


def load(seconds):
    return sleep_for(seconds)


def test_loading_is_not_confused_with_a_function_named_load(tmp_path):
    dag = dag_of(Function("f", load, extra_args=[0.2]))
    with handoff.local_cluster({"a": {"cpu": 1}}) as cluster, Client(cluster) as client:
        handoff.execute(dag, client, checkpoint=tmp_path)
        learnt = plugin_of(cluster).state.placement.estimates
        for _ in range(5):
            assert handoff.execute(dag, client, checkpoint=tmp_path).restored == ("f",)
        assert learnt.expected([(f"{code_key(load)} f", 0.0)])[0] >= 0.2
        prefixes = cluster.scheduler.task_prefixes
        assert prefixes["load"].duration_average >= 0.2, "Dask too has learnt loading under another name"
        settle(cluster)


#: How far each thread's clock is ahead of the machine's, in seconds.
CLOCK = threading.local()


def clock():
    return time.time() + getattr(CLOCK, "ahead", 0.0)


def nap(seconds):
    """Take a thousand times as long on ``clock``, so that delays on a busy machine make no difference."""
    CLOCK.ahead = getattr(CLOCK, "ahead", 0.0) + 1000 * seconds
    return seconds


def started_order(result):
    return sorted(result.records, key=lambda id: result.records[id].started)


def naps(*seconds):
    return dag_of(*(Function(n, nap, extra_args=[s], cost={"cpu": 1}) for n, s in enumerate(seconds)))


@pytest.mark.parametrize("first", [handoff.execute, handoff.execute_local])
def test_a_second_run_knows_each_functions_own_duration(path, first, monkeypatch):
    """All functions have the same code, so its mean duration says nothing about their order."""
    monkeypatch.setattr(worker, "time", clock)
    monkeypatch.setattr(local_run, "time", types.SimpleNamespace(time=clock, monotonic=time.monotonic))
    dag = naps(0.02, 0.1, 0.05, 0.3)
    with handoff.local_cluster({"only": {"cpu": 1}}, processes=False) as cluster, Client(cluster) as client:
        if first is handoff.execute:
            assert started_order(handoff.execute(dag, client, history=path)) == [0, 1, 2, 3]
        else:
            handoff.execute_local(dag, history=path)
        assert started_order(handoff.execute(dag, client, history=path)) == [3, 1, 2, 0]
        changed = naps(0.02, 0.1, 0.05, 0.01)
        order = started_order(handoff.execute(changed, client, history=path))
        assert order.index(1) < order.index(2) < order.index(0), "the others keep their own durations"
        plugin = plugin_of(cluster)
        assert plugin is not None


def test_a_function_that_cannot_be_fingerprinted_still_has_a_history(path, monkeypatch):
    from handoff_dask._client import recording

    def refuse(*args):
        raise recording.FingerprintError("f", "no")

    monkeypatch.setattr(recording, "fingerprints", refuse)
    handoff.execute_local(naps(0.01), history=path)
    with History(path) as history:
        assert history.durations()["nap"].count == 1
