"""Which results ``execute_local`` keeps, and for how long it holds the others."""

import gc
import time
import weakref

import pytest
from helpers import add, dag_of, identity
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import acyclic_graphs, build

from handoff_dask import Function, execute_local

both_ways = pytest.mark.parametrize("max_concurrency", [1, 3])


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
@both_ways
def test_keep(max_concurrency, keep, kept):
    result = execute_local(dag(), keep=keep, max_concurrency=max_concurrency)
    assert result.results == kept
    assert set(result.allocations) == set(result.records) == {"a", "b", "c", "alone"}


class Value:
    """Something whose end can be seen."""


@both_ways
def test_others_are_dropped_as_soon_as_nothing_needs_them(max_concurrency):
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
    # While n runs there are its argument, and 1, which is kept.
    assert alive == {0: set(), 1: {0}, 2: {1}, 3: {1, 2}, 4: {1, 3}, 5: {1, 4}}


def test_all_keeps_every_result_until_the_end():
    result = execute_local(dag_of(*(Function(n, Value) for n in range(5))))
    assert len(set(map(id, result.results.values()))) == 5


@settings(deadline=None, max_examples=40)
@given(acyclic_graphs(), st.data(), st.sampled_from([1, 3]))
def test_any_choice_of_any_dag(graph, data, max_concurrency):
    keep = data.draw(st.lists(st.sampled_from(sorted(graph)))) if graph else []
    everything = execute_local(build(graph, lambda *args: (1, *args)), max_concurrency=1).results
    kept = execute_local(build(graph, lambda *args: (1, *args)), keep=keep, max_concurrency=max_concurrency)
    assert kept.results == {id: everything[id] for id in keep}
    sinks = execute_local(
        build(graph, lambda *args: (1, *args)), keep="sinks", max_concurrency=max_concurrency
    )
    assert set(sinks.results) == {id for id in graph if not any(id in deps for deps in graph.values())}


class Id:
    """An id that lets other threads run while it is looked up."""

    def __init__(self, n):
        self.n = n

    def __hash__(self):
        time.sleep(0)
        return hash(self.n)

    def __eq__(self, other):
        return self.n == other.n


def test_threads_that_drop_the_same_result():
    """A count that two threads lower at once would leave it there."""
    source = Id(0)
    dag = dag_of(Function(source, int), *(Function(Id(n), identity, args=[source]) for n in range(1, 200)))
    for _ in range(5):
        assert source not in execute_local(dag, keep="sinks", max_concurrency=8).results
