"""``simulate``: no cluster, no running code, and exact times."""

from __future__ import annotations

import os
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import pytest
from helpers import add, dag_of, identity

import handoff_dask as handoff
from handoff_dask import (
    DAG,
    AllocationError,
    AllocatorError,
    Argument,
    Collocated,
    Function,
    InvalidDAGError,
    Schedule,
    simulate,
)


def never_called(*args):
    raise AssertionError("a simulation must not call code")


def fn(id, *args, **fields):
    return Function(id, never_called, args=args, **fields)


def times(schedule: Schedule) -> dict:
    """Return id → node, start, end."""
    return {id: (r.node, r.started, r.stopped) for id, r in schedule.records.items()}


ONE = {"a": {"cpu": 1}}
TWO = {"a": {"cpu": 1}, "b": {"cpu": 1}}


# schedules


def test_a_chain_takes_the_sum():
    s = simulate(dag_of(fn("x"), fn("y", "x"), fn("z", "y"), id="chain"), TWO, {"x": 1, "y": 2.5, "z": 4})
    assert isinstance(s, Schedule)
    assert s.dag_id == "chain"
    assert s.makespan == s.lower_bound == 7.5
    assert s.bounds["critical path"] == 7.5
    assert times(s) == {"x": ("a", 0, 1), "y": ("a", 1, 3.5), "z": ("a", 3.5, 7.5)}
    assert s.allocations == {"x": "a", "y": "a", "z": "a"}
    assert repr(s) == "<schedule of DAG 'chain': 3 functions in 7.5 s, lower bound 7.5 s>"


def test_functions_that_fit_together_run_together():
    dag = dag_of(*(fn(i, cost={"cpu": 1}) for i in range(5)))
    s = simulate(dag, {"a": {"cpu": 2}})
    assert s.makespan == 3
    assert [r.started for r in s.records.values()] == [0, 0, 1, 1, 2]
    assert s.bounds["cpu"] == 2.5
    assert s.lower_bound == 2.5


def test_records_have_the_form_of_a_real_runs():
    s = simulate(dag_of(fn("x", cost={"cpu": 2, "gpu": 1}), fn("y", "x")), {"a": {"cpu": 2, "gpu": 2}}, 2)
    record = s.records["x"]
    assert (record.function_id, record.status, record.node) == ("x", "finished", "a")
    assert record.cost == {"cpu": 2, "gpu": 1}
    assert record.devices == {"gpu": (0,)}
    (attempt,) = record.attempts
    assert (attempt.number, attempt.queued, attempt.started, attempt.stopped) == (1, 0, 0, 2)
    assert attempt.outcome == "finished"
    assert s.records["y"].attempts[0].queued == 2
    with pytest.raises(KeyError):
        s.records["z"]


def test_records_show_waiting():
    s = simulate(dag_of(fn("x", cost={"cpu": 1}), fn("y", cost={"cpu": 1})), ONE, 3)
    assert [(r.attempts[0].queued, r.started) for r in s.records.values()] == [(0, 0), (0, 3)]


def test_an_empty_dag():
    s = simulate(DAG("none"), ONE)
    assert (s.makespan, s.lower_bound, s.bounds, s.peak_results) == (0, 0, {}, 0)
    assert dict(s.records) == s.allocations == {}
    assert s.utilisation == {"a": {"cpu": 0}}


def test_functions_with_duration_zero():
    s = simulate(dag_of(*(fn(i, *range(i)) for i in range(4))), ONE, 0)
    assert (s.makespan, s.lower_bound) == (0, 0)
    assert times(s) == dict.fromkeys(range(4), ("a", 0, 0))
    assert s.utilisation == {"a": {"cpu": 0}}
    mixed = simulate(dag_of(fn("x", cost={"cpu": 1}), fn("y", "x", cost={"cpu": 1})), ONE, {"x": 0, "y": 2})
    assert (mixed.makespan, mixed.lower_bound) == (2, 2)


def test_inline_functions_count_as_part_of_their_dependents():
    dag = dag_of(fn("x"), fn("i", "x", type="inline", cost={"memory": 5}), fn("y", "i", cost={"memory": 3}))
    s = simulate(dag, {"a": {"cpu": 1, "memory": 5}}, {"x": 1, "y": 2})
    assert list(s.records) == ["x", "y"]
    assert s.makespan == 3
    assert s.utilisation["a"]["memory"] == pytest.approx(
        2 / 3
    )  # y, which holds the cost of i too, for 2 of 3 s


