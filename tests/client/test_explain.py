"""``run.explain(id)`` and ``run.events()``, during a run and afterwards."""

from __future__ import annotations

import asyncio

import pytest
from distributed import Client
from helpers import add, dag_of, gate, identity, pass_gate, until

import handoff_dask as handoff
from handoff_dask import (
    AllocationError,
    Argument,
    Collocated,
    Event,
    Function,
    FunctionFailedError,
    RetryPolicy,
)


def gated(id, name, **fields):
    return Function(id, pass_gate, extra_args=[name], **fields)


def test_explain_during_a_run(client):
    door = gate("explain")
    dag = dag_of(
        gated("held", "explain", cost={"gpu": 1, "cpu": 1}),
        Function("after", identity, args=["held"]),
        Function("gpu", identity, extra_args=[1], cost={"gpu": 0.5}),
        Function("pinned", identity, extra_args=[1], node="node1", cost={"cpu": 3.5}),
        Function("quick", identity, extra_args=[1]),
        Function("inline", identity, args=["quick"], type="inline"),
        Function("uses", identity, args=["inline"]),
    )
    run = handoff.submit(dag, client, limits={"seats": 1})
    door.await_inside(1)
    run.futures["uses"].result(timeout=20)
    assert run.explain("held") == "function 'held' is not waiting: it is running on node 'node1', attempt 1"
    assert run.explain("after") == (
        "function 'after' is waiting for inputs:\n  - 'held' (running on node 'node1', attempt 1)"
    )
    first, *nodes = run.explain("gpu").splitlines()
    assert first.startswith("function 'gpu' has waited ")
    assert first.endswith(" s for a node; it asks for gpu 0.5:")
    assert nodes == [
        "  - node 'node1' has 0 of 1 gpu free (needs 0.5)",
        "  - node 'node2' has no gpu",
    ]
    assert run.explain("pinned").splitlines()[1:] == [
        "  - node 'node1' has 3 of 4 cpu free (needs 3.5)",
        "  - node 'node2' is excluded by its pin or collocation",
    ]
    assert run.explain("quick").startswith("function 'quick' has finished on node 'node")
    assert run.explain("inline") == (
        "function 'inline' is inline: it is evaluated inside each function that depends on it"
    )
    with pytest.raises(KeyError, match=r"DAG 'test' has no function 'nobody'"):
        run.explain("nobody")
    for ask in (run.explain, run.results.__getitem__):
        with pytest.raises(KeyError, match=r"DAG 'test' has no function 'quik'; did you mean 'quick'\?"):
            ask("quik")
    door.open()
    run.result(timeout=20)
    assert run.explain("after").startswith("function 'after' has finished on node 'node")


def test_explain_limits_and_collocation(client):
    door = gate("limits")
    dag = dag_of(
        gated("held", "limits", cost={"seats": 1}, node="node2", priority=1),
        Function("other", identity, extra_args=[1], cost={"seats": 1}),
        Function("near", identity, extra_args=[1], cost={"cpu": 2, "seats": 1}, node=Collocated("held")),
    )
    run = handoff.submit(dag, client, limits={"seats": 1})
    door.await_inside(1)
    text = "it asks for threads 1; the run has reached limit 'seats' (1 of 1 used):"
    assert run.explain("other").splitlines()[0].endswith(text)
    assert run.explain("other").splitlines()[1:] == [
        "  - nodes 'node1', 'node2': the function fits",
    ]
    near = run.explain("near").splitlines()
    assert "it is collocated with functions on node 'node2'" in near[0]
    assert near[1:] == [
        "  - node 'node1' is excluded by its pin or collocation",
        "  - node 'node2': the function fits",
    ]
    door.open()
    run.result(timeout=20)


def refuse(value=None):
    raise ValueError("no")


def test_explain_failed_functions(client):
    dag = dag_of(
        Function("bad", refuse),
        Function("next", identity, args=["bad"]),
        Function("last", identity, args=["next"]),
    )
    run = handoff.submit(dag, client, max_retries=0, fail_fast=False)
    run.wait(timeout=20)
    assert run.explain("bad") == "function 'bad' has failed: ValueError('no')"
    text = "function '{}' will not run: 'bad', which it depends on, has failed"
    assert [run.explain(id) for id in ("next", "last")] == [text.format("next"), text.format("last")]


