"""``execute_local``: arguments, results and option checks."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import add, dag_of, identity, multiply

from handoff_dask import (
    DAG,
    Argument,
    Attempt,
    Collocated,
    Function,
    FunctionFailedError,
    InvalidFunctionError,
    MissingFunctionError,
    Result,
    RetryPolicy,
    execute_local,
)

#: Run sequentially in the calling thread, and on a thread pool.
sequential_and_threaded = pytest.mark.parametrize("max_concurrency", [1, 3])


def record_call(*args, **kwargs):
    return args, kwargs


@sequential_and_threaded
def test_results_allocations_and_records(max_concurrency):
    dag = dag_of(
        Function("source", identity, extra_args=[42]),
        Function("transform", multiply, args=["source"], extra_args=[2]),
        Function("sink", lambda value: f"The final answer is: {value}", args=["transform"]),
        id="basic_example",
    )
    result = execute_local(dag, max_concurrency=max_concurrency)
    assert type(result) is Result
    assert result.dag_id == "basic_example"
    assert result.results == {"source": 42, "transform": 84, "sink": "The final answer is: 84"}
    assert list(result.results) == ["source", "transform", "sink"]
    assert result["sink"] == "The final answer is: 84"
    assert result.allocations == dict.fromkeys(dag, "local")
    assert set(result.records) == set(dag)
    assert 0 < result.elapsed < 60
    for record in result.records.values():
        (attempt,) = record.attempts
        assert type(attempt) is Attempt
        assert (attempt.number, attempt.node, attempt.outcome, attempt.error) == (
            1,
            "local",
            "finished",
            None,
        )
        assert attempt.started <= attempt.stopped
        assert (record.status, record.node) == ("finished", "local")


@sequential_and_threaded
def test_an_empty_dag(max_concurrency):
    result = execute_local(DAG("mine"), max_concurrency=max_concurrency)
    assert (result.dag_id, result.results, result.allocations, dict(result.records)) == ("mine", {}, {}, {})


def test_every_run_is_separate():
    dag = dag_of(Function("f", list))
    first, second = execute_local(dag), execute_local(dag)
    assert first.run_id != second.run_id
    assert first["f"] is not second["f"]


@sequential_and_threaded
@pytest.mark.parametrize(
    ("fields", "call"),
    [
        ({}, ((), {})),
        ({"args": ["a", "b", "a"]}, (("A", "B", "A"), {})),
        ({"args": ["b"], "extra_args": [1, 2]}, (("B", 1, 2), {})),
        ({"args": ["a"], "kwargs": {"x": "b"}}, (("A",), {"x": "B"})),
        ({"kwargs": {"x": "a", "y": "a"}, "extra_kwargs": {"z": "a"}}, ((), {"x": "A", "y": "A", "z": "a"})),
        ({"args": ["b", "a"], "argument_inclusion": "as_list"}, ((["B", "A"],), {})),
        ({"argument_inclusion": "as_list"}, (([],), {})),
        (
            {"args": ["a"], "extra_args": [1], "extra_kwargs": {"z": 2}, "argument_inclusion": "as_list"},
            ((["A"], 1), {"z": 2}),
        ),
    ],
)
def test_argument_passing(max_concurrency, fields, call):
    dag = dag_of(
        Function("a", str, extra_args=["A"]),
        Function("b", str, extra_args=["B"]),
        Function("f", record_call, **fields),
    )
    assert execute_local(dag, max_concurrency=max_concurrency)["f"] == call


@sequential_and_threaded
def test_values_are_passed_by_reference(max_concurrency):
    """Results are not copied within a process."""
    value = object()
    dag = dag_of(Function("a", lambda: value), Function("b", identity, args=["a"]))
    result = execute_local(dag, max_concurrency=max_concurrency)
    assert result["a"] is result["b"] is value


@sequential_and_threaded
def test_transfers(max_concurrency):
    dag = dag_of(
        Function("p", str, extra_args=["data"]),
        Function(
            "c",
            identity,
            args=[
                Argument(
                    "p", record_call, record_call, serialize_extra_args=[1], deserialize_extra_args=[2, 3]
                )
            ],
        ),
        Function("d", dict, kwargs={"x": Argument("p")}),
    )
    result = execute_local(dag, max_concurrency=max_concurrency)
    serialized = (("data", "local", "local", 1), {})
    assert result["serialize", "p", "c", 0] == serialized
    assert result["c"] == ((serialized, "local", "local", 2, 3), {})
    assert result["d"] == {"x": "data"}
    assert set(result.results) == set(result.allocations) == set(dag)
    assert len(dag) == 7


def test_cost_and_node_are_ignored():
    dag = dag_of(
        Function("a", list, cost={"gpu": 1000}, node="nowhere"), Function("b", list, node=Collocated("a"))
    )
    result = execute_local(dag)
    assert result.allocations == {"a": "local", "b": "local"}
    assert result.records["a"].cost == {"gpu": 1000}


@pytest.mark.parametrize(
    ("code", "args", "value"),
    [
        ("math:sqrt", [16], 4.0),
        ("collections:OrderedDict.fromkeys", ["ab"], {"a": None, "b": None}),
        ("os.path:join", ["a", "b"], "a/b"),
    ],
)
@sequential_and_threaded
def test_code_by_name(max_concurrency, code, args, value):
    dag = dag_of(Function("f", code, extra_args=args))
    assert execute_local(dag, max_concurrency=max_concurrency)["f"] == value


@pytest.mark.parametrize(
    ("code", "cause"),
    [("math:no_such", AttributeError), ("no_such_module:f", ModuleNotFoundError), ("math:pi", TypeError)],
)
def test_code_by_an_invalid_name(code, cause):
    with pytest.raises(FunctionFailedError) as caught:
        execute_local(dag_of(Function("f", code)), max_retries=0)
    assert type(caught.value.__cause__) is cause


async def sleep_and_return(x, *more):
    await asyncio.sleep(0)
    return x, *more


@sequential_and_threaded
def test_async_code(max_concurrency):
    dag = dag_of(
        Function("a", sleep_and_return, extra_args=[1]),
        Function("i", sleep_and_return, args=["a"], type="inline"),
        Function("b", sleep_and_return, args=["i"], extra_args=[2]),
        Function("c", sleep_and_return, kwargs={"x": "b"}),
    )
    result = execute_local(dag, max_concurrency=max_concurrency)
    assert result.results == {"a": (1,), "b": (((1,),), 2), "c": ((((1,),), 2),)}


@sequential_and_threaded
def test_async_code_inside_an_event_loop(max_concurrency):
    """As in a notebook, where the calling thread cannot run a second event loop."""

    async def main():
        return execute_local(
            dag_of(Function("a", sleep_and_return, extra_args=[1])), max_concurrency=max_concurrency
        )

    assert asyncio.run(main())["a"] == (1,)


@sequential_and_threaded
def test_async_code_is_retried_and_fails_like_sync_code(max_concurrency):
    async def code():
        raise KeyError("late")

    with pytest.raises(FunctionFailedError) as caught:
        execute_local(dag_of(Function("f", code)), max_retries=1, max_concurrency=max_concurrency)
    assert repr(caught.value.__cause__) == "KeyError('late')"
    assert len(caught.value.attempts) == 2


@pytest.mark.parametrize("wrong", [None, {}, [], "dag", Function("f", list)])
def test_values_that_are_not_dags(wrong):
    with pytest.raises(TypeError, match=r"dag must be a handoff_dask\.DAG"):
        execute_local(wrong)


def test_an_invalid_dag_does_not_run():
    called = []
    dag = dag_of(Function("a", lambda: called.append(1)), Function("b", identity, args=["absent"]))
    with pytest.raises(MissingFunctionError):
        execute_local(dag)
    assert not called


def test_input_functions_are_rejected():
    dag = dag_of(Function("x", type="input"), Function("f", identity, args=["x"]))
    with pytest.raises(InvalidFunctionError, match="'x' is an input function") as caught:
        execute_local(dag)
    assert caught.value.function_ids == ("x",)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"max_retries": -1}, ValueError, "max_retries must not be negative"),
        ({"max_retries": 1.5}, TypeError, "max_retries must be a whole number"),
        ({"max_retries": None}, TypeError, "max_retries must be a whole number"),
        ({"retry": 3}, TypeError, "retry must be a RetryPolicy"),
        ({"max_concurrency": 0}, ValueError, "max_concurrency must be a whole number of at least 1"),
        ({"max_concurrency": True}, ValueError, "max_concurrency must be a whole number"),
        ({"max_concurrency": 2.0}, ValueError, "max_concurrency must be a whole number"),
        ({"keep": "some"}, ValueError, 'keep must be "all", "sinks" or a list'),
        ({"keep": 5}, TypeError, 'keep must be "all", "sinks" or a list'),
        ({"keep": ["f", "absent"]}, ValueError, "has no function 'absent'"),
        ({"keep": ["i"]}, ValueError, "'i' is an inline function"),
        ({"fail_fast": 1}, TypeError, "fail_fast must be True or False"),
        ({"timeout": -1}, ValueError, "timeout must not be negative"),
        ({"timeout": "1"}, ValueError, "timeout must be a number"),
        ({"timeout": float("inf")}, ValueError, "timeout must be finite"),
    ],
)
def test_invalid_options(options, error, text):
    called = []
    dag = dag_of(Function("f", lambda: called.append(1)), Function("i", list, type="inline"))
    with pytest.raises(error, match=text):
        execute_local(dag, **options)
    assert not called


def test_options_are_keyword_only():
    with pytest.raises(TypeError, match="positional"):
        execute_local(dag_of(Function("f", list)), 3)


def test_a_retry_policy_overrides_max_retries():
    calls = []

    def code():
        calls.append(1)
        raise OSError

    with pytest.raises(FunctionFailedError):
        execute_local(dag_of(Function("f", code)), max_retries=5, retry=RetryPolicy(max_retries=1))
    assert len(calls) == 2


def test_concurrent_runs():
    """Runs in several threads do not mix."""
    barrier = threading.Barrier(4, timeout=30)

    def meet(n):
        barrier.wait()
        return n

    dags = [
        dag_of(Function("f", meet, extra_args=[n]), Function("g", add, args=["f", "f"])) for n in range(4)
    ]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda dag: execute_local(dag, max_concurrency=1).results, dags))
    assert results == [{"f": n, "g": 2 * n} for n in range(4)]
