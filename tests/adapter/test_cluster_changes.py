"""Nodes that join and leave while runs are waiting or running."""

from __future__ import annotations

import time
import types

import dask
import pytest
from distributed import Client, Worker
from helpers import dag_of, gate, identity, pass_gate, plugin_of, settle, until

import handoff_dask as handoff
from handoff_dask import AllocationError, Collocated, Function
from handoff_dask._client import node_wait


@pytest.fixture
def small():
    with handoff.local_cluster({"a": {"cpu": 1}}) as cluster, Client(cluster) as client:
        yield cluster, client
    settle(cluster)


def add_node(cluster, name, **resources):
    """Add a node to a running cluster, and return once it accepts functions."""
    options = dict(cluster.worker_spec["a"]["options"])
    options.update(name=name, resources=resources)
    cluster.worker_spec[name] = {"cls": Worker, "options": options}
    cluster.sync(cluster._correct_state)


def remove_node(cluster, name):
    del cluster.worker_spec[name]
    cluster.sync(cluster._correct_state)


def test_a_node_that_joins_takes_waiting_functions_at_once(small):
    cluster, client = small
    door = gate("joins")
    run = handoff.submit(
        dag_of(*[Function(i, pass_gate, extra_args=["joins"], cost={"cpu": 1}) for i in range(2)]), client
    )
    door.await_inside(1)
    add_node(cluster, "b", cpu=1)
    door.await_inside(2)
    door.open()
    assert set(run.result().allocations.values()) == {"a", "b"}


def test_wait_for_nodes_waits_for_a_node_that_can_hold_the_run(small):
    cluster, client = small
    dag = dag_of(
        Function("small", identity, extra_args=[1], cost={"cpu": 1}),
        Function("big", identity, args=["small"], cost={"gpu": 1}),
    )
    run = handoff.submit(dag, client, wait_for_nodes=60)
    assert run.status == "pending"
    until(lambda: run.records["small"].status == "ready")
    assert run.allocations == {}
    add_node(cluster, "b", cpu=1, gpu=1)
    result = run.result(timeout=20)
    assert result.allocations["big"] == "b"


@pytest.fixture
def no_time_passes(monkeypatch):
    """Waits for nodes last 0 s on the client's clock, however long this machine takes."""
    monkeypatch.setattr(node_wait, "time", types.SimpleNamespace(monotonic=lambda: 0.0))


def logged(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "handoff_dask"]


def test_a_pending_run_states_which_nodes_it_waits_for(small, no_time_passes, caplog, capfd):
    """In the log and in its repr; it prints nothing."""
    cluster, client = small
    f = Function("f", identity, extra_args=[1], cost={"cpu": 1, "gpu": 1})
    with caplog.at_level("INFO", "handoff_dask"):
        run = handoff.submit(dag_of(f), client, wait_for_nodes=60)
        waiting = "waiting for a node with gpu 1 (0 of 60 s)"
        assert repr(run) == f"<Run {run.id} of DAG 'test': pending, {waiting}>"
        assert waiting in run._repr_html_()
        assert logged(caplog) == [f"Run {run.id} of DAG 'test': {waiting}"]
        add_node(cluster, "b", cpu=1, gpu=1)
        run.result(timeout=20)
    started = f"Run {run.id} of DAG 'test': running after 0 s of waiting for a node with gpu 1"
    assert logged(caplog)[1:] == [started]
    assert repr(run) == f"<Run {run.id} of DAG 'test': finished>"
    assert capfd.readouterr() == ("", "")


def test_a_pending_run_starts_when_its_nodes_join(small, no_time_passes):
    cluster, client = small
    door = gate("waited")
    run = handoff.submit(
        dag_of(Function("f", pass_gate, extra_args=["waited"], node="b")), client, wait_for_nodes=60
    )
    assert "pending, waiting for node 'b' (0 of 60 s)" in repr(run)
    add_node(cluster, "b", cpu=1)
    door.await_inside(1)
    assert run.status == "running"
    assert repr(run) == f"<Run {run.id} of DAG 'test': running>"
    door.open()
    run.result(timeout=20)


