"""Graph algorithms."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from handoff_dask._model.function import Collocated, Function
from handoff_dask._model.graph import collocation_groups, depth_first, inline_order, placed_dependencies


@st.composite
def dependencies(draw):
    n = draw(st.integers(0, 40))
    return {i: tuple(draw(st.lists(st.integers(0, i - 1), max_size=4))) if i else () for i in range(n)}


@given(dependencies())
@settings(deadline=None)
def test_depth_first_order_is_topological(deps):
    order = depth_first(deps)
    assert sorted(order) == sorted(deps)
    position = {id: n for n, id in enumerate(order)}
    assert all(position[d] < position[id] for id in deps for d in deps[id])


def test_depth_first_order_keeps_few_results_alive():
    deps = {}
    for i in range(50):
        deps["load", i] = ()
        deps["size", i] = (("load", i),)
    order = depth_first(deps)
    assert [kind for kind, _ in order] == ["load", "size"] * 50


def of_id(*functions):
    return {f.id: f for f in functions}


def test_groups_are_transitive_and_in_the_order_of_the_dag():
    nan = float("nan")
    functions = of_id(
        Function("a"),
        Function("b", node=Collocated("d")),
        Function(nan),
        Function("c", node=Collocated(nan)),
        Function("d"),
        Function("e", node=Collocated("b")),
    )
    assert collocation_groups(functions) == [["b", "d", "e"], [nan, "c"]]


def test_dependencies_pass_through_inline_functions():
    functions = of_id(
        Function("a"),
        Function("i", args=["a", "b"], type="inline"),
        Function("j", args=["i"], type="inline"),
        Function("b"),
        Function("c", args=["j", "b"]),
    )
    inlined = inline_order(functions, ["a", "b", "i", "j", "c"])
    assert inlined == {"c": ("i", "j")}
    assert placed_dependencies(functions, inlined) == {"a": (), "b": (), "c": ("b", "a")}