def test_transfers_are_simulated():
    dag = dag_of(
        Function("x", never_called, node="a"),
        Function(
            "y", identity, args=[Argument("x", serialize=never_called, deserialize=never_called)], node="b"
        ),
    )
    s = simulate(dag, TWO, lambda id: 5 if id == "x" else 1)
    serialize, deserialize = ("serialize", "x", "y", 0), ("deserialize", "x", "y", 0)
    assert times(s) == {
        "x": ("a", 0, 5),
        serialize: ("a", 5, 6),
        deserialize: ("b", 6, 7),
        "y": ("b", 7, 8),
    }


def test_pins_and_collocation():
    dag = dag_of(
        fn("p", node="b"),
        fn("g", cost={"cpu": 1}),
        fn("h", cost={"cpu": 2}, node=Collocated("g")),
        fn("q", node=["c", "b"]),
    )
    s = simulate(dag, {"a": {"cpu": 1}, "b": {"cpu": 1}, "c": {"cpu": 2}})
    assert s.allocations["p"] == "b"
    assert s.allocations["g"] == s.allocations["h"] == "c", "the only node that holds both"
    assert s.allocations["q"] in ("b", "c")


def test_node_names_need_not_be_text():
    s = simulate(dag_of(fn("x", node=1)), {0: {"cpu": 1}, 1: {"cpu": 1}})
    assert s.allocations == {"x": 1}
    assert list(s.utilisation) == [0, 1]


def test_limits_and_max_concurrency():
    dag = dag_of(*(fn(i, cost={"db": 1}) for i in range(6)))
    nodes = {"a": {"cpu": 8}}
    s = simulate(dag, nodes, limits={"db": 2})
    assert s.makespan == s.bounds["limit db"] == s.lower_bound == 3
    s = simulate(dag, nodes, limits={"db": 9}, max_concurrency=3)
    assert s.makespan == s.bounds["max_concurrency"] == s.lower_bound == 2


# lower bounds, computed by hand


def test_bound_by_a_resource_of_all_nodes():
    dag = dag_of(*(fn(i, cost={"memory": 6}) for i in range(3)))
    s = simulate(dag, {"a": {"cpu": 4, "memory": 9}, "b": {"cpu": 4, "memory": 9}}, 2)
    assert s.bounds["memory"] == 2  # 3 * 6 MB for 2 s each on 18 MB
    assert s.bounds["threads"] == 0.75
    assert s.bounds["functions of memory 6"] == 3  # two at once, although 18 MB would suffice for three
    assert s.lower_bound == 3
    assert s.makespan == 4


def test_bound_by_a_resource_of_the_only_eligible_nodes():
    dag = dag_of(
        *(fn(i, cost={"cpu": 1, "gpu": 1}) for i in range(4)), *(fn(f"p{i}", node="c") for i in range(3))
    )
    nodes = {"a": {"cpu": 9, "gpu": 1}, "b": {"cpu": 9, "gpu": 1}, "c": {"cpu": 1}}
    s = simulate(dag, nodes, 2)
    assert s.bounds["gpu"] == s.bounds["gpu of a+b"] == 4
    assert s.bounds["threads of c"] == 6
    assert s.lower_bound == s.makespan == 6


def test_bound_by_functions_of_at_least_some_cost():
    dag = dag_of(
        *(fn(i, cost={"cpu": 3}) for i in range(2)), *(fn(f"w{i}", cost={"cpu": 4}) for i in range(2))
    )
    s = simulate(dag, {"a": {"cpu": 5}})
    assert s.bounds["functions of cpu 3"] == 4
    assert s.bounds["functions of cpu 4"] == 2
    assert s.bounds["cpu"] == 14 / 5
    assert s.lower_bound == 4


def test_bounds_include_time_before_and_after():
    wide = [fn(i, "first", cost={"cpu": 1}) for i in range(4)]
    dag = dag_of(fn("first"), *wide, fn("last", *range(4)))
    s = simulate(dag, {"a": {"cpu": 2}}, {"first": 3, **dict.fromkeys(range(4), 2), "last": 5})
    assert s.bounds["cpu"] == 3 + 4 + 5
    assert s.lower_bound == s.makespan == 12


