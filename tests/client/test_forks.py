"""Processes forked after handoff_dask was used, for example by multiprocessing."""

from __future__ import annotations

import multiprocessing
import operator
import os
import subprocess
import sys

import pytest
from distributed import Client, default_client
from helpers import dag_of

import handoff_dask as handoff
from handoff_dask import ClusterNotReadyError, Function
from handoff_dask._client import session

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings(r"ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def call_and_send(function, pipe):
    try:
        value = function()
    except BaseException as error:
        value = error
    pipe.send((os.getpid(), value))


def in_fork(function):
    """Call a function in a fork of this process. Return its value or raise its exception."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=call_and_send, args=(function, theirs))
    child.start()
    try:
        assert ours.poll(60), "the fork hangs"
        pid, value = ours.recv()
        assert pid != os.getpid()
        child.join(30)
        assert child.exitcode == 0
    finally:
        child.kill()
        child.join()
        child.close()
        ours.close()
        theirs.close()
    if isinstance(value, BaseException):
        raise value
    return value


def with_pid(x):
    return x, os.getpid()


def runs_on_embedded_cluster():
    dag = dag_of(
        Function("sum", operator.add, extra_args=[1, 2]),
        Function("pid", with_pid, args=["sum"]),
        Function("own", with_pid, args=["sum"], timeout=60),
    )
    results = handoff.execute(dag).results
    assert results["own"][1] not in (os.getpid(), os.getppid())
    return results["pid"] == (3, os.getpid())


def test_a_fork_starts_its_own_embedded_cluster():
    assert runs_on_embedded_cluster()
    assert in_fork(runs_on_embedded_cluster)
    assert in_fork(lambda: in_fork(runs_on_embedded_cluster))
    assert runs_on_embedded_cluster()


@pytest.fixture
def default_of_module(module_cluster):
    with Client(module_cluster) as client:
        yield client


def nodes_of_default():
    return set(handoff.discover_nodes())


def test_a_default_client_is_not_inherited(default_of_module):
    nodes = nodes_of_default()
    assert in_fork(nodes_of_default) == {"embedded"}
    assert default_client() is default_of_module
    assert nodes_of_default() == nodes


def test_using_an_inherited_client_raises_an_error_with_the_remedy(client, cluster):
    run = handoff.submit(dag_of(Function("f", operator.add, extra_args=[1, 2])), client)
    run.wait()

    def error_texts():
        texts = []
        for use in (lambda: handoff.submit(run.dag, client), run.wait, run.result, run.cancel):
            with pytest.raises(ClusterNotReadyError) as caught:
                use()
            texts.append(str(caught.value))
        assert run.done()
        with pytest.raises(ClusterNotReadyError):
            handoff.execute(run.dag, cluster)
        return texts

    for text in in_fork(error_texts):
        assert "was created before this process was forked" in text
        assert "Client(address)" in text
    assert run.result().results == {"f": 3}


def test_a_fork_can_connect_to_a_cluster_by_address():
    with handoff.local_cluster({"a": {"cpu": 1}}, processes=True) as elsewhere:
        dag = dag_of(Function("f", operator.add, extra_args=[1, 2]))
        address = elsewhere.scheduler_address

        def run_twice():
            return handoff.execute(dag, address).results, handoff.submit(dag, address).result().results

        try:
            assert run_twice() == in_fork(run_twice) == run_twice() == ({"f": 3}, {"f": 3})
        finally:
            shared, _ = session.resolve_client(address, reuse=True)
            shared.close()  # before the scheduler closes, to which it would try to reconnect


def test_a_fork_exits_promptly():
    """It leaves its parent's clusters and clients open, and does not wait for them."""
    program = (
        "import os, sys, time, handoff_dask as handoff\n"
        "dag = handoff.DAG('d').add_function(handoff.Function('f', 'operator:add', extra_args=[1, 2]))\n"
        "cluster = handoff.local_cluster({'a': {'cpu': 1}})\n"
        "client = handoff.execute(dag, cluster), handoff.execute(dag)\n"
        "begin = time.monotonic()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    del client, cluster\n"
        "    sys.exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)\n"
        "print(time.monotonic() - begin)\n"  # without the imports, which take long on a busy machine
        "print(handoff.execute(dag).results, handoff.execute(dag, cluster).results)\n"
        "cluster.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    status, seconds, results = done.stdout.splitlines()
    assert (status, results) == ("7", "{'f': 3} {'f': 3}")
    assert done.stderr == ""
    assert float(seconds) < 15
