"""Nodes that are killed or freeze: separate processes, which cannot announce it."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import dask
import pytest
from distributed import Client
from distributed.scheduler import KilledWorker
from faulty import attempt, entered, finish_once, marks, take_down, wait_first, wait_for
from helpers import dag_of, plugin_of, settle, until
from processes import ProcessCluster

import handoff_dask as handoff
from handoff_dask import Collocated, Function, FunctionFailedError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are killed and stopped by signals")

TTL = 60.0  # seconds; long enough for nodes on a busy machine to report in time, unless they are frozen


@pytest.fixture
def directory(tmp_path):
    return str(tmp_path)


@pytest.fixture
def ttl():
    """Seconds after which Dask removes a node that does not report."""
    return TTL


@pytest.fixture
def abc(monkeypatch, ttl):
    """A cluster of three nodes, and a client."""
    # Dask's time-to-live is at least ten heartbeat intervals.
    monkeypatch.setattr("distributed.scheduler.heartbeat_interval", lambda n: ttl / 10)
    with (
        dask.config.set({"distributed.scheduler.worker-ttl": f"{ttl}s"}),
        ProcessCluster({name: {"cpu": 2} for name in "abc"}, threads=2) as cluster,
        Client(cluster.scheduler_address, set_as_default=False) as client,
    ):
        yield cluster, client
        settle(cluster)


def open_gate(directory, name="door"):
    (Path(directory) / name).touch()


def outcomes(record):
    return [a.outcome for a in record.attempts]


def test_functions_on_a_killed_node_move_without_using_a_retry(abc, directory):
    cluster, client = abc
    names = [f"f{i}" for i in range(6)]
    dag = dag_of(
        *[
            Function(n, wait_for, extra_args=[directory, "door", n], cost={"cpu": 1}, max_retries=0)
            for n in names
        ]
    )
    run = handoff.submit(dag, client)
    until(lambda: entered(directory, *names) == 6)
    before = run.allocations
    cluster.kill("a")
    until(lambda: "a" not in plugin_of(cluster).state.nodes)
    open_gate(directory)
    result = run.result(timeout=30)
    assert result.results == {n: n for n in names}
    for n in names:
        expected = ["lost", "finished"] if before[n] == "a" else ["finished"]
        assert outcomes(result.records[n]) == expected
        assert result.allocations[n] != "a"
    assert entered(directory, *names) == 6 + 2
    lost = [result.records[n].attempts[0] for n in names if before[n] == "a"]
    assert all(a.node == "a" and a.stopped is not None for a in lost)


def test_only_lost_results_are_recomputed(abc, directory):
    cluster, client = abc
    dag = dag_of(
        Function("lost", attempt, extra_args=[directory, 5], node=["a", "b"]),
        Function("beside", "operator:neg", args=["lost"], node=Collocated("lost")),
        Function("kept", attempt, extra_args=[directory, 7], node="c"),
        Function("gate", wait_for, extra_args=[directory, "door", 0], node="c"),
        Function("end", lambda *xs: sum(xs), args=["beside", "kept", "gate"], node="c"),
    )
    run = handoff.submit(dag, client)
    until(lambda: run.records["beside"].status == "finished" and entered(directory, "gate"))
    first = run.allocations["lost"]
    cluster.kill(first)
    open_gate(directory)
    result = run.result(timeout=30)
    assert result["end"] == 2
    survivor = ({"a", "b"} - {first}).pop()
    for n in ("lost", "beside"):
        assert outcomes(result.records[n]) == ["finished", "finished"]
        assert result.allocations[n] == survivor
    for n in ("kept", "gate", "end"):
        assert outcomes(result.records[n]) == ["finished"]
    assert entered(directory, "kept", "gate") == 2


def test_a_collocated_group_moves_as_a_whole(abc, directory):
    cluster, client = abc
    dag = dag_of(
        Function("anchor", attempt, extra_args=[directory, 1], cost={"cpu": 1}),
        *[
            Function(
                f"m{i}",
                wait_first,
                extra_args=[directory, "door", i],
                node=Collocated("anchor"),
                cost={"cpu": 1},
            )
            for i in range(2)
        ],
        Function("after", lambda *xs: sum(xs), args=["anchor", "m0", "m1"], node=Collocated("anchor")),
    )
    run = handoff.submit(dag, client)
    until(lambda: entered(directory, "m0", "m1") == 2)
    first = run.allocations["anchor"]
    assert set(run.allocations.values()) == {first}
    cluster.kill(first)
    result = run.result(timeout=30)
    assert result["after"] == 2
    (second,) = set(result.allocations.values())
    assert second != first
    assert outcomes(result.records["m0"]) == outcomes(result.records["m1"]) == ["lost", "finished"]
    assert outcomes(result.records["anchor"]) == ["finished", "finished"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("allowed", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_function_that_takes_down_too_many_nodes_fails(directory, allowed):
    nodes = {name: {"cpu": 1} for name in "ab"}
    # Both nodes may be gone for a while, since a busy machine needs long to start them again.
    patient = {"handoff.node-timeout": "10 minutes"}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": allowed, **patient}),
        handoff.local_cluster(nodes, processes=True) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        dag = dag_of(
            Function("bomb", take_down, extra_args=[directory], cost={"cpu": 1}, max_retries=10),
            Function("after", "operator:neg", args=["bomb"]),
            id="armed",
        )
        with pytest.raises(FunctionFailedError) as caught:
            handoff.execute(dag, client, timeout=200)
        error = caught.value
        assert error.function_id == "bomb"
        assert [a.number for a in error.attempts] == list(range(1, allowed + 2))
        assert {a.outcome for a in error.attempts} == {"lost"}
        assert [(m[0], int(m[1]), m[2]) for m in marks(directory)] == [
            ("bomb", a.number, a.node) for a in error.attempts
        ]
        text = str(error)
        assert "function 'bomb' of DAG 'armed' failed" in text
        assert f"took down {allowed + 1} nodes" in text
        assert "allowed-failures" in text
        assert isinstance(error.__cause__, KilledWorker)
        assert error.run.records["after"].status in ("skipped", "cancelled")
        # The nodes come back, and harmless functions run on them.
        # Client.wait_for_workers would refresh what the cluster knows: a late message about a dead node would
        # then be about an unknown one, which breaks the cluster.
        until(lambda: len(handoff.discover_nodes(client)) == 2, 60, "the nodes come back")
        result = handoff.execute(dag_of(Function("fine", "operator:add", extra_args=[1, 2])), client)
        assert result["fine"] == 3
        del error, caught
        settle(cluster)


@pytest.mark.slow
def test_the_error_names_nodes_that_die_while_a_result_is_fetched(directory):
    """As when nodes run out of memory: an attempt finishes, but its node is lost afterwards."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        handoff.local_cluster({name: {"cpu": 1} for name in "ab"}, processes=True) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        dag = dag_of(Function("large", finish_once, extra_args=[directory]))
        run = handoff.submit(dag, client)
        assert run.wait(20)
        assert outcomes(run.records["large"]) == ["finished"]
        os.kill(int(marks(directory)[0][-1]), signal.SIGKILL)
        until(lambda: len(marks(directory)) > 1)
        with pytest.raises(FunctionFailedError) as caught:
            run.result(60)
        error = caught.value
        assert [(a.outcome, a.error is not None) for a in error.attempts] == [
            ("finished", False),
            ("lost", False),
            ("lost", True),
        ]
        assert isinstance(error.__cause__, KilledWorker)
        text = str(error)
        assert "2 nodes were lost while it ran, and 1 that held its result after it had finished" in text
        assert 'keep="sinks"' in text
        assert "memory" in text
        assert outcomes(run.records["large"]) == ["finished", "lost", "lost"]
        del error, caught, run
        settle(cluster)