def test_bounds_consider_subsets_of_functions():
    """A short function that can start at once does not hide that the others cannot."""
    late = [fn(i, "first", cost={"cpu": 1}) for i in range(4)]
    s = simulate(
        dag_of(fn("early", cost={"cpu": 1}), fn("first"), *late),
        {"a": {"cpu": 2, "threads": 3}},
        {"first": 9, "early": 0.5, **dict.fromkeys(range(4), 2)},
    )
    assert s.bounds["critical path"] == 11
    assert s.bounds["cpu"] == 9 + 4
    assert s.lower_bound == s.makespan == 13
    # The mirror image: a function that may end last does not hide that others have a dependent.
    first = [fn(i, cost={"cpu": 1}) for i in range(4)]
    s = simulate(
        dag_of(fn("alone", cost={"cpu": 1}), *first, fn("last", *range(4))),
        {"a": {"cpu": 2, "threads": 3}},
        {"last": 9, "alone": 0.5, **dict.fromkeys(range(4), 2)},
    )
    assert s.bounds["cpu"] == 4 + 9
    assert s.lower_bound == s.makespan == 13


def test_bounds_include_the_longest_path_before():
    late = [fn(i, "long", "short", cost={"cpu": 1}) for i in range(4)]
    s = simulate(dag_of(fn("long"), fn("short"), *late), {"a": {"cpu": 2}}, lambda id: {"long": 9}.get(id, 1))
    assert s.bounds["cpu"] == s.makespan == 9 + 2


def test_bounds_include_time_before_and_after_a_subset():
    """A function without dependencies and dependents is left out at both ends."""
    middle = [fn(i, "first", cost={"cpu": 1}) for i in range(4)]
    s = simulate(
        dag_of(fn("first"), *middle, fn("last", *range(4)), fn("alone", cost={"cpu": 1})),
        {"a": {"cpu": 2, "threads": 3}},
        {"first": 9, "last": 5, "alone": 0.5, **dict.fromkeys(range(4), 2)},
    )
    assert s.bounds["cpu"] == 9 + 4 + 5
    assert s.lower_bound == s.makespan == 18


def test_bound_by_a_limit():
    dag = dag_of(fn("first"), *(fn(i, "first", cost={"db": 1}) for i in range(4)))
    s = simulate(dag, {"a": {"cpu": 8}}, {"first": 10, **dict.fromkeys(range(4), 1)}, limits={"db": 2})
    assert s.bounds["limit db"] == 12
    assert s.bounds["critical path"] == 11


def test_bound_by_a_collocation_group():
    dag = dag_of(fn("g", cost={"cpu": 0.5}), *(fn(i, node=Collocated("g")) for i in range(4)))
    s = simulate(dag, {"a": {"cpu": 2}, "b": {"cpu": 2}})
    assert s.bounds["collocated with 'g'"] == 2.5
    assert s.lower_bound == 2.5
    assert s.makespan == 3


def test_bounds_do_not_depend_on_the_placement():
    dag = dag_of(fn("g", cost={"cpu": 1}), fn("h", cost={"cpu": 1}, node=Collocated("g")))
    nodes = {"a": {"cpu": 1}, "b": {"cpu": 2}}
    slow = simulate(dag, nodes, allocation_strategy="first_available")
    assert slow.makespan == 2, "the group was put on the smaller node"
    assert slow.lower_bound == 1, "which is not inevitable"


def test_rounding_never_lifts_the_lower_bound_above_the_makespan():
    seconds = [0.1, 0.2, 0.3, 0.7, 0.1, 1.1]
    for n in range(2, 7):
        chain = dag_of(fn(0), *(fn(i, i - 1) for i in range(1, n)))
        s = simulate(chain, ONE, dict(enumerate(seconds)))
        assert s.lower_bound <= s.makespan
        assert s.lower_bound == pytest.approx(s.makespan)


# utilisation and results


def test_utilisation_by_hand():
    dag = dag_of(
        fn("x", cost={"cpu": 2, "memory": 30}, node="a"),
        fn("y", "x", cost={"cpu": 1, "licence": 1}, node="a"),
        fn("z", cost={"cpu": 1}, node="b"),
    )
    nodes = {"a": {"cpu": 4, "memory": 60}, "b": {"cpu": 2, "gpu": 1}}
    s = simulate(dag, nodes, {"x": 3, "y": 1, "z": 2}, limits={"licence": 1})
    assert s.makespan == 4
    assert s.utilisation == {
        "a": {"cpu": (2 * 3 + 1) / 16, "memory": 30 * 3 / 240},
        "b": {"cpu": 2 / 8, "gpu": 0},
    }


