"""Compiled DAGs, evaluated without a cluster."""

from __future__ import annotations

import operator
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from dask._task_spec import Task
from helpers import add, dag_of, identity

from handoff_dask import DAG, Argument, Collocated, Function, RetryPolicy
from handoff_dask._adapter import evaluation
from handoff_dask._adapter.compile import NumberOrder, compile_dag
from handoff_dask._adapter.evaluation import load_code
from handoff_dask._adapter.worker import run_function
from handoff_dask._model.resources import UNIT


def compiled(dag, **options):
    return compile_dag(dag, "run0", **{"policy": RetryPolicy(), **options})


def evaluate(compiled):
    """Return id → result, computed as Dask does, after a round trip through pickle."""
    graph = pickle.loads(pickle.dumps(compiled.graph)).__dask_graph__()
    values = {}
    for key in compiled.keys:
        assert isinstance(graph[key], Task)
        values[key] = graph[key](values)
    return {id: values[key] for id, key in zip(compiled.ids, compiled.keys, strict=True)}


def test_annotations_carry_costs_and_pins_by_key():
    got = compiled(
        dag_of(
            Function("a", identity, extra_args=[1], cost={"cpu": 2, "memory": 0.5, "db": 1}, node="n1"),
            Function("b", identity, args=["a"], node=["n1", 7]),
            Function("c", identity, args=["b"], node=Collocated("b")),
        ),
        limits={"db": 4},
    )
    a, b, c = got.keys
    annotations = got.graph.__dask_annotations__()
    assert annotations["resources"] == {a: {"cpu": 2, "memory": 0.5}}
    assert annotations["workers"] == {a: ["n1"], b: ["n1", "7"]}
    assert annotations["handoff"] == dict.fromkeys((a, b, c), "run0")
    kind = got.spec.kinds[got.spec.kind_of[0]]
    assert kind.cost == (("cpu", 2 * UNIT), ("memory", UNIT // 2))
    assert kind.limit_cost == (("db", UNIT),)
    assert dict(kind.asked) == {"cpu": 2, "memory": 0.5, "db": 1}
    assert got.spec.groups == [[1, 2]]
    assert got.spec.limits == (("db", 4 * UNIT),)


def test_keys_contain_the_name_of_the_code_and_the_run_id():
    dag = dag_of(Function("a", identity, extra_args=[1]), Function("b", operator.neg, args=["a"]))
    one, two = compile_dag(dag, "one", policy=RetryPolicy()), compile_dag(dag, "two", policy=RetryPolicy())
    assert one.keys == [("identity-one", 0), ("neg-one", 1)]
    assert not set(one.keys) & set(two.keys)
    order = NumberOrder()
    assert [order[key] for key in one.keys] == [0, 1]
    assert one.keys[0] in order


def test_equal_functions_share_one_kind_and_their_parts():
    dag = DAG()
    for i in range(100):
        dag.add_function(Function(i, identity, extra_args=[i], cost={"cpu": 1 + i % 2}))
    got = compiled(dag)
    assert len(got.spec.kinds) == 2
    for graph in (got.graph, pickle.loads(pickle.dumps(got.graph))):
        codes = {id(program.code) for program in graph.programs}
        shapes = {id(program.shape) for program in graph.programs}
        assert len(codes) == len(shapes) // 2 == 1


def test_arguments_are_passed_as_declared():
    def collect(*args, **kwargs):
        return args, kwargs

    got = evaluate(
        compiled(
            dag_of(
                Function("a", identity, extra_args=[1]),
                Function("b", identity, extra_args=[2]),
                Function("v", collect, args=["a", "b", "a"], extra_args=[3]),
                Function("l", collect, args=["b", "a"], extra_args=[3], argument_inclusion="as_list"),
                Function("k", collect, args=["a"], kwargs={"x": "b", "y": "a"}, extra_kwargs={"z": 9}),
                Function("i", add, args=["a"], kwargs={}, extra_args=[10], type="inline"),
                Function("j", collect, args=["i", "b"], kwargs={"x": "i"}, type="inline"),
                Function("u", collect, args=["j"], kwargs={"w": "i"}),
            )
        )
    )
    assert got["v"] == ((1, 2, 1, 3), {})
    assert got["l"] == (([2, 1], 3), {})
    assert got["k"] == ((1,), {"x": 2, "y": 1, "z": 9})
    assert got["u"] == ((((11, 2), {"x": 11}),), {"w": 11})
    assert set(got) == {"a", "b", "v", "l", "k", "u"}


def test_a_run_mutating_its_extra_args_does_not_change_the_next():
    def grow(values):
        values.append(1)
        return len(values)

    shared = [0]
    got = compiled(dag_of(Function("a", grow, extra_args=[shared]), Function("b", grow, extra_args=[shared])))
    assert evaluate(got) == evaluate(got) == {"a": 2, "b": 2}
    assert shared == [0]


def test_state_in_code_is_not_shared_between_runs():
    calls = []

    def count():
        calls.append(1)
        return len(calls)

    graph = compiled(dag_of(Function("a", count))).graph
    code = graph.programs[0].code
    assert load_code("first", code) is load_code("first", code)
    assert load_code("first", code) is not load_code("second", code)
    (task,) = graph.__dask_graph__().values()
    assert run_function(task.args[0]) == 1
    assert calls == []


def test_kept_functions_and_requested_keys():
    dag = dag_of(
        Function("a", identity, extra_args=[1]),
        Function("b", identity, args=["a"]),
        Function("c", identity, args=["a"]),
    )
    assert compiled(dag).kept == [0, 1, 2]
    sinks = compiled(dag, keep="sinks")
    assert [sinks.ids[n] for n in sinks.kept] == [sinks.ids[n] for n in sinks.wanted]
    assert {sinks.ids[n] for n in sinks.kept} == {"b", "c"}
    one = compiled(dag, keep=["b"])
    assert [one.ids[n] for n in one.kept] == ["b"]
    assert {one.ids[n] for n in one.wanted} == {"b", "c"}
    assert evaluate(one) == {
        "a": 1,
        "b": 1,
        "c": None,
    }  # "c" runs as every sink does, but its result is discarded


def test_transfers_are_collocated_and_know_their_peers():
    got = compiled(
        dag_of(
            Function("p", identity, extra_args=[1]), Function("c", add, args=[Argument("p"), Argument("p")])
        )
    )
    number = {id: n for n, id in enumerate(got.ids)}
    for position in (0, 1):
        out, into = number["serialize", "p", "c", position], number["deserialize", "p", "c", position]
        assert got.spec.peers[out] == into
        assert got.spec.peers[into] == out
    groups = {frozenset(got.ids[n] for n in members) for members in got.spec.groups}
    assert groups == {
        frozenset({"p", ("serialize", "p", "c", 0), ("serialize", "p", "c", 1)}),
        frozenset({"c", ("deserialize", "p", "c", 0), ("deserialize", "p", "c", 1)}),
    }


def test_the_core_sees_ids_that_are_not_plain_as_text():
    ids = ["text", ("a", 1), frozenset({1}), None]
    got = compiled(dag_of(*[Function(id, identity, extra_args=[1]) for id in ids], id=frozenset({2})))
    assert got.ids == ids
    assert got.spec.ids == ["text", ("a", 1), "frozenset({1})", None]
    assert got.spec.dag_id == "frozenset({2})"


class Slow:
    """Unpickling it takes long enough for all threads to ask for it."""

    loaded = 0

    def __reduce__(self):
        return load_slowly, ()


def load_slowly():
    Slow.loaded += 1
    asking.wait(0.2)
    return len


asking = threading.Event()


def test_threads_load_code_once():
    """All functions of a run on a node therefore share its mutable state."""
    Slow.loaded = 0
    code = pickle.dumps(Slow())
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: load_code("run", code), range(8)))
    assert found == [len] * 8
    assert Slow.loaded == 1


def test_recently_used_code_is_not_evicted():
    code = pickle.dumps([])
    first = load_code("in use", code)
    for n in range(2 * evaluation._CACHE_SIZE):
        load_code("other", pickle.dumps((n, operator.add)))
        assert load_code("in use", code) is first
    assert len(evaluation._cache) <= evaluation._CACHE_SIZE


class Unsteady:
    """Cannot be unpickled the first time."""

    def __reduce__(self):
        return load_the_second_time, ()


tries = []


def load_the_second_time():
    tries.append(1)
    if len(tries) == 1:
        raise OSError("not yet")
    return len


def test_loading_is_retried_after_a_failure():
    code = pickle.dumps(Unsteady())
    with pytest.raises(OSError, match="not yet"):
        load_code("run", code)
    assert load_code("run", code) is len
