"""Functions that no node can hold: reported at once, after waiting for nodes, or after nodes left."""

from __future__ import annotations

import pytest
from scheduling.harness import Core, fn, many, node

# before anything runs


def shortfalls(nodes, **functions):
    core = Core()
    core.nodes(**nodes)
    groups = functions.pop("groups", ())
    run = core.run(ready="", groups=groups, **functions)
    assert core.decide() == ["r failed"]
    assert set(core.states(" ".join(functions)).split()) == {"cancelled"}
    return run.shortfalls


@pytest.mark.parametrize(
    ("function", "options", "lacks"),
    [
        (fn("cpu 2"), {}, [True, False]),
        (fn("cpu 3"), {}, [True, True]),
        (fn("cpu 3"), {"wait_for_nodes": 1.0}, [False, False]),  # it is pending, and does not fail at once
        (fn("cpu 3", limit="db 2"), {}, [False, False]),  # more nodes would not help
    ],
)
def test_a_run_that_more_nodes_might_help_is_told_from_others(function, options, lacks):
    core = Core()
    spec = core.run(ready="", limits="db 1", options=options, f=function).spec
    failed = core.state.totals.runs["failed"]
    without = core.state.lacks_nodes(spec)
    core.nodes(a="cpu 2")
    assert [without, core.state.lacks_nodes(spec)] == lacks
    assert core.state.totals.runs["failed"] == failed, "asking counts as no run"


def fields(shortfall):
    return shortfall.function_ids, shortfall.asked, shortfall.nearest, shortfall.offered, shortfall.reason


def test_cost_exceeds_every_node():
    (s,) = shortfalls(
        {"a": "cpu 2, memory 100", "b": "cpu 4, memory 50"}, x=fn("cpu 1"), y=fn("cpu 3, memory 60")
    )
    assert fields(s) == (
        ("y",),
        {"cpu": 3, "memory": 60},
        "b",
        {"cpu": 4, "memory": 50},
        "too large for every node",
    )
    assert str(s).splitlines() == [
        "function 'y': too large for every node; asked: cpu 3, memory 60; "
        "nearest node 'b' has cpu 4, memory 50",
        "      node 'a': needs 3 cpu, has 2",
        "      node 'b': needs 60 MB memory, has 50",
    ]


NO_GPU = "no node has 'gpu' (available: cpu)"
WAITED = "; no suitable node has joined for 30 s (handoff.node-timeout)"


def test_misspelt_resource_differs_from_a_short_one():
    nodes = {"a": "cpu 2, memory 10", "b": "cpu 1, seat 1"}
    (s,) = shortfalls(nodes, x=fn("cpus 1, cpu 9, tape 1"))
    assert s.reason == "no node has 'cpus' or 'tape' (available: cpu, memory, seat; did you mean 'cpu'?)"
    (s,) = shortfalls(nodes, x=fn("cpu 9"))
    assert s.reason == "too large for every node"
    (s,) = shortfalls(nodes, x=fn("seat 1", pin="a"))
    assert s.reason == "no node it is pinned to has 'seat' (available: cpu, memory)"


def test_resource_that_no_node_has():
    (s,) = shortfalls({"a": "cpu 2"}, x=fn("gpu 1"))
    assert fields(s) == (
        ("x",),
        {"gpu": 1},
        "a",
        {"gpu": 0},
        NO_GPU,
    )
    assert str(s) == f"function 'x': {NO_GPU}; asked: gpu 1; nearest node 'a' has no gpu"


def test_nearest_node_has_enough_of_the_most_resources():
    nodes = {"a": "cpu 90, memory 1", "b": "cpu 1, memory 99, gpu 1", "c": "cpu 99, memory 49, gpu 0.9"}
    (s,) = shortfalls(nodes, x=fn("cpu 100, memory 50, gpu 1"))
    assert (s.nearest, s.offered) == ("b", {"cpu": 1, "memory": 99, "gpu": 1})


def test_ties_for_the_nearest_node_go_by_share():
    (s,) = shortfalls(
        {"a": "cpu 3, memory 1", "b": "cpu 3, memory 9", "c": "cpu 3"}, x=fn("cpu 3, memory 10")
    )
    assert s.nearest == "b"


def test_fractions_of_devices_do_not_add_up():
    (s,) = shortfalls({"a": "cpu 1, gpu 0.75", "b": "cpu 1, gpu 0.5"}, x=fn("gpu 0.875"))
    assert fields(s) == (("x",), {"gpu": 0.875}, "a", {"gpu": 0.75}, "too large for every node")


