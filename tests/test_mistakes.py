"""Typical mistakes, and the exact messages that name them and their remedy."""

from __future__ import annotations

import re

import dask.array
import dask.bag
import distributed
import pytest

import handoff_dask as handoff
from handoff_dask import DAG, Collocated, Function
from handoff_dask._adapter import cluster
from handoff_dask.exceptions import NodeNotFoundError, RunNotFoundError

NODES = {"node1": {"cpu": 4, "memory": "8GB"}, "big": {"cpu": 8, "memory": "16GB", "gpu": 1}}


def work(*args):
    return args


def dag_of(*functions):
    dag = DAG("d")
    for function in functions:
        dag.add_function(function)
    return dag


def simulate(nodes=NODES, limits=None, **fields):
    return handoff.simulate(dag_of(Function("f", work, **fields)), nodes, limits=limits)


class Future(distributed.Future):
    """A future without a cluster."""

    def __init__(self):
        self.key = "f"

    def __del__(self):
        pass


def decorated():
    dag = DAG("d")

    @dag.function
    def source():
        return 1

    @dag.function
    def double(sorce, *, factor, unrelated=3):
        return sorce * factor

    @dag.function
    def factor():
        return 2

    return dag.validate()


def decorated_with_a_parameter():
    dag = DAG("d")

    @dag.function
    def scale(path):
        return path

    return dag


