"""Collections and graphs of Dask as DAGs: the same results, readable ids, annotations kept."""

import dataclasses
import operator
import re
from collections import namedtuple

import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest
from dask import delayed
from dask._task_spec import Alias, DataNode, Dict, List, Task, TaskRef, convert_legacy_graph
from distributed import Client
from helpers import examples, identity
from hypothesis import given, settings
from hypothesis import strategies as st

import handoff_dask as handoff
from handoff_dask import DAG, Function, InvalidFunctionError, MissingFunctionError


def inc(x, by=1):
    return x + by


def add(*xs):
    return sum(xs)


def pack(*args, **kwargs):
    return args, kwargs


def result_of(dag):
    (sink,) = dag.sinks
    return handoff.execute_local(dag).results[sink]


def a_tree():
    first = delayed(inc)(1, dask_key_name="first")
    second = delayed(inc)(first, by=10)
    return delayed(add)(first, second, delayed(inc)(second))


def an_array():
    x = da.from_array(np.arange(24.0).reshape(4, 6), chunks=(2, 3))
    return (x + x[::-1]).rechunk((4, 2)) @ x.T


def a_bag():
    return db.from_sequence(range(10), npartitions=3).map(lambda x: x * 3).filter(lambda x: x % 2)


Pair = namedtuple("Pair", "left right")


@dataclasses.dataclass
class Box:
    inside: object


COLLECTIONS = {
    "tree": a_tree,
    "literal": lambda: delayed(42),
    "large literal": lambda: delayed(np.arange(1000)),
    "keywords": lambda: delayed(pack)(1, a=delayed(inc)(1), b=2),
    "results after values": lambda: delayed(pack)(1, delayed(inc)(1), 2, delayed(inc)(2)),
    "the same twice": lambda: (lambda x: delayed(pack)(x, x, k=x))(delayed(inc)(1)),
    "nested": lambda: delayed(pack)([1, {"a": delayed(inc)(1), "b": (delayed(inc)(2), {3})}], k=[delayed(4)]),
    "tuple of outputs": lambda: delayed(divmod, nout=2)(17, 5)[1],
    "attribute": lambda: delayed(complex)(1, 2).imag,
    "method": lambda: delayed("a b").split(),
    "operator": lambda: delayed(3) * delayed(inc)(4) - 1,
    "list": lambda: [a_tree(), delayed(inc)(5), 6],
    "mixed": lambda: {"tree": a_tree(), "rest": (an_array().sum(), [a_bag()])},
    "set": lambda: {delayed(inc)(1), delayed(inc)(2)},
    "named tuple": lambda: Pair(a_tree(), 3),
    "dataclass": lambda: Box(a_tree()),
    "an array": an_array,
    "array mean": lambda: an_array().mean(axis=0),
    "array in delayed": lambda: delayed(np.sum)(an_array()),
    "array svd": lambda: da.linalg.svd(da.ones((20, 4), chunks=(5, 4)))[1],
    "array to delayed": lambda: an_array().to_delayed().ravel().tolist(),
    "optimised": lambda: dask.optimize(an_array().std())[0],
    "a bag": a_bag,
    "bag fold": lambda: a_bag().fold(operator.add),
    "bag groups": lambda: (
        a_bag().groupby(lambda x: x % 5, shuffle="tasks").map(lambda g: (g[0], sorted(g[1])))
    ),
    "bag frequencies": lambda: a_bag().frequencies(),
}


@pytest.mark.parametrize("make", COLLECTIONS.values(), ids=COLLECTIONS)
def test_results_equal_those_of_dask(make):
    obj = make()
    (expected,) = dask.compute(obj, scheduler="sync")
    dag = DAG.from_delayed(obj)
    dag.validate()
    found = result_of(dag)
    assert type(found) is type(expected)
    if isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
    np.testing.assert_equal(found, expected)


@pytest.mark.parametrize("name", ["tree", "nested", "mixed", "optimised"])
def test_on_a_cluster(client, name):
    obj = COLLECTIONS[name]()
    dag = DAG.from_delayed(obj)
    result = handoff.execute(dag, client, keep="sinks")
    np.testing.assert_equal(result.results[dag.sinks[0]], dask.compute(obj, scheduler="sync")[0])


@pytest.mark.slow
def test_separate_processes():
    """Converted functions can be sent to other processes."""
    with handoff.local_cluster({"a": {"cpu": 1}}, processes=True) as cluster, Client(cluster) as client:
        dag = DAG.from_delayed([a_tree(), an_array().sum(), a_bag().sum()])
        found = handoff.execute(dag, client).results["result"]
        assert found == list(dask.compute(a_tree(), an_array().sum(), a_bag().sum(), scheduler="sync"))


