"""Random valid and invalid DAGs, checked against an independent oracle."""

import pytest
from helpers import add, examples
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import acyclic_graphs, any_graphs, build

from handoff_dask import (
    DAG,
    Collocated,
    CyclicDependencyError,
    Function,
    InvalidCollocationError,
    InvalidCostError,
    InvalidDAGError,
    InvalidFunctionError,
    MissingFunctionError,
)


def has_cycle(graph):
    """Search depth first for an edge back to the current path."""
    done, on_path = set(), set()

    def visit(id):
        if id in on_path:
            return True
        if id in done:
            return False
        on_path.add(id)
        found = any(visit(d) for d in graph[id] if d in graph)
        on_path.remove(id)
        done.add(id)
        return found

    return any(visit(id) for id in graph)


def check(dag, graph, faults):
    """Validate a DAG whose functions have faults of the given kinds; return the error."""
    kinds = {
        MissingFunctionError: any(d not in graph for deps in graph.values() for d in deps),
        CyclicDependencyError: has_cycle(graph),
        InvalidCostError: InvalidCostError in faults,
        InvalidCollocationError: InvalidCollocationError in faults,
        InvalidFunctionError: InvalidFunctionError in faults,
    }
    expected = [kind for kind, present in kinds.items() if present]
    if not expected:
        dag.validate()
        position = {id: n for n, id in enumerate(dag)}
        assert set(position) == set(graph)
        assert all(position[d] < position[id] for id, deps in graph.items() for d in deps)
        return None
    with pytest.raises(InvalidDAGError) as caught:
        dag.validate()
    assert caught.type is expected[0]
    return caught.value


@settings(deadline=None, max_examples=examples(300))
@given(any_graphs(), st.booleans())
def test_random_graphs(graph, by_name):
    error = check(build(graph, lambda *args, **kwargs: None, by_name=by_name), graph, [])
    if isinstance(error, MissingFunctionError):
        assert set(error.missing) == {(id, d) for id, deps in graph.items() for d in deps if d not in graph}
        assert any("cycle" in problem for problem in error.problems) == has_cycle(graph)
    elif isinstance(error, CyclicDependencyError):
        cycle = error.cycle
        assert cycle
        assert len(set(cycle)) == len(cycle)
        for before, id in zip((*cycle[-1:], *cycle), cycle, strict=False):
            assert before in graph[id]


INVALID = [
    (InvalidCostError, {"cost": {"cpu": -1}}),
    (InvalidCostError, {"cost": {"gpu": float("nan")}}),
    (InvalidCostError, {"cost": "much"}),
    (InvalidCollocationError, {"node": Collocated("absent")}),
    (InvalidFunctionError, {"node": ""}),
    (InvalidFunctionError, {"max_retries": -1}),
    (InvalidFunctionError, {"timeout": 0}),
    (InvalidFunctionError, {"code": 5}),
    (InvalidFunctionError, {"extra_kwargs": {"no_such_parameter": 1}}),
    (InvalidFunctionError, {"type": "inline", "node": "node1"}),
]
VALID = [
    {},
    {"cost": {"cpu": 0.2}},
    {"node": ["n1", "n2"]},
    {"max_retries": 0, "priority": 1},
    {"type": "inline"},
]


@settings(deadline=None, max_examples=examples(200))
@given(st.one_of(acyclic_graphs(8), any_graphs(6)), st.data())
def test_random_functions(graph, data):
    dag = DAG("random")
    faults: dict[type, list[str]] = {}
    for id, deps in graph.items():
        fields = {"code": add, "args": deps}
        fields |= data.draw(st.sampled_from(VALID))
        if data.draw(st.integers(0, 5)) == 0:
            kind, broken = data.draw(st.sampled_from(INVALID))
            fields |= broken
            faults.setdefault(kind, []).append(id)
        dag.add_function(Function(id, **fields))
    error = check(dag, graph, faults)
    if error is not None:
        wrong = [id for ids in faults.values() for id in ids]
        assert all(any(repr(id) in problem for problem in error.problems) for id in wrong)
        if type(error) in faults:
            assert error.function_ids == tuple(faults[type(error)])
