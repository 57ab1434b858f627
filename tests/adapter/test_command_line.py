"""A cluster from the command line: a scheduler and two workers in separate processes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from distributed import Client
from helpers import until

import handoff_dask as handoff
from handoff_dask import DAG, Function

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Start a cluster; yield the scheduler's address."""
    folder = tmp_path_factory.mktemp("cluster")
    contact = folder / "scheduler.json"
    processes = []

    def dask(*arguments: str) -> None:
        with open(folder / f"{len(processes)}.log", "w") as log:
            command = [sys.executable, "-m", "dask", *arguments]
            processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    try:
        dask(
            "scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            str(contact),
        )
        until(lambda: contact.exists() and contact.read_text(), 60, "the scheduler has started")
        found = json.loads(contact.read_text())["address"]
        common = ("--no-dashboard", "--nthreads", "4", "--no-nanny")
        for name, resources in (("node1", "cpu=4,memory=8192,gpu=1"), ("node2", "cpu=2,memory=4096")):
            dask("worker", found, "--name", name, "--resources", resources, *common)
        with Client(found, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield found
    finally:
        for process in reversed(processes):  # workers first, since they deregister from the scheduler
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def test_the_distributed_example_as_a_client_process(address):
    script = EXAMPLES / "distributed_execution.py"
    done = subprocess.run(
        [sys.executable, script, address], capture_output=True, text=True, timeout=60, check=True
    )
    assert "The final answer is: Processed [Loaded: /path/to/shared/data.txt] on GPU" in done.stdout
    assert re.search(r"gpu_process\W.*node1", done.stdout)


def test_nodes_have_the_declared_capacity(address):
    assert handoff.discover_nodes(address) == {
        "node1": {"cpu": 4, "memory": 8192, "gpu": 1},
        "node2": {"cpu": 2, "memory": 4096},
    }


def test_results_are_gathered_from_all_nodes(address):
    import operator
    import os

    dag = DAG("everywhere")
    for i in range(40):
        dag.add_function(Function(("pid", i), os.getpid, cost={"cpu": 1}, node=f"node{i % 2 + 1}"))
        dag.add_function(Function(("next", i), operator.add, args=[("pid", i)], extra_args=[1]))
    result = handoff.execute(dag, address)
    pids = {result["pid", i] for i in range(40)}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert all(result["next", i] == result["pid", i] + 1 for i in range(40))


def test_a_result_that_does_not_pickle_fails_its_function(address):
    dag = DAG("unpicklable").add_function(Function("lock", "threading:Lock", max_retries=1))
    dag.add_function(Function("fine", "operator:add", extra_args=[1, 2]))
    with pytest.raises(handoff.FunctionFailedError) as caught:
        handoff.execute(dag, address)
    assert caught.value.function_id == "lock"
    assert "its result, of type lock, does not pickle: cannot pickle '_thread.lock' object" in str(
        caught.value
    )
    assert [a.outcome for a in caught.value.attempts] == ["failed", "failed"]
    assert caught.value.run.status == "failed"


def test_a_lambda_is_sent_with_its_closure(address):
    factor = 6
    dag = DAG("closure").add_function(Function("f", lambda x: x * factor, extra_args=[7]))
    assert handoff.execute(dag, address)["f"] == 42


def test_two_runs_at_once(address):
    with Client(address, set_as_default=False) as client:
        runs = [
            handoff.submit(DAG("same").add_function(Function("f", "operator:add", extra_args=[i, 1])), client)
            for i in range(5)
        ]
        assert [run.result()["f"] for run in runs] == [1, 2, 3, 4, 5]


def everything_on_node2(ready, free):
    """Defined in a module that the scheduler cannot import."""
    return {f.id: "node2" for f in ready if free["node2"]["threads"]}


def test_an_allocator_that_the_scheduler_cannot_import(address):
    dag = DAG("own").add_function(Function("f", "operator:add", extra_args=[1, 2]))
    with Client(address, set_as_default=False) as client:
        with pytest.raises(handoff.ClusterNotReadyError) as caught:
            handoff.execute(dag, client, allocation_strategy=everything_on_node2)
        text = str(caught.value)
        assert text.startswith(
            "the scheduler cannot load the run's allocation_strategy: ModuleNotFoundError: "
        )
        assert text.endswith(". Its code must be importable there.")
        names = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.plugins["handoff"].runs))
        assert names == [], "the scheduler keeps nothing of the run"
        here = "node2"
        result = handoff.execute(
            dag, client, allocation_strategy=lambda ready, free: {f.id: here for f in ready}
        )  # a lambda is pickled by value
        assert result.allocations == {"f": "node2"}