def test_functions_of_equal_cost_share_a_shortfall():
    (s,) = shortfalls({"a": "cpu 1"}, **many(5, fn("cpu 2")), x=fn("cpu 1"))
    assert s.function_ids == ("f0", "f1", "f2", "f3", "f4")
    assert str(s).startswith("functions 'f0', 'f1', 'f2' and 2 more: too large for every node; asked: cpu 2")


def test_each_cost_has_its_own_shortfall():
    found = shortfalls({"a": "cpu 1"}, x=fn("cpu 2"), y=fn("gpu 1"), z=fn("cpu 2", pin="a"))
    assert [s.function_ids for s in found] == [("x",), ("y",), ("z",)]


def test_pin_to_an_unknown_node():
    (s,) = shortfalls({"a": "cpu 1", "b": "cpu 1"}, x=fn("cpu 1", pin="d c"))
    assert fields(s) == (("x",), {"cpu": 1}, None, {}, "pinned to 'c' or 'd', but the nodes are 'a', 'b'")
    assert str(s) == "function 'x': pinned to 'c' or 'd', but the nodes are 'a', 'b'; asked: cpu 1"


def test_cost_exceeds_the_pinned_node_only():
    (s,) = shortfalls({"a": "cpu 1", "b": "cpu 9", "c": "cpu 2"}, x=fn("cpu 3", pin="a c"))
    assert fields(s) == (("x",), {"cpu": 3}, "c", {"cpu": 2}, "too large for the nodes it is pinned to")


def test_group_without_a_common_node():
    (s,) = shortfalls(
        {"a": "cpu 1, gpu 1", "b": "cpu 4"}, x=fn("gpu 1"), y=fn("cpu 2"), z=fn(), groups=("x y z",)
    )
    assert fields(s) == (
        ("x", "y", "z"),
        {"gpu": 1, "cpu": 2},
        "a",
        {"gpu": 1, "cpu": 1},
        "too large for every node",
    )


def test_group_pinned_to_different_nodes():
    (s,) = shortfalls({"a": "cpu 1", "b": "cpu 1"}, x=fn(pin="a"), y=fn(pin="b"), groups=("x y",))
    assert fields(s) == (
        ("x", "y"),
        {},
        None,
        {},
        "its collocation group is pinned to different nodes: 'a' and 'b'",
    )


def test_group_pinned_to_a_missing_node():
    (s,) = shortfalls({"a": "cpu 1", "b": "cpu 1"}, x=fn(pin="a"), y=fn(pin="c"), groups=("x y",))
    assert s.reason == "pinned to 'a' and 'c', but the nodes are 'a', 'b'"


def test_no_nodes():
    (s,) = shortfalls({}, x=fn("cpu 1"), y=fn("cpu 1"))
    assert fields(s) == (("x", "y"), {"cpu": 1}, None, {}, "the cluster has no nodes")


def test_threads_are_not_listed():
    (s,) = shortfalls({}, x=fn())
    assert (s.asked, s.offered) == ({}, {})


def test_running_functions_are_not_a_shortfall():
    core = Core()
    core.nodes(a="cpu 2")
    core.run(id="r1", x=fn("cpu 2"))
    core.decide()
    core.pause("a")
    core.run(id="r2", y=fn("cpu 2"))
    assert core.decide() == []
    assert core["y"].run.shortfalls == ()


# waiting for nodes

WAIT = {"options": {"wait_for_nodes": 60.0}}


@pytest.mark.parametrize(
    ("nodes", "functions", "awaited"),
    [
        ({}, {"x": fn("cpu 2, gpu 1")}, "a node with cpu 2, gpu 1"),
        ({}, {"x": fn()}, "a node"),
        ({}, {"x": fn(pin="b")}, "node 'b'"),
        ({"a": "cpu 4"}, {"x": fn("cpu 2, gpu 1")}, "a node with gpu 1"),
        ({"a": "cpu 4", "b": "cpu 1, gpu 1"}, {"x": fn("cpu 2, gpu 1")}, "a node with cpu 2, gpu 1"),
        ({"a": "cpu 4"}, {"x": fn("cpu 1", pin="b c")}, "node 'b' or 'c' with cpu 1"),
        ({"a": "cpu 4", "b": "cpu 1"}, {"x": fn("cpu 2", pin="b")}, "node 'b' with cpu 2"),
        (
            {"a": "cpu 4"},
            {"x": fn("gpu 1"), "y": fn("gpu 1", priority=1), "z": fn(pin="b"), "w": fn("cpu 8")},
            "a node with gpu 1 and 2 others",
        ),
    ],
)
def test_waiting_run_says_for_what_and_for_how_long(core, nodes, functions, awaited):
    core.nodes(**nodes)
    run = core.run(**functions, **WAIT)
    core.wait(20.4)
    assert str(run.waiting(core.now)) == f"waiting for {awaited} (20 of 60 s)"