def test_explain_a_delayed_retry(client):
    policy = RetryPolicy(max_retries=4, delay=600, max_delay=600)
    run = handoff.submit(dag_of(Function("bad", refuse, retry=policy)), client)
    until(lambda: run.records["bad"].status == "delayed")
    text = run.explain("bad")
    assert text.startswith("function 'bad' will be retried in ")
    assert text.endswith(" s: attempt 2, after 1 of at most 5 attempts failed")
    run.cancel()
    assert run.explain("bad") == "function 'bad' will not run: its run was cancelled"


def test_explain_a_run_that_waits_for_nodes(client):
    run = handoff.submit(dag_of(Function("f", int, cost={"gpu": 9})), client, wait_for_nodes=600)
    lines = run.explain("f").splitlines()
    assert lines[0].startswith(
        "function 'f' waits: its run starts once the nodes can hold all of its functions (fails in "
    )
    assert lines[1] == (
        "  - function 'f': too large for every node; asked: gpu 9; nearest node 'node1' has gpu 1"
    )
    assert lines[2].strip() == "node 'node1': needs 9 gpu, has 1"
    run.cancel()


class Cat:
    def __repr__(self):
        return "<cat>"


def test_explain_ids_of_any_kind(client):
    door = gate("ids")
    cat, pair = Cat(), ("pair", (1, None))
    dag = dag_of(
        gated(cat, "ids", cost={"gpu": 1}),
        Function(pair, identity, args=[cat]),
        Function(frozenset({"x"}), identity, args=[Argument(pair)]),
        Function(3, identity, extra_args=[1], cost={"gpu": 1}),
    )
    run = handoff.submit(dag, client)
    door.await_inside(1)
    assert run.explain(cat) == "function '<cat>' is not waiting: it is running on node 'node1', attempt 1"
    assert run.explain(pair).endswith("\n  - '<cat>' (running on node 'node1', attempt 1)")
    assert run.explain(frozenset({"x"})).startswith("function \"frozenset({'x'})\" is waiting for inputs:")
    serializer = ("serialize", pair, frozenset({"x"}), 0)
    assert "is waiting for inputs:\n  - ('pair', (1, None)) (waiting for inputs)" in run.explain(serializer)
    assert run.explain(3).startswith("function 3 has waited ")
    with pytest.raises(KeyError):
        run.explain(Cat())
    door.open()
    run.result(timeout=20)


def test_explain_after_the_client_is_closed(cluster):
    empty = handoff.DAG("empty")
    with Client(cluster, set_as_default=False) as client:
        run = handoff.submit(dag_of(Function("f", identity, extra_args=[1])), client)
        run.result(timeout=20)
        with pytest.raises(KeyError):
            handoff.submit(empty, client).explain("f")
        assert handoff.submit(empty, client).events() == []
    assert run.explain("f") == "function 'f' is not waiting: its run has finished"


def test_an_allocation_error_explains_each_node(client):
    dag = dag_of(
        Function("large", int, cost={"cpu": 3, "memory": 9000}),
        Function("pinned", int, cost={"cpu": 3}, node="node2"),
        id="d",
    )
    with pytest.raises(AllocationError) as caught:
        handoff.submit(dag, client)
    assert str(caught.value).splitlines() == [
        "DAG 'd' cannot be placed:",
        "  - function 'large': too large for every node; asked: cpu 3, memory 9000;"
        " nearest node 'node1' has cpu 4, memory 8192",
        "      node 'node1': needs 9000 MB memory, has 8192",
        "      node 'node2': needs 3 cpu, has 2; needs 9000 MB memory, has 4096",
        "  - function 'pinned': too large for the nodes it is pinned to; asked: cpu 3;"
        " nearest node 'node2' has cpu 2",
        "      node 'node2': needs 3 cpu, has 2",
        "Lower the cost, add a node that offers enough (`dask worker --resources ...`), or pass"
        " wait_for_nodes=SECONDS if such a node is about to join.",
        "Pin the functions to a node that can hold them, such as 'node1', or lower the cost.",
    ]
    assert caught.value.run.explain("large") == "function 'large' is not waiting: its run has failed"
    with pytest.raises(AllocationError) as many:
        handoff.simulate(dag_of(Function("f", int, cost={"cpu": 2})), {i: {"cpu": 1} for i in range(10)})
    (shortfall,) = many.value.shortfalls
    assert shortfall.nodes == ("10 nodes: needs 2 cpu, have 1",)


