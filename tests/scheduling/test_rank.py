"""The order of functions within a run, and the duration estimates behind it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduling.harness import Core, fn, many

from handoff_dask._model.graph import path_lengths
from handoff_dask._model.resources import UNIT
from handoff_dask._scheduling.estimates import Estimates, size_of
from handoff_dask._scheduling.spec import Hint, Known


@st.composite
def graphs(draw):
    n = draw(st.integers(1, 25))
    dependents = [
        sorted(draw(st.sets(st.integers(i + 1, n - 1), max_size=3))) if i < n - 1 else [] for i in range(n)
    ]
    return dependents, draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))


@given(graphs())
def test_path_lengths_equal_the_longest_paths(graph):
    dependents, seconds = graph

    def longest(n):
        return seconds[n] + max((longest(d) for d in dependents[n]), default=0)

    assert path_lengths(dependents, seconds) == [longest(n) for n in range(len(seconds))]


def test_longest_path_goes_first_if_it_bounds_the_end():
    core = Core()
    core.nodes(a="cpu 1")
    # Four fillers, then a chain of three, which goes first despite its higher numbers.
    functions = {**many(4, fn("cpu 1")), **many(3, fn("cpu 1"), "c")}
    core.run(**functions, options={"dependents": [[], [], [], [], [5], [6], []]}, ready="f0 f1 f2 f3 c0")
    assert core.decide() == ["c0@a"]


def test_given_durations_count_until_a_function_has_run():
    functions = {"short": fn("cpu 1", code="short"), "long": fn("cpu 1", code="long")}
    dependents = {"dependents": [[], []]}
    for hints, first in (({}, "short"), ({"long": 60.0, "short": 0.1}, "long"), ({"short": 60.0}, "short")):
        core = Core()
        core.nodes(a="cpu 1")
        core.run(
            **functions, options={**dependents, "hints": {key: Hint(took) for key, took in hints.items()}}
        )
        assert core.decide() == [f"{first}@a"]
    # Observed durations override given ones.
    core = Core()
    core.nodes(a="cpu 1")
    core.run(**{f"{id}0": kind for id, kind in functions.items()}, id="seen", options=dependents)
    for id, seconds in (("short0", 0.1), ("long0", 60.0)):
        assert core.decide() == [f"{id}@a"]
        core.wait(seconds)
        core.finish(id, took=seconds)
    core.run(**functions, options={**dependents, "hints": {"short": Hint(600.0), "long": Hint(0.1)}})
    assert "long@a" in core.decide()


def test_run_that_waited_for_nodes_is_ranked_by_their_capacities():
    core = Core()
    core.run(
        **many(4, fn("cpu 1")),
        **many(3, fn("cpu 1"), "c"),
        options={"dependents": [[], [], [], [], [5], [6], []], "wait_for_nodes": 60},
        ready="f0 f1 f2 f3 c0",
    )
    assert core.decide() == []
    core.nodes(a="cpu 1")
    assert core.decide() == ["r begins", "c0@a"]


def test_function_with_a_lost_result_is_ranked_again():
    core = Core()
    core.nodes(a="cpu 1")
    # A chain of three and twelve others: at first no path bounds the end of the run.
    core.run(
        **many(3, fn("cpu 1"), "c"),
        **many(12, fn("cpu 1")),
        options={"dependents": [[1], [2], [], *([] for _ in range(12))]},
        ready=" ".join(["c0", *(f"f{i}" for i in range(12))]),
    )
    for id in ("c0", *(f"f{i}" for i in range(11))):
        assert core.decide() == [f"{id}@a"]
        core.finish(id)
    # The rest of the chain, which starts with c0 again, is now longer than the remaining work.
    core.state.result_lost(core["c0"])
    core.ready("c0")
    assert core.decide() == ["c0@a"]


def test_begun_branches_go_first_if_no_path_bounds_the_end():
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


def test_larger_costs_are_expected_to_take_longer():
    core = Core()
    core.nodes(a="cpu 1, memory 100")
    core.run(
        small=fn("cpu 1, memory 1", code="work"),
        big=fn("cpu 1, memory 90", code="work"),
        options={"dependents": [[], []]},
        ready="small big",
    )
    assert core.decide() == ["big@a"]


def test_learnt_durations_reorder_waiting_functions():
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


def test_priority_overrides_the_longest_path():
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


def test_duration_estimates():
    durations = Estimates()
    one, four = size_of([("memory", UNIT)]), size_of([("memory", 4 * UNIT)])
    assert durations.expected([("a", one), ("b", one)]) == [1.5, 1.5]
    assert durations.most("a") is None
    durations.learn("a", one, 2.0)
    known, bigger, unknown = durations.expected([("a", one), ("a", four), ("b", one)])
    assert (known, unknown) == (2.0, 3.0)
    # A running function of unknown code that has run for long is not short.
    assert durations.expected([("a", one), ("b", one)], {"a": 9.0, "b": 5.0}) == [2.0, 10.0]
    assert bigger == pytest.approx(4.0)  # four times the cost, twice the duration
    durations.learn("a", one, 4.0)
    assert durations.expected([("a", one)]) == [3.0]
    assert durations.most("a") == 4.0
    durations.learn("a", one, 1.0)
    assert 3.0 < durations.most("a") < 4.0


# scarce resources


def ranks(core, ids):
    return [core[id].rank for id in ids.split()]


def scarce_run(needed_by_s=()):
    """Four functions that need the only GPU, and a hundred that need one of eleven cores, of 1 s each."""
    core = Core()
    core.nodes(a="cpu 1, gpu 1", b="cpu 10")
    functions = {"s": fn("cpu 1"), **many(100, fn("cpu 1")), **many(4, fn("cpu 1, gpu 1"), "g")}
    options = {"dependents": [list(needed_by_s), *([[]] * 104)], "seconds": [1.0] * 105}
    core.run(**functions, ready="", options=options)
    return core


def test_functions_on_a_scarce_resource_take_turns():
    core = scarce_run()
    # The 105 functions take 105/11 seconds, a quarter of which is 2.4. The four seconds of the GPU may bound
    # the end of the run, and more than 2.4 of them remain at the start of each of its first two functions.
    assert ranks(core, "g0 g1 g2 g3") == [-4.0, -3.0, 103.0, 104.0]
    assert ranks(core, "s f0 f99") == [0.0, 1.0, 100.0]


def test_inputs_of_functions_that_take_turns_go_first():
    core = scarce_run(needed_by_s=[101, 102, 103, 104])
    assert ranks(core, "s g0 g1 g2 g3") == [-5.0, -4.0, -3.0, 103.0, 104.0]
    assert ranks(core, "f0 f99") == [1.0, 100.0]


def test_resource_that_most_functions_need_is_not_scarce():
    core = Core()
    core.nodes(a="cpu 1, gpu 1", b="cpu 10")
    core.run(
        **many(60, fn("cpu 1, gpu 1"), "g"),
        **many(40, fn("cpu 1")),
        ready="",
        options={"dependents": [[]] * 100, "seconds": [1.0] * 100},
    )
    assert ranks(core, "g0 g59 f0 f39") == [0.0, 59.0, 60.0, 99.0]


def test_two_devices_halve_the_turns():
    core = Core()
    core.nodes(a="cpu 4, gpu 2", b="cpu 10")
    core.run(
        **many(12, fn("cpu 1, gpu 1"), "g"),
        **many(120, fn("cpu 1")),
        ready="",
        options={"dependents": [[]] * 132, "seconds": [1.0] * 132},
    )
    # The run needs 132/14 = 9.4 seconds, a quarter of which is 2.36.
    assert ranks(core, "g0 g1 g2 g3") == [-6.0, -6.0, -5.0, -5.0]
    assert ranks(core, "g6 g7 g8 g9") == [-3.0, -3.0, 8.0, 9.0]


def test_turns_go_by_critical_path():
    core = Core()
    core.nodes(a="cpu 1, gpu 1", b="cpu 10")
    # g2 is followed by two seconds of work that any node can do.
    core.run(
        **many(3, fn("cpu 1, gpu 1"), "g"),
        after=fn("cpu 1"),
        **many(100, fn("cpu 1")),
        ready="",
        options={"dependents": [[], [], [3], *([[]] * 101)], "seconds": [2.0, 2.0, 2.0, 2.0, *[1.0] * 100]},
    )
    # g2 at 0, g0 at 2, g1 at 4; all end at 6. The path of g2 may bound the end, so critical paths decide.
    assert ranks(core, "g2 g0 g1 after f0") == [-6.0, -4.0, -2.0, -2.0, -1.0]


def test_lost_result_takes_its_turn_again():
    core = scarce_run()
    core.ready("g0 g1 g2 g3")
    for id in ("g0", "g1", "g2"):
        assert core.decide() == [f"{id}@a"]
        core.finish(id)
    assert core["g3"].rank == 104.0
    for id in ("g0", "g1", "g2"):
        core.state.result_lost(core[id])
    core.decide()
    # Four are left again, including g3, which is running.
    assert sorted(ranks(core, "g0 g1 g2 g3"))[:2] == [-4.0, -3.0]


def test_map_reduce_completes_groups_in_order():
    """Ten groups of ten maps and a reduction each go by number, as no node is scarce."""
    core = Core()
    core.nodes(a="cpu 2", b="cpu 2")
    kinds, dependents = {}, []
    for group in range(10):
        kinds |= many(10, fn("cpu 1"), f"map{group}_")
        kinds[f"reduce{group}"] = fn("cpu 1")
        dependents += [[group * 11 + 10]] * 10 + [[]]
    core.run(**kinds, ready=" ".join(id for id in kinds if "map" in id), options={"dependents": dependents})
    order = []
    while len(order) < 110:
        placed = [text.split("@")[0] for text in core.decide()]
        order += placed
        core.finish(" ".join(placed))
        for group in range(10):
            if core.states(" ".join(f"map{group}_{i}" for i in range(10))) == " ".join(["finished"] * 10):
                core.ready(f"reduce{group}")
    # A reduction starts as soon as it can: at most one step of functions from later groups precedes it.
    # Near the end, where the critical path counts, maps go first.
    for group in range(7):
        before = order[: order.index(f"reduce{group}")]
        assert sum(int(id[3:].split("_")[0]) > group for id in before if "map" in id) <= 4


@given(graphs(), st.randoms(use_true_random=False))
def test_ranks_do_not_depend_on_the_iteration_order_of_sets(graph, random):
    """Nodes hash by their memory addresses, which differ each time."""
    dependents, seconds = graph
    costs = [random.choice(["cpu 1", "cpu 1", "gpu 1", "cpu 4", "memory 9"]) for _ in seconds]
    seen = []
    for _ in range(3):
        core = Core()
        filling = [object() for _ in range(random.randint(0, 50))]
        for name in "abcdef":
            core.nodes(**{name: "cpu 4, gpu 1, memory 10" if name < "d" else "cpu 2"})
            filling.append([None] * random.randint(0, 100))
        core.run(
            **{f"f{i}": fn(cost) for i, cost in enumerate(costs)},
            ready="",
            options={"dependents": dependents, "seconds": seconds},
        )
        scarce = core.state.runs["r"].ranking.scarce
        seen.append(
            (
                [f.rank for f in core.functions.values()],
                {k: sorted(n.name for n in v) for k, v in scarce.items()},
            )
        )
    assert seen[0] == seen[1] == seen[2]


def test_functions_with_durations_of_their_own_are_ranked_by_them(core):
    """Functions of one code: the scheduler would learn one duration for all."""
    core.nodes(a="cpu 1")
    functions = {name: fn("cpu 1", code="work") for name in "xyz"}
    core.run(
        **functions,
        options={
            "known": [Known((("n", 1.0),)), Known((("n", 9.0),)), Known((("n", 5.0),))],
            "keep_all": True,
            "dependents": [(), (), ()],
        },
    )
    placed = []
    for _ in range(3):
        (decision,) = core.decide()
        placed.append(decision)
        core.wait(1)
        core.finish(decision[0], took=1)
    assert placed == ["y@a", "z@a", "x@a"], "the longest first"


def test_functions_without_a_duration_of_their_own_are_estimated(core):
    core.nodes(a="cpu 1")
    functions = {name: fn("cpu 1", code="work") for name in "xyz"}
    core.run(
        **functions,
        options={
            "known": [None, Known((("n", 9.0),)), Known((("n", 0.1),))],
            "keep_all": True,
            "dependents": [(), (), ()],
        },
    )
    assert [core.decide()[0][0]] == ["y"]
