"""Costs that grow after an attempt has run out of memory."""

from __future__ import annotations

from scheduling.harness import fn

from handoff_dask import RetryPolicy


def asked(core, id="x"):
    return [None if a.cost is None else dict(a.cost) for a in core[id].attempts]


def run_out(core, id="x"):
    return core.fail(id, out_of_memory=True)


def growing(cost, retries=9, **options):
    return fn(cost, policy=RetryPolicy(max_retries=retries, grow={"memory": 2}), **options)


def test_the_next_attempt_asks_for_more(core):
    core.nodes(a="cpu 4, memory 100")
    core.run(x=growing("memory 10"))
    assert core.decide() == ["x@a"]
    assert core.used("a")["memory"] == 10
    run_out(core)
    core.ready("x")
    assert core.decide() == ["x@a"]
    assert core.used("a")["memory"] == 20
    run_out(core)
    core.ready("x")
    assert core.decide() == ["x@a"]
    assert core.used("a")["memory"] == 40
    core.finish("x")
    assert asked(core) == [None, {"memory": 20}, {"memory": 40}]
    assert core.used("a").get("memory", 0) == 0


def test_other_failures_do_not_grow(core):
    core.nodes(a="cpu 4, memory 100")
    core.run(x=growing("memory 10"))
    core.decide()
    core.fail("x")
    core.ready("x")
    core.decide()
    assert core.used("a")["memory"] == 10


def test_the_largest_allowed_node_is_the_most(core):
    core.nodes(a="cpu 4, memory 25", b="cpu 4, memory 70", c="cpu 4, memory 500")
    core.run(x=growing("memory 20", pin="a b"))
    core.decide()
    run_out(core)
    core.ready("x")
    assert core.decide() == ["x@b"]
    assert core.used("b")["memory"] == 40
    run_out(core)
    core.ready("x")
    assert core.decide() == ["x@b"]
    assert core.used("b")["memory"] == 70
    assert not run_out(core), "it has had all that it may get"
    assert core["x"].state.value == "failed"
    assert "no node that may run it has more than it has asked for" in core["x"].attempts[-1].error
    assert asked(core) == [None, {"memory": 40}, {"memory": 70}]


def test_nodes_that_lack_something_else_do_not_count(core):
    core.nodes(a="cpu 1, memory 30, gpu 1", b="cpu 4, memory 500")
    core.run(x=growing("memory 20, gpu 1"))
    core.decide()
    run_out(core)
    core.ready("x")
    assert core.decide() == ["x@a"]
    assert core.used("a")["memory"] == 30


def test_without_the_resource_in_the_cost_nothing_grows(core):
    core.nodes(a="cpu 4, memory 100")
    core.run(x=growing("cpu 1", retries=1))
    core.decide()
    assert run_out(core)
    core.ready("x")
    assert core.decide() == ["x@a"]
    assert core["x"].asked is None


def test_two_lost_nodes_count_as_running_out(core):
    core.nodes(a="cpu 1, memory 90", b="cpu 1, memory 80", c="cpu 1, memory 70")
    core.run(x=growing("memory 20"))
    for expected in (20, 20, 40):
        (placed,) = core.decide()
        node = placed[2:]
        assert core.used(node)["memory"] == expected
        core.lose("x")
        core.leave(node)
        core.ready("x")


def test_a_group_needs_what_its_members_ask_for(core):
    core.nodes(a="cpu 4, memory 30", b="cpu 4, memory 100")
    core.run(x=growing("memory 20"), y=fn("memory 10"), groups=("x y",), ready="x")
    assert core.decide() == ["x@a"]
    run_out(core)
    core.ready("x")
    assert core.decide() == ["x@b"], "the group moves to a node that holds the grown cost"
    core.finish("x")
    core.ready("y")
    assert core.decide() == ["y@b"]


def test_a_retry_by_the_client_keeps_the_grown_cost(core):
    core.nodes(a="cpu 4, memory 40")
    core.run(x=growing("memory 20", retries=1), y=fn("cpu 1"), options={"fail_fast": False}, ready="x y")
    core.decide()
    run_out(core)
    core.ready("x")
    core.decide()
    run_out(core)
    core.state.retried(core["x"])
    core.ready("x")
    core.decide()
    assert core.used("a")["memory"] == 40


def test_all_amounts_fit_on_one_node(core):
    """The node with most memory has too few cores, and the other way round."""
    core.nodes(a="cpu 2, memory 400", b="cpu 8, memory 50")
    policy = RetryPolicy(max_retries=9, grow={"memory": 2, "cpu": 2})
    core.run(x=fn("cpu 2, memory 40", policy=policy))
    core.decide()
    run_out(core)
    core.ready("x")
    (placed,) = core.decide()
    assert placed in ("x@a", "x@b")
    assert asked(core) == [None]
    assert core["x"].asked in ({"cpu": 2, "memory": 80}, {"cpu": 4, "memory": 50})
