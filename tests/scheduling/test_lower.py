"""A DAG as numbers for the core."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from handoff_dask._scheduling.lower import depth_first


@st.composite
def dependencies(draw):
    n = draw(st.integers(0, 40))
    return {i: tuple(draw(st.lists(st.integers(0, i - 1), max_size=4))) if i else () for i in range(n)}


@given(dependencies())
@settings(deadline=None)
def test_the_order_is_topological_and_goes_on_with_what_was_begun(deps):
    order = depth_first(deps)
    assert sorted(order) == sorted(deps)
    position = {id: n for n, id in enumerate(order)}
    assert all(position[d] < position[id] for id in deps for d in deps[id])


def test_the_order_keeps_few_results_alive():
    deps = {}
    for i in range(50):
        deps["load", i] = ()
        deps["size", i] = (("load", i),)
    order = depth_first(deps)
    assert [kind for kind, _ in order] == ["load", "size"] * 50
