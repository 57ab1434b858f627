"""Placement: which function goes where, and which functions wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduling.harness import Core, fn, many, node, numbers

from handoff_dask import Attempt
from handoff_dask._model.resources import UNIT, to_units
from handoff_dask._scheduling import backlog

# fitting


def test_functions_that_fit_are_placed_and_others_wait(core):
    core.nodes(a="cpu 4")
    core.run(x=fn("cpu 3"), y=fn("cpu 2"), z=fn("cpu 1"))
    assert core.decide() == ["x@a", "z@a"]
    assert core.states("x y z") == "running ready running"
    assert core.used("a") == {"cpu": 4}


def test_release_starts_waiting_functions(core):
    core.nodes(a="cpu 4")
    core.run(x=fn("cpu 3"), y=fn("cpu 2"))
    assert core.decide() == ["x@a"]
    assert core.decide() == []
    core.finish("x")
    assert core.decide() == ["y@a"]
    core.finish("y")
    assert core.decide() == ["r finished"]
    assert core.used("a") == {}


def test_function_waits_if_one_resource_is_short(core):
    core.nodes(a="cpu 8, memory 1000")
    core.run(x=fn("cpu 1, memory 600"), y=fn("cpu 1, memory 600"))
    assert core.decide() == ["x@a"]
    core.finish("x")
    assert core.decide() == ["y@a"]


def test_each_function_takes_a_thread(core):
    core.nodes(a="cpu 8, threads 2")
    core.run(**many(3, fn()))
    assert core.decide() == ["f0@a", "f1@a"]
    core.finish("f1")
    assert core.decide() == ["f2@a"]


def test_fractions_add_up_exactly(core):
    core.nodes(a="cpu 4, threads 32")
    core.run(**many(21, fn("cpu 0.2")))
    assert core.decide() == [f"f{i}@a" for i in range(20)]
    core.finish("f7")
    assert core.decide() == ["f20@a"]


def test_threads_limit_fractional_costs(core):
    core.nodes(a="cpu 4")
    core.run(**many(20, fn("cpu 0.2")))
    assert core.decide() == [f"f{i}@a" for i in range(4)]


@given(st.integers(1, 60), st.floats(1e-4, 100, allow_subnormal=False))
def test_n_functions_fit_on_n_times_their_cost(n, cost):
    core = Core()
    core.join(node("a", f"threads {n + 1}"))
    core.state.node_resized("a", {"cpu": to_units(cost * n), "threads": (n + 1) * UNIT})
    core.run(**many(n, fn(f"cpu {cost:.17f}")))
    assert len(core.decide()) == n
    core.finish(" ".join(core.functions))
    assert core.used("a") == {}


def test_function_without_cost_needs_a_node(core):
    core.nodes(a="cpu 1")
    core.run(x=fn())
    core.leave("a")
    assert core.decide() == []
    core.nodes(b="cpu 1")
    assert core.decide() == ["x@b"]


def test_only_ready_functions_are_placed(core):
    core.nodes(a="cpu 4")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"), ready="x")
    assert core.decide() == ["x@a"]
    core.finish("x")
    core.ready("y")
    assert core.decide() == ["y@a"]


def test_withdrawn_function_waits_until_ready_again(core):
    core.nodes(a="cpu 4")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"))
    core.state.withdrawn(core["x"])
    assert core.decide() == ["y@a"]
    core.ready("x")
    assert core.decide() == ["x@a"]


def test_function_ready_twice_is_placed_once(core):
    core.nodes(a="cpu 4")
    core.run(x=fn("cpu 1"))
    core.ready("x x")
    assert core.decide() == ["x@a"]
    core.ready("x")
    assert core.decide() == []


# independence of queues


def test_waiting_for_a_resource_does_not_block_other_costs(core):
    core.nodes(a="cpu 4, gpu 1", b="cpu 1")
    core.run(g0=fn("gpu 1, cpu 1"), g1=fn("gpu 1, cpu 1"), wide=fn("cpu 4"), c=fn("cpu 1"), d=fn("cpu 1"))
    assert core.decide() == ["g0@a", "c@a", "d@a"]
    core.finish("g0")
    assert core.decide() == ["g1@a"]


def test_waiting_for_a_pin_does_not_block_other_functions(core):
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(x=fn("cpu 1", pin="a"), y=fn("cpu 1", pin="a"), z=fn("cpu 1"))
    assert core.decide() == ["x@a", "z@b"]


def test_waiting_for_a_limit_does_not_block_other_runs(core):
    core.nodes(a="cpu 4")
    core.run(id="r1", limits="db 1", **many(2, fn("cpu 1", limit="db 1"), "x"))
    core.run(id="r2", limits="db 1", **many(2, fn("cpu 1", limit="db 1"), "y"))
    assert core.decide() == ["x0@a", "y0@a"]


def test_runs_share_nodes(core):
    core.nodes(a="cpu 3")
    core.run(id="r1", **many(2, fn("cpu 1"), "x"))
    core.run(id="r2", **many(2, fn("cpu 1"), "y"))
    assert core.decide() == ["x0@a", "y0@a", "x1@a"]
    core.finish("x0")
    assert core.decide() == ["y1@a"]
    core.finish("x1 y0 y1")
    assert core.decide() == ["r1 finished", "r2 finished"]


# order


def test_functions_go_by_number(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"), z=fn("cpu 1"), ready="z y x")
    assert core.decide() == ["x@a"]
    core.finish("x")
    assert core.decide() == ["y@a"]


def test_priority_of_functions(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"), y=fn("cpu 1", priority=2), z=fn("cpu 1", priority=-1))
    order = []
    for _ in range(3):
        placed = core.decide()[0]
        order.append(placed)
        core.finish(placed[0])
    assert order == ["y@a", "x@a", "z@a"]


def test_priority_of_the_run_precedes_priority_of_the_function(core):
    core.nodes(a="cpu 1")
    core.run(id="r1", x=fn("cpu 1", priority=100))
    core.run(id="r2", y=fn("cpu 1"), options={"priority": 1})
    assert core.decide() == ["y@a"]


def test_priority_holds_across_costs(core):
    core.nodes(a="cpu 1, gpu 1")
    core.run(x=fn("cpu 1"), y=fn("cpu 1, gpu 1", priority=1))
    assert core.decide() == ["y@a"]


def test_ties_in_dominant_share_go_to_the_earlier_run(core):
    core.nodes(a="cpu 1")
    core.run(id="r2", x=fn("cpu 1"), ready="")
    core.run(id="r1", y=fn("cpu 1"))
    core.ready("x")
    assert core.decide() == ["x@a"]


@pytest.mark.parametrize("many_queues", [False, True])
def test_large_run_does_not_starve_a_small_one(core, monkeypatch, many_queues):
    if many_queues:
        monkeypatch.setattr(backlog, "_FANOUT", 2)
    core.nodes(a="cpu 4")
    core.run(id="large", **many(100, fn("cpu 1"), "x"))
    assert len(core.decide()) == 4
    core.run(id="small", **many(3, fn("cpu 1"), "y"))
    decided = []
    for i in range(4):
        core.finish(f"x{i}")
        decided += core.decide()
    assert decided == ["y0@a", "y1@a", "x4@a", "x5@a"]


def test_dominant_share(core):
    """With eight cores and two GPUs, a run on one GPU has the same dominant share as one on four cores."""
    core.nodes(a="cpu 8, gpu 2, threads 16")
    core.run(id="cores", **many(8, fn("cpu 1"), "c"))
    core.run(id="devices", **many(2, fn("cpu 1, gpu 1"), "g"))
    assert core.decide() == [f"{id}@a" for id in ["c0", "g0", "c1", "c2", "c3", "c4", "g1", "c5"]]


def test_dominant_share_follows_the_nodes(core):
    """Another GPU node makes one GPU a smaller share of the cluster."""
    core.nodes(a="cpu 4, gpu 1, threads 16")
    core.run(id="r1", g0=fn("gpu 1"), g1=fn("gpu 1"), ready="g0")
    core.run(id="r2", **many(5, fn("cpu 2"), "c"))
    assert core.decide() == ["g0@a", "c0@a", "c1@a"]
    core.nodes(b="cpu 1, gpu 3, threads 16")
    core.decide()
    assert core["g0"].run.share == 2**30 // 4
    core.finish("g0 c0 c1")
    core.decide()
    assert core["g0"].run.share == 0


def test_more_urgent_function_overtakes(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1", priority=1), y=fn("cpu 1"), z=fn("cpu 1"), ready="y z")
    assert core.decide() == ["y@a"]
    core.ready("x")
    core.finish("y")
    assert core.decide() == ["x@a"]


# pins


@pytest.mark.parametrize("pin", ["b", "tcp://10.0.0.2:41", "10.0.0.2", "nowhere b", "x 10.0.0.2"])
def test_pin_by_name_address_host_or_list(core, pin):
    core.join(node("a", "cpu 1", "tcp://10.0.0.1:40 10.0.0.1"))
    core.join(node("b", "cpu 1", "tcp://10.0.0.2:41 10.0.0.2"))
    core.run(x=fn("cpu 1", pin=pin), y=fn("cpu 1", pin=pin))
    assert core.decide() == ["x@b"]
    core.finish("x")
    assert core.decide() == ["y@b"]


def test_pin_to_several_nodes_uses_all_of_them(core):
    core.nodes(a="cpu 1", b="cpu 1", c="cpu 1")
    core.run(**many(3, fn("cpu 1", pin="c a")))
    assert core.decide() == ["f0@a", "f1@c"]


def test_pin_to_a_host_means_all_its_nodes(core):
    for name, host in ("a", "h1"), ("b", "h2"), ("c", "h2"):
        core.join(node(name, "cpu 1", host))
    core.run(**many(3, fn("cpu 1", pin="h2")))
    assert core.decide() == ["f0@b", "f1@c"]


def test_node_names_may_be_numbers(core):
    core.join(node(7, "cpu 1"))
    core.run(x=fn("cpu 1", pin="7"))
    assert core.decide() == ["x@7"]


# strategies


def place_with(strategy, capacities, functions, **options):
    core = Core()
    core.nodes(**capacities)
    core.run(strategy=strategy, **functions, **options)
    return core.decide()


def test_first_available_goes_by_name_not_by_order_of_joining():
    assert place_with(
        "first_available", {"b": "cpu 2", "c": "cpu 9", "a": "cpu 2"}, many(5, fn("cpu 1"))
    ) == [
        "f0@a",
        "f1@a",
        "f2@b",
        "f3@b",
        "f4@c",
    ]


def test_load_balanced_minimises_the_fullest_resource():
    # With one function of cpu 2, a would be half full and b a quarter.
    assert place_with("load_balanced", {"a": "cpu 4", "b": "cpu 8"}, many(4, fn("cpu 2"))) == [
        "f0@b",
        "f1@a",
        "f2@b",
        "f3@b",
    ]


def test_load_balanced_considers_all_resources():
    nodes = {"a": "cpu 8, memory 100", "b": "cpu 2, memory 1000"}
    assert place_with("load_balanced", nodes, {"x": fn("cpu 1, memory 80")}) == ["x@b"]
    assert place_with("load_balanced", nodes, {"x": fn("cpu 1, memory 20")}) == ["x@a"]


def test_best_fit_chooses_the_least_leftover():
    # Leftover: 2 cores on b, 3 on c, 6 on a.
    nodes = {"a": "cpu 8", "b": "cpu 4", "c": "cpu 5"}
    assert place_with("best_fit", nodes, many(3, fn("cpu 2"))) == ["f0@b", "f1@b", "f2@c"]


def test_best_fit_keeps_scarce_resources_free():
    nodes = {"a": "cpu 4, gpu 2", "b": "cpu 4"}
    functions = {**many(3, fn("cpu 1")), "g": fn("cpu 1, gpu 1")}
    assert place_with("best_fit", nodes, functions) == ["f0@b", "f1@b", "f2@b", "g@a"]
    assert place_with("first_available", nodes, functions) == ["f0@a", "f1@a", "f2@a", "g@a"]


@pytest.mark.parametrize("small", ["cpu 2, memory 10", "cpu 4, memory 1000", "cpu 1, memory 1"])
def test_best_fit_keeps_a_small_node_with_a_rare_resource_free(small):
    nodes = {"a": f"{small}, gpu 1", "b": "cpu 4, memory 1000", "c": "cpu 4, memory 1000"}
    functions = {**many(8, fn("cpu 1, memory 1")), "g": fn("cpu 1, gpu 1")}
    *others, last = place_with("best_fit", nodes, functions)
    assert {f.partition("@")[2] for f in others} == {"b", "c"}
    assert last == "g@a"


def test_resource_of_every_node_is_not_rare():
    # With a GPU on every node, the smaller node has the least leftover, its GPU included.
    nodes = {"a": "cpu 8, gpu 4", "b": "cpu 2, gpu 1"}
    assert place_with("best_fit", nodes, {"x": fn("cpu 1")}) == ["x@b"]


def test_best_fit_weighs_resources_by_the_largest_node():
    # Leftover: 7/8 of the cores and half of the largest memory, or 1/8 of the cores and all of the memory.
    nodes = {"a": "cpu 8, memory 100", "b": "cpu 2, memory 200"}
    assert place_with("best_fit", nodes, {"x": fn("cpu 1")}) == ["x@b"]


def test_best_fit_does_not_count_threads():
    # b has many threads and few cores, a the reverse; only cores count.
    assert place_with(
        "best_fit", {"a": "cpu 8, threads 8", "b": "cpu 2, threads 64"}, {"x": fn("cpu 1")}
    ) == ["x@b"]


@pytest.mark.parametrize("strategy", ["first_available", "load_balanced", "best_fit"])
def test_every_strategy_chooses_a_node_where_the_function_fits(strategy):
    nodes = {"a": "cpu 1", "b": "cpu 2", "c": "cpu 4"}
    assert place_with(strategy, nodes, {"x": fn("cpu 3"), "y": fn("cpu 2")}) == ["x@c", "y@b"]


# records of running functions


def test_record_rows(core):
    core.nodes(a="cpu 1, gpu 2")
    core.wait(5)
    core.run(x=fn("cpu 1, gpu 1"), y=fn("cpu 1"))
    core.wait(1)
    core.decide()
    summary = core["x"].summary()
    assert (summary.status, summary.attempts[0].node, summary.attempts[0].queued) == ("running", "a", 5)
    assert summary.attempts[0].devices == {"gpu": (0,)}
    assert core["y"].summary() == ("ready", (), None)
    core.state.finished(core["x"], 9.0, started=7.0, stopped=8.5, nbytes=12)
    status, (attempt,), nbytes = core["x"].summary()
    assert (status, nbytes) == ("finished", 12)
    assert attempt == Attempt(1, "a", 5, 7.0, 8.5, "finished", None, None, {"gpu": (0,)}, False)


def test_numbers_parses_amounts():
    assert numbers("cpu 4, gpu 0.5") == {"cpu": 4, "gpu": 0.5}


def test_running_functions_may_exceed_a_shrunk_cluster(core, monkeypatch):
    monkeypatch.setattr(backlog, "_FANOUT", 2)
    core.nodes(a="cpu 4, memory 1000000")
    core.run(id="r1", **many(4, fn("cpu 1, memory 200000"), "x"))
    core.decide()
    core.run(id="r2", **{f"y{i}": fn(f"cpu {1 + i / 8}") for i in range(8)})
    core.decide()
    core.resize(a="cpu 4")
    core.finish("x0")
    assert core.decide()
    assert core["x1"].run.share <= 4 * 2**30


def test_huge_priorities_in_many_queues(core, monkeypatch):
    monkeypatch.setattr(backlog, "_FANOUT", 2)
    core.nodes(a="cpu 1")
    kinds = {f"f{i}": fn(f"cpu {1 - i / 16}", priority=2**60) for i in range(8)}
    core.run(first=fn("cpu 1", priority=2**61), **kinds)
    core.decide()
    for i in range(4):
        core.state.withdrawn(core[f"f{i}"])
    core.finish("first")
    assert core.decide() == ["f4@a"]
