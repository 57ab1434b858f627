"""Whole runs on a virtual clock: how long they take, and what deciding costs."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduling.harness import fn, node
from scheduling.virtual import VirtualCluster, make_spec

from handoff_dask._scheduling.allocators import ALLOCATORS
from handoff_dask._scheduling.decisions import Settings
from handoff_dask._scheduling.functions import State
from handoff_dask._scheduling.node import Node

strategies = st.sampled_from(sorted(ALLOCATORS))


def cluster_of(cores, **options):
    cluster = VirtualCluster(Settings(**options))
    for n, cpu in enumerate(cores):
        cluster.join(node(f"n{n:03}", f"cpu {cpu}"))
    return cluster


def assert_done(cluster, runs):
    assert [run.status.value for run in runs] == ["finished"] * len(runs)
    for run in runs:
        assert run.counts[State.FINISHED] == len(run.functions)
    for n in cluster.state.nodes.values():
        assert not any(n.used.values())
        assert not n.running
        assert not n.prefetched


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 60), strategies)
@settings(deadline=None)
def test_independent_functions_take_as_many_steps_as_they_must(cores, n, strategy):
    cluster = cluster_of(cores)
    cluster.add(make_spec([fn("cpu 1")] * n, strategy=strategy), {})
    assert_done(cluster, cluster.run(lambda f: 1.0))
    assert cluster.now == ceil(n / sum(cores))


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.lists(st.integers(1, 9), min_size=1, max_size=40),
    st.randoms(use_true_random=False),
    strategies,
)
@settings(deadline=None)
def test_no_core_idles_while_a_function_is_ready(cores, durations, random, strategy):
    """Graham's bound for list scheduling: work / m + (1 - 1/m) critical path, for functions of one core."""
    needs = {i: random.sample(range(i), random.randint(0, min(i, 3))) for i in range(len(durations))}
    cluster = cluster_of(cores)
    cluster.add(make_spec([fn("cpu 1")] * len(durations), strategy=strategy), needs)
    assert_done(cluster, cluster.run(lambda f: durations[f.number]))
    longest = []
    for i, seconds in enumerate(durations):
        longest.append(seconds + max((longest[d] for d in needs[i]), default=0))
    m = sum(cores)
    assert max(max(longest), sum(durations) / m) <= cluster.now
    assert cluster.now <= sum(durations) / m + (1 - 1 / m) * max(longest) + 1e-9


@given(
    st.lists(
        st.sampled_from(["cpu 1", "cpu 2", "cpu 4", "cpu 1, gpu 1", "gpu 0.5", "cpu 3, memory 60", ""]),
        min_size=1,
        max_size=40,
    ),
    st.randoms(use_true_random=False),
    strategies,
)
@settings(deadline=None)
def test_at_each_moment_something_that_could_run_does(costs, random, strategy):
    """No makespan is above that of one function at a time, and all functions run once."""
    needs = {i: random.sample(range(i), random.randint(0, min(i, 2))) for i in range(len(costs))}
    cluster = VirtualCluster()
    cluster.join(node("a", "cpu 4, memory 100"))
    cluster.join(node("b", "cpu 4, gpu 2, memory 50"))
    run = cluster.add(make_spec([fn(cost) for cost in costs], strategy=strategy), needs)
    assert_done(cluster, cluster.run(lambda f: 1.0))
    assert cluster.now <= len(costs)
    assert all([a.outcome for a in f.attempts] == ["finished"] for f in run.functions)
    for f in run.functions:
        started = f.attempts[0].started
        assert all(run.functions[d].attempts[0].stopped <= started for d in needs[f.number])


def test_a_node_that_joins_takes_its_share():
    cluster = cluster_of([1])
    cluster.add(make_spec([fn("cpu 1")] * 9), {})
    for _ in range(3):
        cluster.decide()
        for f in [*cluster.start()]:
            cluster.now += 1
            cluster.finish(f, 1.0)
    cluster.join(node("new", "cpu 2"))
    assert_done(cluster, cluster.run(lambda f: 1.0))
    assert cluster.now == 3 + 2


