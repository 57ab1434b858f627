"""What users of Dask do to tasks and workers, done to functions: nothing stays parked or booked."""

from __future__ import annotations

import dask
import pytest
from distributed import Client, Variable
from helpers import add, dag_of, gate, identity, pass_gate, plugin_of, settle, until

import handoff_dask as handoff
from handoff_dask import AllocationError, Function, FunctionFailedError, RunCancelledError

SOON = 20  # seconds


@pytest.fixture
def one():
    """A cluster of one node, and a client."""
    with (
        dask.config.set({"handoff.node-timeout": "200ms"}),
        handoff.local_cluster({"a": {"cpu": 1, "threads": 2}}) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield cluster, client
    settle(cluster)


@pytest.fixture
def other(one):
    """Another client of the same cluster."""
    cluster, _ = one
    with Client(cluster, set_as_default=False) as client:
        yield client


#: What functions of these tests look up: failing until it is repaired.
BROKEN: set[str] = set()


def unless_broken(name, value=1):
    if name in BROKEN:
        raise ValueError(f"{name} is broken")
    return value


def nothing_is_left(cluster):
    """Nothing is parked, runs or is booked."""
    plugin = plugin_of(cluster)
    until(lambda: not any(node.used["threads"] for node in plugin.state.nodes.values()), what="booked")
    until(lambda: not cluster.scheduler.unrunnable, what="parked")
    plugin.state.check()


# client.retry


def test_retry_of_what_failed_while_the_run_goes_on(one):
    _, client = one
    BROKEN.add("retried")
    door = gate("retry, going on")
    run = handoff.submit(
        dag_of(
            Function("broken", unless_broken, extra_args=["retried", 5], cost={"cpu": 0.5}, max_retries=0),
            Function("after", identity, args=["broken"], cost={"cpu": 0.1}),
            Function("held", pass_gate, extra_args=["retry, going on", 1], cost={"cpu": 0.5}),
        ),
        client,
        fail_fast=False,
    )
    until(lambda: run.records["after"].status == "skipped")
    BROKEN.clear()
    client.retry(run.futures["broken"])
    until(lambda: run.records["after"].status == "finished")
    assert run.futures["after"].result(SOON) == 5
    assert [a.outcome for a in run.records["broken"].attempts] == ["failed", "finished"]
    door.open()
    assert run.result(SOON).results == {"broken": 5, "after": 5, "held": 1}


def test_a_retry_has_all_its_retries_again(one):
    _, client = one
    BROKEN.add("again")
    door = gate("retry twice")
    run = handoff.submit(
        dag_of(
            Function("broken", unless_broken, extra_args=["again"], cost={"cpu": 0.5}, max_retries=1),
            Function("held", pass_gate, extra_args=["retry twice", 1], cost={"cpu": 0.5}),
        ),
        client,
        fail_fast=False,
    )
    until(lambda: run.records["broken"].status == "failed")
    client.retry(run.futures["broken"])
    until(lambda: len(run.records["broken"].attempts) == 4)
    door.open()
    with pytest.raises(FunctionFailedError, match="after 4 attempts") as caught:
        run.result(SOON)
    assert not caught.value.others


@pytest.mark.parametrize("fail_fast", [True, False])
def test_retry_after_the_end_of_the_run_is_refused(one, fail_fast):
    cluster, client = one
    BROKEN.add("ended")
    run = handoff.submit(
        dag_of(
            Function("broken", unless_broken, extra_args=["ended"], max_retries=0),
            Function("after", identity, args=["broken"]),
        ),
        client,
        fail_fast=fail_fast,
    )
    assert run.wait(SOON)
    BROKEN.clear()
    client.retry(run.futures["broken"])
    with pytest.raises(handoff.RunEndedError, match=r"'broken'.*has failed.*checkpoint="):
        run.futures["broken"].result(SOON)
    nothing_is_left(cluster)
    with pytest.raises(FunctionFailedError, match="ended is broken"):
        run.result(SOON)


# client.cancel


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("which", ["first", "second", "third"])
def test_cancel_of_what_waits_or_runs(one, force, which):
    cluster, client = one
    door = gate(f"cancel {which}")
    run = handoff.submit(
        dag_of(
            Function("first", pass_gate, extra_args=[f"cancel {which}"], cost={"cpu": 1}),
            Function("second", identity, args=["first"], cost={"cpu": 1}),
            Function("third", identity, args=["second"], cost={"cpu": 1}),
        ),
        client,
    )
    door.await_inside(1)
    client.cancel(run.futures[which], force=force)
    assert run.wait(SOON)
    assert run.status == "cancelled"
    assert not handoff.resources_available("a", {"cpu": 1}, client)  # its thread goes on
    with pytest.raises(RunCancelledError, match="cancelled"):
        run.result(SOON)
    door.open()
    until(lambda: handoff.resources_available("a", {"cpu": 1}, client))
    nothing_is_left(cluster)
    assert handoff.execute(dag_of(Function("f", identity, extra_args=[1])), client)["f"] == 1


@pytest.mark.parametrize("force", [False, True])
def test_cancel_of_the_only_function_while_it_runs(one, force):
    cluster, client = one
    door = gate("cancel only")
    run = handoff.submit(
        dag_of(Function("f", pass_gate, extra_args=["cancel only"], cost={"cpu": 1})), client
    )
    door.await_inside(1)
    client.cancel(run.futures["f"], force=force)
    client.cancel(run.futures["f"], force=force)
    assert not handoff.resources_available("a", {"cpu": 1}, client)
    door.open()
    assert run.wait(SOON)
    with pytest.raises(RunCancelledError, match="cancelled"):
        run.result(SOON)
    nothing_is_left(cluster)


@pytest.mark.parametrize("force", [False, True])
def test_cancel_of_a_finished_one_that_others_need(one, force):
    cluster, client = one
    door = gate("cancel finished")
    run = handoff.submit(
        dag_of(
            Function("made", identity, extra_args=[5], cost={"cpu": 0.5}),
            Function("held", pass_gate, extra_args=["cancel finished", 2], cost={"cpu": 0.5}),
            Function("sum", add, args=["made", "held"]),
        ),
        client,
    )
    door.await_inside(1)
    until(lambda: run.records["made"].status == "finished")
    client.cancel(run.futures["made"], force=force)
    assert run.wait(SOON)
    with pytest.raises(RunCancelledError, match="cancelled"):
        run.result(SOON)
    door.open()
    nothing_is_left(cluster)


@pytest.mark.parametrize("force", [False, True])
def test_cancel_when_others_that_are_not_kept_need_it(one, force):
    """Dask fails over dependents that nobody wants, and breaks the client's connection."""
    cluster, client = one
    door = gate("cancel unkept")
    run = handoff.submit(
        dag_of(
            Function("first", pass_gate, extra_args=["cancel unkept"]),
            Function("between", identity, args=["first"]),
            Function("last", identity, args=["between"]),
        ),
        client,
        keep=["first", "last"],
    )
    door.await_inside(1)
    client.cancel(run.futures["first"], force=force)
    assert run.wait(SOON)
    with pytest.raises(RunCancelledError, match="cancelled"):
        run.result(SOON)
    door.open()
    nothing_is_left(cluster)


def test_cancel_of_a_finished_run_s_future(one):
    _, client = one
    run = handoff.submit(dag_of(*(Function(i, identity, extra_args=[i]) for i in range(2))), client)
    assert run.wait(SOON)
    client.cancel(run.futures[0])
    with pytest.raises(RunCancelledError, match="future of function 0 was cancelled"):
        run.result(SOON)
    assert run.results[1] == 1
    with pytest.raises(KeyError, match="cancelled"):
        run.results[0]


def test_dask_s_own_tasks_on_functions_of_a_cancelled_run(one, other):
    """They would wait for ever for what will not be placed."""
    cluster, client = one
    door = gate("dependent task")
    run = handoff.submit(
        dag_of(
            Function("held", pass_gate, extra_args=["dependent task"], cost={"cpu": 1}),
            Function("ready", identity, extra_args=[1], cost={"cpu": 1}),
            Function("waiting", identity, args=["held"], cost={"cpu": 1}),
        ),
        client,
    )
    door.await_inside(1)
    until(lambda: run.records["ready"].status == "ready")
    tasks = [client.submit(identity, run.futures[id]) for id in ("ready", "waiting")]
    keys = {task.key for task in tasks}
    until(lambda: keys <= set(cluster.scheduler.tasks))
    shared = Variable("shared", client=client)
    shared.set(run.futures["ready"])
    elsewhere = Variable("shared", client=other).get()
    assert run.cancel()
    with pytest.raises(handoff.RunEndedError, match=r"'ready'.*was cancelled"):
        tasks[0].result(SOON)
    with pytest.raises(handoff.RunEndedError, match=r"'ready'.*was cancelled"):
        elsewhere.result(SOON)
    door.open()
    with pytest.raises(handoff.RunEndedError, match=r"'waiting'.*was cancelled"):
        tasks[1].result(SOON)
    shared.delete()
    del tasks, elsewhere
    nothing_is_left(cluster)
