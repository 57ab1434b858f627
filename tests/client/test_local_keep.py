"""Results that ``execute_local`` keeps, and when it releases the others."""

import gc
import time
import weakref

import pytest
from helpers import add, dag_of, identity
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import acyclic_graphs, build

from handoff_dask import Function, execute_local

sequential_and_threaded = pytest.mark.parametrize("max_concurrency", [1, 3])


def dag():
    return dag_of(
        Function("a", lambda: 1),
        Function("b", identity, args=["a"]),
        Function("i", identity, args=["b"], type="inline"),
        Function("c", add, args=["i", "a"]),
        Function("alone", lambda: 5),
    )


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ("all", {"a": 1, "b": 1, "c": 2, "alone": 5}),
        ("sinks", {"c": 2, "alone": 5}),
        (["a"], {"a": 1}),
        (("b", "c"), {"b": 1, "c": 2}),
        ({"alone"}, {"alone": 5}),
        ({"a": 0}.keys(), {"a": 1}),
        ([], {}),
        (["a", "a"], {"a": 1}),
    ],
)
@sequential_and_threaded
def test_keep(max_concurrency, keep, kept):
    result = execute_local(dag(), keep=keep, max_concurrency=max_concurrency)
    assert result.results == kept
    assert set(result.allocations) == set(result.records) == {"a", "b", "c", "alone"}


class Value:
    """A result that can be weakly referenced."""


@sequential_and_threaded
def test_results_are_released_once_no_function_needs_them(max_concurrency):
    alive = {}

    def make(id, *args):
        gc.collect()
        alive[id] = {name for name, ref in refs.items() if ref() is not None}
        value = Value()
        refs[id] = weakref.ref(value)
        return value

    refs = {}
    chain = dag_of(Function(0, lambda: make(0)))
    for n in range(1, 6):
        chain.add_function(Function(n, lambda _, n=n: make(n), args=[n - 1] if n != 3 else [2]))
    result = execute_local(chain, keep=[1, 5], max_concurrency=max_concurrency)
    assert set(result.results) == {1, 5}
    # While n runs, only its argument and the kept result 1 are alive.
    assert alive == {0: set(), 1: {0}, 2: {1}, 3: {1, 2}, 4: {1, 3}, 5: {1, 4}}


def test_keep_all_holds_every_result():
    result = execute_local(dag_of(*(Function(n, Value) for n in range(5))))
    assert len(set(map(id, result.results.values()))) == 5


@settings(deadline=None, max_examples=40)
@given(acyclic_graphs(), st.data(), st.sampled_from([1, 3]))
def test_any_keep_of_any_dag(graph, data, max_concurrency):
    keep = data.draw(st.lists(st.sampled_from(sorted(graph)))) if graph else []
    everything = execute_local(build(graph, lambda *args: (1, *args)), max_concurrency=1).results
    kept = execute_local(build(graph, lambda *args: (1, *args)), keep=keep, max_concurrency=max_concurrency)
    assert kept.results == {id: everything[id] for id in keep}
    sinks = execute_local(
        build(graph, lambda *args: (1, *args)), keep="sinks", max_concurrency=max_concurrency
    )
    assert set(sinks.results) == {id for id in graph if not any(id in deps for deps in graph.values())}


class Id:
    """An id whose hash yields to other threads."""

    def __init__(self, n):
        self.n = n

    def __hash__(self):
        time.sleep(0)
        return hash(self.n)

    def __eq__(self, other):
        return self.n == other.n


def test_threads_release_the_same_result():
    """If two threads raced to decrement its use count, the result would be left behind."""
    source = Id(0)
    dag = dag_of(Function(source, int), *(Function(Id(n), identity, args=[source]) for n in range(1, 200)))
    for _ in range(5):
        assert source not in execute_local(dag, keep="sinks", max_concurrency=8).results