def test_runs_share_a_cluster_without_waiting_for_each_other():
    cluster = cluster_of([2, 2])
    for r in range(3):
        cluster.add(make_spec([fn("cpu 1")] * 5, f"r{r}"), {i: [i - 1] for i in range(1, 5)})
    assert_done(cluster, cluster.run(lambda f: 1.0))
    assert cluster.now == 5


def test_sending_ahead_changes_when_functions_are_sent_not_when_they_run():
    for horizon in (0.0, 0.01):
        cluster = cluster_of([3, 2], prefetch_horizon=horizon)
        cluster.add(make_spec([fn("cpu 1", code="short")] * 1000), {})
        assert_done(cluster, cluster.run(lambda f: 1 / 1024))
        assert cluster.now == 200 / 1024


# what deciding costs


@pytest.fixture
def fits(monkeypatch):
    """Counts how often a node is asked whether something fits."""
    calls = []
    original = Node.fits

    def counting(self, cost):
        calls.append(self.name)
        return original(self, cost)

    monkeypatch.setattr(Node, "fits", counting)
    return calls


COSTS = ["cpu 1", "cpu 2", "cpu 1, memory 10", "gpu 1"]


def work_of_a_decision(fits, waiting):
    """Calls of ``fits`` for a decision after one release, with so many functions waiting."""
    cluster = VirtualCluster()
    for n in range(5):
        cluster.join(node(f"n{n}", "cpu 4, memory 100, gpu 1, threads 8"))
    kinds = [fn(COSTS[i % 4]) for i in range(waiting)]
    cluster.add(make_spec(kinds, limits=()), {})
    cluster.decide()
    work = []
    for _ in range(20):
        cluster.finish(cluster.start()[0] if not cluster.started() else cluster.started()[0], 1.0)
        fits.clear()
        assert cluster.decide()
        cluster.start()
        work.append(len(fits))
    return work


def test_a_decision_costs_the_same_however_many_functions_wait(fits):
    few = work_of_a_decision(fits, 400)
    assert max(few) <= 5 * (len(COSTS) + 3)  # each kind, on each node, and a few placements
    assert work_of_a_decision(fits, 40_000) == few


def test_a_decision_without_news_looks_at_nothing(fits):
    cluster = cluster_of([1])
    cluster.add(make_spec([fn("cpu 1")] * 100), {})
    cluster.decide()
    fits.clear()
    assert cluster.decide() == []
    assert fits == []


def test_a_function_that_becomes_ready_behind_others_costs_nothing(fits):
    cluster = cluster_of([1])
    cluster.add(make_spec([fn("cpu 1")] * 100), {})
    cluster.decide()
    cluster.add(make_spec([fn("cpu 1")] * 100, "other"), {})
    fits.clear()
    assert cluster.decide() == []
    assert fits == []


@pytest.mark.parametrize("n", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_functions(fits, n):
    """Layers of a thousand, each function needing two of the layer before, on ten nodes."""
    width, cores = 1000, 500
    kinds = [fn("cpu 1"), fn("cpu 1, memory 10"), fn()]
    spec = make_spec([kinds[i % 3] for i in range(n)])
    needs = {i: (i - width, i - width + 1 - (i % width == width - 1)) for i in range(width, n)}
    cluster = VirtualCluster()
    for k in range(10):
        cluster.join(node(f"n{k:02}", "cpu 50, memory 500"))
    cluster.add(spec, needs)
    assert_done(cluster, cluster.run(lambda f: 1.0))
    assert cluster.now == n / cores
    # For each placement a look at each node, and one when it is booked. In the end, in each decision (two for
    # each layer), a look at each node for each kind.
    assert len(fits) <= 10 * n + n + 2 * (n // width) * 10 * len(kinds)


def test_a_long_chain():
    n = 20_000
    cluster = cluster_of([1])
    cluster.add(make_spec([fn("cpu 1")] * n), {i: [i - 1] for i in range(1, n)})
    assert_done(cluster, cluster.run(lambda f: 1.0))
    assert cluster.now == n