def test_a_node_that_freezes_temporarily_delays_only_its_own_functions(abc, directory):
    cluster, client = abc
    handoff.discover_nodes(client)
    dag = dag_of(
        Function("held", wait_for, extra_args=[directory, "door", 1], cost={"cpu": 2}, node="a"),
        *[
            Function(i, attempt, extra_args=[directory, i], cost={"cpu": 1}, node=["b", "c"])
            for i in range(50)
        ],
        Function("end", "operator:neg", args=["held"]),
    )
    run = handoff.submit(dag, client)
    until(lambda: entered(directory, "held"))
    cluster.freeze("a")
    open_gate(directory)
    until(lambda: all(run.records[i].status == "finished" for i in range(50)), seconds=TTL / 2)
    assert run.records["held"].status == "running"
    cluster.thaw("a")
    result = run.result(timeout=30)
    assert result["end"] == -1
    assert all(outcomes(record) == ["finished"] for record in result.records.values())


@pytest.mark.slow
@pytest.mark.parametrize("ttl", [3.0])
def test_a_node_that_stays_frozen_is_removed_after_dasks_worker_ttl(abc, ttl, directory):
    cluster, client = abc
    dag = dag_of(
        Function("made", attempt, extra_args=[directory, 3], node=["a", "b"], cost={"cpu": 2}),
        Function(
            "held", wait_first, extra_args=[directory, "door", 4], cost={"cpu": 2}, node=Collocated("made")
        ),
        Function("free", attempt, extra_args=[directory, 5], node="c"),
        Function("end", lambda *xs: sum(xs), args=["made", "held", "free"]),
    )
    run = handoff.submit(dag, client)
    until(lambda: entered(directory, "held"))
    frozen = run.allocations["made"]
    begin = time.monotonic()
    cluster.freeze(frozen)
    until(lambda: run.records["free"].status == "finished")
    result = run.result(timeout=40)
    # Dask checks workers once per time-to-live, so it can take twice as long to notice.
    assert ttl * 0.8 < time.monotonic() - begin < 2 * ttl + 20
    assert result["end"] == 12
    assert outcomes(result.records["made"]) == ["finished", "finished"]
    assert outcomes(result.records["held"]) == ["lost", "finished"]
    assert frozen not in result.allocations.values()
    process = cluster.processes[frozen]
    open_gate(directory)
    cluster.thaw(frozen)
    process.wait(timeout=60)  # the scheduler no longer knows the worker, so it exits
    assert process.returncode != -signal.SIGKILL
    again = run.result()
    assert {id: outcomes(r) for id, r in again.records.items()} == {
        id: outcomes(r) for id, r in result.records.items()
    }
    assert frozen not in plugin_of(cluster).state.nodes
