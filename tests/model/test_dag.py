"""Building and querying a DAG."""

import pickle

import pytest
from helpers import add, dag_of, identity
from hypothesis import given, settings
from strategies import acyclic_graphs, build

from handoff_dask import (
    DAG,
    CyclicDependencyError,
    DuplicateFunctionError,
    Function,
    InvalidDAGError,
    InvalidFunctionError,
)


def diamond():
    return dag_of(
        Function("top", add, args=["left", "right"]),
        Function("left", identity, args=["base"]),
        Function("right", identity, args=["base"]),
        Function("base", list),
    )


def test_ids():
    assert DAG("mine").id == "mine"
    assert DAG(("a", 1)).id == ("a", 1)
    assert DAG().id != DAG().id


def test_add_function_chains():
    dag = DAG()
    assert dag.add_function(Function("a", list)).add_function(Function("b", list)) is dag
    assert list(dag.functions) == ["a", "b"]


def test_lookup():
    dag = diamond()
    assert dag["left"] is dag.functions["left"]
    assert dag["left"].args == ("base",)
    assert "base" in dag
    assert "other" not in dag
    assert len(dag) == 4
    with pytest.raises(KeyError, match="other"):
        dag["other"]


def test_functions_are_read_only():
    with pytest.raises(TypeError):
        diamond().functions["new"] = Function("new", list)


def test_functions_is_a_view():
    dag = DAG()
    functions = dag.functions
    dag.add_function(Function("a", list))
    assert list(functions) == ["a"]


def test_sources_and_sinks():
    dag = diamond()
    assert dag.sources == ("base",)
    assert dag.sinks == ("top",)
    dag.add_function(Function("alone", list))
    assert dag.sources == ("base", "alone")
    assert dag.sinks == ("top", "alone")


def test_keyword_dependencies_count_for_sources_and_sinks():
    dag = dag_of(Function("a", list), Function("b", dict, kwargs={"x": "a"}))
    assert (dag.sources, dag.sinks) == (("a",), ("b",))


@pytest.mark.parametrize("method", [lambda dag: dag.validate(), repr, bool])
def test_empty(method):
    dag = DAG()
    method(dag)
    assert (len(dag), list(dag), dag.sources, dag.sinks, dict(dag.functions)) == (0, [], (), (), {})


def test_an_empty_dag_is_true():
    assert DAG()


@settings(deadline=None, max_examples=60)
@given(acyclic_graphs())
def test_iteration_is_topological(graph):
    order = list(build(graph, add))
    assert sorted(order) == sorted(graph)
    position = {id: n for n, id in enumerate(order)}
    assert all(position[d] < position[id] for id, deps in graph.items() for d in deps)


@settings(deadline=None, max_examples=60)
@given(acyclic_graphs())
def test_sources_and_sinks_of_random_graphs(graph):
    dag = build(graph, add)
    assert dag.sources == tuple(id for id in graph if not graph[id])
    assert dag.sinks == tuple(id for id in graph if not any(id in deps for deps in graph.values()))


def test_iteration_follows_additions():
    dag = dag_of(Function("b", identity, args=["a"]))
    assert list(dag) == ["b"]
    dag.add_function(Function("a", list))
    assert list(dag) == ["a", "b"]


def test_iterating_over_a_cycle():
    dag = dag_of(Function("a", identity, args=["b"]), Function("b", identity, args=["a"]))
    with pytest.raises(CyclicDependencyError):
        list(dag)


def test_iteration_reports_a_cycle_despite_other_problems():
    dag = dag_of(Function("a", identity, args=["a"]), Function("b", identity, args=["absent"]))
    with pytest.raises(InvalidDAGError, match="cycle"):
        list(dag)


def test_duplicate():
    dag = dag_of(Function("a", list), id="mine")
    with pytest.raises(DuplicateFunctionError, match="'a'") as caught:
        dag.add_function(Function("a", dict))
    assert caught.value.function_ids == ("a",)
    assert caught.value.dag_id == "mine"
    assert dag["a"].code is list


@pytest.mark.parametrize("wrong", [list, "f", None, {"id": "f"}, DAG()])
def test_add_function_rejects_other_objects(wrong):
    dag = DAG()
    with pytest.raises(InvalidFunctionError, match="takes a Function"):
        dag.add_function(wrong)
    assert len(dag) == 0


def test_unhashable_function_id():
    dag = DAG()
    with pytest.raises(InvalidFunctionError, match=r"\['f'\] is not hashable"):
        dag.add_function(Function(["f"], list))
    assert len(dag) == 0


@pytest.mark.parametrize("id", [0, None, ("a", 1), frozenset({1}), b"f", 2.5, ""])
def test_any_hashable_id(id):
    dag = dag_of(Function(id, list), Function("next", identity, args=[id]))
    dag.validate()
    assert list(dag) == [id, "next"]
    assert id in dag


@pytest.mark.parametrize(
    "fields", [{"args": 5}, {"args": "base"}, {"kwargs": [1]}, {"args": [[1]]}, {"cost": {"cpu": "x"}}]
)
def test_an_invalid_dag_has_a_repr(fields):
    """The repr helps to find the problem."""
    dag = dag_of(Function("f", list, **fields), id="mine")
    assert repr(dag) == "<DAG 'mine': 1 function>"


def test_pickles():
    dag = pickle.loads(pickle.dumps(diamond()))
    dag.validate()
    assert next(iter(dag)) == "base"
    assert dag["top"].args == ("left", "right")


def test_unhashable_dag_id():
    with pytest.raises(InvalidDAGError, match="its id is not hashable"):
        DAG([1])
