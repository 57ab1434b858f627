"""``execute_local`` evaluates inline functions inside each function that depends on them."""

import pytest
from helpers import add, dag_of, identity

from handoff_dask import Function, FunctionFailedError, current, execute_local

sequential_and_threaded = pytest.mark.parametrize("max_concurrency", [1, 3])


class CountingCode:
    """Code that counts its calls; each call returns a different value."""

    def __init__(self):
        self.calls = []

    def __call__(self, *args):
        self.calls.append(args)
        return (len(self.calls), *args)


@sequential_and_threaded
def test_evaluated_once_per_dependent(max_concurrency):
    code = CountingCode()
    dag = dag_of(
        Function("a", str, extra_args=["A"]),
        Function("i", code, args=["a"], type="inline"),
        Function("f", identity, args=["i"]),
        Function("g", identity, args=["i"]),
        Function("h", add, args=[]),
    )
    result = execute_local(dag, max_concurrency=max_concurrency)
    assert code.calls == [("A",), ("A",)]
    assert sorted([result["f"], result["g"]]) == [(1, "A"), (2, "A")]
    assert set(result.results) == set(result.allocations) == set(result.records) == {"a", "f", "g", "h"}


@sequential_and_threaded
def test_evaluated_once_per_dependent_even_on_several_paths(max_concurrency):
    base, left, right = CountingCode(), CountingCode(), CountingCode()
    dag = dag_of(
        Function("base", base, type="inline"),
        Function("left", left, args=["base", "base"], type="inline"),
        Function("right", right, args=["base"], type="inline"),
        Function(
            "top",
            lambda *args, **kwargs: (args, kwargs),
            args=["left", "right", "base"],
            kwargs={"x": "left"},
        ),
    )
    result = execute_local(dag, max_concurrency=max_concurrency)
    assert (len(base.calls), len(left.calls), len(right.calls)) == (1, 1, 1)
    assert result["top"] == (((1, (1,), (1,)), (1, (1,)), (1,)), {"x": (1, (1,), (1,))})


@sequential_and_threaded
def test_argument_passing(max_concurrency):
    dag = dag_of(
        Function("a", int, extra_args=[3]),
        Function(
            "listed",
            lambda values, n: [*values, n],
            args=["a", "a"],
            extra_args=[1],
            argument_inclusion="as_list",
            type="inline",
        ),
        Function("named", dict, kwargs={"x": "listed", "y": "a"}, extra_kwargs={"z": 0}, type="inline"),
        Function("by_name", "builtins:sorted", args=["named"], type="inline"),
        Function(
            "f", lambda values, more: (values, more), args=["by_name", "named"], argument_inclusion="variadic"
        ),
    )
    result = execute_local(dag, max_concurrency=max_concurrency)
    assert result["f"] == (["x", "y", "z"], {"x": [3, 3, 1], "y": 3, "z": 0})


@sequential_and_threaded
def test_not_evaluated_without_dependents(max_concurrency):
    code = CountingCode()
    dag = dag_of(Function("i", code, type="inline"), Function("j", code, args=["i"], type="inline"))
    assert execute_local(dag, max_concurrency=max_concurrency).results == {}
    assert code.calls == []


@sequential_and_threaded
def test_a_chain_of_thousands(max_concurrency):
    dag = dag_of(Function(0, int, type="inline"))
    for n in range(1, 5000):
        dag.add_function(Function(n, lambda x: x + 1, args=[n - 1], type="inline"))
    dag.add_function(Function("f", identity, args=[4999]))
    assert execute_local(dag, max_concurrency=max_concurrency).results == {"f": 4999}


@sequential_and_threaded
def test_dependencies_of_inline_functions_run_first(max_concurrency):
    dag = dag_of(
        Function("f", identity, args=["j"]),
        Function("j", add, args=["i", "b"], type="inline"),
        Function("i", identity, args=["a"], type="inline"),
        Function("b", lambda a: a * 10, args=["a"]),
        Function("a", lambda: 1),
    )
    assert execute_local(dag, max_concurrency=max_concurrency).results == {"a": 1, "b": 10, "f": 11}


@sequential_and_threaded
def test_a_failure_is_reported_under_the_dependent(max_concurrency):
    def fail():
        raise OSError("inside")

    dag = dag_of(Function("i", fail, type="inline"), Function("f", identity, args=["i"], max_retries=2))
    with pytest.raises(FunctionFailedError) as caught:
        execute_local(dag, max_concurrency=max_concurrency)
    assert caught.value.function_id == "f"
    assert repr(caught.value.__cause__) == "OSError('inside')"
    assert [attempt.number for attempt in caught.value.attempts] == [1, 2, 3]


@sequential_and_threaded
def test_current_describes_the_dependent(max_concurrency):
    dag = dag_of(
        Function("i", lambda: current().function_id, type="inline"),
        Function("f", identity, args=["i"]),
        Function("g", identity, args=["i"]),
    )
    assert execute_local(dag, max_concurrency=max_concurrency).results == {"f": "f", "g": "g"}
