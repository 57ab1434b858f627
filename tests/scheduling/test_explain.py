"""Explanations why a function is not running: one test per reason."""

from __future__ import annotations

import re

import pytest
from scheduling.harness import core_with_claim, core_with_prefetched, fn, many, node

from handoff_dask._model.retry import RetryPolicy
from handoff_dask._scheduling.functions import State


def explain_lines(core, id):
    return core.state.explain(core[id], core.now).splitlines()


def after(*dependents):
    """Return options of a run with the dependents of each function, by number."""
    return {"dependents": dependents, "fail_fast": False}


# results


def test_waiting_for_results(core):
    core.nodes(a="cpu 2")
    core.run(
        x=fn("cpu 1"), y=fn("cpu 1"), z=fn("cpu 1"), sum=fn(), options=after([3], [3], [3], []), ready="x y z"
    )
    core.decide()
    assert explain_lines(core, "sum") == [
        "function 'sum' is waiting for inputs:",
        "  - 'x' (running on node 'a', attempt 1)",
        "  - 'y' (running on node 'a', attempt 1)",
        "  - 'z' (waiting for a node)",
    ]
    core.finish("x z")
    assert explain_lines(core, "sum") == [
        "function 'sum' is waiting for inputs:",
        "  - 'y' (running on node 'a', attempt 1)",
    ]
    core.finish("y")
    assert explain_lines(core, "sum") == [
        "function 'sum' is waiting for inputs:",
        "  - all inputs exist; next, it waits for a node",
    ]


def test_at_most_eight_results_are_named(core):
    core.nodes(a="cpu 2")
    core.run(**many(10, fn()), sum=fn(), options=after(*[[10]] * 10, []), ready="")
    lines = explain_lines(core, "sum")
    assert lines[1] == "  - 'f0' (waiting for inputs)"
    assert lines[8:] == ["  - 'f7' (waiting for inputs)", "  - ... and 2 more"]


def test_lost_result(core):
    core.nodes(a="cpu 2")
    core.run(x=fn(), y=fn(), options=after([1], []), ready="x")
    core.decide()
    core.finish("x")
    core.state.result_lost(core["x"])
    assert explain_lines(core, "y") == ["function 'y' is waiting for inputs:", "  - 'x' (waiting for inputs)"]


# time


def test_delayed_retry(core):
    core.nodes(a="cpu 2")
    core.run(x=fn(policy=RetryPolicy(2, delay=10.0)))
    core.decide()
    core.wait(1)
    core.fail("x", error="ValueError('no')")
    core.ready("x")
    core.wait(4)
    assert explain_lines(core, "x") == [
        "function 'x' will be retried in 6 s: attempt 2, after 1 of at most 3 attempts failed"
    ]
    core.wait(99)
    assert "in 0 s" in explain_lines(core, "x")[0], "never rounded down to zero"


def test_run_that_waits_for_nodes(core):
    core.nodes(a="cpu 2")
    core.run(x=fn("cpu 1"), y=fn("gpu 1"), options={"wait_for_nodes": 60})
    core.wait(20)
    core.decide()
    for id in ("x", "y"):
        assert explain_lines(core, id) == [
            f"function '{id}' waits: its run starts once the nodes can hold all of its functions"
            " (fails in 40 s):",
            "  - function 'y': no node has 'gpu' (available: cpu); asked: gpu 1; nearest node 'a' has no gpu",
        ]


# a node


def ready(core, id="x"):
    """Return node → why the function is not there; the first line is under None."""
    first, *lines = explain_lines(core, id)
    rows = [re.fullmatch(r"  - node '(\w+)':? (.*)", line).groups() for line in lines]
    return {None: first, **dict(rows)}


def test_each_node_lists_asked_and_free_amounts(core):
    core.nodes(a="cpu 4, memory 10", b="cpu 1, memory 90")
    core.join(node("c", "cpu 8, memory 90"))
    core.wait(7)
    core.run(
        big=fn("cpu 3, memory 5", pin="a"), x=fn("cpu 2, memory 20"), y=fn("cpu 2, memory 6"), ready="big"
    )
    core.decide()
    core.pause("c")
    core.ready("x y")
    core.wait(3)
    assert core.decide() == []
    assert ready(core, "x") == {
        None: "function 'x' has waited 3 s for a node; it asks for cpu 2, memory 20:",
        "a": "needs 20 MB memory, has 10",
        "b": "needs 2 cpu, has 1",
        "c": "is paused or retiring",
    }
    assert ready(core, "y") == {
        None: "function 'y' has waited 3 s for a node; it asks for cpu 2, memory 6:",
        "a": "has 1 of 4 cpu free (needs 2); has 5 of 10 MB memory free (needs 6)",
        "b": "needs 2 cpu, has 1",
        "c": "is paused or retiring",
    }


def test_threads_are_listed(core):
    core.nodes(a="cpu 1")
    core.run(x=fn(), y=fn())
    core.decide()
    assert ready(core, "y") == {
        None: "function 'y' has waited 0 s for a node; it asks for threads 1:",
        "a": "has 0 of 1 threads free (needs 1)",
    }