def test_dataframe():
    pytest.importorskip("pyarrow")  # dask.dataframe needs it, and some versions fail only when used
    dd = pytest.importorskip("dask.dataframe")
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"k": [1, 2, 1, 2], "v": [1.0, 2.0, 3.0, 4.0]})
    sums = dd.from_pandas(frame, npartitions=2).groupby("k").v.sum()
    pd.testing.assert_series_equal(result_of(DAG.from_delayed(sums)), sums.compute(scheduler="sync"))


# ids


def test_ids_are_keys_without_tokens():
    assert list(DAG.from_delayed(a_tree())) == ["first", "inc", "inc-2", "add"]
    x = (da.ones(4, chunks=2) + 1).sum()
    ids = list(DAG.from_delayed(x))
    assert {("add", 0), ("add", 1), ("sum-aggregate",), "result"} <= set(ids)
    assert not re.search("[0-9a-f]{8}", str(ids))


def test_keys_chosen_by_the_user_are_unchanged():
    named = delayed(inc)(1, dask_key_name="inc")
    unnamed = delayed(inc)(named)
    other = delayed(inc)(unnamed, dask_key_name="result")
    dag = DAG.from_delayed([other])
    assert list(dag) == ["inc", "inc-2", "result", "result-2"]
    assert result_of(dag) == [4]


def test_ids_are_deterministic():
    assert list(DAG.from_delayed(a_tree())) == list(DAG.from_delayed(a_tree()))


def test_tasks_that_the_outputs_do_not_need_are_left_out():
    tree = a_tree()
    wider = delayed(inc)(tree)
    assert len(DAG.from_delayed(wider)) == 5
    assert DAG.from_graph({"a": 1, "b": (inc, "a"), "c": (inc, "b")}, "b").sinks == ("b",)


def test_the_id_of_the_dag():
    assert DAG.from_delayed(a_tree(), id="tree").id == "tree"
    assert DAG.from_graph({"a": 1}, "a", id=("x", 1)).id == ("x", 1)


def test_code_is_called_directly_where_possible():
    dag = DAG.from_delayed(a_tree())
    assert dag["inc"].code is inc
    assert dag["inc"].args == ("first",)
    assert dag["inc"].extra_kwargs == {"by": 10}
    assert "code=inc" in repr(dag["inc"])
    assert "code=sum" in repr(DAG.from_delayed(delayed(sum)([delayed(inc)(1)]))["sum"])


def test_large_data_is_sent_once():
    data = np.zeros(10_000)
    shared = delayed(data)
    dag = DAG.from_delayed([delayed(np.sum)(shared), delayed(np.max)(shared)])
    (source,) = dag.sources
    assert dag[source].extra_args[0] is data


# cost, node and annotations


def test_one_cost_and_node_for_all_tasks():
    dag = DAG.from_delayed([a_tree()], cost={"cpu": 2}, node="node1")
    assert {(f.cost["cpu"], f.node) for f in dag.functions.values()} == {(2, "node1")}


def test_cost_and_node_by_key_and_task():
    asked = {}

    def cost(key, task):
        asked[key] = task
        return {"gpu": 1} if task.func is add else None

    dag = DAG.from_delayed([a_tree()], cost=cost, node=lambda key, task: "a" if key == "first" else None)
    assert {id: f.cost for id, f in dag.functions.items() if f.cost} == {"add": {"gpu": 1}}
    assert {id: f.node for id, f in dag.functions.items() if f.node} == {"first": "a"}
    assert len(asked) == 4
    assert all(isinstance(task, Task) for task in asked.values())


def test_annotations():
    with dask.annotate(resources={"gpu": 1}, workers=["a", "b"], retries=7, priority=5, span="ignored"):
        first = delayed(inc)(1, dask_key_name="first")
    with dask.annotate(workers="c", allow_other_workers=True):
        second = delayed(inc)(first, dask_key_name="second")
    dag = DAG.from_delayed(second, cost={"cpu": 2, "gpu": 0}, node="everywhere")
    f = dag["first"]
    assert (f.cost, f.node, f.max_retries, f.priority) == ({"cpu": 2, "gpu": 1}, ("a", "b"), 7, 5)
    f = dag["second"]
    assert (f.cost, f.node, f.max_retries, f.priority) == ({"cpu": 2, "gpu": 0}, "everywhere", None, 0)
    dag.validate()


def test_annotations_of_arrays_and_by_key():
    x = da.ones(4, chunks=2)
    with dask.annotate(resources={"gpu": 1}, priority=lambda key: key[1]):
        y = x + 1
    functions = DAG.from_delayed(y.sum()).functions
    assert {id for id, f in functions.items() if f.cost} == {("add", 0), ("add", 1)}
    assert functions["add", 1].priority == 1
    graph = DAG.from_graph(y.dask, y.__dask_keys__()).functions
    assert [graph[key].cost for key in y.__dask_keys__()] == [{"gpu": 1}] * 2


