"""Checkpoints: a run resumes from an earlier one, and only missing or changed functions run."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from distributed import Client
from helpers import add, dag_of, gate, identity, pass_gate, until

import handoff_dask as handoff
from handoff_dask import Argument, Checkpoint, CheckpointError, Collocated, Function, FunctionFailedError

CALLS: Counter = Counter()
LOCK = threading.Lock()
FAILING: set = set()


@pytest.fixture(autouse=True)
def reset_calls():
    CALLS.clear()
    FAILING.clear()


def ran():
    """Return the functions called since the last call of this function; each must have run once."""
    assert set(CALLS.values()) <= {1}
    names = set(CALLS)
    CALLS.clear()
    return names


def count(name, *inputs):
    with LOCK:
        CALLS[name] += 1
    if name in FAILING:
        raise OSError(f"{name} fails")
    return f"{name}({','.join(map(str, inputs))})"


def changed_count(name, *inputs):
    return count(name, *inputs).upper()


def counted(id, *args, **fields):
    """Build a function that counts its calls; its code receives its id after its inputs."""
    return Function(id, by_name, args=args, extra_args=[id], **fields)


def by_name(*arguments):
    *inputs, name = arguments
    return count(name, *inputs)


def changed_by_name(*arguments):
    *inputs, name = arguments
    return changed_count(name, *inputs)


def diamond(**changes):
    functions = {
        "a": counted("a"),
        "b": counted("b", "a"),
        "c": counted("c", "a"),
        "d": counted("d", "b", "c"),
        "e": counted("e", "c"),
    }
    for id, fields in changes.items():
        functions[id] = functions[id].replace(**fields)
    return dag_of(*functions.values(), id="diamond")


ALL = {"a", "b", "c", "d", "e"}
RESULTS = {"a": "a()", "b": "b(a())", "c": "c(a())", "d": "d(b(a()),c(a()))", "e": "e(c(a()))"}


def files(folder):
    """Return function id → checkpoint file."""
    found = {path.name.partition("-")[0]: path for path in Path(folder).iterdir()}
    assert len(found) == len(list(Path(folder).iterdir()))
    return found


def test_the_second_call_runs_nothing(client, tmp_path):
    first = handoff.execute(diamond(), client, checkpoint=tmp_path)
    assert (first.results, first.restored, ran()) == (RESULTS, (), ALL)
    second = handoff.execute(diamond(), client, checkpoint=str(tmp_path))
    assert (second.results, set(second.restored), ran()) == (RESULTS, ALL, set())
    assert list(second.results) == list(first.results)
    for id in ALL:
        (attempt,) = second.records[id].attempts
        assert attempt.outcome == "finished"
        assert second.allocations[id] in ("node1", "node2")


def test_the_directory_is_created(client, tmp_path):
    folder = tmp_path / "not" / "there [yet]"
    handoff.execute(diamond(), client, checkpoint=folder)
    assert set(files(folder)) == ALL


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"a": {"code": changed_by_name}}, ALL),
        ({"b": {"code": changed_by_name}}, {"b", "d"}),
        ({"c": {"code": changed_by_name}}, {"c", "d", "e"}),
        ({"e": {"code": changed_by_name}}, {"e"}),
        ({"d": {"extra_args": ["", "d"]}}, {"d"}),
        ({"d": {"args": ["c", "b"]}}, {"d"}),
        ({"d": {"cost": {"cpu": 2}, "node": "node1", "priority": 1, "max_retries": 0}}, set()),
    ],
    ids=lambda value: str(sorted(value)),
)
def test_changed_functions_and_their_dependents_run_again(client, tmp_path, changes, again):
    handoff.execute(diamond(), client, checkpoint=tmp_path)
    ran()
    result = handoff.execute(diamond(**changes), client, checkpoint=tmp_path)
    assert ran() == again
    assert set(result.restored) == ALL - again
    assert result.results == handoff.execute_local(diamond(**changes)).results
    ran()
    assert set(handoff.execute(diamond(), client, checkpoint=tmp_path).restored) == ALL, (
        "both versions are kept"
    )
    assert ran() == set()


def test_after_a_failure_only_unfinished_functions_run(client, tmp_path):
    FAILING.add("c")
    with pytest.raises(FunctionFailedError):
        handoff.execute(
            diamond(c={"priority": -1}), client, checkpoint=tmp_path, max_retries=0, fail_fast=False
        )
    assert ran() == {"a", "b", "c"}
    FAILING.clear()
    result = handoff.execute(diamond(), client, checkpoint=tmp_path)
    assert (result.results, set(result.restored), ran()) == (RESULTS, {"a", "b"}, {"c", "d", "e"})


def test_after_a_cancelled_run_finished_results_are_restored(client, tmp_path):
    door = gate("held")
    dag = dag_of(
        counted("a"),
        Function("next", identity, args=["a"]),
        Function("last", pass_gate, extra_args=["held"], kwargs={"value": "next"}),
    )
    run = handoff.submit(dag, client, checkpoint=tmp_path)
    door.await_inside(1)
    run.cancel()
    door.open()
    assert ran() == {"a"}
    assert run.restored == ()
    again = handoff.submit(dag, client, checkpoint=tmp_path)
    assert {"a", "next"} <= set(again.restored)
    assert again.result()["last"] == "a()"
    assert ran() == set()


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flip": flip,
    "truncate": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: os.truncate(path, 0),
    "other format": lambda path: path.write_bytes(pickle.dumps("something else")),
    "append": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "remove": os.remove,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("which", "keep", "again"),
    [("c", "all", {"c"}), ("d", "sinks", {"d"}), ("b", "sinks", set()), ("de", "sinks", {"d", "e"})],
)
def test_a_result_with_a_damaged_file_is_recomputed(client, tmp_path, damage, which, keep, again):
    handoff.execute(diamond(), client, checkpoint=tmp_path)
    ran()
    for id in which:
        DAMAGES[damage](files(tmp_path)[id])
    result = handoff.execute(diamond(), client, checkpoint=tmp_path, keep=keep)
    assert ran() == again
    assert all(value == RESULTS[id] for id, value in result.results.items())
    if again:
        assert set(handoff.execute(diamond(), client, checkpoint=tmp_path).restored) == ALL, (
            "files were rewritten"
        )
    assert ran() == set()


def test_the_file_of_another_function_is_not_used(client, tmp_path):
    handoff.execute(diamond(), client, checkpoint=tmp_path)
    ran()
    found = files(tmp_path)
    found["b"].write_bytes(found["c"].read_bytes())
    result = handoff.execute(diamond(), client, checkpoint=tmp_path)
    assert (result.results, ran()) == (RESULTS, {"b"})


def test_only_needed_results_are_loaded(client, tmp_path):
    handoff.execute(diamond(), client, checkpoint=tmp_path)
    ran()
    os.remove(files(tmp_path)["d"])
    result = handoff.execute(diamond(), client, checkpoint=tmp_path, keep=["d"])
    assert ran() == {"d"}
    assert result.results == {"d": RESULTS["d"]}
    assert result.restored == ("b", "c", "e")
    assert result.allocations.keys() == result.records.keys() == {"b", "c", "d"}, "e is not loaded"


def test_unneeded_functions_are_left_out(client, tmp_path):
    handoff.execute(diamond(), client, checkpoint=tmp_path)
    ran()
    run = handoff.submit(diamond(), client, checkpoint=tmp_path, keep="sinks")
    assert run.result().results == {"d": RESULTS["d"], "e": RESULTS["e"]}
    assert run.restored == ("d", "e")
    assert set(run.records) == {"d", "e"}
    assert (
        run.explain("a")
        == "function 'a' need not run: its result, or every result downstream, is in a checkpoint"
    )
    with pytest.raises(KeyError):
        run.explain("z")
    nothing = handoff.execute(diamond(), client, checkpoint=tmp_path, keep=[])
    assert (nothing.results, nothing.restored, nothing.allocations) == ({}, ("d", "e"), {})
    assert ran() == set()


def test_a_sink_whose_result_is_not_kept_runs_once_if_it_is_checkpointed(client, tmp_path):
    assert handoff.execute(diamond(), client, checkpoint=tmp_path, keep=["a"]).results == {"a": "a()"}
    assert ran() == ALL
    assert handoff.execute(diamond(), client, checkpoint=tmp_path, keep=["a"]).restored == ("a", "d", "e")
    assert ran() == set()
    options = {"checkpoint": tmp_path, "checkpoint_of": ["a", "b", "c", "d"], "keep": ["a"]}
    for _ in range(2):
        assert handoff.execute(diamond(), client, **options).results == {"a": "a()"}
        assert ran() == {"e"}


@pytest.mark.parametrize(
    "select", [["b", "c"], lambda f: f.id in ("b", "c"), {"b", "c"}], ids=["list", "f", "set"]
)
def test_checkpoint_of_selects_functions(client, tmp_path, select):
    options = {"checkpoint": tmp_path, "checkpoint_of": select}
    handoff.execute(diamond(), client, **options)
    assert set(files(tmp_path)) == {"b", "c"}
    ran()
    assert handoff.execute(diamond(), client, keep="sinks", **options).restored == ("b", "c")
    assert ran() == {"d", "e"}
    result = handoff.execute(diamond(), client, **options)
    assert (result.results, set(result.restored), ran()) == (RESULTS, {"b", "c"}, {"a", "d", "e"})
    handoff.execute(diamond(), client, checkpoint=tmp_path, checkpoint_of=[])
    assert ran() == ALL


def test_inline_functions_affect_fingerprints_but_have_no_files(client, tmp_path):
    def dag(added):
        return dag_of(
            counted("a"),
            Function("inline", add, args=["more"], extra_args=[added], type="inline"),
            Function("more", add, extra_args=[1], type="inline"),
            counted("b", "a", "inline"),
            counted("c", "b"),
        )

    first = handoff.execute(dag(1), client, checkpoint=tmp_path)
    assert first["c"] == "c(b(a(),2))"
    assert set(files(tmp_path)) == ran() == {"a", "b", "c"}
    assert handoff.execute(dag(1), client, checkpoint=tmp_path).results == first.results
    assert ran() == set()
    assert handoff.execute(dag(2), client, checkpoint=tmp_path)["c"] == "c(b(a(),3))"
    assert ran() == {"b", "c"}


def tag(data, source, target, mark):
    with LOCK:
        CALLS[mark] += 1
    return f"{data}{mark}"


def test_transfers_run_again_unless_selected(client, tmp_path):
    def dag():
        argument = Argument(
            "a", serialize=tag, serialize_extra_args=["<"], deserialize=tag, deserialize_extra_args=[">"]
        )
        return dag_of(counted("a", node="node2"), counted("b", argument, node="node1"))

    first = handoff.execute(dag(), client, checkpoint=tmp_path)
    assert first["b"] == "b(a()<>)"
    assert ran() == {"a", "b", "<", ">"}
    second = handoff.execute(dag(), client, checkpoint=tmp_path)
    assert (second.results, second.restored, ran()) == (first.results, ("a", "b"), {"<", ">"})
    options = {"checkpoint": tmp_path / "all", "checkpoint_of": lambda f: True}
    handoff.execute(dag(), client, **options)
    assert ran() == {"a", "b", "<", ">"}
    third = handoff.execute(dag(), client, **options)
    assert (third.results, len(third.restored), ran()) == (first.results, 4, set())


def append_nodes(data, source, target, mark):
    with LOCK:
        CALLS[mark] += 1
    return f"{data}{mark}{source}-{target}"


SERIALIZER, DESERIALIZER = ("serialize", "a", "b", 0), ("deserialize", "a", "b", 0)


@pytest.mark.parametrize(
    ("half", "keep", "again"),
    [
        (SERIALIZER, "all", {"<", ">"}),
        (SERIALIZER, [DESERIALIZER], {"<", ">"}),
        (SERIALIZER, [SERIALIZER], set()),
        (DESERIALIZER, "all", {"<", ">"}),
        (DESERIALIZER, [SERIALIZER], {"<", ">"}),
        (DESERIALIZER, [DESERIALIZER], set()),
    ],
)
def test_serializer_and_deserializer_run_together(client, tmp_path, half, keep, again):
    """A checkpoint of one of them does not help: it was made for the nodes of an earlier run."""
    extra = {"serialize_extra_args": ["<"], "deserialize_extra_args": [">"]}
    argument = Argument("a", serialize=append_nodes, deserialize=append_nodes, **extra)
    dag = dag_of(counted("a", node="node1"), counted("b", argument, node="node2"))
    options = {"checkpoint": tmp_path, "checkpoint_of": ["a", "b", half]}
    first = handoff.execute(dag, client, **options)
    assert first["b"] == "b(a()<node1-node2>node1-node2)"
    assert ran() == {"a", "b", "<", ">"}
    result = handoff.execute(dag, client, keep=keep, **options)
    assert ran() == again
    assert result.results == {id: first[id] for id in result.results}
    assert {SERIALIZER, DESERIALIZER}.isdisjoint(result.restored) is bool(again)


def test_remaining_members_of_a_collocation_group_stay_together(client, tmp_path):
    def dag():
        return dag_of(
            counted("a", node="node2"),
            counted("b", "a", node=Collocated("a")),
            counted("c", "a", node=Collocated("b")),
            counted("d", "c", node=Collocated("a")),
        )

    handoff.execute(dag(), client, checkpoint=tmp_path)
    for removed, keep in (("c", "all"), ("d", "sinks"), ("bd", "sinks"), ("ad", "all")):
        ran()
        for id in removed:
            os.remove(files(tmp_path)[id])
        result = handoff.execute(dag(), client, checkpoint=tmp_path, keep=keep)
        assert ran() == set(removed)
        assert {result.allocations[id] for id in result.allocations} == {"node2"}


def test_the_pin_of_a_restored_function_is_ignored(client, tmp_path):
    handoff.execute(diamond(a={"node": "node2"}), client, checkpoint=tmp_path)
    result = handoff.execute(
        diamond(a={"node": "gone", "cost": {"cpu": 400}}), client, checkpoint=tmp_path, wait_for_nodes=0
    )
    assert result.results == RESULTS


def test_two_clients_at_once(client, cluster, tmp_path):
    door = gate("at once")
    functions = [Function("held", pass_gate, extra_args=["at once", 1])]
    functions += [Function(i, add, args=["held"], extra_args=[i]) for i in range(40)]
    with Client(cluster, set_as_default=False) as other:
        runs = [handoff.submit(dag_of(*functions), c, checkpoint=tmp_path) for c in (client, other)]
        door.await_inside(2)
        door.open()
        first, second = (run.result().results for run in runs)
    assert first == second
    assert len(list(tmp_path.iterdir())) == 41
    assert len(handoff.execute(dag_of(*functions), client, checkpoint=tmp_path).restored) == 41


def test_large_and_unusual_results(client, tmp_path):
    dag = dag_of(
        Function("array", np.arange, extra_args=[100_000]),
        Function("none", identity, extra_args=[None]),
        Function(("tuple", 1), "builtins:dict", extra_kwargs={"a": {1, 2}}),
        Function("lambda", lambda: lambda x: x + 1),
        Function(frozenset({"x", "y"}), identity, extra_args=["z"]),
    )
    first = handoff.execute(dag, client, checkpoint=tmp_path)
    second = handoff.execute(dag, client, checkpoint=tmp_path)
    assert set(second.restored) == set(dag)
    assert np.array_equal(second["array"], first["array"])
    assert second["none"] is None
    assert second["tuple", 1] == {"a": {1, 2}}
    assert second["lambda"](1) == 2
    assert second[frozenset({"x", "y"})] == "z"


def test_a_memory_file_system_and_storage_options(client):
    checkpoint = Checkpoint("memory://test_checkpoints/run", {"skip_instance_cache": True})
    handoff.execute(diamond(), client, checkpoint=checkpoint)
    assert ran() == ALL
    result = handoff.execute(diamond(), client, checkpoint="memory://test_checkpoints/run")
    assert (result.results, set(result.restored), ran()) == (RESULTS, ALL, set())


def test_an_unpicklable_result_fails_its_function(client, tmp_path):
    dag = dag_of(counted("a"), Function("lock", "threading:Lock", max_retries=1))
    with pytest.raises(FunctionFailedError) as caught:
        handoff.execute(dag, client, checkpoint=tmp_path)
    cause = caught.value.__cause__
    assert isinstance(cause, CheckpointError)
    assert (cause.function_id, cause.url) == ("lock", str(tmp_path))
    assert "cannot be written: TypeError: cannot pickle" in str(cause)
    assert len(caught.value.attempts) == 2
    assert handoff.execute(dag, client, checkpoint=tmp_path, checkpoint_of=["a"], keep=["a"]).restored == (
        "a",
    )


def test_a_directory_that_vanishes_and_reappears(client, tmp_path):
    folder = tmp_path / "mounted"
    door = gate("vanishing")
    dag = dag_of(
        Function("held", pass_gate, extra_args=["vanishing"], extra_kwargs={"value": 3}),
        Function("after", add, args=["held"], extra_args=[1]),
    )
    run = handoff.submit(dag, client, checkpoint=folder, max_retries=0)
    door.await_inside(1)
    folder.rmdir()
    door.open()
    with pytest.raises(FunctionFailedError) as caught:
        run.result()
    assert isinstance(caught.value.__cause__, CheckpointError)
    assert "No such file or directory" in str(caught.value)
    assert handoff.execute(dag, client, checkpoint=folder)["after"] == 4


def test_a_file_damaged_after_it_was_checked(client, tmp_path):
    door = gate("later")
    first = dag_of(counted("a"), counted("b", "a"))
    handoff.execute(first, client, checkpoint=tmp_path)
    ran()
    os.remove(files(tmp_path)["b"])
    blockers = [
        handoff.submit(
            dag_of(Function("g", pass_gate, extra_args=["later"], node=n, cost={"cpu": c})), client
        )
        for n, c in (("node1", 4), ("node2", 2))
    ]
    door.await_inside(2)
    more = [handoff.submit(dag_of(Function("g", pass_gate, extra_args=["later"])), client) for _ in range(4)]
    door.await_inside(6)
    run = handoff.submit(first, client, checkpoint=tmp_path, max_retries=0)
    flip(files(tmp_path)["a"])
    door.open()
    with pytest.raises(FunctionFailedError) as caught:
        run.result()
    assert caught.value.function_id == "a"
    assert isinstance(caught.value.__cause__, CheckpointError)
    assert "checksum mismatch; run the same call again" in str(caught.value)
    assert handoff.execute(first, client, checkpoint=tmp_path)["b"] == "b(a())"
    assert ran() == {"a", "b"}
    for other in (*blockers, *more):
        other.result()


def test_a_result_lost_with_its_node_is_loaded_instead_of_recomputed(tmp_path):
    with handoff.local_cluster({name: {"cpu": 2} for name in "abc"}) as cluster, Client(cluster) as client:
        door = gate("lost with its node")
        dag = dag_of(
            counted("made", node=["a", "b"]),
            Function("held", pass_gate, extra_args=["lost with its node", 1], node="c"),
            Function("both", by_name, args=["made", "held"], extra_args=["both"]),
        )
        run = handoff.submit(dag, client, checkpoint=tmp_path, checkpoint_of=["made"])
        until(lambda: run.records["made"].status == "finished")
        door.await_inside(1)
        first = run.allocations["made"]
        cluster.sync(cluster.workers[first].close)
        door.open()
        result = run.result(timeout=30)
        assert result["both"] == "both(made(),1)"
        assert [(a.outcome, a.node == first) for a in result.records["made"].attempts] == [
            ("finished", True),
            ("finished", False),
        ]
        assert ran() == {"made", "both"}


def fails_once():
    with LOCK:
        CALLS[handoff.current().attempt] += 1
    if handoff.current().attempt == 1:
        raise OSError("once")
    return "done"


def test_a_retry_after_a_failed_load_recomputes(client, tmp_path):
    dag = dag_of(Function("f", fails_once))
    handoff.execute(dag, client, checkpoint=tmp_path)
    assert ran() == {1, 2}
    flip(files(tmp_path)["f"])
    assert handoff.execute(dag, client, checkpoint=tmp_path)["f"] == "done"
    assert ran() == {1, 2}, "the retry does not use the damaged file"


def test_functions_with_a_timeout(client, tmp_path):
    dag = dag_of(Function("f", "os:getpid", timeout=60), Function("g", identity, args=["f"], timeout=60))
    first = handoff.execute(dag, client, checkpoint=tmp_path)
    assert first["f"] == first["g"] != os.getpid()
    second = handoff.execute(dag, client, checkpoint=tmp_path)
    assert (second.results, set(second.restored)) == (first.results, {"f", "g"})
    assert handoff.execute_local(dag, checkpoint=tmp_path).results == first.results


# ---------------------------------------------------------------------- invalid options


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"checkpoint": 3}, TypeError, "checkpoint must be a path, a URL or a Checkpoint, not 3"),
        ({"checkpoint": ""}, ValueError, "is empty"),
        ({"checkpoint_of": ["a"]}, ValueError, "but checkpoint= is missing"),
        ({"checkpoint": "{}", "checkpoint_of": "a"}, TypeError, "a list of function ids or a callable"),
        ({"checkpoint": "{}", "checkpoint_of": 3}, TypeError, "a list of function ids or a callable"),
        ({"checkpoint": "{}", "checkpoint_of": ["z"]}, ValueError, "has no function 'z'"),
        ({"checkpoint": "{}", "checkpoint_of": [[]]}, ValueError, r"has no function \[\]"),
        ({"checkpoint": "{}", "checkpoint_of": ["inline"]}, ValueError, "is an inline function"),
        ({"checkpoint": "nosuch://x"}, CheckpointError, "cannot be opened: ValueError: Protocol not known"),
        ({"checkpoint": "{}/file/below"}, CheckpointError, "cannot be written: NotADirectoryError"),
        ({"checkpoint": "{}/file"}, CheckpointError, "cannot be written: FileExistsError"),
    ],
)
@pytest.mark.parametrize("function", [handoff.submit, handoff.execute, handoff.execute_local])
def test_invalid_options(client, tmp_path, function, options, error, text):
    (tmp_path / "file").write_text("no directory")
    options = {
        k: v.format(tmp_path) if isinstance(v, str) and k == "checkpoint" else v for k, v in options.items()
    }
    dag = dag_of(counted("a"), Function("inline", add, args=["a"], type="inline"))
    given = () if function is handoff.execute_local else (client,)
    with pytest.raises(error, match=text):
        function(dag, *given, **options)
    assert ran() == set()


def test_arguments_that_cannot_be_fingerprinted(client, tmp_path):
    dag = dag_of(Function("f", list, extra_args=[(x for x in ())]))
    with pytest.raises(handoff.SerializationError, match="function 'f' cannot be fingerprinted"):
        handoff.execute(dag, client, checkpoint=tmp_path)


# ---------------------------------------------------------------------- asynchronous and local


async def run_twice_asynchronously(cluster, folder):
    async with Client(cluster.scheduler_address, asynchronous=True, set_as_default=False) as client:
        first = await handoff.execute(diamond(), client, checkpoint=folder)
        assert (first.results, ran()) == (RESULTS, ALL)
        second = await handoff.submit(diamond(), client, checkpoint=folder)
        assert (second.results, set(second.restored), ran()) == (RESULTS, ALL, set())


def test_with_an_asynchronous_client(cluster, tmp_path):
    asyncio.run(run_twice_asynchronously(cluster, tmp_path))


@pytest.mark.parametrize("threads", [1, 4])
def test_execute_local(client, tmp_path, threads):
    FAILING.add("c")
    with pytest.raises(FunctionFailedError) as caught:
        handoff.execute_local(
            diamond(), checkpoint=tmp_path, max_retries=0, max_concurrency=threads, fail_fast=False
        )
    assert caught.value.run.restored == ()
    assert ran() == {"a", "b", "c"}
    FAILING.clear()
    result = handoff.execute_local(diamond(), checkpoint=tmp_path, max_concurrency=threads, keep="sinks")
    assert result.results == {"d": RESULTS["d"], "e": RESULTS["e"]}
    assert (set(result.restored), ran()) == ({"a", "b"}, {"c", "d", "e"})
    assert set(handoff.execute(diamond(), client, checkpoint=tmp_path).restored) == ALL, "also on a cluster"
    assert ran() == set()
    flip(files(tmp_path)["a"])
    result = handoff.execute_local(diamond(), checkpoint=tmp_path, max_concurrency=threads)
    assert (result.results, ran()) == (RESULTS, {"a"})


def test_an_unpicklable_result_fails_its_function_locally(tmp_path):
    dag = dag_of(Function("lock", "threading:Lock", max_retries=0))
    with pytest.raises(FunctionFailedError) as caught:
        handoff.execute_local(dag, checkpoint=tmp_path)
    assert isinstance(caught.value.__cause__, CheckpointError)
