"""Reading, fitting and scaling traces, and lower bounds computed by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st
from traces import SHORTEST, LowerBound, Trace, TraceFunction, fit, load_trace, lower_bound, scale

import handoff_dask as handoff
from handoff_dask import DAG, Function


def parallel(n: int, seconds: float, cost: dict, *deps: str, kind: str = "f") -> dict[str, TraceFunction]:
    return {f"{kind}-{i}": TraceFunction(deps, seconds, cost) for i in range(n)}


def chain(*seconds: float) -> Trace:
    ids = [f"c-{i}" for i in range(len(seconds))]
    before = [(), *((id,) for id in ids)]
    return Trace(
        "chain", {i: TraceFunction(d, s, {"cpu": 1}) for i, d, s in zip(ids, before, seconds, strict=False)}
    )


# Traces


def test_load_trace(tmp_path):
    task = {"deps": ["a-0"], "seconds": 2.5, "cpu": 3, "memory_mb": 100, "gpu": 1, "output_bytes": 7}
    first = {"deps": [], "seconds": 1, "cpu": 1, "memory_mb": 0, "gpu": 0, "output_bytes": 7}
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"name": "two", "tasks": {"b-1": task, "a-0": first}}))
    trace = load_trace(path)
    assert trace.name == "two"
    assert list(trace.functions) == ["b-1", "a-0"]  # in the order of the file, not in topological order
    assert trace.topological_order() == ["a-0", "b-1"]
    assert trace.functions["b-1"] == TraceFunction(("a-0",), 2.5, {"cpu": 3, "memory": 100, "gpu": 1})
    assert trace.functions["a-0"] == TraceFunction((), 1, {"cpu": 1})


def test_invalid_workflows_are_errors():
    with pytest.raises(ValueError, match="'a' needs 'b', which is missing"):
        Trace("t", {"a": TraceFunction(("b",), 1, {})}).topological_order()
    with pytest.raises(ValueError, match="cycle"):
        Trace("t", {"a": TraceFunction(("b",), 1, {}), "b": TraceFunction(("a",), 1, {})}).topological_order()


def test_repeated_input_counts_once():
    trace = Trace("t", {"a": TraceFunction((), 1, {}), "b": TraceFunction(("a", "a"), 1, {})})
    assert trace.topological_order() == ["a", "b"]


def test_costs_are_reduced_to_fit_some_node():
    nodes = {"gpu": {"cpu": 4, "memory": 100, "gpu": 1}, "large": {"cpu": 8, "memory": 400}}
    asked = {
        "fits": {"cpu": 2, "memory": 50},
        "many gpus": {"cpu": 1, "gpu": 3},
        "gpu and memory": {"memory": 400, "gpu": 1},  # the GPU determines the node, so memory is reduced
        "memory": {"cpu": 6, "memory": 1000},
    }
    trace = fit(Trace("t", {id: TraceFunction((), 1, cost) for id, cost in asked.items()}), nodes)
    assert {id: f.cost for id, f in trace.functions.items()} == {
        "fits": {"cpu": 2, "memory": 50},
        "many gpus": {"cpu": 1, "gpu": 1},
        "gpu and memory": {"memory": 100, "gpu": 1},
        "memory": {"cpu": 6, "memory": 400},
    }
    without = fit(trace, {"node": {"cpu": 8, "memory": 400}})
    assert without.functions["many gpus"].cost == {"cpu": 1}


# Lower bounds


def bound(functions: dict[str, TraceFunction], nodes: dict) -> tuple[float, str]:
    seconds, label = lower_bound(Trace("t", functions), nodes)
    return pytest.approx(seconds), label


def test_bound_of_a_chain():
    assert lower_bound(chain(1, 2, 3), {"node": {"cpu": 8}}) == (6, "critical path")


def test_bound_of_work_over_capacity():
    functions = {**parallel(2, 3, {"cpu": 4}), **parallel(6, 1, {"cpu": 1}, kind="g")}
    assert bound(functions, {"a": {"cpu": 4}, "b": {"cpu": 2}}) == (6, "cpu of a")  # 2 * 3 s, only on a
    assert bound(functions, {"a": {"cpu": 4}, "b": {"cpu": 4}}) == (3.75, "cpu")  # (24 + 6) / 8


def test_bound_of_slots():
    # Two fit on a, one on b, whose third core is useless: 10 / 3, not 20 / 7.
    assert bound(parallel(10, 1, {"cpu": 2}), {"a": {"cpu": 4}, "b": {"cpu": 3}}) == (
        10 / 3,
        "slots for cpu 2",
    )


def test_bound_of_slots_includes_larger_costs():
    functions = {**parallel(3, 1, {"cpu": 5}), **parallel(3, 1, {"cpu": 6}, kind="g")}
    assert bound(functions, {"a": {"cpu": 8}, "b": {"cpu": 9}}) == (3, "slots for cpu 5")


def test_bound_of_slots_of_incomparable_costs():
    functions = {
        **parallel(2, 1, {"cpu": 3, "memory": 1}),
        **parallel(2, 1, {"cpu": 4, "memory": 0.5}, kind="g"),
    }
    # Neither cost is below the other, yet no two functions fit at once.
    assert bound(functions, {"a": {"cpu": 5, "memory": 100}}) == (4, "slots for cpu 3")


def test_bound_of_the_eligible_nodes():
    nodes = {"gpu": {"cpu": 8, "gpu": 2}, "other": {"cpu": 8}}
    assert bound(parallel(6, 1, {"cpu": 1, "gpu": 1}), nodes) == (3, "gpu")
    # 6 s of work for the two cores of the GPU node; its GPUs are plentiful.
    nodes = {"gpu": {"cpu": 2, "gpu": 9}, "other": {"cpu": 8}}
    assert bound(parallel(6, 1, {"cpu": 1, "gpu": 1}), nodes) == (3, "cpu of gpu")


def test_bound_of_a_union_of_node_sets():
    nodes = {
        "a": {"cpu": 1, "p": 9},
        "b": {"cpu": 1, "p": 9, "q": 9},
        "c": {"cpu": 1, "q": 9},
        "d": {"cpu": 9},
    }
    functions = {**parallel(3, 1, {"cpu": 1, "p": 1}), **parallel(3, 1, {"cpu": 1, "q": 1}, kind="g")}
    # 3 / 2 on a and b, 3 / 2 on b and c, but 6 / 3 on all three.
    assert bound(functions, nodes) == (2, "cpu of a+b+c")


def test_bound_of_threads():
    assert bound(parallel(8, 1, {"cpu": 0.1}), {"node": {"cpu": 2}}) == (4, "threads")
    assert bound(parallel(8, 1, {"seat": 1}), {"node": {"threads": 2, "seat": 8}}) == (4, "threads")


def test_bound_includes_work_before_and_after():
    middle = parallel(8, 1, {"cpu": 1}, "first")
    functions = {
        "last": TraceFunction(tuple(middle), 2, {"cpu": 1}),
        **middle,
        "first": TraceFunction((), 1.5, {"cpu": 1}),
    }
    assert bound(functions, {"node": {"cpu": 4}}) == (1.5 + 8 / 4 + 2, "cpu")


def test_bound_of_functions_with_the_most_work_before():
    # Functions of the second wave start after 3 s; including the first wave would give a lower bound.
    functions = {
        **parallel(4, 1, {"cpu": 1}),
        "slow": TraceFunction((), 3, {"cpu": 1}),
        **parallel(8, 1, {"cpu": 1}, "slow", kind="g"),
    }
    assert bound(functions, {"node": {"cpu": 4}}) == (3 + 8 / 4, "cpu")


def test_no_bound_if_a_function_fits_nowhere():
    with pytest.raises(ValueError, match="'f-0' fits on no node"):
        lower_bound(Trace("t", parallel(1, 1, {"cpu": 2})), {"node": {"cpu": 1}})


def simulated(trace: Trace, nodes: dict, strategy: str) -> float:
    dag = DAG(trace.name)
    for id, f in trace.functions.items():
        dag.add_function(Function(id=id, code=max, args=list(f.deps), extra_args=[0, 0], cost=f.cost))
    seconds = {id: f.seconds for id, f in trace.functions.items()}
    return handoff.simulate(dag, nodes, seconds, allocation_strategy=strategy).makespan


UNEQUAL = {
    "a": {"cpu": 4, "memory": 8, "gpu": 1},
    "b": {"cpu": 2, "memory": 20},
    "c": {"cpu": 1, "memory": 2},
}


@st.composite
def small_traces(draw):
    functions: dict[str, TraceFunction] = {}
    for i in range(draw(st.integers(1, 9))):
        deps = draw(st.lists(st.sampled_from(list(functions)), unique=True, max_size=2)) if functions else []
        cost = {"cpu": draw(st.integers(0, 4)), "memory": draw(st.integers(0, 8)), "gpu": draw(st.booleans())}
        cost = {name: int(n) for name, n in cost.items() if n}
        functions[f"f-{i}"] = TraceFunction(tuple(deps), draw(st.integers(0, 5)), cost)
    return Trace("t", functions)


@given(small_traces(), st.sampled_from(["best_fit", "load_balanced", "first_available"]))
def test_no_schedule_beats_the_bound(trace, strategy):
    best, label = lower_bound(trace, UNEQUAL)
    assert label
    assert simulated(trace, UNEQUAL, strategy) >= best * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_no_schedule_of_a_workflow_beats_the_bound(seed, tmp_path):
    nodes = {"a": {"cpu": 8, "memory": 32000, "gpu": 1}, "b": {"cpu": 4, "memory": 8000}}
    path = tmp_path / "trace.json"
    path.write_text(synthetic.to_text(synthetic.generate(samples=2 + seed, width=3 + 3 * seed, seed=seed)))
    trace = fit(load_trace(path), nodes)
    assert simulated(trace, nodes, "best_fit") >= lower_bound(trace, nodes)[0] * (1 - 1e-9)


# Scaling


def test_scale_to_a_bound():
    nodes = {"a": {"cpu": 4}, "b": {"cpu": 3}}
    trace = Trace("t", {**parallel(10, 7, {"cpu": 2}), **parallel(3, 30, {"cpu": 1}, "f-0", kind="g")})
    scaled = scale(trace, nodes, 2.0)
    assert lower_bound(scaled, nodes)[0] == pytest.approx(2.0)
    factors = {scaled.functions[id].seconds / trace.functions[id].seconds for id in trace.functions}
    assert max(factors) == pytest.approx(min(factors))


def test_scale_respects_the_shortest_duration():
    nodes = {"node": {"cpu": 1}}
    scaled = scale(Trace("t", {**chain(1000, 0).functions, "x": TraceFunction((), 500, {})}), nodes, 0.05)
    seconds = {id: f.seconds for id, f in scaled.functions.items()}
    assert seconds["c-1"] == SHORTEST
    assert sum(seconds.values()) == pytest.approx(0.05)  # on one thread
    assert seconds["c-0"] == pytest.approx(2 * seconds["x"])


@pytest.mark.parametrize("trace", [chain(1, 2, 3), chain(0, 0, 0)])
def test_scale_to_an_unreachable_bound(trace):
    scaled = scale(trace, {"node": {"cpu": 1}}, 0.01)
    assert [f.seconds for f in scaled.functions.values()] == [SHORTEST] * 3


def test_bound_for_other_durations():
    bound = LowerBound(chain(1, 2, 3), {"node": {"cpu": 8}})
    assert bound(np.array([1.0, 1.0, 1.0])) == (3, "critical path")
    assert bound() == (6, "critical path")