def test_fractions_are_formatted_in_decimal(core):
    core.nodes(a="cpu 1, licence 0.5")
    core.run(x=fn("licence 0.3"), y=fn("licence 0.3"))
    core.decide()
    assert (
        ready(core, "y")["a"] == "has 0.2 of 0.5 licence free (needs 0.3); has 0 of 1 threads free (needs 1)"
    )
    core.resize(a="cpu 2, threads 2, licence 0.5")
    assert ready(core, "y")["a"] == "has 0.2 of 0.5 licence free (needs 0.3)"


def test_fragmented_devices(core):
    core.nodes(a="cpu 4, gpu 2")
    core.run(x=fn("gpu 0.6"), y=fn("gpu 0.6"), z=fn("gpu 0.8"), ready="x y")
    assert len(core.decide()) == 2
    core.ready("z")
    core.decide()
    assert ready(core, "z")["a"] == "has 0.8 gpu free, but spread over too many devices"


def test_node_with_prefetched_functions():
    core = core_with_prefetched()
    core.run(id="other", wide=fn("cpu 2"))
    assert core.decide() == []
    assert ready(core, "wide")["a"] == "prefetched functions may take its cores"


def test_pin(core):
    core.nodes(a="cpu 1", b="cpu 4")
    core.run(x=fn("cpu 1", pin="a"), y=fn("cpu 1", pin="a"))
    core.decide()
    assert ready(core, "y") == {
        None: "function 'y' has waited 0 s for a node; it asks for cpu 1:",
        "a": "has 0 of 1 cpu free (needs 1)",
        "b": "is excluded by its pin or collocation",
    }


def test_bound_group(core):
    core.nodes(a="cpu 1", b="cpu 4")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"), groups=("x y",))
    assert core.decide() == ["x@a"]
    assert ready(core, "y") == {
        None: "function 'y' has waited 0 s for a node; it asks for cpu 1;"
        " it is collocated with functions on node 'a':",
        "a": "has 0 of 1 cpu free (needs 1)",
        "b": "is excluded by its pin or collocation",
    }


def test_unbound_group(core):
    """The largest cost of any member counts, and the pins of all."""
    core.nodes(a="cpu 2", b="cpu 4", c="cpu 4")
    core.run(z=fn("cpu 4", pin="b"), x=fn("cpu 1"), y=fn("cpu 3", pin="b c"), groups=("x y",), ready="z")
    core.pause("c")
    core.decide()
    core.ready("x")
    core.decide()
    assert ready(core, "x") == {
        None: "function 'x' has waited 0 s for a node; it asks for cpu 1:",
        "a": "is excluded by its pin or collocation",
        "b": "has 0 of 4 cpu free (needs 1)",
        "c": "is paused or retiring",
    }


def test_group_with_a_member_too_large_for_a_node(core):
    core.nodes(a="cpu 2", b="cpu 4")
    core.run(z=fn("cpu 4", pin="b"), x=fn("cpu 1"), y=fn("cpu 3"), groups=("x y",), ready="z")
    core.decide()
    core.ready("x")
    core.decide()
    assert ready(core, "x")["a"] == "needs 3 cpu, has 2"


def test_node_on_which_it_failed(core):
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(x=fn("cpu 1", retries=1), y=fn("cpu 1"))
    assert core.decide() == ["x@a", "y@b"]
    core.fail("x")
    core.ready("x")
    assert core.decide() == []
    assert ready(core, "x") == {
        None: "function 'x' has waited 0 s for a node; it asks for cpu 1:",
        "a": "it failed there before; other nodes come first",
        "b": "has 0 of 1 cpu free (needs 1)",
    }


def test_limits_of_the_run(core):
    core.nodes(a="cpu 8")
    core.run(
        x=fn("cpu 1", limit="db 1.5"),
        y=fn("cpu 1", limit="db 1, seats 4"),
        limits="db 2, seats 4",
        options={"max_concurrency": 1},
    )
    assert core.decide() == ["x@a"]
    assert ready(core, "y") == {
        None: "function 'y' has waited 0 s for a node; it asks for cpu 1; the run has reached"
        " limit 'db' (1.5 of 2 used) and max_concurrency (1 of 1 used):",
        "a": "the function fits",
    }


def test_claimed_capacity():
    core = core_with_claim()
    assert core.states("wide last") == "ready ready"
    assert (
        ready(core, "last")["a"]
        == "the function fits, but 'wide', which is more urgent, claims the capacity in 6 s"
    )
    assert ready(core, "wide")["a"] == "has 2 of 4 cpu free (needs 4)"


def test_allocator_that_has_not_placed_it(core):
    core.nodes(a="cpu 4")
    core.run(x=fn("cpu 1"), strategy=lambda ready, free: {})
    core.decide()
    assert ready(core, "x") == {
        None: "function 'x' has waited 0 s for a node; it asks for cpu 1;"
        " the run's custom allocator has not chosen a node for it:",
        "a": "the function fits",
    }


def test_no_nodes(core):
    core.nodes(a="cpu 4")
    core.run(x=fn("cpu 1"), ready="")
    core.leave("a")
    core.ready("x")
    core.wait(2)
    assert explain_lines(core, "x") == [
        "function 'x' has waited 2 s for a node; it asks for cpu 1:",
        "  - the cluster has no nodes",
    ]


