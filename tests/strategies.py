"""Random graphs for property-based tests."""

from __future__ import annotations

from hypothesis import strategies as st

from handoff_dask import DAG, Function


@st.composite
def acyclic_graphs(draw, most=12):
    """Draw id → ids of its dependencies (with repeats), in an order that is not topological."""
    n = draw(st.integers(0, most))
    depends = {i: draw(st.lists(st.integers(0, i - 1), max_size=4)) if i else [] for i in range(n)}
    return {f"f{i}": [f"f{d}" for d in depends[i]] for i in draw(st.permutations(range(n)))}


@st.composite
def any_graphs(draw, most=8):
    """Draw id → ids of its dependencies, which may form cycles and loops or be missing."""
    n = draw(st.integers(0, most))
    ids = [f"f{i}" for i in range(n)]
    others = st.sampled_from([*ids, *ids, *ids, "absent1", "absent2"])
    return {id: draw(st.lists(others, max_size=3)) for id in ids}


def build(graph, code, *, by_name=False, **fields):
    """Build a DAG; with ``by_name``, the second and later dependencies are passed as keywords p1, p2 ..."""
    dag = DAG("random")
    for id, deps in graph.items():
        args, kwargs = (deps[:1], {f"p{n}": d for n, d in enumerate(deps[1:], 1)}) if by_name else (deps, {})
        dag.add_function(Function(id, code, args=args, kwargs=kwargs, **fields))
    return dag
