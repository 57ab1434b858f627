"""A process that is forked after handoff_dask was used, which is how multiprocessing starts some."""

from __future__ import annotations

import multiprocessing
import operator
import os
import subprocess
import sys
import time

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


def answer(question, pipe):
    try:
        value = question()
    except BaseException as error:
        value = error
    pipe.send((os.getpid(), value))


def in_fork(question):
    """What a function answers in a fork of this process; exceptions are raised here."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=answer, args=(question, theirs))
    child.start()
    try:
        assert ours.poll(30), "it hangs"
        pid, value = ours.recv()
        assert pid != os.getpid()
        child.join(10)
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


def pid_after(x):
    return x, os.getpid()


def embedded():
    dag = dag_of(
        Function("sum", operator.add, extra_args=[1, 2]),
        Function("pid", pid_after, args=["sum"]),
        Function("own", pid_after, args=["sum"], timeout=60),
    )
    results = handoff.execute(dag).results
    assert results["own"][1] not in (os.getpid(), os.getppid())
    return results["pid"] == (3, os.getpid())


def test_a_fork_has_an_embedded_cluster_of_its_own():
    assert embedded()
    assert in_fork(embedded)
    assert in_fork(lambda: in_fork(embedded))
    assert embedded()


@pytest.fixture
def default(module_cluster):
    with Client(module_cluster) as client:
        yield client


def nodes_of_default():
    return set(handoff.discover_nodes())


def test_a_default_client_is_not_inherited(default):
    nodes = nodes_of_default()
    assert in_fork(nodes_of_default) == {"embedded"}
    assert default_client() is default
    assert nodes_of_default() == nodes


def test_a_client_that_is_passed_on_is_an_error_that_says_what_to_do(client, cluster):
    run = handoff.submit(dag_of(Function("f", operator.add, extra_args=[1, 2])), client)
    run.wait()

    def told():
        texts = []
        for use in (lambda: handoff.submit(run.dag, client), run.wait, run.result, run.cancel):
            with pytest.raises(ClusterNotReadyError) as caught:
                use()
            texts.append(str(caught.value))
        assert run.done()
        with pytest.raises(ClusterNotReadyError):
            handoff.execute(run.dag, cluster)
        return texts

    for text in in_fork(told):
        assert "was created before this process was forked" in text
        assert "Client(address)" in text
    assert run.result().results == {"f": 3}


def test_a_cluster_elsewhere_can_be_reached_by_its_address():
    with handoff.local_cluster({"a": {"cpu": 1}}, processes=True) as elsewhere:
        dag = dag_of(Function("f", operator.add, extra_args=[1, 2]))
        address = elsewhere.scheduler_address

        def there():
            return handoff.execute(dag, address).results, handoff.submit(dag, address).result().results

        try:
            assert there() == in_fork(there) == there() == ({"f": 3}, {"f": 3})
        finally:
            kept, _ = session.resolve_client(address, reuse=True)
            kept.close()  # before its scheduler, which it would look for


def test_a_fork_ends_at_once():
    """It closes nothing that is its parent's, and waits for nothing."""
    program = (
        "import os, sys, handoff_dask as handoff\n"
        "dag = handoff.DAG('d').add_function(handoff.Function('f', 'operator:add', extra_args=[1, 2]))\n"
        "cluster = handoff.local_cluster({'a': {'cpu': 1}})\n"
        "client = handoff.execute(dag, cluster), handoff.execute(dag)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    del client, cluster\n"
        "    sys.exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)\n"
        "print(handoff.execute(dag).results, handoff.execute(dag, cluster).results)\n"
        "cluster.close()\n"
    )
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == ["7", "{'f': 3} {'f': 3}"]
    assert done.stderr == ""
    assert time.monotonic() - begin < 15