def test_annotations_around_the_call():
    with dask.annotate(retries=2, resources={"gpu": 1}):
        outer = DAG.from_delayed(delayed(inc)(1, dask_key_name="x"))
    assert (outer["x"].max_retries, outer["x"].cost) == (2, {"gpu": 1})
    with dask.annotate(priority=lambda key: len(key), retries=1):
        outer = DAG.from_delayed([delayed(inc)(1, dask_key_name="four")])
    assert (outer["four"].priority, outer["result"].priority, outer["result"].max_retries) == (4, 0, 1)


def test_data_and_aliases_cost_nothing():
    graph = {"a": [1, 2], "b": (sum, "a"), "c": "b"}
    dag = DAG.from_graph(graph, ["a", "b", "c"], cost=lambda key, task: {"cpu": len(task.args)}, node="x")
    assert {id: (f.cost, f.node) for id, f in dag.functions.items()} == {
        "a": (None, None),
        "b": ({"cpu": 1}, "x"),
        "c": (None, None),
    }


def test_annotations_decide_placement(client):
    with dask.annotate(resources={"gpu": 1}):
        a = delayed(inc)(1, dask_key_name="a")
    with dask.annotate(workers=["node2"]):
        b = delayed(inc)(a, dask_key_name="b")
    result = handoff.execute(DAG.from_delayed(b), client)
    assert result.allocations == {"a": "node1", "b": "node2"}
    assert result.results["b"] == 3


# graphs


def test_a_legacy_graph():
    graph = {
        "x": 1,
        "y": (inc, "x"),
        "z": (add, (inc, "y"), (inc, (inc, "x")), 5),
        ("w", 0): (sum, ["x", "y", ["z"][0], 3]),
        "alias": ("w", 0),
        "list": ["x", ["y", "other"]],
        "all": (pack, "alias", "list", {"k": "not a key"}),
        "unused": (inc, "missing"),
    }
    outputs = ["all", ["alias", ("w", 0)], "x"]
    dag = DAG.from_graph(graph, outputs)
    results = handoff.execute_local(dag).results
    expected = dask.get({k: v for k, v in graph.items() if k != "unused"}, outputs)
    assert [results["all"], (results["alias"], results["w", 0]), results["x"]] == list(expected)
    assert set(dag) == {"y", "z", ("w", 0), "alias", "list", "all", "x"}


def test_a_graph_of_task_objects():
    graph = {
        "a": DataNode("a", [1, 2]),
        "b": Task("b", sum, TaskRef("a")),
        "c": Alias("c", "b"),
        "d": Alias("d", "c"),
        "e": Task("e", pack, Task(None, inc, TaskRef("d"), by=TaskRef("b")), List("x", TaskRef("a")), k=7),
        "f": Task("f", pack, Dict({"p": TaskRef("e"), "q": List(1, 2)}), k=Dict({"r": 1})),
        "g": List(TaskRef("b"), 1),
    }
    dag = DAG.from_graph(graph, ["f", "g"])
    results = handoff.execute_local(dag).results
    assert (results["f"], results["g"]) == dask.get(graph, ["f", "g"])
    assert "c" not in dag
    assert DAG.from_graph(graph, "d").sinks == ("d",)
    assert result_of(DAG.from_graph(graph, "d")) == 3


def test_checkpoints_distinguish_the_order_of_literals(tmp_path):
    """Dask's own tokens of lists ignore their order."""
    for values in ([1, 2], [2, 1]):
        graph = {"a": Task("a", inc, 0), "b": Task("b", pack, List(TaskRef("a"), *values))}
        dag = DAG.from_graph(graph, "b", id="order")
        result = handoff.execute(dag, checkpoint=tmp_path)
        assert result.results["b"] == (([1, *values],), {})


# errors


@pytest.mark.parametrize("obj", [1, None, [], [1, {"a": 2}], inc, {"a": (inc, 1)}])
def test_objects_without_collections(obj):
    with pytest.raises(TypeError, match="takes a Dask collection"):
        DAG.from_delayed(obj)


def test_missing_keys():
    with pytest.raises(MissingFunctionError, match="output 'c' is not a key") as info:
        DAG.from_graph({"a": 1}, "c")
    with pytest.raises(
        MissingFunctionError, match="task 'b' needs 'a', which is missing from the graph"
    ) as info:
        DAG.from_graph({"b": Task("b", inc, TaskRef("a"))}, "b", id="x")
    assert info.value.missing == (("b", "a"),)
    assert info.value.dag_id == "x"