def test_peak_results():
    def peak(*functions, nodes=ONE, durations=1.0):
        return simulate(dag_of(*functions), nodes, durations).peak_results

    assert peak(fn("x")) == 1
    assert peak(fn("x"), fn("y", "x"), fn("z", "y")) == 2, "an input stays until its dependent has finished"
    assert peak(*(fn(i) for i in range(4))) == 4, "sinks stay"
    assert peak(*(fn(i) for i in range(4)), fn("sum", *range(4))) == 5
    assert peak(fn("x"), fn("y", "x"), fn("z", "x"), fn("sum", "y", "z")) == 3, (
        "x is released when z has finished"
    )


# durations


DIAMOND = dag_of(fn("x"), fn("y", "x"), fn("z", "x"), fn("sum", "y", "z"))


@pytest.mark.parametrize(
    "durations",
    [2, 2.0, Fraction(2), Decimal(2), dict.fromkeys(["x", "y", "z", "sum", "other"], 2), lambda id: 2],
    ids=["int", "float", "Fraction", "Decimal", "mapping", "callable"],
)
def test_forms_of_durations(durations):
    s = simulate(DIAMOND, TWO, durations)
    assert s.makespan == 6
    assert type(s.makespan) is float


def test_records_of_a_simulation_as_durations():
    first = simulate(DIAMOND, TWO, {"x": 1, "y": 2, "z": 3, "sum": 4})
    assert simulate(DIAMOND, ONE, first.records).makespan == 10
    assert simulate(DIAMOND, ONE, dict(first.records)).makespan == 10
    assert times(simulate(DIAMOND, TWO, first.records)) == times(first)


def test_records_of_a_real_run_as_durations(client):
    dag = dag_of(
        Function("x", identity, extra_args=[1]),
        Function("y", add, args=["x"]),
        Function("z", add, args=["y"]),
    )
    result = handoff.execute(dag, client)
    s = simulate(dag, ONE, result.records)
    took = {id: r.duration for id, r in result.records.items()}
    assert s.makespan == pytest.approx(sum(took.values()))
    assert {id: r.duration for id, r in s.records.items()} == pytest.approx(took)


@pytest.mark.parametrize(
    ("durations", "text"),
    [
        ("long", "durations: the duration of function 'x' must be a number, not 'long'"),
        (None, "durations: the duration of function 'x' must be a number, not None"),
        (True, "durations: the duration of function 'x' must be a number, not True"),
        (-1, "durations: the duration of function 'x' must not be negative, but is -1"),
        (float("nan"), "durations: the duration of function 'x' must be finite, but is nan"),
        (float("inf"), "durations: the duration of function 'x' must be finite, but is inf"),
        ([1, 2], "durations: the duration of function 'x' must be a number, not [1, 2]"),
        (
            {"x": 1, "y": 1, "z": 1, "sum": "2"},
            "durations: the duration of function 'sum' must be a number, not '2'",
        ),
        ({"x": 1, "z": 1}, "durations has no entry for functions 'y', 'sum'"),
        ({}, "durations has no entry for functions 'x', 'y', 'z' and 1 more"),
        (lambda id: None, "durations: the duration of function 'x' must be a number, not None"),
    ],
)
def test_invalid_durations(durations, text):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        simulate(DIAMOND, ONE, durations)
    assert str(caught.value) == text


def test_an_exception_in_a_durations_callable_propagates():
    with pytest.raises(ZeroDivisionError):
        simulate(DIAMOND, ONE, lambda id: 1 / 0)


# arguments


