"""Amounts that are estimated from what functions use: ``"auto"``."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduling.harness import Core, fn, many
from scheduling.test_growth import asked, run_out

from handoff_dask import RetryPolicy
from handoff_dask._model.used import Used, quantile, sufficient_cores, sufficient_memory
from handoff_dask._scheduling.sizing import Sizing, allocations
from handoff_dask._scheduling.spec import Hint, Known


def used(peak=None, cores=None, seconds=1.0):
    return {"took": seconds, "usage": Used(None if cores is None else cores * seconds, peak, True)}


# ---------------------------------------------------------------------- the first guess


def waste(chain, peaks):
    """Memory allocated in all attempts of functions with these peaks, less what they used."""
    total = 0.0
    for peak in peaks:
        tried = [size for size in chain if size < peak]
        total += sum(tried) + chain[len(tried)] - peak
    return total


@given(st.lists(st.integers(1, 50).map(float), min_size=1, max_size=7))
def test_no_chain_of_allocations_wastes_less(peaks):
    chain = allocations(peaks)
    assert chain == sorted(set(chain))
    assert chain[-1] == max(peaks)
    below = sorted(set(peaks) - {max(peaks)})
    chains = [[*some, max(peaks)] for n in range(len(below) + 1) for some in itertools.combinations(below, n)]
    assert waste(chain, peaks) == pytest.approx(min(waste(c, peaks) for c in chains))


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=64))
def test_suggested_costs_suffice(values):
    assert all(1.0999 * v <= sufficient_memory(v) <= max(10, 1.1 * v * 1.11) for v in values)
    enough = sufficient_cores(values)
    assert sum(v <= enough + 0.051 for v in values) >= 0.95 * len(values)
    assert quantile(sorted(values), 1.0) == max(values)


def test_little_is_wasted_on_one_large_function_among_many():
    assert allocations([100.0] * 63 + [2000.0]) == [100.0, 2000.0]
    assert allocations([100.0, 110.0, 120.0]) == [120.0]


# ---------------------------------------------------------------------- what functions ask for


def test_memory_that_the_cores_would_leave_unused_costs_nothing(core):
    """Eight functions fill the cores, so each may have an eighth of the memory."""
    core.nodes(a="cpu 8, memory 1000")
    hints = {"x": Hint(1.0, (20.0,) * 30 + (100.0,) * 5)}
    core.run(**many(9, fn("cpu 1, memory auto", code="x")), options={"hints": hints})
    assert len(core.decide()) == 8
    assert core["f0"].attempts == ()
    assert core.used("a")["memory"] == 1000


@pytest.fixture
def core():
    return Core(first_memory=0.25, first_cpu=1.0)


def test_an_unknown_function_asks_for_a_fraction_of_the_largest_node(core):
    core.nodes(a="cpu 4, memory 400", b="cpu 4, memory 1000", c="cpu 1, memory 9000")
    core.run(**many(2, fn("cpu 2, memory auto", pin="a b", code="x")))
    core.decide()
    assert sum(core.used(name)["memory"] for name in "ab") == 500


def test_what_has_been_seen_replaces_the_fraction_for_waiting_functions(core):
    core.nodes(a="cpu 90, memory 1000")
    core.run(**many(9, fn("cpu 1, memory auto", code="x")))
    assert core.decide() == ["f0@a", "f1@a", "f2@a", "f3@a"]
    core.wait(1)
    core.finish("f0", **used(40.0))
    assert core.decide() == ["f4@a", "f5@a"], "they ask for 88 MB now, not for 250"
    assert core.used("a")["memory"] == 3 * 250 + 2 * sufficient_memory(80.0)
    for n in range(1, 6):
        core.finish(f"f{n}", **used(40.0))
    assert core.decide() == ["f6@a", "f7@a", "f8@a"]
    assert core.used("a")["memory"] == 3 * sufficient_memory(60.0), "four are known"
    for n in range(6, 9):
        core.finish(f"f{n}", **used(40.0))
    assert core.decide() == ["r finished"]


def test_a_function_that_ran_before_asks_for_its_own_peak(core):
    core.nodes(a="cpu 90, memory 1000")
    known = [Known((("n", 1.0),), 300.0), Known((("n", 1.0),), 20.0), None]
    options = {"known": known, "hints": {"x": Hint(1.0, (100.0,) * 10)}}
    core.run(**many(3, fn("cpu 1, memory auto", code="x")), options=options)
    core.decide()
    sizes = [sufficient_memory(peak) for peak in (300.0, 20.0, 100.0)]
    assert core.used("a")["memory"] == sum(sizes)
    for n in range(3):
        core.finish(f"f{n}", **used(10.0))
    assert [a["memory"] for n in range(3) for a in asked(core, f"f{n}")] == sizes


def test_estimates_of_threads_do_not_count(core):
    core.nodes(a="cpu 1, memory 1000")
    core.run(**many(2, fn("cpu 1, memory auto", code="x")))
    core.decide()
    core.wait(1)
    core.finish("f0", took=1.0, usage=Used(1.0, 10.0, False))
    core.decide()
    assert core.used("a")["memory"] == 250


def test_after_a_kill_it_asks_for_more_without_using_up_retries(core):
    core.nodes(a="cpu 1, memory 1000", b="cpu 1, memory 100")
    core.run(x=fn("cpu 1, memory auto", code="x"))
    for expected in (250, 500, 1000):
        (placed,) = core.decide()
        assert placed == "x@a", "also if it has failed there: the node is not to blame"
        assert core.used("a")["memory"] == expected
        if run_out(core):
            core.ready("x")
    assert core.decide() == ["r failed"], "no node has more"
    assert "no node that may run it has more" in core["x"].attempts[-1].error
    assert [a["memory"] for a in asked(core)] == [250, 500, 1000]


def test_the_next_allocation_is_one_that_has_sufficed_before(core):
    core.nodes(a="cpu 100, memory 10000")
    core.run(
        x=fn("cpu 1, memory auto", code="x"), options={"hints": {"x": Hint(1.0, (100.0,) * 50 + (2000.0,))}}
    )
    core.decide()
    assert core.used("a")["memory"] == sufficient_memory(100.0)
    run_out(core)
    core.ready("x")
    core.decide()
    assert core.used("a")["memory"] == sufficient_memory(2000.0)


def test_a_policy_may_grow_faster(core):
    core.nodes(a="cpu 1, memory 1000")
    core.run(x=fn("cpu 1, memory auto", code="x", policy=RetryPolicy(grow={"memory": 3.5})))
    core.decide()
    run_out(core)
    core.ready("x")
    core.decide()
    assert core.used("a")["memory"] == 875


def test_other_failures_count_as_ever(core):
    core.nodes(a="cpu 1, memory 1000")
    core.run(x=fn("cpu 1, memory auto", code="x", retries=1))
    core.decide()
    assert core.fail("x")
    core.ready("x")
    core.decide()
    assert not core.fail("x")


def test_cores_are_those_that_functions_have_used(core):
    core.nodes(a="cpu 8, memory 1000")
    core.run(**many(9, fn("cpu auto", code="x")))
    assert core.decide() == ["f0@a"], "the first one may use all cores, and shows how many it does"
    core.wait(1)
    core.finish("f0", **used(cores=1.9))
    assert core.decide() == ["f1@a", "f2@a", "f3@a", "f4@a"]


def test_no_node_has_the_resource(core):
    core.nodes(a="cpu 8")
    run = core.run(x=fn("cpu 1, memory auto", code="x"))
    assert "no memory" in str(run.shortfalls[0])


def test_a_group_asks_for_what_its_node_has(core):
    core.nodes(a="cpu 4, memory 400", b="cpu 1, memory 4000")
    core.run(x=fn("cpu 2", code="y"), y=fn("cpu 1, memory auto", code="x"), groups=["x y"], ready="x")
    assert core.decide() == ["x@a"]
    core.ready("y")
    assert core.decide() == ["y@a"]
    assert core.used("a")["memory"] == 100


@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 2)), min_size=1, max_size=40))
def test_every_function_that_fits_a_node_finishes(functions):
    """Whatever the peaks, and whatever the order in which attempts end."""
    core = Core()
    core.nodes(a="cpu 3, memory 3500", b="cpu 2, memory 500")
    kinds = {f"f{n}": fn("cpu 1, memory auto", code=f"c{code}") for n, (_, code) in enumerate(functions)}
    core.run(**kinds)
    left = set(kinds)
    for _ in range(100 * len(functions)):
        core.decide()
        running = sorted(id for id in left if core[id].state.value == "running")
        if not running:
            break
        core.wait(1)
        id = running[-1]
        peak = functions[int(id[1:])][0]
        if core[id].cost["memory"] / 2**20 >= peak:
            core.finish(id, **used(float(peak)))
            left.discard(id)
        else:
            assert run_out(core, id)
            core.ready(id)
    assert not left
    assert all(not core.used(name).get("memory") for name in "ab")


def test_waiting_functions_ask_for_less_if_the_largest_node_leaves(core):
    """They would fit on no node, although nobody has said that they need so much."""
    core.nodes(a="cpu 1, memory 1000", b="cpu 1, memory 100")
    core.run(**many(4, fn("cpu 1, memory auto", code="x")))
    assert core.decide() == ["f0@a"]
    core.leave("a")
    core.ready("f0")
    assert core.decide() == ["f0@b"], "also after an attempt that was lost"
    assert core.used("b")["memory"] == 100
    core.finish("f0", **used(100.0))
    assert core.decide() == ["f1@b"]


@pytest.mark.interpreted
def test_functions_are_sized_again_ever_more_seldom(core, monkeypatch):
    """Also if each is known by itself, so that nothing is known of their code."""
    core.nodes(a="cpu 1, memory 1000")
    n = 200
    sized = []
    original = Sizing.size
    monkeypatch.setattr(Sizing, "size", lambda self, f: sized.append(f) or original(self, f))
    known = [Known((), 10.0 + n) for n in range(n)]
    core.run(**many(n, fn("cpu 1, memory auto", code="x")), options={"known": known})
    for _ in range(n):
        (decision, *_) = core.decide()
        core.wait(1)
        core.finish(decision.split("@")[0], **used(10.0))
    assert len(sized) <= n * 10
