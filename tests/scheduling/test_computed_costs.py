"""Costs that are computed when a function is ready, in every order of events."""

from __future__ import annotations

import dataclasses
import random

import pytest
from scheduling.harness import Core, fn, node
from scheduling.virtual import VirtualCluster, make_spec

from handoff_dask._model.resources import MB, UNIT
from handoff_dask._model.retry import RetryPolicy
from handoff_dask._model.used import Used
from handoff_dask._scheduling.decisions import ComputeCost
from handoff_dask._scheduling.functions import FINAL, State
from handoff_dask._scheduling.spec import Known


def computed(cost="cpu 1", **options):
    return dataclasses.replace(fn(cost, **options), computed=True)


@pytest.fixture
def core():
    core = Core()
    core.nodes(a="cpu 4, memory 100")
    return core


def two(core, **options):
    return core.run(
        x=fn("cpu 1"), y=computed(**options), options={"dependents": [(1,), ()]}, ready="x", limits="db 4"
    )


def asked_to_compute(core):
    return [d for d in core.state.decide(core.now) if isinstance(d, ComputeCost)]


def test_a_function_waits_for_its_cost(core):
    two(core)
    core.decide()
    core.finish("x", took=1, nbytes=3 * MB)
    core.ready("y")
    (request,) = asked_to_compute(core)
    assert request == (core["y"], 1, ((0, 3.0),), None)
    assert core["y"].state is State.DELAYED
    assert asked_to_compute(core) == [], "asked only once"
    assert "waiting for its cost" in core.state.explain(core["y"], core.now)
    core.state.cost_computed(core["y"], core.now, {"memory": 70.0, "db": 3})
    assert core.decide() == ["y@a"]
    assert core.used("a")["memory"] == 70
    assert core["y"].limit_cost["db"] == 3 * UNIT
    core.finish("y")
    assert [dict(a.cost) for a in core["y"].attempts] == [{"memory": 70.0, "db": 3}]
    assert core.decide() == ["r finished"]


def test_without_inputs_the_cost_of_before_the_run_counts(core):
    core.run(y=computed("cpu 3"))
    assert core.decide() == ["y@a"]
    assert core.used("a")["cpu"] == 3


def test_each_attempt_has_its_cost_and_knows_the_highest_peak(core):
    run = core.run(y=computed("cpu 3", retries=3), options={"known": [Known((("n", 1.0),), 5.0)]})
    for peak in (9.0, 7.0):
        (request,) = asked_to_compute(core)
        core.state.cost_computed(core["y"], core.now, {"cpu": request.attempt})
        core.decide()
        assert core.used("a")["cpu"] == request.attempt
        core.fail("y", usage=Used(1.0, peak, True))
        core.ready("y")
    (request,) = asked_to_compute(core)
    assert (request.attempt, request.seen_peak) == (3, 9.0)
    assert run.status.value == "running"


def test_a_failure_is_that_of_the_function(core):
    two(core)
    core.decide()
    core.finish("x")
    core.ready("y")
    asked_to_compute(core)
    core.state.cost_failed(core["y"], core.now, "no idea", "where")
    assert core.decide() == ["y unplaceable", "r failed"]
    (attempt,) = core["y"].attempts
    assert (attempt.outcome, attempt.error, attempt.traceback) == ("failed", "no idea", "where")


def test_answers_that_come_too_late_change_nothing(core):
    two(core)
    core.decide()
    core.finish("x")
    core.ready("y")
    asked_to_compute(core)
    core.state.withdrawn(core["y"])
    for late in (core.state.cost_computed, core.state.cost_failed):
        late(core["y"], core.now, {} if late == core.state.cost_computed else "error")
        assert core["y"].state is State.WAITING
    core.state.run_cancelled("r")
    core.state.cost_computed(core["y"], core.now, {"cpu": 1})
    assert core["y"].state is State.CANCELLED
    core.state.check()


def test_what_is_no_cost_is_refused(core):
    two(core)
    core.decide()
    core.finish("x")
    core.ready("y")
    asked_to_compute(core)
    with pytest.raises(ValueError, match="cpu must not be negative"):
        core.state.cost_computed(core["y"], core.now, {"cpu": -1})
    assert core["y"].state is State.DELAYED
    core.state.cost_computed(core["y"], core.now, {"cpu": 1})
    assert core.decide() == ["y@a"]


class Cluster(VirtualCluster):
    """Answers requests for costs late, in any order, or never."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[ComputeCost] = []

    def decide(self, refuse_last=False):
        decisions = super().decide(refuse_last)
        self.requests += [d for d in decisions if isinstance(d, ComputeCost)]
        self.state.check()
        return decisions

    def answer(self, request, rng):
        f = request.function
        if rng.random() < 0.1:
            self.tell("cost_failed", f, self.now, "error")
            return
        cost = {"cpu": rng.choice([0.5, 1, 2]), "memory": rng.choice([1, 30, 90])}
        self.tell("cost_computed", f, self.now, cost)


@pytest.mark.parametrize("seed", range(60))
def test_every_order_of_events_ends_every_function(seed):
    rng = random.Random(seed)
    cluster = Cluster()
    for name in "ab":
        cluster.join(node(name, "cpu 4, memory 100"))
    policy = RetryPolicy(max_retries=3, delay=rng.choice([0.0, 2.0]))
    kinds = [
        rng.choice(
            [computed(policy=policy, isolated=True), fn("memory auto", policy=policy, code="auto"), fn()]
        )
        for _ in range(12)
    ]
    needs = {n: sorted(rng.sample(range(n), rng.randint(0, min(n, 2)))) for n in range(1, 12)}
    run = cluster.add(make_spec(kinds, needs=needs, fail_fast=False), needs)

    def disturb():
        event = rng.random()
        started, live = cluster.started(), [f for f in run.functions if f.state not in FINAL]
        if event < 0.3 and cluster.requests:
            cluster.answer(cluster.requests.pop(rng.randrange(len(cluster.requests))), rng)
        elif event < 0.5 and started:
            cluster.finish(rng.choice(started), rng.choice([0.1, 1.0]))
        elif event < 0.6 and started:
            cluster.fail(rng.choice(started))
        elif event < 0.65 and cluster.results:
            cluster.lose_result(rng.choice(list(cluster.results)))
        elif event < 0.7:
            name = rng.choice("ab")
            cluster.leave(name)
            cluster.join(node(name, "cpu 4, memory 100"))
        elif event < 0.73 and live:
            failed = [f for f in run.functions if f.state is State.FAILED]
            if failed:
                cluster.retry(rng.choice(failed))
        elif event < 0.74 and rng.random() < 0.3:
            cluster.tell("run_cancelled", "r")
        else:
            cluster.now += rng.choice([0.1, 3.0])
        cluster.decide()
        cluster.start()

    for _ in range(150):
        disturb()
    for _ in range(300):  # no more disturbances
        while cluster.requests:
            request = cluster.requests.pop()
            cluster.tell("cost_computed", request.function, cluster.now, {"cpu": 1})
        for f in cluster.started():
            cluster.finish(f, 0.1)
        cluster.decide()
        cluster.start()
        wake = cluster.state.next_wake()
        if wake is not None:
            cluster.now = max(cluster.now, wake)
    assert all(f.state in FINAL for f in run.functions)
    assert run.ended
    assert all(not any(n.used.values()) for n in cluster.state.nodes.values())
