"""Clusters with encrypted connections, and the ports on which processes listen."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import warnings

import pytest
from distributed import Client, Security
from faulty import wait_for
from helpers import dag_of, gate, identity, listening, pass_gate, settle, until

import handoff_dask as handoff
from handoff_dask import ClusterNotReadyError, Collocated, Function, RunCancelledError

NODES = {"node1": {"cpu": 2}, "node2": {"cpu": 1}}


def command(program, *arguments, log):
    """Start a process with Dask's command line."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    line = [sys.executable, "-m", f"distributed.cli.dask_{program}", "--no-dashboard", *arguments]
    with open(log, "wb") as output:
        return subprocess.Popen(line, stdout=output, stderr=output, env=environment)


@pytest.fixture
def started(tmp_path):
    """Start a scheduler and two workers with extra arguments; return its address and the processes."""
    processes = []

    def start(*arguments):
        contact = tmp_path / "scheduler.json"
        log = tmp_path / "scheduler.log"
        where = ("--host", "127.0.0.1")
        options = (*where, "--port", "0", "--dashboard-address", ":0", "--scheduler-file", str(contact))
        processes.append(command("scheduler", *options, *arguments, log=log))
        until(lambda: contact.exists() and contact.read_text(), 60, "the scheduler has started")
        address = json.loads(contact.read_text())["address"]
        for name in NODES:
            options = (*where, "--name", name, "--resources", "cpu=2", "--nthreads", "2", "--no-nanny")
            log = tmp_path / f"{name}.log"
            processes.append(command("worker", address, *options, *arguments, log=log))
        return address, processes

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Certificate files as command-line arguments, and as a client's ``Security``."""
    pytest.importorskip("cryptography")
    made = Security.temporary()
    folder = tmp_path_factory.mktemp("tls")
    files = {"ca": made.tls_ca_file, "cert": made.tls_client_cert, "key": made.tls_client_key}
    for name, text in files.items():
        (folder / f"{name}.pem").write_text(text)
    ca, cert, key = (str(folder / f"{name}.pem") for name in files)
    security = Security(tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key, require_encryption=True)
    return ("--tls-ca-file", ca, "--tls-cert", cert, "--tls-key", key), security


@contextlib.contextmanager
def refused(error, match):
    """Expect an error, then collect the client that could not connect.

    Such a client does not close its socket, and Dask must not collect it while another one starts.
    """
    with pytest.raises(error, match=match):
        yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def everything():
    """Return a DAG that uses every kind of message."""
    return dag_of(
        Function("here", "operator:add", extra_args=[1, 2], node="node1"),
        Function("there", "operator:neg", args=["here"], node="node2"),
        Function("beside", "operator:abs", args=["there"], node=Collocated("there"), cost={"cpu": 1}),
        Function("timed", "operator:neg", args=["beside"], timeout=60),
    )


def test_processes_with_certificates(started, certificates, tmp_path, monkeypatch):
    arguments, security = certificates
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION", "True")
    address, _ = started(*arguments)
    assert address.startswith("tls://")
    with Client(address, security=security, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        assert handoff.discover_nodes(client).keys() == NODES.keys()
        result = handoff.execute(everything(), client)
        assert result.results == {"here": 3, "there": -3, "beside": 3, "timed": -3}
        assert result.allocations["there"] == "node2"
        assert handoff.resources_available("node1", {"cpu": 2}, client)
        folder = str(tmp_path)
        held = Function("held", wait_for, extra_args=[folder, "gate"])
        run = handoff.submit(dag_of(held, Function("after", identity, args=["held"])), client)
        until(lambda: (tmp_path / "marks").exists())
        assert run.cancel()
        (tmp_path / "gate").touch()
        with pytest.raises(RunCancelledError):
            run.result(timeout=20)
    with refused(ClusterNotReadyError, match=r"TLS.*Client\(address, security=Security\(\.\.\.\)\)"):
        handoff.execute(everything(), address)
    with refused(OSError, match="certificate"):
        Client(address, security=Security.temporary(), set_as_default=False)


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_local_cluster_with_certificates(certificates, processes):
    _, security = certificates
    given = Security(
        tls_ca_file=security.tls_ca_file,
        tls_client_cert=security.tls_client_cert,
        tls_client_key=security.tls_client_key,
        tls_scheduler_cert=security.tls_client_cert,
        tls_scheduler_key=security.tls_client_key,
        tls_worker_cert=security.tls_client_cert,
        tls_worker_key=security.tls_client_key,
        require_encryption=True,
    )
    with handoff.local_cluster(NODES, processes=processes, security=given) as cluster:
        assert cluster.scheduler_address.startswith("tls://127.0.0.1")
        assert all(a.startswith("tls://127.0.0.1") for a in cluster.scheduler.workers)
        assert handoff.execute(everything(), cluster)["timed"] == -3
        with refused(ClusterNotReadyError, match="TLS"):
            handoff.discover_nodes(cluster.scheduler_address)
        assert handoff.discover_nodes(cluster).keys() == NODES.keys()
        settle(cluster)


def test_temporary_certificates():
    pytest.importorskip("cryptography")
    with handoff.local_cluster(NODES, security=True) as cluster:
        with Client(cluster, set_as_default=False) as client:
            door = gate("tls")
            run = handoff.submit(dag_of(Function("f", pass_gate, extra_args=["tls", 5])), client)
            door.await_inside(1)
            assert not run.done()
            door.open()
            assert run.result(timeout=20)["f"] == 5
        settle(cluster)


@pytest.mark.parametrize("security", ["tls", 5, {"tls_ca_file": "x"}])
def test_invalid_security(security):
    with pytest.raises(TypeError, match=r"security must be a distributed.Security or True, not"):
        handoff.local_cluster(NODES, security=security)


@pytest.mark.slow
def test_no_process_opens_a_port(started):
    address, processes = started()
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        before = [listening(p.pid) for p in processes]
        assert all(before)
        ours = listening()
        assert handoff.discover_nodes(client).keys() == NODES.keys()
        dag = everything()
        for n in ("node1", "node2"):
            dag.add_function(Function(("inside", n), listening, node=n, cost={"cpu": 1}))
            dag.add_function(Function(("in a child", n), listening, node=n, cost={"cpu": 1}, timeout=60))
        result = handoff.execute(dag, client)
        assert [listening(p.pid) for p in processes] == before
        assert result["inside", "node1"] == before[1]
        assert result["inside", "node2"] == before[2]
        assert result["in a child", "node1"] <= before[1]
        assert result["in a child", "node2"] <= before[2]
        assert listening() == ours
        assert client.run_on_scheduler(lambda dask_scheduler: "handoff" in dask_scheduler.plugins)