def test_futures_are_refused(client):
    future = client.submit(inc, 1, key="one")
    remedy = r"convert the collection before compute\(\), or pass the value of the future, future.result\(\)"
    for futures in (future, [future]):
        with pytest.raises(TypeError, match=f"takes a Dask collection, .*Future.*: {remedy}"):
            DAG.from_delayed(futures)
    reason = "if it is a future or persisted data on a cluster, pass its value instead"
    with pytest.raises(MissingFunctionError, match=f"task '.*' needs 'one', .*: {reason}"):
        DAG.from_delayed(delayed(inc)(future))
    with pytest.raises(MissingFunctionError, match=f": the result needs 'one', .*: {reason}") as info:
        DAG.from_delayed([delayed(inc)(1), future])
    assert info.value.missing == (("result", "one"),)


def test_persisted_collections_are_refused(client):
    persisted = client.persist(da.ones(4, chunks=2, name="ones"))
    single = client.persist(delayed(inc)(1, dask_key_name="two"))
    for collection, key in ((persisted, "'ones', ."), (persisted.sum(), "'ones', 0"), (single, "'two'")):
        with pytest.raises(MissingFunctionError, match=key) as info:
            DAG.from_delayed(collection)
        (text,) = info.value.problems
        assert text.startswith("persisted results, such as ")
        assert text.endswith(" cannot be converted: compute them, or convert the collection before persist()")
        assert "object at" not in repr(info.value)


def test_p2p_is_refused(client):
    with client.as_current(), dask.config.set({"array.rechunk.method": "p2p"}):
        x = da.ones((4, 4), chunks=(1, 4)).rechunk((4, 1))
        with pytest.raises(InvalidFunctionError, match="use a method other than p2p"):
            DAG.from_delayed(x)


def test_a_cycle_is_found():
    dag = DAG.from_graph({"a": (inc, "b"), "b": (inc, "a")}, "a")
    with pytest.raises(handoff.CyclicDependencyError):
        dag.validate()
    with pytest.raises(handoff.CyclicDependencyError):
        DAG.from_graph({"a": Alias("a", "b"), "b": Alias("b", "a")}, "a").validate()


@pytest.mark.parametrize("graph", [3, [("a", 1)]], ids=repr)
def test_a_graph_must_be_a_mapping(graph):
    with pytest.raises(TypeError, match="graph must be a Dask graph"):
        DAG.from_graph(graph, "a")


def test_bad_options():
    with pytest.raises(TypeError, match="cost must be a mapping"):
        DAG.from_delayed(delayed(1), cost=3)
    with dask.annotate(resources={"gpu": -1}):
        x = delayed(inc)(1)
    with pytest.raises(handoff.InvalidCostError):
        DAG.from_delayed(x).validate()


def test_a_deep_graph_needs_no_recursion():
    graph = {0: (inc, 1.5)} | {n: (inc, n - 1) for n in range(1, 5000)}
    assert result_of(DAG.from_graph(graph, 4999)) == 5001.5
    aliases = {0: (inc, 1.5)} | {n: Alias(n, n - 1) for n in range(1, 5000)}
    assert result_of(DAG.from_graph(aliases, 4999)) == 2.5


def test_functions_can_be_added():
    dag = DAG.from_delayed(a_tree())
    dag.add_function(Function("more", identity, args=["add"]))
    assert result_of(dag) == dask.compute(a_tree())[0]


# arbitrary graphs


def arguments(earlier):
    """Generate arguments: values, keys, and lists and tasks that contain these."""
    leaves = st.one_of(
        st.integers(), st.text("xyz", max_size=3), st.none(), st.sampled_from([1.5, True, b"k0", (1, 2)])
    )
    if earlier:
        leaves = leaves | st.sampled_from(earlier)
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(lambda args: (pack, *args)),
            st.dictionaries(st.sampled_from("ab"), st.integers(), max_size=2),
        ),
        max_leaves=6,
    )


@st.composite
def graphs(draw):
    names = st.sampled_from(["k", "l"])
    keys = [draw(names) + str(n) if draw(st.booleans()) else (draw(names), n) for n in range(7)]
    graph = {}
    for n, key in enumerate(keys):
        graph[key] = draw(arguments(keys[:n]))
    return graph, draw(st.lists(st.sampled_from(keys), min_size=1, max_size=4))


@given(graphs(), st.booleans())
@settings(max_examples=examples(40))
def test_results_of_any_graph_equal_those_of_dask(drawn, converted):
    graph, outputs = drawn
    expected = dask.get(graph, outputs)
    dag = DAG.from_graph(convert_legacy_graph(graph) if converted else graph, outputs)
    dag.validate()
    results = handoff.execute_local(dag).results
    assert repr([results[key] for key in outputs]) == repr(list(expected))
    assert set(dag) <= set(graph)