# events


def test_events_of_a_run(client):
    dag = dag_of(
        Function("x", identity, extra_args=[1], node="node1"),
        Function("y", add, args=["x", "x"], node="node2"),
    )
    run = handoff.submit(dag, client)
    run.result(timeout=20)
    events = run.events()
    assert all(type(event) is Event for event in events)
    assert [(e.function_id, e.event, e.node, e.attempt, e.error) for e in events] == [
        ("x", "ready", None, 1, None),
        ("x", "started", "node1", 1, None),
        ("x", "finished", "node1", 1, None),
        ("y", "ready", None, 1, None),
        ("y", "started", "node2", 1, None),
        ("y", "finished", "node2", 1, None),
    ]
    assert [e.time for e in events] == sorted(e.time for e in events)
    record = run.records["x"]
    assert [e.time for e in events[:3]] == [record.attempts[0].queued, record.started, record.stopped]


def test_events_of_failed_attempts(client):
    run = handoff.submit(dag_of(Function("bad", refuse)), client, max_retries=1)
    with pytest.raises(FunctionFailedError):
        run.result(timeout=20)
    events = run.events()
    assert [(e.event, e.attempt, e.error) for e in events] == [
        ("ready", 1, None),
        ("started", 1, None),
        ("failed", 1, "ValueError('no')"),
        ("ready", 2, None),
        ("started", 2, None),
        ("failed", 2, "ValueError('no')"),
    ]
    assert {e.node for e in events if e.event == "failed"} == {"node1", "node2"}


def test_events_during_a_run(client):
    door = gate("so far")
    dag = dag_of(
        Function("x", identity, extra_args=[1]),
        gated("held", "so far", cost={"gpu": 1}),
        Function("gpu", identity, extra_args=[1], cost={"gpu": 1}),
    )
    run = handoff.submit(dag, client)
    door.await_inside(1)
    run.futures["x"].result(timeout=20)
    seen = {(e.function_id, e.event) for e in run.events()}
    assert seen == {("x", "ready"), ("x", "started"), ("x", "finished"), ("held", "ready")}
    door.open()
    run.result(timeout=20)
    assert len(run.events()) == 9


# asynchronous clients


def test_explain_and_events_with_an_asynchronous_client():
    async def main():
        async with (
            handoff.local_cluster({"a": {"cpu": 1}}, asynchronous=True) as cluster,
            Client(cluster, asynchronous=True, set_as_default=False) as client,
        ):
            door = gate("async explain")
            dag = dag_of(
                gated("held", "async explain", cost={"cpu": 1}),
                Function("next", identity, args=["held"]),
                Function("i", identity, args=["next"], type="inline"),
            )
            run = handoff.submit(dag, client)
            await asyncio.get_running_loop().run_in_executor(None, door.await_inside, 1)
            assert await run.explain("next") == (
                "function 'next' is waiting for inputs:\n  - 'held' (running on node 'a', attempt 1)"
            )
            assert "is inline" in await run.explain("i")
            with pytest.raises(KeyError, match="no function 'nobody'"):
                run.explain("nobody")
            assert [e.event for e in await run.events()] == ["ready"]
            door.open()
            await run
            assert await run.explain("next") == "function 'next' has finished on node 'a'"
            assert [e.event for e in await run.events()] == ["ready", "started", "finished"] * 2
            hopeless = handoff.submit(dag_of(Function("f", int, cost={"gpu": 1})), client)
            with pytest.raises(AllocationError):
                await hopeless.explain("f")

    asyncio.run(main())
