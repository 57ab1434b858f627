"""Limits of a run, and its ``max_concurrency``, across the cluster."""

from __future__ import annotations

from scheduling.harness import Core, fn, many


def test_limit_holds_across_nodes(core):
    core.nodes(a="cpu 2", b="cpu 9")
    core.run(limits="db 3", **many(5, fn("cpu 1", limit="db 1")))
    assert core.decide() == ["f0@a", "f1@a", "f2@b"]
    core.finish("f1")
    assert core.decide() == ["f3@a"]
    core.finish("f0 f2")
    assert core.decide() == ["f4@a"]


def test_functions_take_unequal_amounts_of_a_limit(core):
    core.nodes(a="cpu 9")
    core.run(limits="db 2", x=fn(limit="db 1.5"), y=fn(limit="db 1"), z=fn(limit="db 0.5"), free=fn())
    assert core.decide() == ["x@a", "z@a", "free@a"]
    core.finish("x")
    assert core.decide() == ["y@a"]


def test_several_limits(core):
    core.nodes(a="cpu 9")
    core.run(
        limits="db 2, seat 1",
        x=fn(limit="db 1, seat 1"),
        y=fn(limit="db 1, seat 1"),
        z=fn(limit="db 1"),
        w=fn(limit="db 1"),
    )
    assert core.decide() == ["x@a", "z@a"]
    core.finish("z")
    assert core.decide() == ["w@a"]
    core.finish("x")
    assert core.decide() == ["y@a"]


def test_limits_are_per_run(core):
    core.nodes(a="cpu 9")
    core.run(id="r1", limits="db 1", **many(2, fn(limit="db 1"), "x"))
    core.run(id="r2", limits="db 2", **many(3, fn(limit="db 1"), "y"))
    assert core.decide() == ["x0@a", "y0@a", "y1@a"]


def test_max_concurrency_counts_all_kinds(core):
    core.nodes(a="cpu 9", b="cpu 9")
    core.run(x=fn("cpu 1"), y=fn(), z=fn("cpu 2"), w=fn("cpu 1"), options={"max_concurrency": 2})
    assert core.decide() == ["x@a", "y@a"]
    core.finish("x")
    assert core.decide() == ["z@a"]
    core.finish("y z")
    assert core.decide() == ["w@a"]


def test_max_concurrency_and_limits(core):
    core.nodes(a="cpu 9")
    core.run(**many(3, fn(limit="db 1")), **many(3, fn(), "g"), limits="db 1", options={"max_concurrency": 2})
    assert core.decide() == ["f0@a", "g0@a"]
    core.finish("g0")
    assert core.decide() == ["g1@a"]
    core.finish("f0 g1")
    assert core.decide() == ["f1@a", "g2@a"]


def test_every_outcome_releases_the_limit(core):
    core.nodes(a="cpu 9", b="cpu 9")
    core.run(
        limits="db 1",
        **many(9, fn(limit="db 1", retries=9)),
        options={"fail_fast": False},
    )
    limits = core["f0"].run.limits

    def next_of(id):
        assert core.decide() == [f"{id}@a"]
        assert limits.available("db") == 0

    next_of("f0")
    core.finish("f0")
    next_of("f1")
    assert core.fail("f1")
    next_of("f2")
    assert not core.fail("f2", retryable=False)
    next_of("f3")
    core.lose("f3")
    next_of("f4")
    core.state.skipped(core["f4"], core.now)
    next_of("f5")
    core.state.abandoned(core["f5"], core.now)
    next_of("f6")
    core.refuse("f6")  # and a accepts nothing for now
    assert core.decide() == ["f6@b"]
    core.leave("b")
    core.resume("a")
    next_of("f7")
    core.state.forgotten(core["f7"], core.now)
    assert limits.available("db") == limits.capacity["db"]


def test_exhausted_limit_does_not_block_functions_without_it(core):
    core.nodes(a="cpu 4")
    core.run(limits="db 1", x=fn("cpu 1", limit="db 1"), y=fn("cpu 1", limit="db 1"), z=fn("cpu 1"))
    assert core.decide() == ["x@a", "z@a"]


def test_cost_above_a_limit_fails_at_once(core):
    core.nodes(a="cpu 9")
    run = core.run(
        limits="db 2", x=fn("cpu 1", limit="db 3"), y=fn(limit="db 3"), z=fn(limit="db 1"), ready=""
    )
    assert core.decide() == ["r failed"]
    first, second = run.shortfalls
    assert (first.function_ids, first.asked, first.nearest, first.offered) == (("x",), {"db": 3}, None, {})
    assert second.function_ids == ("y",)
    assert str(first) == "function 'x': too large for the run's limits (db 2); asked: db 3"


def test_max_concurrency_is_not_part_of_a_cost(core):
    run = core.run(limits="db 2", x=fn(limit="db 3"), options={"max_concurrency": 1}, ready="")
    assert run.shortfalls[0].asked == {"db": 3}
    assert run.shortfalls[0].reason == "too large for the run's limits (db 2)"


def test_cost_above_a_limit_does_not_wait_for_nodes(core):
    run = core.run(limits="db 2", x=fn(limit="db 3"), options={"wait_for_nodes": 60}, ready="")
    assert core.decide() == ["r failed"]
    assert [s.reason for s in run.shortfalls] == [
        "too large for the run's limits (db 2)",
        "the cluster has no nodes",
    ]


def test_function_that_waits_for_a_limit_starves_when_its_node_left():
    core = Core(node_timeout=30.0)
    core.nodes(a="cpu 4", b="gpu 1")
    core.run(x=fn("cpu 1"), y=fn("gpu 1"), options={"max_concurrency": 1, "fail_fast": False})
    assert core.decide() == ["x@a"]
    core.leave("b")
    assert core.decide() == []
    assert core.state.next_wake() == 30.0
    core.wait(30)
    assert core.decide() == ["y unplaceable"]
