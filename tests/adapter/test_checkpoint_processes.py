"""Resuming after the death of the cluster, or of scheduler, workers and client."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from distributed import Client
from helpers import dag_of, until

import handoff_dask as handoff
from handoff_dask import Function

NODES = {"node1": {"cpu": 2, "memory": 1024}, "node2": {"cpu": 1, "memory": 1024}}


def logged(log, name, *inputs):
    """Return name and inputs, and log the call in a file, since it is made in another process."""
    with open(log, "a") as f:
        f.write(f"{name}\n")
    return [name, *inputs]


def steps(log, last="c"):
    return dag_of(
        Function("a", log_and_return, extra_args=[str(log), "a"]),
        Function("b", log_and_return, args=["a"], extra_args=[str(log), "b"]),
        Function("c", log_and_return, args=["a", "b"], extra_args=[str(log), last]),
    )


def log_and_return(*arguments):
    *inputs, log, name = arguments
    return logged(log, name, *inputs)


def test_a_new_cluster_resumes_from_the_checkpoints_of_the_old_one(tmp_path):
    log, folder = tmp_path / "log", tmp_path / "kept"
    with handoff.local_cluster(NODES, processes=True) as cluster:
        first = handoff.execute(steps(log), cluster, checkpoint=folder)
        assert sorted(log.read_text().split()) == ["a", "b", "c"]
    with handoff.local_cluster(NODES, processes=True) as cluster:
        second = handoff.execute(steps(log), cluster, checkpoint=folder)
        assert (second.results, set(second.restored)) == (first.results, {"a", "b", "c"})
        third = handoff.execute(steps(log, last="d"), cluster, checkpoint=folder)
        assert third["c"] == ["d", ["a"], ["b", ["a"]]]
    assert sorted(log.read_text().split()) == ["a", "b", "c", "d"]


PROGRAM = """
import json, os, sys, time
import handoff_dask as handoff
from handoff_dask import DAG, Function

address, folder, log, gate = sys.argv[1:]

def step(*arguments):
    *inputs, number = arguments
    if number == 4:
        with open(log + ".waiting", "w"):
            pass
        while not os.path.exists(gate):
            time.sleep(0.01)
    with open(log, "a") as f:
        f.write(f"{number}\\n")
    return sum(inputs) + number

dag = DAG()
for number in range(8):
    inputs = [n for n in (number - 1, number - 2) if n >= 0]
    dag.add_function(Function(number, step, args=inputs, extra_args=[number], cost={"cpu": 1}))
result = handoff.execute(dag, address, checkpoint=folder)
print(json.dumps([list(result.results.items()), list(result.restored)]))
"""


@contextlib.contextmanager
def cluster_of_processes(folder: Path):
    """Start a scheduler and two workers, yield its address, and kill all processes at the end."""
    folder.mkdir()
    contact = folder / "scheduler.json"
    processes = []

    def dask(*arguments: str) -> None:
        with open(folder / f"{len(processes)}.log", "w") as log:
            command = [sys.executable, "-m", "dask", *arguments, "--no-dashboard"]
            processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    try:
        dask("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(contact))
        until(lambda: contact.exists() and contact.read_text(), 60, "the scheduler has started")
        address = json.loads(contact.read_text())["address"]
        for name in ("node1", "node2"):
            dask("worker", address, "--name", name, "--nthreads", "2", "--no-nanny", "--resources", "cpu=2")
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield address
    finally:
        for process in processes:  # the scheduler first; SIGKILL leaves none of them time to react
            process.kill()
            process.wait()


@pytest.mark.slow
def test_scheduler_workers_and_client_are_killed(tmp_path):
    script, folder, log, gate = (tmp_path / name for name in ("program.py", "kept", "log", "gate"))
    script.write_text(PROGRAM)
    with cluster_of_processes(tmp_path / "first") as address:
        command = [sys.executable, str(script), address, str(folder), str(log), str(gate)]
        client = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until(Path(f"{log}.waiting").exists, 60, "the fifth function waits")
        finally:
            client.kill()
            client.wait()
    assert sorted(log.read_text().split()) == list("0123")
    gate.touch()
    with cluster_of_processes(tmp_path / "second") as address:
        command[2] = address
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    results, restored = json.loads(done.stdout)
    expected = [0, 1]
    for number in range(2, 8):
        expected.append(expected[-1] + expected[-2] + number)
    assert results == [[number, value] for number, value in enumerate(expected)]
    assert restored == [0, 1, 2, 3]
    assert sorted(log.read_text().split()) == list("01234567"), "each function ran once in total"
