"""Which function of a run goes first, and what is learnt about durations for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduling.harness import Core, fn, many

from handoff_dask._model.resources import UNIT
from handoff_dask._scheduling.durations import Durations, size_of
from handoff_dask._scheduling.order import path_lengths


@st.composite
def graphs(draw):
    n = draw(st.integers(1, 25))
    dependents = [
        sorted(draw(st.sets(st.integers(i + 1, n - 1), max_size=3))) if i < n - 1 else [] for i in range(n)
    ]
    return dependents, draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))


@given(graphs())
def test_path_lengths_are_those_of_the_longest_paths(graph):
    dependents, seconds = graph

    def longest(n):
        return seconds[n] + max((longest(d) for d in dependents[n]), default=0)

    assert path_lengths(dependents, seconds) == [longest(n) for n in range(len(seconds))]


def test_the_longest_path_goes_first_where_it_bounds_the_end():
    core = Core()
    core.nodes(a="cpu 1")
    # Four fillers, then a chain of three: it has the highest numbers, and goes first all the same.
    functions = {**many(4, fn("cpu 1")), **many(3, fn("cpu 1"), "c")}
    core.run(**functions, options={"dependents": [[], [], [], [], [5], [6], []]}, ready="f0 f1 f2 f3 c0")
    assert core.decide() == ["c0@a"]


def test_a_run_that_waited_for_nodes_is_ordered_by_what_they_have():
    core = Core()
    core.run(
        **many(4, fn("cpu 1")),
        **many(3, fn("cpu 1"), "c"),
        options={"dependents": [[], [], [], [], [5], [6], []], "wait_for_nodes": 60},
        ready="f0 f1 f2 f3 c0",
    )
    assert core.decide() == []
    core.nodes(a="cpu 1")
    assert core.decide() == ["c0@a"]


def test_a_function_whose_result_was_lost_has_its_place_in_the_new_order():
    core = Core()
    core.nodes(a="cpu 1")
    # A chain of three and twelve others: at first no path bounds the end.
    core.run(
        **many(3, fn("cpu 1"), "c"),
        **many(12, fn("cpu 1")),
        options={"dependents": [[1], [2], [], *([] for _ in range(12))]},
        ready=" ".join(["c0", *(f"f{i}" for i in range(12))]),
    )
    for id in ("c0", *(f"f{i}" for i in range(11))):
        assert core.decide() == [f"{id}@a"]
        core.finish(id)
    # What is left of the chain is now longer than the rest, and c0 its beginning once more.
    core.state.result_lost(core["c0"])
    core.ready("c0")
    assert core.decide() == ["c0@a"]


def test_where_there_is_much_more_work_than_path_what_was_begun_goes_on():
    core = Core()
    core.nodes(a="cpu 1")
    # Twenty pairs of make and use: numbered make, use, make, use.
    functions = {}
    for i in range(20):
        functions[f"make{i}"] = functions[f"use{i}"] = fn("cpu 1")
    core.run(
        **functions,
        options={"dependents": [[n + 1] if n % 2 == 0 else [] for n in range(40)]},
        ready=" ".join(f"make{i}" for i in range(20)),
    )
    order = []
    for i in range(10):
        (first,) = core.decide()
        core.finish(first.split("@")[0])
        core.ready(f"use{i}")
        (second,) = core.decide()
        core.finish(second.split("@")[0])
        order += [first, second]
    assert order == [f"{kind}{i}@a" for i in range(10) for kind in ("make", "use")]


def test_what_asks_for_more_is_expected_to_take_longer_and_goes_first():
    core = Core()
    core.nodes(a="cpu 1, memory 100")
    core.run(
        small=fn("cpu 1, memory 1", code="work"),
        big=fn("cpu 1, memory 90", code="work"),
        options={"dependents": [[], []]},
        ready="small big",
    )
    assert core.decide() == ["big@a"]


def test_durations_that_were_learnt_reorder_what_waits():
    core = Core()
    core.nodes(a="cpu 1")
    core.run(
        quick0=fn("cpu 1", code="quick"),
        slow0=fn("cpu 1", code="slow"),
        **many(2, fn("cpu 1", code="quick"), "q"),
        **many(2, fn("cpu 1", code="slow"), "s"),
        options={"dependents": [[]] * 6},
        ready="quick0 slow0 q0 q1 s0 s1",
    )
    assert core.decide() == ["quick0@a"]
    core.finish("quick0", took=1)
    assert core.decide() == ["slow0@a"]
    core.finish("slow0", took=50)
    order = []
    while len(order) < 4:
        (placed,) = core.decide()
        id = placed.split("@")[0]
        order.append(id)
        core.finish(id, took=50 if id[0] == "s" else 1)
    assert order == ["s0", "s1", "q0", "q1"]


def test_priorities_win_over_the_longest_path():
    core = Core()
    core.nodes(a="cpu 1")
    core.run(
        chain=fn("cpu 1"),
        end=fn("cpu 1"),
        urgent=fn("cpu 1", priority=1),
        options={"dependents": [[1], [], []]},
        ready="chain urgent",
    )
    assert core.decide() == ["urgent@a"]


def test_estimates_of_durations():
    durations = Durations()
    one, four = size_of([("memory", UNIT)]), size_of([("memory", 4 * UNIT)])
    assert durations.expected([("a", one), ("b", one)]) == [1.5, 1.5]
    assert durations.most("a") is None
    durations.learn("a", one, 2.0)
    known, bigger, unknown = durations.expected([("a", one), ("a", four), ("b", one)])
    assert (known, unknown) == (2.0, 3.0)
    # One of unknown code that runs for long is not short.
    assert durations.expected([("a", one), ("b", one)], {"a": 9.0, "b": 5.0}) == [2.0, 10.0]
    assert bigger == pytest.approx(4.0)  # four times as much, twice as long
    durations.learn("a", one, 4.0)
    assert durations.expected([("a", one)]) == [3.0]
    assert durations.most("a") == 4.0
    durations.learn("a", one, 1.0)
    assert 3.0 < durations.most("a") < 4.0
