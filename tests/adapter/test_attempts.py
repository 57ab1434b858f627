"""Reports of attempts: carried by Dask's message about the outcome, and matched to their attempt."""

from __future__ import annotations

from itertools import pairwise

import pytest
from distributed import Client
from helpers import dag_of, gate, identity, pass_gate, plugin_of, settle

import handoff_dask as handoff
from handoff_dask import Function, FunctionFailedError, RetryPolicy
from handoff_dask._adapter.messages import NAME, Report
from handoff_dask._adapter.plugin import report_in


@pytest.fixture(params=[False, True], ids=["threads", "processes"])
def pair(request):
    nodes = {name: {"cpu": 1} for name in "ab"}
    with handoff.local_cluster(nodes, processes=request.param) as cluster, Client(cluster) as client:
        handoff.discover_nodes(client)
        yield cluster, client
        settle(cluster)


@pytest.fixture
def reports(pair, monkeypatch):
    """The nodes' reports, in the order in which the scheduler reads them."""
    found = []

    def record(startstops, attempt):
        found.append(report_in(startstops, attempt))
        return found[-1]

    monkeypatch.setattr("handoff_dask._adapter.plugin.report_in", record)
    return found


def interval(**fields):
    return {"action": "compute", "start": 1.0, "stop": 2.0, **fields}


def test_a_report_is_found_among_intervals():
    report = Report(7, 1.0, 2.0, "failed", False)
    for sent in (tuple(report), list(report)):
        assert report_in([interval(), interval(**{NAME: sent}), interval()], 7) == report
    assert (
        report_in([interval(**{NAME: Report(6, 0.0, 1.0)}), interval(**{NAME: tuple(report)})], 7) == report
    )


@pytest.mark.parametrize(
    "startstops", [None, [], [interval()], [interval(**{NAME: (6, 1.0, 2.0, "stopped", False)})]]
)
def test_a_failure_without_a_report_is_retryable(startstops):
    report = report_in(startstops, 7)
    assert report == Report()
    assert report.retryable
    assert report.started is report.stopped is report.outcome is None


def test_successes_and_failures_are_reported(pair, reports):
    _, client = pair
    result = handoff.execute(dag_of(Function("x", identity, extra_args=[1])), client)
    policy = RetryPolicy(max_retries=1, retry_on=(KeyError,))
    with pytest.raises(FunctionFailedError) as caught:
        handoff.execute(dag_of(Function("x", int, extra_args=["one"], retry=policy)), client)
    assert [(r.outcome, r.retryable) for r in reports] == [("finished", True), ("failed", False)]
    attempts = *result.records["x"].attempts, *caught.value.attempts
    assert [(a.started, a.stopped) for a in attempts] == [(r.started, r.stopped) for r in reports]
    assert all(a.started <= a.stopped for a in attempts)


def sometimes(path, times):
    with open(path, "a") as file:
        file.write("x")
    with open(path) as file:
        tries = len(file.read())
    if tries <= times:
        raise ValueError("not yet")
    return tries


def test_each_attempt_has_its_own_report(pair, reports, tmp_path):
    """On one node, where the worker's task still carries the reports of earlier attempts."""
    _, client = pair
    retry = RetryPolicy(max_retries=3, elsewhere=False)
    f = Function("x", sometimes, extra_args=[str(tmp_path / "tries"), 3], node="a", retry=retry)
    result = handoff.execute(dag_of(f), client)
    attempts = result.records["x"].attempts
    assert [a.outcome for a in attempts] == ["failed", "failed", "failed", "finished"]
    assert [(a.started, a.stopped) for a in attempts] == [(r.started, r.stopped) for r in reports]
    assert all(a.stopped <= b.started for a, b in pairwise(attempts))
    assert len({r.attempt for r in reports}) == 4


def broken():
    raise RuntimeError("cannot be loaded")


class Unloadable:
    def __call__(self):
        return 1

    def __reduce__(self):
        return broken, ()


def test_code_that_cannot_be_loaded_is_reported_as_a_failure(pair, reports):
    _, client = pair
    with pytest.raises(FunctionFailedError) as caught:
        handoff.execute(dag_of(Function("x", Unloadable())), client, max_retries=1)
    assert [(r.outcome, r.retryable) for r in reports] == [("failed", False)]
    assert [a.started is not None for a in caught.value.attempts] == [True]


def test_the_report_of_a_node_that_dies_before_sending_dasks_message_is_lost():
    with handoff.local_cluster({name: {"cpu": 1} for name in "ab"}) as cluster, Client(cluster) as client:
        handoff.discover_nodes(client)
        scheduler = cluster.scheduler
        finished, arrived = scheduler.stream_handlers["task-finished"], gate("arrived")

        async def keep_back():
            scheduler.stream_handlers["task-finished"] = lambda **message: arrived.open()

        client.sync(keep_back)
        door = gate("dies")
        f = Function("x", pass_gate, extra_args=["dies", 5])
        run = handoff.submit(dag_of(f), client, allocation_strategy="first_available")
        door.await_inside(1)
        door.open()
        arrived.wait()

        async def let_pass():
            scheduler.stream_handlers["task-finished"] = finished
            await scheduler.remove_worker(cluster.workers["a"].address, stimulus_id="test")

        client.sync(let_pass)
        result = run.result(timeout=20)
        lost, again = result.records["x"].attempts
        assert (lost.node, lost.outcome, lost.started) == ("a", "lost", None)
        assert (again.node, again.outcome, result["x"]) == ("b", "finished", 5)
        assert lost.stopped <= again.started <= again.stopped
        del run, result
        settle(cluster)
        assert plugin_of(cluster) is not None