def test_begun_or_ended_run_is_not_waiting(core):
    run = core.run(x=fn("cpu 1"), **WAIT)
    core.nodes(a="cpu 1")
    assert core.decide() == ["r begins", "x@a"]
    assert run.waiting(core.now) is None
    core.run(id="s", y=fn("gpu 1"), **WAIT)
    core.cancel("s")
    assert core.state.runs["s"].waiting(core.now) is None


def test_run_waits_for_a_node(core):
    core.nodes(a="cpu 1")
    run = core.run(x=fn("cpu 1"), g=fn("cpu 1, gpu 1"), **WAIT)
    assert core.decide() == []  # not even x, because runs begin as a whole
    assert run.status.value == "pending"
    assert [s.function_ids for s in run.shortfalls] == [("g",)]
    assert core.state.next_wake() == 60
    core.wait(10)
    core.nodes(b="cpu 1")
    assert core.decide() == []
    core.nodes(c="cpu 1, gpu 1")
    assert core.decide() == ["r begins", "x@a", "g@c"]
    assert run.status.value == "running"
    assert run.shortfalls == ()
    assert core.state.next_wake() is None
    core.wait(100)
    assert core.decide() == []


def test_growing_node_serves_a_waiting_run(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 2"), **WAIT)
    core.resize(a="cpu 2")
    assert core.decide() == ["r begins", "x@a"]


def test_function_that_becomes_ready_after_the_begin(core):
    core.run(x=fn("cpu 1"), y=fn("cpu 1"), ready="x", **WAIT)
    core.nodes(a="cpu 2")
    assert core.decide() == ["r begins", "x@a"]
    core.ready("y")
    assert core.decide() == ["y@a"]


def test_waiting_run_fails_at_its_deadline_with_the_current_shortfalls(core):
    core.nodes(a="cpu 1")
    run = core.run(x=fn("cpu 4"), y=fn("gpu 1"), **WAIT)
    core.wait(59)
    core.nodes(b="cpu 4")
    assert core.decide() == []
    core.wait(1)
    assert core.decide() == ["r failed"]
    assert [s.function_ids for s in run.shortfalls] == [("y",)]
    assert core.states("x y") == "cancelled cancelled"
    assert core.state.next_wake() is None
    core.nodes(c="cpu 4, gpu 1")
    assert core.decide() == []


def test_node_that_joins_at_the_deadline_is_in_time(core):
    core.run(x=fn("cpu 1"), **WAIT)
    core.wait(60)
    core.nodes(a="cpu 1")
    assert core.decide() == ["r begins", "x@a"]


def test_next_wake_is_the_earliest_deadline(core):
    core.run(id="r1", x=fn("cpu 1"), options={"wait_for_nodes": 60})
    core.wait(20)
    core.run(id="r2", y=fn("cpu 1"), options={"wait_for_nodes": 30})
    assert core.decide() == []
    assert core.state.next_wake() == 50
    core.wait(30)
    assert core.decide() == ["r2 failed"]
    assert core.state.next_wake() == 60
    core.nodes(a="cpu 1")
    assert core.decide() == ["r1 begins", "x@a"]


def test_one_node_starts_all_runs_that_wait_for_it(core):
    for n in range(3):
        core.run(id=f"r{n}", **{f"x{n}": fn("gpu 1")}, **WAIT)
    core.run(id="s", y=fn("gpu 2"), **WAIT)
    core.nodes(a="cpu 2, gpu 1")
    assert core.decide() == ["r0 begins", "r1 begins", "r2 begins", "x0@a"]
    assert [core.state.runs[id].status.value for id in ("r1", "r2", "s")] == ["running", "running", "pending"]


def test_waiting_run_is_cancelled_or_removed(core):
    core.run(id="r1", x=fn("cpu 1"), **WAIT)
    core.run(id="r2", y=fn("cpu 1"), **WAIT)
    core.cancel("r1")
    core.remove("r2")
    assert core.decide() == ["r1 cancelled"]
    assert core.states("x y") == "cancelled cancelled"
    core.nodes(a="cpu 1")
    core.wait(60)
    assert core.decide() == []
    assert core.state.next_wake() is None


def test_events_while_a_run_waits_count(core):
    core.run(id="r1", x=fn("cpu 1"), **WAIT)
    core.run(id="r2", y=fn("cpu 1"), z=fn("cpu 1"), **WAIT)
    core.finish("x")  # the result already existed on the cluster
    core.state.abandoned(core["y"], core.now)
    assert core.decide() == ["r2 failed"]
    assert core.states("y z") == "failed cancelled"
    core.nodes(a="cpu 1")
    assert core.decide() == ["r1 begins", "r1 finished"]


# nodes that leave


@pytest.fixture
def core():
    core = Core(node_timeout=30.0)
    yield core
    core.state.check()


def test_function_fails_after_the_node_timeout(core):
    core.nodes(a="cpu 1", b="cpu 1, gpu 1")
    run = core.run(x=fn("gpu 1"), y=fn("gpu 1"), z=fn("cpu 1"))
    core.decide()
    core.wait(5)
    core.leave("b")
    core.ready("x")
    core.decide()
    assert core.state.next_wake() == 35
    core.wait(29)
    assert core.decide() == []
    core.wait(1)
    assert core.decide() == ["x unplaceable", "r failed"]
    (s,) = run.shortfalls
    assert s is core.decisions[0].shortfall
    assert fields(s) == (
        ("x", "y"),
        {"gpu": 1},
        "a",
        {"gpu": 0},
        NO_GPU + WAITED,
    )
    assert s.waited == 30
    assert core.states("x y z") == "failed cancelled running"
    assert core.state.next_wake() is None


def test_node_that_returns_in_time_serves(core):
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(x=fn("cpu 1", pin="b"))
    core.leave("b")
    assert core.decide() == []
    core.wait(29)
    core.nodes(b="cpu 1")
    assert core.decide() == ["x@b"]
    assert core.state.next_wake() is None


def test_timeout_restarts_when_the_node_leaves_again(core):
    core.nodes(b="cpu 1")
    core.run(x=fn("cpu 1", pin="b"), y=fn("cpu 1", pin="b"))
    assert core.decide() == ["x@b"]
    core.leave("b")
    assert core.decide() == []
    core.wait(29)
    core.nodes(b="cpu 1")
    assert core.decide() == ["y@b"]
    core.wait(9)
    core.leave("b")
    core.ready("x y")
    core.decide()
    assert core.state.next_wake() == 68
    core.wait(30)
    assert core.decide() == ["x unplaceable", "r failed"]
    assert core.decisions[0].shortfall.reason == (
        "the cluster has no nodes; none has joined for 30 s (handoff.node-timeout)"
    )


def test_pin_to_a_node_that_left_is_named(core):
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(x=fn("cpu 1", pin="b"))
    core.leave("b")
    core.decide()
    core.wait(30)
    core.decide()
    assert core.decisions[0].shortfall.reason == "pinned to 'b', but the nodes are 'a'" + WAITED


def test_node_that_shrank_is_not_eligible(core):
    core.nodes(a="cpu 4")
    core.run(x=fn("cpu 4"), y=fn("cpu 4"))
    assert core.decide() == ["x@a"]
    core.resize(a="cpu 2")
    core.finish("x")
    assert core.decide() == []
    core.wait(30)
    assert core.decide() == ["y unplaceable", "r failed"]


def test_functions_of_several_runs_fail_separately(core):
    core.nodes(a="gpu 1, cpu 1", b="cpu 1")
    core.run(id="r1", x=fn("gpu 1"), y=fn("gpu 1"), options={"fail_fast": False})
    core.run(id="r2", z=fn("gpu 1"), w=fn("cpu 1"))
    core.leave("a")
    assert core.decide() == ["w@b"]
    core.wait(30)
    assert core.decide() == ["x unplaceable", "y unplaceable", "z unplaceable", "r1 failed", "r2 failed"]
    assert [[s.function_ids for s in run.shortfalls] for run in core.state.runs.values()] == [
        [("x", "y")],
        [("z",)],
    ]
    assert core.states("w") == "running"


def test_functions_fail_in_order_and_once_each(core):
    core.nodes(a="cpu 1")
    run = core.run(**many(4, fn("cpu 1")), options={"fail_fast": False}, ready="f0 f3 f1 f2")
    core.state.withdrawn(core["f3"])
    core.ready("f3")
    core.leave("a")
    core.decide()
    core.wait(30)
    assert core.decide() == [*(f"f{i} unplaceable" for i in range(4)), "r failed"]
    assert [s.function_ids for s in run.shortfalls] == [("f0", "f1", "f2", "f3")]


def test_without_fail_fast_other_functions_continue(core):
    core.nodes(a="gpu 1, cpu 1", b="cpu 1")
    core.run(x=fn("gpu 1"), y=fn("cpu 1"), z=fn("cpu 1"), options={"fail_fast": False})
    core.leave("a")
    assert core.decide() == ["y@b"]
    core.wait(30)
    assert core.decide() == ["x unplaceable"]
    core.finish("y")
    assert core.decide() == ["z@b"]
    core.finish("z")
    assert core.decide() == ["r failed"]


def test_withdrawing_a_starving_function_clears_the_wake(core):
    core.nodes(a="cpu 1", b="gpu 1, cpu 1")
    core.run(x=fn("gpu 1"), y=fn("cpu 1"), z=fn("cpu 1"))
    core.leave("b")
    assert core.decide() == ["y@a"]
    assert core.state.next_wake() == 30
    core.state.withdrawn(core["x"])
    core.decide()
    assert core.state.next_wake() is None


def test_group_starves_with_its_node(core):
    core.nodes(a="cpu 1", b="cpu 1, gpu 1")
    core.run(x=fn("cpu 1"), y=fn("gpu 1"), groups=("x y",), ready="x")
    assert core.decide() == ["x@b"]
    core.leave("b")
    core.ready("x")
    core.decide()
    core.wait(30)
    assert core.decide() == ["x unplaceable", "r failed"]
    assert fields(core.decisions[0].shortfall) == (
        ("x",),
        {"cpu": 1, "gpu": 1},
        "a",
        {"cpu": 1, "gpu": 0},
        NO_GPU + WAITED,
    )


def test_avoided_node_is_still_eligible(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1", retries=1))
    core.decide()
    core.fail("x")
    core.ready("x")
    core.pause("a")
    assert core.decide() == []
    core.wait(100)
    assert core.decide() == []
    core.resume("a")
    assert core.decide() == ["x@a"]


def test_pin_matches_aliases(core):
    core.join(node("a", "cpu 1", "host1"))
    core.run(x=fn("cpu 1", pin="host1"))
    core.leave("a")
    core.decide()
    core.join(node("b", "cpu 1", "host1"))
    assert core.decide() == ["x@b"]


def test_lost_attempts_are_named_if_no_node_is_left():
    core = Core(node_timeout=5)
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(f=fn("cpu 1"))
    for name in ("a", "b"):
        assert core.decide() == [f"f@{name}"]
        core.leave(name)
        core.ready("f")
    core.decide()
    core.wait(5)
    assert core.decide() == ["f unplaceable", "r failed"]
    reason = core.decisions[0].shortfall.reason
    assert reason == (
        "the cluster has no nodes, after 2 of its attempts were lost with their nodes;"
        " none has joined for 5 s (handoff.node-timeout)"
    )


def test_later_function_does_not_inherit_an_old_wait():
    core = Core(node_timeout=30)
    core.nodes(a="cpu 1", b="cpu 1, gpu 1")
    core.run(x=fn("gpu 1"), y=fn("cpu 1"))
    core.leave("b")
    assert core.decide() == ["y@a"]
    core.wait(20)
    core.state.withdrawn(core["x"])  # an input is lost
    core.nodes(c="cpu 1, gpu 1")
    assert core.decide() == []
    core.leave("c")
    core.ready("x")
    assert core.decide() == []
    core.wait(20)
    assert core.decide() == []
    core.wait(10)
    assert "x unplaceable" in core.decide()


def test_several_queues_of_one_run_starve_at_once():
    """The first one ends the run, and with it the functions in the other queues."""
    core = Core(node_timeout=30)
    core.nodes(a="cpu 4, gpu 1")
    core.run(x=fn("cpu 4"), y=fn("gpu 1"), z=fn("cpu 3"), ready="")
    core.resize(a="cpu 1, gpu 0")
    core.ready("x y z")
    assert core.decide() == []
    core.wait(30)
    assert core.decide() == ["x unplaceable", "r failed"]
    assert core.states("x y z") == "failed cancelled cancelled"
    assert core.state.next_wake() is None


# remedies

JOIN = "or pass wait_for_nodes=SECONDS if such a node is about to join."


@pytest.mark.parametrize(
    ("nodes", "functions", "remedy"),
    [
        ({}, {"x": fn("cpu 1")}, f"Start a worker (`dask worker ADDRESS`), {JOIN}"),
        (
            {"a": "cpu 1"},
            {"x": fn("cpu 2")},
            f"Lower the cost, add a node that offers enough (`dask worker --resources ...`), {JOIN}",
        ),
        (
            {"a": "cpu 1"},
            {"x": fn("gpu 1")},
            f"Add a node that offers 'gpu' (`dask worker --resources \"gpu=1\"`), {JOIN}",
        ),
        (
            {"a": "cpu 1"},
            {"x": fn("cpu 1", pin="b")},
            f"Correct the pin (node=), start a worker of that name (`dask worker --name NAME`), {JOIN}",
        ),
        (
            {"a": "cpu 1", "b": "cpu 2"},
            {"x": fn("cpu 3", pin="a")},
            "Pin the functions to a larger node, or lower the cost.",
        ),
        (
            {"a": "cpu 1", "b": "cpu 3"},
            {"x": fn("cpu 3", pin="a")},
            "Pin the functions to a node that can hold them, such as 'b', or lower the cost.",
        ),
        (
            {"a": "cpu 1"},
            {"x": fn("gpu 1", pin="a")},
            f"Pin the functions to a node that has 'gpu', {JOIN}",
        ),
        (
            {"a": "cpu 1", "b": "cpu 1"},
            {"x": fn(pin="a"), "y": fn(pin="b"), "groups": ("x y",)},
            "Pin all functions of a collocation group to the same node, or do not collocate them.",
        ),
        (
            {"a": "cpu 1, gpu 1", "b": "cpu 4"},
            {"x": fn("gpu 1"), "y": fn("cpu 2"), "groups": ("x y",)},
            "Lower the cost, collocate fewer functions, add a node that offers enough"
            f" (`dask worker --resources ...`), {JOIN}",
        ),
    ],
)
def test_the_remedy_fits_the_cause(nodes, functions, remedy):
    (s,) = shortfalls(nodes, **functions)
    assert s.remedy == remedy


def test_the_remedy_after_the_start_is_not_to_wait_for_nodes_before_it(core):
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(x=fn("cpu 1", pin="b"))
    core.leave("b")
    core.decide()
    core.wait(30)
    core.decide()
    assert core.decisions[0].shortfall.remedy == (
        "Correct the pin (node=), start a worker of that name (`dask worker --name NAME`),"
        " or increase handoff.node-timeout if such a node will rejoin."
    )


def test_fifty_nodes_take_a_line_for_each_lack():
    nodes = {f"n{i:02}": f"cpu {2 + i % 3}, memory 100" for i in range(48)} | {
        "g0": "cpu 2, gpu 1",
        "g1": "cpu 1, gpu 2",
    }
    (s,) = shortfalls(nodes, x=fn("cpu 4, memory 50, gpu 1"))
    assert sorted(s.nodes) == [
        "16 nodes have no gpu",
        "32 nodes have no gpu; needs 4 cpu, have 2 to 3",
        "nodes 'g0', 'g1' have no memory; needs 4 cpu, have 1 to 2",
    ]
    assert len(str(s).splitlines()) == 4


def test_nothing_wakes_for_the_queues_of_a_run_that_has_failed():
    """The failure of one queue ends the run while another one waits for nodes, too."""
    core = Core(node_timeout=30.0)
    core.nodes(a="cpu 4", b="cpu 1, gpu 1")
    core.run(x=fn("cpu 4"), y=fn("gpu 1"))
    core.pause("a")
    core.pause("b")
    core.resize(a="cpu 2")
    assert core.decide() == []
    core.wait(29)
    core.leave("b")
    assert core.decide() == []
    assert core.state.next_wake() == 30
    core.wait(5)
    assert any("x unplaceable" in decision for decision in core.decide())
    assert core.state.next_wake() is None
