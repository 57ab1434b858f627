"""Functions that run in processes of their own: which ones do, what they see, and that nodes survive them."""

from __future__ import annotations

import os
import threading
import time

import pytest
from helpers import dag_of

import handoff_dask as handoff
from handoff_dask import Function, FunctionCrashedError, FunctionFailedError


def process_id(*args):
    return os.getpid()


def seen():
    """Return what libraries of the process see, and what the attempt is told."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    devices = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
    return (
        {os.environ.get(name) for name in names},
        {os.environ.get(name) for name in devices},
        dict(handoff.current().devices),
    )


def run_locally(dag, client, **options):
    return handoff.execute_local(dag, **options)


def run_on_cluster(dag, client, **options):
    return handoff.execute(dag, client, **options)


on_cluster_and_locally = pytest.mark.parametrize("run", [run_on_cluster, run_locally])


@on_cluster_and_locally
@pytest.mark.parametrize(
    ("of_run", "own"),
    [
        ("thread", {"thread", "default"}),
        ("process", {"thread"}),
    ],
)
def test_a_function_inherits_the_isolation_of_its_run(client, run, of_run, own):
    dag = dag_of(
        Function("default", process_id),
        Function("thread", process_id, isolation="thread"),
        Function("process", process_id, isolation="process"),
        Function("timeout", process_id, timeout=60),
    )
    pids = run(dag, client, isolation=of_run).results
    assert {id for id, pid in pids.items() if pid == os.getpid()} == own


def test_the_default_is_a_thread(client):
    run = handoff.submit(dag_of(Function("f", process_id)), client)
    assert run.result().results["f"] == os.getpid()


def exit_at_once():
    os._exit(3)


@on_cluster_and_locally
def test_an_isolated_function_without_a_timeout_may_crash(client, run):
    with pytest.raises(FunctionFailedError) as caught:
        run(dag_of(Function("f", exit_at_once, isolation="process", max_retries=0)), client)
    assert isinstance(caught.value.__cause__, FunctionCrashedError)
    assert run(dag_of(Function("f", process_id)), client).results["f"] == os.getpid()


def sleep_long():
    time.sleep(3600)


def test_cancelling_a_run_frees_what_an_isolated_function_held(client):
    run = handoff.submit(dag_of(Function("f", sleep_long, isolation="process", cost={"gpu": 1})), client)
    while run.records["f"].status != "running":
        time.sleep(0.01)
    run.cancel()
    assert handoff.execute(dag_of(Function("g", process_id, cost={"gpu": 1})), client, timeout=20)


def test_libraries_see_the_cores_and_devices_that_are_booked(client, monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "4,7")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    dag = dag_of(
        Function("two", seen, cost={"cpu": 2}, isolation="process"),
        Function("half", seen, cost={"cpu": 1.5}, isolation="process"),
        Function("gpu", seen, cost={"gpu": 1}, isolation="process"),
        Function("none", seen, isolation="process"),
    )
    values = handoff.execute(dag, client).results
    assert values["two"] == ({"2"}, {"4,7"}, {})
    assert values["half"] == ({"2"}, {"4,7"}, {})
    threads, devices, current = values["gpu"]
    assert devices == {"4"}, "the first of the node's devices is the fourth of the machine"
    assert current == {"gpu": [0]}
    assert "1" in threads, "what the node's environment says stays if the function books no cores"
    assert values["none"][1] == {"4,7"}


HELD, RELEASE = threading.Event(), threading.Event()


def hold_device():
    HELD.set()
    RELEASE.wait(60)


def test_a_second_device_is_the_first_that_the_process_sees(client, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with handoff.local_cluster({"a": {"cpu": 4, "gpu": 2}}, processes=False) as cluster:
        first = handoff.submit(dag_of(Function("f", hold_device, cost={"gpu": 1})), cluster)
        assert HELD.wait(20)
        dag = dag_of(Function("g", seen, cost={"gpu": 1}, isolation="process"))
        result = handoff.execute(dag, cluster)
        RELEASE.set()
        first.wait(20)
        held = first.records["f"].devices["gpu"][0]
    _, devices, current = result.results["g"]
    assert result.records["g"].devices == {"gpu": (1 - held,)}, "records name the node's device"
    assert devices == {str(1 - held)}
    assert current == {"gpu": [0]}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"isolation": "proces"},
            "isolation must be \"thread\" or \"process\", not 'proces'; did you mean 'process'?",
        ),
        ({"isolation": True}, 'isolation must be "thread" or "process", not True'),
        ({"isolation": "thread", "timeout": 3}, 'a timeout needs a process: remove isolation="thread"'),
        ({"isolation": "process", "type": "inline"}, "an inline function cannot have isolation"),
    ],
)
def test_invalid_isolation(fields, text):
    with pytest.raises(handoff.InvalidFunctionError) as caught:
        dag_of(Function("f", process_id, **fields)).validate()
    assert text in str(caught.value)


@pytest.mark.parametrize("run", [handoff.execute, handoff.submit, handoff.execute_local])
def test_invalid_isolation_of_a_run(run):
    with pytest.raises(ValueError, match=r"isolation must be .* not 'fork'"):
        run(dag_of(Function("f", process_id)), isolation="fork")