def test_the_log_states_that_waiting_ended_without_success(small, no_time_passes, caplog):
    _, client = small
    dag = dag_of(Function("f", identity, extra_args=[1], node="b"))
    with caplog.at_level("INFO", "handoff_dask"):
        with pytest.raises(AllocationError):
            handoff.execute(dag, client, wait_for_nodes=0.1)
        run = handoff.submit(dag, client, wait_for_nodes=60)
        run.cancel()
    assert [message.partition("'test': ")[2] for message in logged(caplog)] == [
        "waiting for node 'b' (0 of 0.1 s)",
        "failed after 0 s of waiting for node 'b'",
        "waiting for node 'b' (0 of 60 s)",
        "cancelled after 0 s of waiting for node 'b'",
    ]


def test_progress_states_which_nodes_a_run_waits_for(small, monkeypatch):
    cluster, client = small
    seen = []

    def update(progress):
        seen.append(progress)
        if len(seen) == 1:
            add_node(cluster, "b", cpu=1, gpu=1)

    display = types.SimpleNamespace(update=update, close=lambda: None)
    monkeypatch.setattr("handoff_dask._display.progress.display_of", lambda title: display)
    dag = dag_of(Function("f", identity, extra_args=[1], cost={"gpu": 1}))
    handoff.execute(dag, client, wait_for_nodes=60, progress=True)
    assert seen[0].waiting.awaited == "a node with gpu 1"
    assert seen[0].waiting.limit == 60
    assert seen[-1].waiting is None


def test_wait_for_nodes_ends_with_the_shortfalls(small):
    _, client = small
    begin = time.monotonic()
    with pytest.raises(AllocationError, match="gpu 1") as caught:
        handoff.execute(
            dag_of(Function("f", identity, extra_args=[1], cost={"gpu": 1})), client, wait_for_nodes=0.2
        )
    assert time.monotonic() - begin >= 0.2
    assert caught.value.shortfalls[0].function_ids == ("f",)


def test_lost_results_are_recomputed_and_groups_move():
    nodes = {name: {"cpu": 2} for name in "abc"}
    with handoff.local_cluster(nodes) as cluster, Client(cluster) as client:
        door = gate("lost")
        dag = dag_of(
            Function("made", identity, extra_args=[5], node=["a", "b"]),
            Function("beside", identity, args=["made"], node=Collocated("made")),
            Function("held", pass_gate, extra_args=["lost"], node="c"),
            Function("end", lambda a, b: a + b, args=["beside", "made"], kwargs={}),
        )
        dag.add_function(Function("last", lambda x, y: x, args=["end", "held"], node=Collocated("made")))
        run = handoff.submit(dag, client)
        until(lambda: run.records["end"].status == "finished")
        door.await_inside(1)
        where = run.allocations
        cluster.sync(cluster.workers[where["made"]].close)
        door.open()
        result = run.result(timeout=30)
        assert result["last"] == 10
        survivors = set("ab") - {where["made"]}
        assert {result.allocations[id] for id in ("made", "beside", "last")} <= survivors
        made = result.records["made"]
        assert [a.outcome for a in made.attempts] == ["finished", "finished"]
    settle(cluster)


def test_a_function_on_a_node_that_leaves_moves_without_using_a_retry():
    with handoff.local_cluster({"a": {"cpu": 1}, "b": {"cpu": 1}}) as cluster, Client(cluster) as client:
        door = gate("leaves")
        run = handoff.submit(
            dag_of(Function("f", pass_gate, extra_args=["leaves", "done"], max_retries=0)), client
        )
        door.await_inside(1)
        first = run.allocations["f"]
        address = cluster.workers[first].address
        cluster.sync(cluster.scheduler.remove_worker, address, stimulus_id="test", close=False)
        door.await_inside(2)
        door.open()
        result = run.result(timeout=20)
        assert [(a.node == first, a.outcome) for a in result.records["f"].attempts] == [
            (True, "lost"),
            (False, "finished"),
        ]


def test_a_pin_whose_node_left_waits_and_then_fails_clearly():
    with (
        dask.config.set({"handoff.node-timeout": "300ms"}),
        handoff.local_cluster({"a": {"cpu": 1}, "b": {"cpu": 1}}) as cluster,
        Client(cluster) as client,
    ):
        door = gate("pinned-away")
        dag = dag_of(
            Function("first", pass_gate, extra_args=["pinned-away"], node="a"),
            Function("pinned", identity, args=["first"], node="b"),
        )
        run = handoff.submit(dag, client)
        door.await_inside(1)
        remove_node(cluster, "b")
        door.open()
        with pytest.raises(AllocationError, match=r"pinned to 'b', but the nodes are 'a'") as caught:
            run.result(timeout=20)
        assert caught.value.shortfalls[0].function_ids == ("pinned",)
    settle(cluster)


