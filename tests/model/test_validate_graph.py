"""Missing functions, cycles, and the joint report of all problems."""

import pickle

import pytest
from helpers import add, dag_of, identity

from handoff_dask import (
    DAG,
    Collocated,
    CyclicDependencyError,
    Function,
    HandoffError,
    InvalidCollocationError,
    InvalidCostError,
    InvalidDAGError,
    InvalidFunctionError,
    MissingFunctionError,
)


def refused(dag, kind):
    with pytest.raises(InvalidDAGError) as caught:
        dag.validate()
    assert type(caught.value) is kind
    assert caught.value.dag_id == dag.id
    return caught.value


def test_valid():
    dag = dag_of(Function("b", identity, args=["a"]), Function("a", list))
    assert dag.validate() is None


def test_missing():
    dag = dag_of(
        Function("a", add, args=["x", "b", "y"]),
        Function("b", dict, kwargs={"k": "x"}),
        Function("c", identity, args=["a"]),
    )
    error = refused(dag, MissingFunctionError)
    assert error.missing == (("a", "x"), ("a", "y"), ("b", "x"))
    assert error.problems == (
        "function 'a' depends on 'x', which is not in the DAG",
        "function 'a' depends on 'y', which is not in the DAG",
        "function 'b' depends on 'x', which is not in the DAG",
    )


def test_a_repeated_missing_dependency_is_reported_once():
    error = refused(dag_of(Function("a", add, args=["x", "x"])), MissingFunctionError)
    assert error.missing == (("a", "x"),)
    assert len(error.problems) == 1


def test_a_missing_function_can_be_added_later():
    dag = dag_of(Function("b", identity, args=["a"]))
    refused(dag, MissingFunctionError)
    dag.add_function(Function("a", list))
    dag.validate()


def test_functions_added_after_validation_are_checked():
    dag = dag_of(Function("a", list))
    dag.validate()
    dag.add_function(Function("b", identity, args=["absent"]))
    refused(dag, MissingFunctionError)
    refused(dag, MissingFunctionError)


def is_cycle(cycle, dag):
    """Return whether every function depends on its predecessor, and the first on the last."""
    return len(set(cycle)) == len(cycle) and all(
        before in dag[id].dependencies for before, id in zip((cycle[-1], *cycle[:-1]), cycle, strict=True)
    )


def test_cycle():
    dag = dag_of(
        Function("source", list),
        Function("c", identity, args=["b"]),
        Function("a", add, args=["source", "c"]),
        Function("b", dict, kwargs={"x": "a"}),
        Function("after", identity, args=["c"]),
    )
    error = refused(dag, CyclicDependencyError)
    assert set(error.cycle) == {"a", "b", "c"}
    assert is_cycle(error.cycle, dag)
    first, second, third = error.cycle
    assert error.problems == (
        f"functions depend on each other in a cycle: {first!r} -> {second!r} -> {third!r} -> {first!r}",
    )


def test_self_loop():
    dag = dag_of(Function("before", list), Function("a", add, args=["before", "a"]))
    assert refused(dag, CyclicDependencyError).cycle == ("a",)


def test_cycle_with_many_dependents():
    """The search starts at functions that depend on the cycle but are not part of it."""
    behind = [Function(n, identity, args=[n + 1]) for n in range(50)]
    dag = dag_of(*behind, Function(50, identity, args=[51]), Function(51, identity, args=[50]))
    assert sorted(refused(dag, CyclicDependencyError).cycle) == [50, 51]


def test_a_diamond_is_not_a_cycle():
    dag = dag_of(
        Function("d", add, args=["b", "c", "b"]),
        Function("b", identity, args=["a"]),
        Function("c", identity, args=["a"]),
        Function("a", list),
    )
    dag.validate()


def test_mutual_collocation_is_not_a_cycle():
    """Collocated functions share a node but do not wait for each other."""
    dag_of(Function("a", list, node=Collocated("b")), Function("b", list, node=Collocated("a"))).validate()


def test_unhashable_dependency():
    dag = dag_of(Function("a", add, args=[["x"], "a"]))
    error = refused(dag, CyclicDependencyError)
    assert error.cycle == ("a",)
    assert (
        "function 'a': ['x'] is not hashable, so it cannot be a function id; values go in extra_args"
        in error.problems
    )
    error = refused(dag_of(Function("a", add, args=[["x"]])), InvalidFunctionError)
    assert error.function_ids == ("a",)


FAULTS = [
    (MissingFunctionError, Function("missing", identity, args=["absent"]), "depends on 'absent'"),
    (CyclicDependencyError, Function("loop", identity, args=["loop"]), "cycle: 'loop' -> 'loop'"),
    (InvalidCostError, Function("cost", list, cost={"cpu": -1}), "cpu must not be negative"),
    (
        InvalidCollocationError,
        Function("place", list, node=Collocated("nowhere")),
        "'nowhere', which is not in",
    ),
    (InvalidFunctionError, Function("code", "nonsense"), "code 'nonsense' is not of the form"),
]


@pytest.mark.parametrize("first", range(len(FAULTS)))
def test_the_first_kind_of_problem_determines_the_type(first):
    """Kinds have a fixed order, independent of the order of the functions."""
    faults = FAULTS[first:]
    dag = dag_of(Function("fine", list), *(f for _, f, _ in reversed(faults)))
    error = refused(dag, faults[0][0])
    assert len(error.problems) == len(faults)
    for problem, (_, f, text) in zip(error.problems, faults, strict=True):
        assert f.id in problem
        assert text in problem
        assert text in str(error)


def test_many_problems_of_one_function():
    f = Function("f", "nonsense", max_retries=-1, timeout=0, priority="high", node="", cost={"cpu": "two"})
    error = refused(dag_of(f), InvalidCostError)
    assert len(error.problems) == 6
    assert error.function_ids == ("f",)
    assert all("function 'f': " in problem for problem in error.problems)


def test_text():
    dag = dag_of(*(Function(n, identity, args=["absent"]) for n in range(25)), id="mine")
    error = refused(dag, MissingFunctionError)
    assert len(error.problems) == len(error.missing) == 25
    lines = str(error).splitlines()
    assert lines[0] == "DAG 'mine' has 25 problems:"
    assert lines[1:] == [*(f"  - {p}" for p in error.problems[:10]), "  - ... and 15 more"]
    alone = dag_of(Function("f", identity, args=["absent"]), id="mine")
    assert str(refused(alone, MissingFunctionError)) == (
        "DAG 'mine': function 'f' depends on 'absent', which is not in the DAG"
    )


@pytest.mark.parametrize(("kind", "f"), [(kind, f) for kind, f, _ in FAULTS])
def test_base_classes(kind, f):
    error = refused(dag_of(f), kind)
    assert isinstance(error, HandoffError)
    assert isinstance(error, ValueError)
    assert pickle.loads(pickle.dumps(error)).args == error.args


def test_nothing_runs():
    def code(*args):
        raise AssertionError("validate() ran it")

    dag = DAG()
    dag.add_function(Function("a", code, init=code))
    dag.add_function(Function("b", code, args=["a"], type="inline"))
    dag.validate()
