"""``DAG(cost=...)`` is the cost of the functions that have none of their own."""

from __future__ import annotations

import pytest

from handoff_dask import DAG, Argument, Function, InvalidCostError


def test_functions_without_a_cost_get_the_default():
    dag = DAG("d", cost={"cpu": 2})
    dag.add_function(Function(id="a", code=int))

    @dag.function
    def b(a):
        return a

    @dag.function(cost={"gpu": 1})
    def own(a):
        return a

    @dag.function(cost={})
    def free(a):
        return a

    assert {id: dict(f.cost) for id, f in dag.functions.items()} == {
        "a": {"cpu": 2},
        "b": {"cpu": 2},
        "own": {"gpu": 1},
        "free": {},
    }


def test_inline_and_transfer_functions_get_no_cost():
    dag = DAG("d", cost={"cpu": 2})
    dag.add_function(Function(id="a", code=int))
    dag.add_function(Function(id="i", type="inline", code=int))
    dag.add_function(Function(id="b", code=int, args=[Argument("a", serialize=repr, deserialize=int)]))
    assert {id for id, f in dag.functions.items() if f.cost is not None} == {"a", "b"}


def test_without_a_default_functions_have_no_cost():
    assert DAG("d").add_function(Function(id="a", code=int))["a"].cost is None


def test_invalid_default_is_reported_with_the_function():
    dag = DAG("d", cost={"cpu": -1})
    dag.add_function(Function(id="a", code=int))
    with pytest.raises(InvalidCostError, match=r"'a'.*cpu"):
        dag.validate()


@pytest.mark.parametrize("derive", [lambda dag: dag.copy(), lambda dag: dag.subset("a")])
def test_copies_and_subsets_have_the_default(derive):
    dag = DAG("d", cost={"cpu": 2}).add_function(Function(id="a", code=int))
    derived = derive(dag).add_function(Function(id="b", code=int))
    assert dict(derived["b"].cost) == {"cpu": 2}
    assert list(dag) == ["a"]
