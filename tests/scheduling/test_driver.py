"""Whole runs on a virtual clock: their makespans, and the cost of decisions."""

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
def test_independent_functions_take_the_minimum_number_of_steps(cores, n, strategy):
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
def test_makespan_is_within_grahams_bound(cores, durations, random, strategy):
    """Graham's bound for list scheduling of one-core functions: work / m + (1 - 1/m) * critical path."""
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
def test_makespan_is_at_most_sequential(costs, random, strategy):
    """Every function runs once, and the makespan is at most the sequential one."""
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


def test_joining_node_takes_its_share():
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


def test_runs_share_a_cluster():
    cluster = cluster_of([2, 2])
    for r in range(3):
        cluster.add(make_spec([fn("cpu 1")] * 5, f"r{r}"), {i: [i - 1] for i in range(1, 5)})
    assert_done(cluster, cluster.run(lambda f: 1.0))
    assert cluster.now == 5


def test_prefetch_does_not_change_start_times():
    for horizon in (0.0, 0.01):
        cluster = cluster_of([3, 2], prefetch_horizon=horizon)
        cluster.add(make_spec([fn("cpu 1", code="short")] * 1000), {})
        assert_done(cluster, cluster.run(lambda f: 1 / 1024))
        assert cluster.now == 200 / 1024


# cost of decisions


@pytest.fixture
def fit_checks(monkeypatch):
    """Count how often nodes check whether a cost fits."""
    calls = []
    original = Node.fits

    def counted(self, cost):
        calls.append(self.name)
        return original(self, cost)

    monkeypatch.setattr(Node, "fits", counted)
    return calls


COSTS = ["cpu 1", "cpu 2", "cpu 1, memory 10", "gpu 1"]


def checks_per_decision(fit_checks, waiting):
    """Count calls of ``fits`` in a decision after one release, with ``waiting`` functions."""
    cluster = VirtualCluster()
    for n in range(5):
        cluster.join(node(f"n{n}", "cpu 4, memory 100, gpu 1, threads 8"))
    kinds = [fn(COSTS[i % 4]) for i in range(waiting)]
    cluster.add(make_spec(kinds, limits=()), {})
    cluster.decide()
    work = []
    for _ in range(20):
        cluster.finish(cluster.start()[0] if not cluster.started() else cluster.started()[0], 1.0)
        fit_checks.clear()
        assert cluster.decide()
        cluster.start()
        work.append(len(fit_checks))
    return work


@pytest.mark.interpreted
def test_decision_cost_does_not_depend_on_waiting_functions(fit_checks):
    few = checks_per_decision(fit_checks, 400)
    assert max(few) <= 5 * (len(COSTS) + 3)  # each kind on each node, plus a few placements
    assert checks_per_decision(fit_checks, 40_000) == few


@pytest.mark.interpreted
def test_decision_without_events_checks_nothing(fit_checks):
    cluster = cluster_of([1])
    cluster.add(make_spec([fn("cpu 1")] * 100), {})
    cluster.decide()
    fit_checks.clear()
    assert cluster.decide() == []
    assert fit_checks == []


@pytest.mark.interpreted
def test_function_that_joins_a_blocked_queue_checks_nothing(fit_checks):
    cluster = cluster_of([1])
    cluster.add(make_spec([fn("cpu 1")] * 100), {})
    cluster.decide()
    cluster.add(make_spec([fn("cpu 1")] * 100, "other"), {})
    fit_checks.clear()
    assert cluster.decide() == []
    assert fit_checks == []


@pytest.mark.interpreted
@pytest.mark.parametrize("n", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_functions(fit_checks, n):
    """Layers of a thousand functions, each with two inputs from the previous layer, on ten nodes."""
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
    # Each placement checks each node, and once more when booking. In addition, each decision (two per layer)
    # checks each node for each kind.
    assert len(fit_checks) <= 10 * n + n + 2 * (n // width) * 10 * len(kinds)


def test_a_long_chain():
    n = 20_000
    cluster = cluster_of([1])
    cluster.add(make_spec([fn("cpu 1")] * n), {i: [i - 1] for i in range(1, n)})
    assert_done(cluster, cluster.run(lambda f: 1.0))
    assert cluster.now == n