def test_nodes_that_lack_the_same_share_a_line(core):
    core.nodes(**{f"n{i:02}": "cpu 1" for i in range(48)}, g0="cpu 4, gpu 1", g1="cpu 4, gpu 2")
    core.run(**many(3, fn("gpu 1")), y=fn("cpu 1, gpu 1"))
    core.decide()
    assert explain_lines(core, "y") == [
        "function 'y' has waited 0 s for a node; it asks for cpu 1, gpu 1:",
        "  - nodes 'g0', 'g1' have 0 of 1 to 2 gpu free (needs 1)",
        "  - 48 nodes have no gpu",
    ]


def test_at_most_eight_lines(core):
    core.nodes(**{f"n{i:02}": ", ".join(["cpu 1", *(f"r{j} 1" for j in range(i))]) for i in range(11)})
    core.run(x=fn(", ".join(f"r{j} 2" for j in range(10))), options={"wait_for_nodes": 60})
    lines = core["x"].run.shortfalls[0].nodes
    assert len(lines) == 9
    assert lines[1] == "node 'n01' has " + "; has ".join([f"no r{j}" for j in range(1, 10)]) + (
        "; needs 2 r0, has 1"
    )
    assert lines[8] == "... and 3 more nodes"


def test_only_the_first_nodes_are_examined(core):
    for i in range(1_200):  # the harness would check the ledger after each
        core.state.node_joined(node(f"n{i:04}", "cpu 1"), 0.0)
    core.run(x=fn("cpu 2"), options={"wait_for_nodes": 60})
    assert core["x"].run.shortfalls[0].nodes == (
        "200 nodes: needs 2 cpu, have 1",
        "... and 1,000 more nodes",
    )


# functions that do not wait


def test_running_and_finished(core):
    core.nodes(a="cpu 4")
    core.run(x=fn("cpu 1", retries=1))
    core.decide()
    assert explain_lines(core, "x") == ["function 'x' is not waiting: it is running on node 'a', attempt 1"]
    core.fail("x")
    core.ready("x")
    core.decide()
    assert explain_lines(core, "x") == ["function 'x' is not waiting: it is running on node 'a', attempt 2"]
    core.finish("x")
    assert explain_lines(core, "x") == ["function 'x' has finished on node 'a'"]
    core.decide()
    assert explain_lines(core, "x") == ["function 'x' has finished on node 'a'"]


def test_failed_and_skipped(core):
    core.nodes(a="cpu 4")
    run = core.run(x=fn(), y=fn(), z=fn(), options=after([1], [2], []), ready="x")
    core.decide()
    core.fail("x", error="ValueError('no')")
    core.state.skipped(core["y"], core.now)
    core.state.skipped(core["z"], core.now)
    assert explain_lines(core, "x") == ["function 'x' has failed: ValueError('no')"]
    for id in ("y", "z"):
        assert explain_lines(core, id) == [
            f"function '{id}' will not run: 'x', which it depends on, has failed"
        ]
    assert run.ended


def test_failed_without_a_message(core):
    core.nodes(a="cpu 4")
    core.run(x=fn())
    core.state.abandoned(core["x"], core.now)
    assert explain_lines(core, "x") == ["function 'x' has failed"]


def test_failed_input_is_found_among_many_skipped_ones(core):
    """Each function is visited once, however many paths lead to it."""
    layers, width = 20, 5
    ids = [f"l{i}w{j}" for i in range(layers) for j in range(width)]
    dependents = [
        list(range((i + 1) * width, (i + 2) * width)) if i + 1 < layers else []
        for i in range(layers)
        for _ in range(width)
    ]
    core.nodes(a="cpu 99")
    core.run(**dict.fromkeys(ids, fn()), options=after(*dependents), ready=" ".join(ids[:width]))
    core.decide()
    core.fail("l0w3")
    core.finish("l0w0 l0w1 l0w2 l0w4")
    for id in ids[width:]:
        core.state.skipped(core[id], core.now)
    assert explain_lines(core, "l19w0") == [
        "function 'l19w0' will not run: 'l0w3', which it depends on, has failed"
    ]


@pytest.mark.parametrize(("end", "status"), [("cancel", "was cancelled"), ("fail", "has failed")])
def test_cancelled(core, end, status):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"))
    core.decide()
    core.cancel() if end == "cancel" else core.fail("x")
    assert core["y"].state is State.CANCELLED
    assert explain_lines(core, "y") == [f"function 'y' will not run: its run {status}"]


def test_a_node_is_not_avoided_if_no_other_accepts_functions(core):
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(x=fn("cpu 1", retries=1), y=fn("cpu 1"))
    assert core.decide() == ["x@a", "y@b"]
    core.fail("x")
    core.pause("b")
    core.run(id="s", z=fn("cpu 1"), options={"priority": 1})
    assert core.decide() == ["z@a"]
    core.ready("x")
    assert core.decide() == []
    assert ready(core)["a"] == "has 0 of 1 cpu free (needs 1)"