def test_a_node_that_returns_under_its_name_serves_its_pins():
    with handoff.local_cluster({"a": {"cpu": 1}, "b": {"cpu": 1}}) as cluster, Client(cluster) as client:
        door = gate("returns")
        dag = dag_of(
            Function("first", pass_gate, extra_args=["returns"], node="a"),
            Function("pinned", identity, args=["first"], node="b"),
        )
        run = handoff.submit(dag, client)
        door.await_inside(1)
        remove_node(cluster, "b")
        door.open()
        until(lambda: run.records["pinned"].status == "ready")
        add_node(cluster, "b", cpu=1)
        assert run.result(timeout=20).allocations["pinned"] == "b"


def test_a_paused_node_gets_no_functions_until_it_resumes(small):
    cluster, client = small
    from distributed.core import Status

    handoff.discover_nodes(client)
    worker = cluster.workers["a"]

    async def set_status(status):
        worker.status = status

    cluster.sync(set_status, Status.paused)
    until(lambda: not plugin_of(cluster).state.nodes["a"].accepting)
    run = handoff.submit(dag_of(Function("f", identity, extra_args=[1])), client)
    until(lambda: run.records["f"].status == "ready")
    assert not run.wait(timeout=0.1)
    cluster.sync(set_status, Status.running)
    assert run.result(timeout=20)["f"] == 1


def test_retiring_a_node_drains_it():
    with handoff.local_cluster({"a": {"cpu": 1}, "b": {"cpu": 1}}) as cluster, Client(cluster) as client:
        kept = handoff.submit(dag_of(*[Function(i, identity, extra_args=[i]) for i in range(20)]), client)
        kept.result()
        assert set(kept.allocations.values()) == {"a", "b"}
        client.retire_workers([cluster.workers["b"].address])
        until(lambda: "b" not in plugin_of(cluster).state.nodes)
        result = handoff.execute(dag_of(*[Function(i, identity, extra_args=[i]) for i in range(20)]), client)
        assert set(result.allocations.values()) == {"a"}
        # Its results were moved, not recomputed.
        assert kept.results.gather() == {i: i for i in range(20)}
        assert all(len(r.attempts) == 1 for r in kept.records.values())


def test_parked_functions_outlive_dasks_no_workers_timeout():
    with (
        dask.config.set({"distributed.scheduler.no-workers-timeout": "400ms"}),
        handoff.local_cluster({"a": {"cpu": 1}}) as cluster,
        Client(cluster) as client,
    ):
        door = gate("parked")
        dag = dag_of(*[Function(i, pass_gate, extra_args=["parked"], cost={"cpu": 1}) for i in range(3)])
        run = handoff.submit(dag, client)
        door.await_inside(1)
        assert not run.wait(timeout=1.5)  # Dask checks the timeout several times meanwhile
        door.open()
        assert len(run.result(timeout=20).results) == 3


def test_an_orphaned_attempt_keeps_its_allocation_until_its_thread_ends():
    """An input was lost before the scheduler learnt that the node had fetched it already."""
    door = gate("taken back")
    nodes = {"a": {"cpu": 1}, "b": {"cpu": 1}}
    with handoff.local_cluster(nodes) as cluster, Client(cluster) as client:
        dag = dag_of(
            Function("made", identity, extra_args=["taken back"], node="a"),
            Function("held", pass_gate, args=["made"], cost={"cpu": 1}, node="b"),
        )
        run = handoff.submit(dag, client)
        door.await_inside(1)
        scheduler = cluster.scheduler
        made = next(key for key in scheduler.tasks if key[0].startswith("identity"))
        client.sync(lose_result, scheduler, made)
        until(lambda: [a.outcome for a in run.records["held"].attempts[:1]] == ["cancelled"])
        later = handoff.submit(
            dag_of(Function("later", identity, extra_args=[2], cost={"cpu": 1}, node="b")), client, priority=1
        )
        until(lambda: "has 0 of 1 cpu free (needs 1)" in later.explain("later"))
        assert door.inside == 1
        door.open()
        assert later.result(20)["later"] == 2
        assert run.result(20)["made"] == "taken back"
        until(lambda: handoff.resources_available("b", {"cpu": 1}, client))
        assert not plugin_of(cluster).orphans._watched
        run = later = None
        settle(cluster)


async def lose_result(scheduler, key):
    scheduler.transitions({key: "released"}, "test")
