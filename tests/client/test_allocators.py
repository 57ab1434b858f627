"""Custom allocators on clusters."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from functools import partial

import pytest
from distributed import Client
from helpers import add, dag_of, gate, greedily, identity, pass_gate, plugin_of, settle, until

import handoff_dask as handoff
from handoff_dask import (
    Allocator,
    AllocatorError,
    Argument,
    Collocated,
    Function,
    ReadyFunction,
    SerializationError,
)

#: Calls of recording allocators, by test. Global, since the scheduler works on pickled copies.
CALLS: dict[str, list] = defaultdict(list)


def greedy(ready, free):
    """Place each function on the last node with enough free capacity."""
    return greedily(ready, free, reversed)


class RecordingAllocator:
    """Greedy; records its arguments."""

    def __init__(self, name: str) -> None:
        self.name = name

    def allocate(self, ready, free):
        CALLS[self.name].append((list(ready), {node: dict(amounts) for node, amounts in free.items()}))
        return greedy(ready, free)


class FixedAllocator:
    """Always returns the same proposal."""

    def __init__(self, proposal) -> None:
        self.proposal = proposal

    def allocate(self, ready, free):
        return self.proposal


class RoundRobin:
    """Takes one node after the other; stateful."""

    def __init__(self, *nodes) -> None:
        self.nodes = nodes
        self.count = 0

    def allocate(self, ready, free):
        chosen = {}
        for f in ready:
            allowed = [name for name in self.nodes if f.nodes is None or name in f.nodes]
            chosen[f.id] = allowed[self.count % len(allowed)]
            self.count += 1
        return chosen


def broken(ready, free):
    raise LookupError("no idea where to put it")


class Cat:
    """An id that is not a plain value."""

    def __repr__(self):
        return "<cat>"

    def __hash__(self):
        return 7

    def __eq__(self, other):
        return type(other) is Cat


def simple(n=4, **fields):
    return dag_of(*(Function(f"f{i}", identity, extra_args=[i], **fields) for i in range(n)), id="simple")


def assert_cluster_works(client):
    """Check that built-in and custom allocators still work on the cluster."""
    for strategy in ("best_fit", greedy):
        result = handoff.execute(simple(cost={"cpu": 1}), client, allocation_strategy=strategy)
        assert result.results == {f"f{i}": i for i in range(4)}


def test_a_function_as_allocator(client):
    dag = simple(3, cost={"cpu": 1})
    result = handoff.execute(dag, client, allocation_strategy=greedy)
    assert result.results == {"f0": 0, "f1": 1, "f2": 2}
    assert [result.allocations[f"f{i}"] for i in range(2)] == ["node2", "node2"]


def test_an_object_as_allocator(client):
    assert isinstance(RecordingAllocator("object"), Allocator)
    door = gate("object")
    dag = dag_of(
        Function("held", pass_gate, extra_args=["object"], cost={"cpu": 1.5, "gpu": 1}),
        Function("pinned", identity, extra_args=[1], node="node2", cost={"memory": 10}, priority=3),
        Function("after", add, args=["pinned"], node=Collocated("pinned")),
        Function(Cat(), identity, extra_args=[b"x" * 1000]),
        Function("sum", max, args=["after", "pinned"]),
    )
    run = handoff.submit(dag, client, allocation_strategy=RecordingAllocator("object"))
    run.futures["sum"].result(timeout=20)
    door.open()
    assert run.result().results["sum"] == 1
    ready, free = CALLS["object"][0]
    assert all(type(f) is ReadyFunction for f in ready)
    assert [f.id for f in ready] == ["pinned", "held", "<cat>"]
    pinned, held, _ = ready
    assert (pinned.cost, pinned.nodes, pinned.priority) == ({"threads": 1, "memory": 10}, ("node2",), 3)
    assert (held.cost, held.nodes, held.priority) == ({"threads": 1, "cpu": 1.5, "gpu": 1}, None, 0)
    assert held.queued == run.records["held"].attempts[0].queued
    assert free == {
        "node1": {"cpu": 4, "memory": 8192, "gpu": 1, "threads": 4},
        "node2": {"cpu": 2, "memory": 4096, "threads": 2},
    }
    later = {f.id: f for ready, _ in CALLS["object"][1:] for f in ready}
    assert later["after"].nodes == ("node2",)
    assert later["sum"].input_bytes.keys() == {"node2"}
    assert later["sum"].input_bytes["node2"] > 0


def test_state_is_kept_on_the_scheduler(client):
    allocator = RoundRobin("node1", "node2")
    chain = dag_of(
        Function(0, identity, extra_args=[0]), *(Function(i, identity, args=[i - 1]) for i in range(1, 5))
    )
    result = handoff.execute(chain, client, allocation_strategy=allocator)
    assert [result.allocations[i] for i in range(5)] == ["node1", "node2", "node1", "node2", "node1"]
    assert allocator.count == 0, "the scheduler has a copy"
    again = handoff.execute(chain, client, allocation_strategy=allocator)
    assert again.allocations == result.allocations, "each run has its own copy"


def test_a_lambda_is_pickled_by_value(client):
    choose = "node2"
    result = handoff.execute(
        simple(),
        client,
        allocation_strategy=lambda ready, free: {ready[0].id: choose} if free[choose]["threads"] else {},
    )
    assert set(result.allocations.values()) == {"node2"}


def test_limits_are_enforced(client):
    door = gate("own limits")
    dag = dag_of(*(Function(i, pass_gate, extra_args=["own limits"], cost={"db": 1}) for i in range(5)))
    run = handoff.submit(dag, client, allocation_strategy=greedy, limits={"db": 2})
    door.await_inside(2)
    assert "limit 'db' (2 of 2 used)" in run.explain(4)
    door.open()
    run.result(timeout=20)
    assert door.most == 2


def test_groups_and_transfers(client):
    dag = dag_of(
        Function("x", identity, extra_args=[1], cost={"cpu": 1}),
        Function("near", identity, extra_args=[2], cost={"cpu": 1}, node=Collocated("x")),
        Function(
            "far", identity, args=[Argument("x", serialize=max_of_all, deserialize=max_of_all)], node="node1"
        ),
    )
    result = handoff.execute(dag, client, allocation_strategy=RoundRobin("node2", "node1"))
    where = result.allocations
    assert where["x"] == where["near"] == where["serialize", "x", "far", 0] == "node2"
    assert where["far"] == where["deserialize", "x", "far", 0] == "node1"


def max_of_all(data, source, target):
    return data


@pytest.mark.parametrize(
    ("allocator", "reason"),
    [
        (FixedAllocator({"nobody": "node1"}), "it placed 'nobody' on 'node1': no ready function has this id"),
        (
            FixedAllocator({"f0": "node9"}),
            "it placed 'f0' on 'node9': the nodes that accept functions are 'node1', 'node2'",
        ),
        (
            FixedAllocator({"f0": "node2", "f1": "node2"}),
            "it placed 'f1' on 'node2': asked: threads 1, cpu 1.5; free: threads 1, cpu 0.5",
        ),
        (FixedAllocator(None), "it returned None instead of a mapping of function ids to node names"),
        (FixedAllocator({"f0": ["node1"]}), "it raised TypeError: unhashable type: 'list'"),
        (broken, "it raised LookupError: no idea where to put it\n"),
    ],
    ids=["unknown function", "unknown node", "no room", "nonsense", "unhashable", "exception"],
)
def test_an_invalid_proposal_fails_the_run(client, cluster, allocator, reason):
    door = gate("other")
    other = handoff.submit(dag_of(Function("held", pass_gate, extra_args=["other"], cost={"gpu": 1})), client)
    door.await_inside(1)
    with pytest.raises(AllocatorError) as caught:
        handoff.execute(simple(cost={"cpu": 1.5}), client, allocation_strategy=allocator)
    error = caught.value
    assert error.reason.startswith(reason)
    assert str(error).startswith(f"the allocator of run {error.run_id} of DAG 'simple' failed: it ")
    assert error.run.status == "failed"
    assert error.run.explain("f3") == "function 'f3' will not run: its run has failed"
    assert other.status == "running"
    door.open()
    other.result(timeout=20)
    assert_cluster_works(client)
    del other, error, caught
    settle(cluster)


def test_the_reason_includes_the_traceback(client):
    with pytest.raises(AllocatorError) as caught:
        handoff.execute(simple(), client, allocation_strategy=broken)
    assert 'raise LookupError("no idea where to put it")' in caught.value.reason


def test_running_functions_end_normally_when_the_allocator_fails(client, cluster):
    door = gate("wrong later")
    dag = dag_of(
        Function("held", pass_gate, extra_args=["wrong later"], cost={"cpu": 1}),
        Function("quick", identity, extra_args=[1]),
        Function("after", identity, args=["quick"]),
    )
    run = handoff.submit(dag, client, allocation_strategy=RoundRobin("node1", "node1", "nowhere"))
    assert run.wait(timeout=20)
    door.open()
    with pytest.raises(AllocatorError, match="it placed 'after' on 'nowhere'"):
        run.result()
    assert run.results["quick"] == 1, "finished results are kept"
    until(partial(ended, run, "held"))
    del run
    settle(cluster)


def ended(run, id):
    return run.records[id].status == "finished"


def test_a_custom_and_a_built_in_allocator_at_once(client):
    wide = [f"f{i}" for i in range(40)]
    built_in = handoff.submit(simple(40, cost={"cpu": 1}), client)
    custom = handoff.submit(simple(40, cost={"cpu": 1}), client, allocation_strategy=greedy)
    for run in (custom, built_in):
        assert run.result(timeout=30).results == {id: i for i, id in enumerate(wide)}


def test_a_retry_is_offered_only_other_nodes(client):
    result = handoff.execute(
        dag_of(Function("f", fails_on, extra_args=["node2"])),
        client,
        allocation_strategy=RecordingAllocator("retry"),
    )
    assert [a.node for a in result.records["f"].attempts] == ["node2", "node1"]
    assert [ready[0].nodes for ready, _ in CALLS["retry"]] == [None, ("node1",)]


def fails_on(name):
    if handoff.current().node == name:
        raise ValueError(name)
    return handoff.current().node


def test_an_unpicklable_allocator(client, cluster):
    handoff.discover_nodes(client)  # installs the plugin, if this is the first test on the cluster
    lock = threading.Lock()
    with pytest.raises(SerializationError, match=r"the allocation_strategy .* cannot be pickled: .*lock"):
        handoff.execute(simple(), client, allocation_strategy=lambda ready, free: lock)
    assert not plugin_of(cluster).runs
    assert_cluster_works(client)


def test_an_unpicklable_allocator_with_an_asynchronous_client():
    async def main():
        async with (
            handoff.local_cluster({"a": {"cpu": 1}}, asynchronous=True) as cluster,
            Client(cluster, asynchronous=True, set_as_default=False) as client,
        ):
            lock = threading.Lock()
            run = handoff.submit(simple(), client, allocation_strategy=lambda ready, free: lock)
            with pytest.raises(SerializationError, match="cannot be pickled"):
                await run
            assert run.status == "failed"
            result = await handoff.execute(simple(), client, allocation_strategy=greedy)
            assert set(result.allocations.values()) == {"a"}
            with pytest.raises(AllocatorError, match="no idea"):
                await handoff.execute(simple(), client, allocation_strategy=broken)

    asyncio.run(main())


class NoAllocateMethod:
    pass


@pytest.mark.parametrize(
    ("strategy", "error"),
    [
        (FixedAllocator, TypeError),
        (NoAllocateMethod(), TypeError),
        (3, TypeError),
        (None, TypeError),
        ("mine", ValueError),
    ],
    ids=["a class", "no allocate", "a number", "None", "unknown name"],
)
def test_values_that_are_not_allocators(client, strategy, error):
    with pytest.raises(error, match=r"allocation_strategy must be one of .* or an Allocator, not "):
        handoff.submit(simple(), client, allocation_strategy=strategy)