MISTAKES = {
    # ids of functions
    "id that is taken, as in a notebook cell that is run twice": (
        lambda: dag_of(Function("load", work), Function("load", work)),
        "DAG 'd': there is already a function 'load'; give another id, or start with a new DAG",
    ),
    "argument": (
        lambda: dag_of(Function("load", work), Function("f", work, args=["laod"])).validate(),
        "DAG 'd': function 'f' depends on 'laod', which is not in the DAG; did you mean 'load'?",
    ),
    "argument of another type": (
        lambda: dag_of(Function(1, work), Function("f", work, args=["1"])).validate(),
        "DAG 'd': function 'f' depends on '1', which is not in the DAG; did you mean 1?",
    ),
    "only the function itself is similar": (
        lambda: dag_of(Function("doubled", work, args=["double"])).validate(),
        "DAG 'd': function 'doubled' depends on 'double', which is not in the DAG",
    ),
    "code instead of its id": (
        lambda: dag_of(Function("load", work), Function("f", len, args=[work])).validate(),
        "DAG 'd': function 'f' depends on <function work>, which is not in the DAG; give its id, 'load'",
    ),
    "code that is not in the DAG": (
        lambda: dag_of(Function("f", work, args=[len])).validate(),
        "DAG 'd': function 'f' depends on <built-in function len>, which is not in the DAG; add a function"
        " with this code, and give its id",
    ),
    "Function instead of its id": (
        lambda: dag_of(load := Function("load", work), Function("f", len, args=[load])).validate(),
        "DAG 'd': function 'f' depends on Function(id='load', code=work), which is not in the DAG; give its"
        " id, 'load'",
    ),
    "value as an argument": (
        lambda: dag_of(Function("load", work), Function("f", work, args=["load", 3])).validate(),
        "DAG 'd': function 'f' depends on 3, which is not in the DAG; values go in extra_args",
    ),
    "number that resembles other ids": (
        lambda: dag_of(Function(1, work), Function(2, work, args=[3])).validate(),
        "DAG 'd': function 2 depends on 3, which is not in the DAG",
    ),
    "list as an argument": (
        lambda: dag_of(Function("f", work, args=[[1, 2]])).validate(),
        "DAG 'd': function 'f': [1, 2] is not hashable, so it cannot be a function id; values go in"
        " extra_args",
    ),
    "Delayed as an argument": (
        lambda: dag_of(Function("f", work, args=[dask.delayed(1, name="x")])).validate(),
        "DAG 'd': function 'f' depends on Delayed('x'), which is not in the DAG; compute it, or convert the"
        " whole program with DAG.from_delayed",
    ),
    "collocation": (
        lambda: dag_of(Function("load", work), Function("f", work, node=Collocated("loda"))).validate(),
        "DAG 'd': function 'f' is collocated with 'loda', which is not in the DAG; did you mean 'load'?",
    ),
    "parameter of a decorated function": (
        decorated,
        "DAG 'd' has 2 problems:\n"
        "  - function 'double': parameter 'sorce' has no value: there is no function 'sorce' in this DAG;"
        " did you mean 'source'?\n"
        "  - function 'double': parameter 'factor' has no value: function 'factor' was added later;"
        " add it first",
    ),
    "parameter that resembles no id": (
        lambda: decorated_with_a_parameter().validate(),
        "DAG 'd': function 'scale': parameter 'path' has no value: there is no function 'path' in this DAG;"
        " give it a default value, or pass it with extra_args or extra_kwargs",
    ),
    "item of a DAG": (
        lambda: dag_of(Function("load", work))["Load"],
        "\"DAG 'd' has no function 'Load'; did you mean 'load'?\"",
    ),
    "value of a result": (
        lambda: handoff.execute_local(dag_of(Function("load", work))).results["Load"],
        "\"the run of DAG 'd' has no function 'Load'; did you mean 'load'?\"",
    ),
    "value that was not kept": (
        lambda: handoff.execute_local(
            dag_of(Function("load", work), Function("f", work, args=["load"])), keep="sinks"
        )["load"],
        "\"the result of function 'load' was not kept; run the DAG with keep='all', or with a list of"
        " functions that contains 'load'\"",
    ),
    "subset": (
        lambda: dag_of(Function("load", work)).subset(["lode"]),
        "\"DAG 'd' has no function 'lode'; did you mean 'load'?\"",
    ),
    "keep": (
        lambda: handoff.execute_local(dag_of(Function("load", work)), keep=["loads"]),
        "keep: DAG 'd' has no function 'loads'; did you mean 'load'?",
    ),
    "checkpoint_of": (
        lambda: handoff.execute_local(
            dag_of(Function("load", work)), checkpoint="/tmp", checkpoint_of=["lod"]
        ),
        "checkpoint_of: DAG 'd' has no function 'lod'; did you mean 'load'?",
    ),
    "durations": (
        lambda: handoff.simulate(dag_of(Function("load", work)), NODES, {"lload": 1}),
        "durations has no entry for function 'load'; did you mean 'lload'?",
    ),
    # values of Dask
    "Delayed": (
        lambda: dag_of(Function("f", work, extra_args=[1, dask.delayed(2)])).validate(),
        "DAG 'd': function 'f': extra_args[1] is a Dask collection (Delayed): compute it, or convert the"
        " whole program with DAG.from_delayed",
    ),
    "collection by keyword": (
        lambda: dag_of(Function("f", dict, extra_kwargs={"x": dask.bag.from_sequence([1])})).validate(),
        "DAG 'd': function 'f': extra_kwargs['x'] is a Dask collection (Bag): compute it, or convert the"
        " whole program with DAG.from_delayed",
    ),
    "future": (
        lambda: dag_of(Function("f", work, extra_args=[Future()])).validate(),
        "DAG 'd': function 'f': extra_args[0] is a Future: pass its value, future.result(), or make it a"
        " function of the DAG",
    ),
    # options and fields
    "order of arguments of execute": (
        lambda: handoff.execute("tcp://192.0.2.1:8786", dag_of()),
        "dag and client are swapped: the DAG comes first",
    ),
    "order of arguments of submit": (
        lambda: handoff.submit(client=dag_of(), dag=object()),
        "dag and client are swapped: the DAG comes first",
    ),
    "no DAG": (lambda: handoff.execute(3), "dag must be a handoff_dask.DAG, not 3"),
    "option of execute": (
        lambda: handoff.execute(dag_of(), max_retry=3),
        "execute() got an unexpected keyword argument 'max_retry'; did you mean 'max_retries'?",
    ),
    "option of submit": (
        lambda: handoff.submit(dag_of(), strategy="best_fit"),
        "submit() got an unexpected keyword argument 'strategy'; did you mean 'allocation_strategy'?",
    ),
    "option of execute_local": (
        lambda: handoff.execute_local(dag_of(), failfast=False),
        "execute_local() got an unexpected keyword argument 'failfast'; did you mean 'fail_fast'?",
    ),
    "option of simulate": (
        lambda: handoff.simulate(dag_of(), NODES, duration=1),
        "simulate() got an unexpected keyword argument 'duration'; did you mean 'durations'?",
    ),
    "option that resembles none": (
        lambda: handoff.execute(dag_of(), colour="red"),
        "execute() got an unexpected keyword argument 'colour'",
    ),
    "option of local_cluster": (
        lambda: handoff.local_cluster(NODES, process=True),
        "local_cluster() got an unexpected keyword argument 'process'; did you mean 'processes'?",
    ),
    "field of Function": (
        lambda: Function("f", work, costs={"cpu": 1}),
        "Function.__init__() got an unexpected keyword argument 'costs'; did you mean 'cost'?",
    ),
    "field of RetryPolicy": (
        lambda: handoff.RetryPolicy(retries=3),
        "RetryPolicy.__init__() got an unexpected keyword argument 'retries'; did you mean 'max_retries'?",
    ),
    "field of Argument": (
        lambda: handoff.Argument("f", serializer=str),
        "Argument.__init__() got an unexpected keyword argument 'serializer'; did you mean 'serialize'?",
    ),
    "field of a decorated function": (
        lambda: DAG("d").function(nodes="node1"),
        "DAG.function() got an unexpected keyword argument 'nodes'; did you mean 'node'?",
    ),
    "cost of a decorated function": (
        lambda: DAG("d").function({"cpu": 1}),
        "DAG.function() takes the cost by keyword: @dag.function(cost={'cpu': 1})",
    ),
    "parameter of Dask": (
        lambda: Function("f", work, resources={"gpu": 1}),
        "Function.__init__() got an unexpected keyword argument 'resources'; did you mean 'cost'?",
    ),
    "number of retries": (
        lambda: dag_of(Function("f", work, retry=3)).validate(),
        "DAG 'd': function 'f': retry must be a RetryPolicy, not 3; a number is max_retries=",
    ),
    "strategy": (
        lambda: handoff.simulate(dag_of(), NODES, allocation_strategy="bestfit"),
        "allocation_strategy must be one of 'first_available', 'load_balanced', 'best_fit' or an Allocator,"
        " not 'bestfit'; did you mean 'best_fit'?",
    ),
    "value of keep": (
        lambda: handoff.execute_local(dag_of(), keep="sink"),
        "keep must be \"all\", \"sinks\" or a list of function ids, not 'sink'; did you mean 'sinks'?",
    ),
    "type": (
        lambda: dag_of(Function("f", work, type="in-line")).validate(),
        "DAG 'd': function 'f': type must be \"regular\", \"inline\" or \"input\", not 'in-line';"
        " did you mean 'inline'?",
    ),
    # resources
    "plural": (
        lambda: simulate(cost={"gpus": 1}),
        "DAG 'd' cannot be placed:\n"
        "  - function 'f': no node has 'gpus' (available: cpu, gpu, memory; did you mean 'gpu'?);"
        " asked: gpus 1; nearest node 'big' has no gpus\n"
        "Use the same name of the resource in costs, on workers and in limits.",
    ),
    "case": (
        lambda: simulate({"a": {"cpu": 1, "GPU": 1}}, cost={"gpu": 1}),
        "DAG 'd' cannot be placed:\n"
        "  - function 'f': no node has 'gpu' (available: GPU, cpu; did you mean 'GPU'?);"
        " asked: gpu 1; nearest node 'a' has no gpu\n"
        "Use the same name of the resource in costs, on workers and in limits.",
    ),
    "limit": (
        lambda: simulate(cost={"database": 1}, limits={"databases": 3}),
        "DAG 'd' cannot be placed:\n"
        "  - function 'f': no node has 'database' (available: cpu, gpu, memory; did you mean 'databases'?);"
        " asked: database 1; nearest node 'big' has no database\n"
        "Use the same name of the resource in costs, on workers and in limits.",
    ),
    "resource that no node has": (
        lambda: simulate(cost={"licence": 1}),
        "DAG 'd' cannot be placed:\n"
        "  - function 'f': no node has 'licence' (available: cpu, gpu, memory); asked: licence 1;"
        " nearest node 'big' has no licence\n"
        "Add a node that offers 'licence' (`dask worker --resources \"licence=1\"`), declare it as a limit"
        " (limits={'licence': 1}) if the whole cluster shares it, or pass wait_for_nodes=SECONDS if such a"
        " node is about to join.",
    ),
    "bytes": (
        lambda: simulate(cost={"memory": 4e9}),
        "DAG 'd' cannot be placed:\n"
        "  - function 'f': too large for every node (memory is in MB, but 4000000000 looks like bytes;"
        " did you mean 3814?); asked: memory 4e+09; nearest node 'big' has memory 15258\n"
        "      nodes 'big', 'node1': needs 4000000000 MB memory, have 7629 to 15258\n"
        'Give memory in MB, or as a string with a unit, such as "4GB".',
    ),
    "unknown unit": (
        lambda: simulate(cost={"memory": "4 gigs"}),
        "DAG 'd': function 'f': cost {'memory': '4 gigs'}: memory must be a number of MB (2**20 bytes) or a"
        ' string with a unit, such as "4GB" or "512 MiB", not \'4 gigs\'',
    ),
    "unknown unit on a node": (
        lambda: simulate({"a": {"memory": "4096"}}),
        "node 'a': memory must be a number of MB (2**20 bytes) or a string with a unit, such as \"4GB\" or"
        " \"512 MiB\", not '4096'",
    ),
    # nodes
    "number of nodes": (
        lambda: handoff.local_cluster(n_workers=2),
        "local_cluster() missing required argument 'nodes': nodes must map names to capacities, such as"
        ' {"node1": {"cpu": 4, "memory": "8GB"}}',
    ),
    "list of nodes": (
        lambda: handoff.local_cluster([{"cpu": 4}]),
        'nodes must map names to capacities, such as {"node1": {"cpu": 4, "memory": "8GB"}},'
        " not [{'cpu': 4}]",
    ),
    "list of nodes to simulate": (
        lambda: simulate(["node1"]),
        'nodes must map names to capacities, such as {"node1": {"cpu": 4, "memory": "8GB"}}, not [\'node1\']',
    ),
    "pin": (
        lambda: simulate(node="node-1"),
        "DAG 'd' cannot be placed:\n"
        "  - function 'f': pinned to 'node-1', but the nodes are 'big', 'node1' (did you mean 'node1'?)\n"
        "Correct the pin (node=), start a worker of that name (`dask worker --name NAME`), or pass"
        " wait_for_nodes=SECONDS if such a node is about to join.",
    ),
    "pin to a node that is too small": (
        lambda: simulate(node="node1", cost={"cpu": 6}),
        "DAG 'd' cannot be placed:\n"
        "  - function 'f': too large for the nodes it is pinned to; asked: cpu 6;"
        " nearest node 'node1' has cpu 4\n"
        "      node 'node1': needs 6 cpu, has 4\n"
        "Pin the functions to a node that can hold them, such as 'big', or lower the cost.",
    ),
    "pin to a node without the resource": (
        lambda: simulate(node="node1", cost={"gpu": 1}),
        "DAG 'd' cannot be placed:\n"
        "  - function 'f': no node it is pinned to has 'gpu' (available: cpu, memory); asked: gpu 1;"
        " nearest node 'node1' has no gpu\n"
        "Pin the functions to a node that can hold them, such as 'big'.",
    ),
    "limit that is too low": (
        lambda: simulate(cost={"db": 3}, limits={"db": 2}),
        "DAG 'd' cannot be placed:\n"
        "  - function 'f': too large for the run's limits (db 2); asked: db 3\n"
        "Lower the cost, or raise the limit (limits=).",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_message(mistake):
    make, text = MISTAKES[mistake]
    with pytest.raises((ValueError, TypeError, KeyError, handoff.HandoffError)) as caught:
        make()
    assert str(caught.value) == text


@pytest.mark.parametrize(
    "run", [handoff.execute, handoff.submit, handoff.execute_local, lambda dag: handoff.simulate(dag, NODES)]
)
@pytest.mark.parametrize("value", [dask.delayed(1), dask.array.ones(3), Future()])
def test_values_of_dask_are_refused_before_anything_starts(run, value):
    with pytest.raises(handoff.InvalidFunctionError, match=r"extra_args\[0\] is a (Dask collection|Future)"):
        run(dag_of(Function("f", work, extra_args=[value])))


def test_values_that_only_resemble_collections():
    """As xarray's types, which have a graph only if they contain a Dask array."""

    class Lazy:
        def __init__(self, graph):
            self.graph = graph

        def __dask_graph__(self):
            return self.graph

    class Broken:
        def __dask_graph__(self):
            raise RuntimeError

    class Unhashable(type):
        __hash__ = None

    class Odd(metaclass=Unhashable):
        pass

    dag_of(Function("f", work, extra_args=[Odd(), Lazy(None), Broken(), Lazy, dask.delayed])).validate()
    with pytest.raises(handoff.InvalidFunctionError, match=r"a Dask collection \(Lazy\)"):
        dag_of(Function("f", work, extra_args=[Lazy({})])).validate()


def test_names_of_nodes_and_ids_of_runs():
    assert str(NodeNotFoundError("Node1", ["node1", "node2"])) == (
        "no node is named 'Node1'; known nodes: 'node1', 'node2'; did you mean 'node1'?"
    )
    assert str(RunNotFoundError("3f2a", ["3f2a91cc", "77"])) == (
        "no run has the id '3f2a'; known runs: '3f2a91cc', '77'; did you mean '3f2a91cc'?"
    )


def test_suggestions_are_limited_to_the_first_problems():
    dag = dag_of(Function("load", work), *(Function(i, work, args=["laod"]) for i in range(1_000)))
    with pytest.raises(handoff.InvalidDAGError) as caught:
        dag.validate()
    assert [("did you mean 'load'?" in text) for text in caught.value.problems] == [True] * 10 + [False] * 990


def test_fifty_nodes_take_a_line_for_each_lack():
    nodes = {f"n{i:02}": {"cpu": 4 if i < 30 else 2, "gpu": int(i >= 45)} for i in range(50)}
    with pytest.raises(handoff.AllocationError) as caught:
        simulate(nodes, cost={"cpu": 3, "gpu": 1})
    assert str(caught.value).splitlines() == [
        "DAG 'd' cannot be placed:",
        "  - function 'f': too large for every node; asked: cpu 3, gpu 1;"
        " nearest node 'n45' has cpu 2, gpu 1",
        "      30 nodes have no gpu",
        "      15 nodes have no gpu; needs 3 cpu, have 2",
        "      5 nodes: needs 3 cpu, have 2",
        "Lower the cost, add a node that offers enough (`dask worker --resources ...`), or pass"
        " wait_for_nodes=SECONDS if such a node is about to join.",
    ]
    with pytest.raises(handoff.AllocationError) as caught:
        simulate(nodes, node="elsewhere")
    assert str(caught.value).splitlines()[1] == (
        "  - function 'f': pinned to 'elsewhere', but the nodes are"
        " 'n00', 'n01', 'n02', 'n03', 'n04', 'n05', 'n06', 'n07' and 42 more"
    )


def test_memory_in_bytes_in_the_capacity_of_a_node():
    text = "node 'a': memory is in MB, but 8000000000 looks like bytes; did you mean 7629?"
    with pytest.warns(UserWarning, match=re.escape(text)) as caught:
        handoff.simulate(dag_of(), {"a": {"cpu": 1, "memory": 8e9}})
    assert caught[0].filename == __file__


CLOSE = {
    "cpu": ["cpus", "CPU", "num_cpus", "ncpus", "cpuu"],
    "gpu": ["gpus", "GPU", "GPUs", "n_gpus"],
    "memory": ["mem", "Memory", "memroy", "memor"],
}


@pytest.fixture
def logged(caplog):
    with caplog.at_level("WARNING", "handoff_dask"):  # clusters of other tests silence pytest's handler
        yield lambda: [r.getMessage() for r in caplog.records if r.name == "handoff_dask"]


def simulate_nothing(nodes):
    handoff.simulate(dag_of(), nodes)


def start_no_cluster(nodes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "SpecCluster", lambda *, workers, scheduler, **options: None)
        handoff.local_cluster(nodes)


@pytest.mark.parametrize(("meant", "offered"), [(m, o) for m, names in CLOSE.items() for o in names])
@pytest.mark.parametrize("start", [simulate_nothing, start_no_cluster])
def test_names_of_resources_that_are_close_to_known_ones(logged, start, meant, offered):
    nodes = {"a": {"cpu": 1, "gpu": 1, "memory": 4, "threads": 1}}
    nodes["a"][offered] = nodes["a"].pop(meant)
    start(nodes)
    assert logged() == [f"node 'a' offers {offered!r}; did you mean {meant!r}?"]


def test_many_nodes_with_one_such_name_take_one_warning(logged):
    simulate_nothing({f"n{i}": {"cpu": 1, "gpus": 1} for i in range(50)})
    simulate_nothing({f"n{i}": {"cpus": 1} for i in range(2)})
    assert logged() == [
        "nodes 'n0', 'n1', 'n2' and 47 more offer 'gpus'; did you mean 'gpu'?",
        "nodes 'n0', 'n1' offer 'cpus'; did you mean 'cpu'?",
    ]


def test_names_of_other_resources(logged):
    names = ["tpu", "vgpu", "gpu_memory", "memory_bandwidth", "licence", "db", "network", "disk", "c", "me"]
    simulate_nothing({"a": dict.fromkeys(names, 1), "b": {"cpu": 1, "cpus": 2}})
    assert logged() == []
