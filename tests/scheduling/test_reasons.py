"""What functions wait for, in a few words: one test per reason."""

from __future__ import annotations

from scheduling.harness import core_with_claim, core_with_prefetched, fn, many, node

from handoff_dask._model.retry import RetryPolicy
from handoff_dask._scheduling.reasons import reason


def reasons(core, ids):
    return [reason(core.state, core[id]) for id in ids.split()]


def test_the_resource_that_all_eligible_nodes_lack(core):
    core.nodes(a="cpu 2, memory 10", b="cpu 2, gpu 1", c="cpu 1")
    core.run(x=fn("cpu 2, memory 1"), y=fn("gpu 1, cpu 2"), z=fn("cpu 1"))
    core.decide()
    core.run(id="r2", big=fn("cpu 2"), on_gpu=fn("gpu 1"), more=fn("memory 10"), pinned=fn("cpu 1", pin="c"))
    assert core.decide() == []
    assert reasons(core, "big on_gpu more pinned") == [
        "cpu, on 2 nodes",
        "gpu, on 1 node",
        "memory, on 1 node",
        "cpu, on 1 node",
    ]


def test_different_resources_on_different_nodes(core):
    core.nodes(a="cpu 4, memory 10, threads 9", b="cpu 4, memory 10, threads 9")
    core.run(x=fn("cpu 4", pin="a"), y=fn("memory 10", pin="b"))
    core.decide()
    core.run(id="r2", z=fn("cpu 1, memory 1"))
    assert core.decide() == []
    assert reasons(core, "z") == ["cpu or memory, on 2 nodes"]


def test_functions_that_wait_for_the_same_thing_have_the_same_reason(core):
    core.nodes(a="cpu 2")
    core.run(**many(6, fn("cpu 1")))
    core.run(id="r2", x=fn("cpu 2"))
    core.decide()
    assert reasons(core, "f3 x") == ["cpu, on 1 node"] * 2
    core.resize(a="cpu 2, threads 9")
    core.run(id="r3", y=fn("cpu 1", priority=-1))
    assert reasons(core, "y") == ["cpu, on 1 node"]


def test_only_threads_are_short(core):
    core.nodes(a="cpu 8, threads 1")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"))
    core.decide()
    assert reasons(core, "y") == ["threads, on 1 node"]


def test_limits(core):
    core.nodes(a="cpu 8")
    db = fn("cpu 1", limit="db 1")
    core.run(x=db, y=db, z=fn("cpu 1"), limits="db 1", options={"max_concurrency": 1})
    core.decide()
    assert reasons(core, "y z") == ["limit 'db' and max_concurrency", "max_concurrency"]


def test_pending_runs_and_paused_nodes(core):
    core.nodes(a="cpu 2")
    core.run(x=fn("gpu 1"), options={"wait_for_nodes": 60})
    assert reasons(core, "x") == ["nodes that can hold all functions of its run"]
    core.run(id="r2", y=fn("cpu 1"))
    core.pause("a")
    core.decide()
    assert reasons(core, "y") == ["1 node to accept functions again (paused or retiring)"]


def test_no_eligible_node(core):
    core.nodes(a="cpu 2", b="cpu 1")
    core.run(x=fn("cpu 2", policy=RetryPolicy(2)))
    core.decide()
    core.leave("a")
    core.decide()
    assert reasons(core, "x") == ["an eligible node"]


def test_claimed_capacity():
    core = core_with_claim()
    blocked = [f for f in core.functions.values() if f.state.value == "ready"]
    assert "capacity that more urgent functions have claimed" in {reason(core.state, f) for f in blocked}


def test_prefetched_functions_may_take_the_cores():
    core = core_with_prefetched()
    core.run(id="later", wide=fn("cpu 2"))
    assert core.decide() == []
    assert reasons(core, "wide") == ["cpu, on 1 node"]


def test_a_gpu_spread_over_devices(core):
    core.join(node("a", "cpu 4, gpu 2"))
    core.run(x=fn("gpu 0.6"), y=fn("gpu 0.6"), z=fn("gpu 0.8"), ready="x y")
    core.decide()
    core.ready("z")
    assert core.decide() == []
    assert reasons(core, "z") == ["gpu, on 1 node"]
