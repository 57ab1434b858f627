"""Functions that run in processes of their own: which ones do, what they see, and that nodes survive them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time

import pytest
from helpers import dag_of, on_cluster_and_locally, on_cluster_and_locally_if_slow, until

import handoff_dask as handoff
from handoff_dask import Function, FunctionCrashedError, FunctionFailedError, FunctionMemoryError, RetryPolicy
from handoff_dask._adapter import meter


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


@on_cluster_and_locally_if_slow
def test_an_isolated_function_without_a_timeout_may_crash(client, run):
    with pytest.raises(FunctionFailedError) as caught:
        run(dag_of(Function("f", exit_at_once, isolation="process", max_retries=0)), client)
    assert isinstance(caught.value.__cause__, FunctionCrashedError)
    assert run(dag_of(Function("f", process_id)), client).results["f"] == os.getpid()


def sleep_long():
    time.sleep(3600)


def test_cancelling_a_run_frees_what_an_isolated_function_held(client):
    run = handoff.submit(dag_of(Function("f", sleep_long, isolation="process", cost={"gpu": 1})), client)
    until(lambda: run.records["f"].status == "running")
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
    )
    values = handoff.execute(dag, client).results
    assert values["two"] == ({"2"}, {"4,7"}, {})
    assert values["half"] == ({"2"}, {"4,7"}, {})
    threads, devices, current = values["gpu"]
    assert devices == {"4"}, "the first of the node's devices is the fourth of the machine"
    assert current == {"gpu": [0]}
    assert "1" in threads, "what the node's environment says stays if the function books no cores"


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


# ---------------------------------------------------------------------- what attempts use


def take(megabytes, seconds=0.0):
    """Use memory, all of which is written to, for some time."""
    data = bytearray(megabytes * 2**20)
    data[:: 2**12] = b"x" * len(data[:: 2**12])
    time.sleep(seconds)
    return len(data)


def take_until_seen(megabytes):
    """Use memory in this process until it has been looked at."""
    data = bytearray(megabytes * 2**20)
    data[:: 2**12] = b"x" * len(data[:: 2**12])
    seen = meter._sampler.samples
    until(lambda: meter._sampler.samples >= seen + 2)  # the next look may have begun before
    return len(data)


def compute(seconds):
    begin = time.thread_time()
    while time.thread_time() - begin < seconds:
        pass


def fail_after(megabytes):
    take(megabytes)
    raise ValueError("no luck")


@on_cluster_and_locally_if_slow
def test_memory_that_an_earlier_attempt_has_freed_counts_when_it_is_used_again(client, run):
    """A process keeps freed memory, so the second attempt need not ask the system for it."""
    dag = dag_of(Function(0, take, extra_args=[20], isolation="process"))
    for n in range(1, 4):
        dag.add_function(Function(n, lambda size: take(20), args=[n - 1], isolation="process"))
    records = run(dag, client).records
    assert [n for n in range(4) if records[n].attempts[0].peak_memory < 20] == []


@on_cluster_and_locally_if_slow
def test_a_process_is_measured_exactly(client, run):
    dag = dag_of(
        Function("large", take, extra_args=[200], isolation="process"),
        Function("small", lambda large: take(1), args=["large"], isolation="process"),
        # In the same process too, where importing this module takes no processor time any more.
        Function("busy", lambda small: compute(0.2), args=["small"], isolation="process"),
    )
    records = run(dag, client).records
    (large,) = records["large"].attempts
    assert large.peak_exact
    assert 195 < large.peak_memory < 260
    (small,) = records["small"].attempts
    assert small.peak_exact
    assert small.peak_memory < 60, "the peak of an earlier attempt in the same process does not count"
    assert 0.2 <= records["busy"].cpu_seconds < 2
    assert records["large"].peak_memory == large.peak_memory


@on_cluster_and_locally_if_slow
def test_a_thread_is_estimated(client, run):
    dag = dag_of(
        Function("large", take_until_seen, extra_args=[200]),
        Function("busy", compute, extra_args=[0.2]),
        Function("idle", time.sleep, extra_args=[0.3]),
    )
    records = run(dag, client, max_concurrency=1).records
    (large,) = records["large"].attempts
    assert not large.peak_exact
    assert 150 < large.peak_memory < 300
    assert 0.2 <= records["busy"].cpu_seconds < 0.5
    assert records["idle"].cpu_seconds < 0.2


@on_cluster_and_locally_if_slow
@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_failed_attempts_are_measured(client, run, isolation):
    f = Function("f", fail_after, extra_args=[50], isolation=isolation, max_retries=1, cost={"cpu": 2})
    with pytest.raises(FunctionFailedError) as caught:
        run(dag_of(f), client, retry=handoff.RetryPolicy(delay=0))
    for attempt in caught.value.attempts:
        assert attempt.cpu_seconds > 0
        assert attempt.peak_exact == (isolation == "process")
        if isolation == "process":
            assert attempt.peak_memory > 45


def test_attempts_record_what_they_booked(client):
    records = handoff.execute(
        dag_of(Function("f", process_id, cost={"cpu": 2, "memory": "1GB"})), client
    ).records
    assert records["f"].attempts[0].cost == {"cpu": 2, "memory": 953}
    frame = pytest.importorskip("pandas").DataFrame(records.to_pandas())
    assert {"cpu_seconds", "peak_memory", "peak_exact", "cost_memory"} <= set(frame.columns)
    assert frame["cost_memory"][0] == 953


# ---------------------------------------------------------------------- bounds of memory


def take_in_a_child(megabytes):
    """Use memory in a process that the function starts."""
    code = f"import time; data = bytearray(b'x' * {megabytes} * 2**20); time.sleep(600)"
    subprocess.run([sys.executable, "-c", code], check=True)


def take_before_a_fork(megabytes):
    """Share memory with a forked process, and never write to it again."""
    data = bytearray(megabytes * 2**20)
    data[:: 2**12] = b"x" * len(data[:: 2**12])
    child = os.fork()
    if not child:
        time.sleep(0.5)
        os._exit(0)
    os.waitpid(child, 0)
    return len(data)


@on_cluster_and_locally_if_slow
@pytest.mark.parametrize("use", [lambda: take(300, 600), lambda: take_in_a_child(300)])
def test_an_attempt_over_its_memory_is_ended(client, run, use):
    f = Function("f", use, isolation="process", cost={"memory": 100}, max_retries=0)
    begin = time.monotonic()
    with pytest.raises(FunctionFailedError) as caught:
        run(dag_of(f), client)
    assert time.monotonic() - begin < 60
    error = caught.value.__cause__
    assert isinstance(error, FunctionMemoryError)
    assert isinstance(error, MemoryError)
    assert (error.function_id, error.asked) == ("f", 100)
    assert error.seen > 100
    (attempt,) = caught.value.attempts
    assert error.node == attempt.node
    assert attempt.peak_memory == error.seen
    assert "more than its cost of memory 100 MB" in attempt.error


@on_cluster_and_locally_if_slow
@pytest.mark.parametrize("use", [lambda: take(90, 0.2), lambda: take_before_a_fork(80)])
def test_an_attempt_within_its_memory_is_left_alone(client, run, use):
    dag = dag_of(Function("f", use, isolation="process", cost={"memory": 120}, max_retries=0))
    assert run(dag, client).results["f"]


KEPT = []


def keep(megabytes):
    """Leave memory behind in the process."""
    KEPT.append(bytearray(megabytes * 2**20))
    KEPT[-1][:: 2**12] = b"x" * len(KEPT[-1][:: 2**12])
    return os.getpid()


@on_cluster_and_locally_if_slow
def test_what_earlier_attempts_leave_behind_does_not_count(client, run):
    dag = dag_of(
        Function("leaves", keep, extra_args=[200], isolation="process"),
        Function(
            "next", lambda pid: (pid == os.getpid(), take(20, 0.3)), args=["leaves"], cost={"memory": 100}
        ),
    )
    result = run(dag, client, isolation="process", max_retries=0)
    assert result["next"][0], "both ran in one process"
    assert result.records["next"].peak_memory < 100


def test_neighbours_and_node_go_on(client):
    dag = dag_of(
        Function("over", take, extra_args=[300, 60], isolation="process", cost={"memory": 100, "gpu": 1}),
        Function("beside", take, extra_args=[20, 1], isolation="process", cost={"memory": 100}),
        Function("next", process_id, cost={"gpu": 1}, priority=-1),
    )
    run = handoff.submit(dag, client, fail_fast=False, max_retries=0)
    assert run.wait(60)
    assert {id: record.status for id, record in run.records.items()} == {
        "over": "failed",
        "beside": "finished",
        "next": "finished",
    }


# ---------------------------------------------------------------------- more on the next attempt


def take_until_ended_below(megabytes):
    """Use memory; if that is more than the attempt has booked, until it is ended."""
    return take(megabytes, 60 if handoff.current().cost["memory"] < megabytes else 0)


@on_cluster_and_locally_if_slow
def test_a_function_that_runs_out_of_memory_asks_for_more(client, run):
    policy = RetryPolicy(max_retries=5, grow={"memory": 2})
    f = Function(
        "f",
        take_until_ended_below,
        extra_args=[300],
        isolation="process",
        cost={"memory": 100},
        retry=policy,
    )
    dag = dag_of(f)
    result = run(dag, client)
    attempts = result.records["f"].attempts
    assert [a.outcome for a in attempts] == ["failed", "failed", "finished"]
    assert [a.cost["memory"] for a in attempts] == [100, 200, 400]
    assert all("used" in a.error for a in attempts[:2])
    assert result.records["f"].cost == {"memory": 100}
    frame = pytest.importorskip("pandas").DataFrame(result.records.to_pandas())
    assert list(frame["cost_memory"]) == [100, 200, 400]


def raise_memory_error_below(megabytes):
    if handoff.current().cost["memory"] < megabytes:
        raise MemoryError("too little")
    return dict(handoff.current().cost)


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_a_memory_error_grows_too_and_current_says_what_is_booked(client, isolation):
    f = Function(
        "f", raise_memory_error_below, extra_args=[700], cost={"memory": 200, "cpu": 1}, isolation=isolation
    )
    result = handoff.execute(dag_of(f), client, retry=RetryPolicy(grow={"memory": 2}))
    assert result["f"] == {"memory": 800, "cpu": 1}


def test_growth_ends_at_the_largest_node(client):
    """The nodes have memory 8192 and 4096."""
    f = Function("f", raise_memory_error_below, extra_args=[1e9], cost={"memory": 3000})
    with pytest.raises(FunctionFailedError) as caught:
        handoff.execute(dag_of(f), client, retry=RetryPolicy(max_retries=9, grow={"memory": 2}))
    attempts = caught.value.attempts
    most = max(node.get("memory", 0) for node in handoff.discover_nodes(client).values())
    assert attempts[-1].cost["memory"] == most
    assert len(attempts) < 9
    assert "no node that may run it has more than it has asked for" in str(caught.value)


@pytest.mark.parametrize(
    ("grow", "error", "text"),
    [
        ({"memory": 0.5}, ValueError, "RetryPolicy.grow: memory must be at least 1, but is 0.5"),
        ({"memory": "2"}, ValueError, "RetryPolicy.grow: memory must be a number"),
        ({3: 2}, TypeError, "a resource must be a str, not 3"),
        (2, TypeError, "must map resources to factors, not 2"),
    ],
)
def test_invalid_growth(grow, error, text):
    with pytest.raises(error, match=re.escape(text)):
        RetryPolicy(grow=grow)


def test_unknown_resources_in_grow():
    policy = RetryPolicy(grow={"memry": 2})
    dag = dag_of(Function("f", process_id, cost={"memory": 100}, retry=policy))
    with pytest.raises(handoff.InvalidFunctionError, match=r"grow names 'memry', .* did you mean 'memory'"):
        dag.validate()
    dag = dag_of(Function("f", process_id, cost={"memory": 100}))
    with pytest.raises(
        ValueError, match="grow names 'memry', for which no function asks; did you mean 'memory'"
    ):
        handoff.execute_local(dag, retry=policy)
