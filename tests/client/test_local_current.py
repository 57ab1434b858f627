"""``current()`` inside and outside functions that ``execute_local`` runs."""

import asyncio
import threading

import pytest
from helpers import dag_of, identity

from handoff_dask import Current, Function, FunctionFailedError, current, execute_local

sequential_and_threaded = pytest.mark.parametrize("max_concurrency", [1, 3])


@sequential_and_threaded
def test_inside_a_function(max_concurrency):
    dag = dag_of(
        Function(("f", 1), current, cost={"cpu": 2, "gpu": 0.5}),
        Function("g", lambda _: current(), args=[("f", 1)]),
        id="mine",
    )
    result = execute_local(dag, max_concurrency=max_concurrency)
    assert result["f", 1] == Current(
        run_id=result.run_id,
        dag_id="mine",
        function_id=("f", 1),
        attempt=1,
        node="local",
        cost={"cpu": 2, "gpu": 0.5},
        devices={},
    )
    assert (result["g"].function_id, result["g"].run_id, result["g"].cost) == ("g", result.run_id, {})


@sequential_and_threaded
def test_inside_async_code(max_concurrency):
    async def code():
        await asyncio.sleep(0)
        return current().function_id

    assert execute_local(dag_of(Function("f", code)), max_concurrency=max_concurrency)["f"] == "f"


@sequential_and_threaded
def test_outside_a_function(max_concurrency):
    def outside():
        with pytest.raises(RuntimeError, match="outside of a function"):
            current()

    outside()
    execute_local(dag_of(Function("f", current)), max_concurrency=max_concurrency)
    outside()
    with pytest.raises(FunctionFailedError):
        execute_local(dag_of(Function("f", [].pop)), max_retries=0, max_concurrency=max_concurrency)
    outside()


def test_in_a_thread_that_a_function_starts():
    """Threads that a function starts do not count as the function."""
    seen = []

    def call_current():
        try:
            seen.append(current())
        except RuntimeError as error:
            seen.append(type(error))

    def code():
        thread = threading.Thread(target=call_current)
        thread.start()
        thread.join()

    execute_local(dag_of(Function("f", code)))
    assert seen == [RuntimeError]


@pytest.mark.parametrize("inner", [1, 2])
@pytest.mark.parametrize("outer", [1, 2])
def test_a_run_inside_a_function(outer, inner):
    def code():
        before = current()
        result = execute_local(dag_of(Function("g", current), id="inner"), max_concurrency=inner)
        assert result["g"].function_id == "g"
        assert result["g"].dag_id == "inner"
        assert current() == before
        with pytest.raises(FunctionFailedError):
            execute_local(dag_of(Function("h", [].pop)), max_retries=0, max_concurrency=inner)
        assert current() == before
        return before

    dag = dag_of(Function("f", code), Function("after", identity, args=["f"]), id="outer")
    result = execute_local(dag, max_concurrency=outer, max_retries=0)
    assert (result["f"].function_id, result["f"].dag_id) == ("f", "outer")