def test_a_function_that_fits_nowhere_is_an_error():
    with pytest.raises(AllocationError) as caught:
        simulate(dag_of(fn("x", cost={"gpu": 1}), id="d"), TWO)
    (shortfall,) = caught.value.shortfalls
    assert (shortfall.function_ids, shortfall.asked) == (("x",), {"gpu": 1})
    assert "has no gpu" in str(caught.value)
    with pytest.raises(AllocationError, match=r"too large for the run's limits \(db 1\)"):
        simulate(dag_of(fn("x", cost={"db": 2})), TWO, limits={"db": 1})


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"dag": [1]}, TypeError, "dag must be a handoff_dask.DAG"),
        ({"dag": dag_of(fn("x", "y"))}, InvalidDAGError, "y"),
        ({"dag": dag_of(Function("x", type="input"))}, InvalidDAGError, "input function"),
        ({"nodes": {}}, ValueError, "at least one node is needed"),
        ({"nodes": ["a"]}, TypeError, "nodes must map names to capacities, such as"),
        ({"nodes": {"a": 4}}, TypeError, "node 'a': its capacity must be a mapping"),
        ({"nodes": {"a": {"cpu": -4}}}, ValueError, "node 'a': cpu must not be negative"),
        ({"nodes": {"a": {"threads": 0}}}, ValueError, "node 'a': threads must be a whole number"),
        ({"allocation_strategy": "best"}, ValueError, "allocation_strategy must be one of 'first_available'"),
        ({"allocation_strategy": 3}, TypeError, "allocation_strategy must be one of"),
        ({"max_concurrency": 0}, ValueError, "max_concurrency must be a whole number"),
        ({"limits": {"db": "many"}}, ValueError, "limits: db must be a number"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_invalid_arguments(arguments, error, text):
    with pytest.raises(error, match=text):
        simulate(**{"dag": DIAMOND, "nodes": ONE, **arguments})


def test_default_threads_of_nodes():
    dag = dag_of(*(fn(i) for i in range(4)))
    assert simulate(dag, {"a": {"cpu": 2.5}}).makespan == 2
    assert simulate(dag, {"a": {"cpu": 2, "threads": 4}}).makespan == 1
    assert simulate(dag, {"a": {"memory": 1}}).makespan == 4
    assert simulate(dag_of(*(fn(i, cost={"cpu": 1}) for i in range(4))), {"a": {"threads": 2}}).makespan == 2


def test_nodes_of_a_cluster_can_be_simulated(client):
    dag = dag_of(*(fn(i, cost={"cpu": 1}) for i in range(12)))
    assert simulate(dag, handoff.discover_nodes(client)).makespan == 2


@pytest.mark.parametrize("strategy", ["best_fit", "load_balanced", "first_available"])
@pytest.mark.parametrize("known", [True, False])
def test_strategies(strategy, known):
    dag = dag_of(*(fn(i, cost={"cpu": 1}) for i in range(3)), fn("gpu", cost={"gpu": 1}))
    nodes = {"a": {"cpu": 4}, "b": {"cpu": 4, "gpu": 1}, "c": {"cpu": 2}}
    s = simulate(dag, nodes, allocation_strategy=strategy, known=known)
    where = "".join(s.allocations[i] for i in range(3))
    if strategy == "load_balanced":
        assert sorted(set(where)) == ["a", "b"], "on c the load would be higher"
    else:
        assert where == {"best_fit": "cca", "first_available": "aaa"}[strategy]
    assert s.makespan == 1


def test_known_durations_are_used_from_the_start():
    """If durations are known, the longer of two otherwise equal functions goes first."""
    dag = dag_of(fn("short", cost={"cpu": 1}), fn("long", cost={"cpu": 1}), fn("after", "long"))
    durations = {"short": 1, "long": 5, "after": 5}
    known = simulate(dag, {"a": {"cpu": 1, "threads": 2}}, durations)
    assert known.records["long"].started == 0
    assert known.makespan == 10
    unlike = dag_of(*(fn(f"short{i}", cost={"cpu": 1}) for i in range(3)), fn("long", cost={"cpu": 1}))
    durations = {"short0": 1, "short1": 1, "short2": 1, "long": 9}
    assert simulate(unlike, TWO, durations).makespan == 9
    assert simulate(unlike, TWO, durations, known=False).makespan == 10


# custom allocators


def backwards(ready, free):
    """Place one function at a time: the last one, on the last node."""
    return {ready[-1].id: list(free)[-1]} if not backwards.busy(free) else {}


backwards.busy = lambda free: any(amounts["threads"] == 0 for amounts in free.values())


def test_a_custom_allocator():
    s = simulate(dag_of(fn(0), fn(1), fn(2)), TWO, allocation_strategy=backwards)
    assert times(s) == {0: ("b", 2, 3), 1: ("b", 1, 2), 2: ("b", 0, 1)}


def test_a_custom_allocator_sees_the_original_ids():
    id = frozenset({"not", "plain"})
    seen = []

    def record_ids(ready, free):
        seen.extend(f.id for f in ready)
        return dict.fromkeys(seen, "a")

    assert simulate(dag_of(fn(id)), ONE, allocation_strategy=record_ids).allocations == {id: "a"}
    assert seen == [id]


def test_an_allocator_that_stalls():
    with pytest.raises(AllocatorError) as caught:
        simulate(dag_of(*(fn(i) for i in range(5)), id="d"), ONE, allocation_strategy=lambda ready, free: {})
    assert caught.value.reason == ("it stalled: functions are ready but none was placed, such as [0, 1, 2]")
    assert "DAG 'd'" in str(caught.value)


def test_an_allocator_with_an_invalid_proposal():
    with pytest.raises(AllocatorError, match="it placed 0 on 'c': the nodes that accept functions are 'a'"):
        simulate(dag_of(fn(0)), ONE, allocation_strategy=lambda ready, free: {0: "c"})


# determinism


PROGRAM = """
import handoff_dask as handoff
from handoff_dask import DAG, Collocated, Function

dag = DAG("d")
for i in range(60):
    node = Collocated(f"f{i - 7}") if i % 11 == 10 else "n2" if i % 13 == 12 else None
    cost = {"cpu": 1 + i % 3, "memory": 10 * (i % 4), **({"gpu": 1} if i % 7 == 3 and not node else {})}
    args = {f"f{i // 2}", f"f{i // 3}"} - {f"f{i}"}
    dag.add_function(Function(f"f{i}", max, args=sorted(args), cost=cost, node=node))
nodes = {f"n{i}": {"cpu": 3 + i, "memory": 60, "gpu": i % 2} for i in range(4)}
for strategy in ("best_fit", "load_balanced", "first_available"):
    for known in (True, False):
        s = handoff.simulate(
            dag, nodes, lambda id: 1 + len(id) * hash(len(id)) % 5, allocation_strategy=strategy, known=known
        )
        print(s, s.bounds, s.peak_results, s.utilisation)
        print([(id, r.node, r.started, r.stopped, r.devices) for id, r in s.records.items()])
"""


@pytest.mark.slow
def test_schedules_are_the_same_in_every_process():
    outputs = set()
    for seed in ("0", "1", "27"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        )
        outputs.add(done.stdout)
    (text,) = outputs
    assert text.count("\n") == 12


# tables


def test_to_pandas():
    pandas = pytest.importorskip("pandas")
    dag = dag_of(
        fn("x", cost={"cpu": 1, "db": 2}),
        fn(("y", 1), "x", cost={"memory": 5}),
        fn("z", cost={"cpu": 1}, priority=1),
    )
    s = simulate(
        dag, {"a": {"cpu": 1, "threads": 2, "memory": 9}}, {"x": 2, ("y", 1): 3, "z": 4}, limits={"db": 2}
    )
    table = s.to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert list(table.columns) == [
        "function", "node", "ready", "started", "stopped", "seconds", "cpu", "db", "memory",
    ]  # fmt: skip
    assert table.values.tolist() == [
        ["z", "a", 0, 0, 4, 4, 1, 0, 0],
        ["x", "a", 0, 4, 6, 2, 1, 2, 0],
        [("y", 1), "a", 6, 6, 9, 3, 0, 0, 5],
    ]
    assert table["seconds"].sum() == 9


def test_to_pandas_of_an_empty_schedule():
    pytest.importorskip("pandas")
    table = simulate(DAG("none"), ONE).to_pandas()
    assert list(table.columns) == ["function", "node", "ready", "started", "stopped", "seconds"]
    assert len(table) == 0


def test_to_pandas_with_a_resource_named_like_a_column():
    pytest.importorskip("pandas")
    table = simulate(dag_of(fn("x", cost={"seconds": 7})), {"a": {"seconds": 9}}, 2).to_pandas()
    assert table["seconds"].tolist() == [2]
    assert table["cost of seconds"].tolist() == [7]


def test_to_pandas_without_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"^Schedule\.to_pandas\(\) needs pandas: pip install pandas$"):
        simulate(DIAMOND, ONE).to_pandas()
