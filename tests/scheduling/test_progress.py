"""Liveness: despite claims, every run ends, no later than if functions ran one at a time."""

from __future__ import annotations

from random import Random

import pytest
from helpers import examples
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from scheduling.harness import fn, node
from scheduling.virtual import VirtualCluster, make_spec

from handoff_dask._model.resources import GPU
from handoff_dask._scheduling import backlog
from handoff_dask._scheduling.allocators import ALLOCATORS
from handoff_dask._scheduling.decisions import Settings
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.simulate import Simulation

CAPACITIES = ["cpu 4, memory 100", "cpu 2, gpu 2, memory 100, threads 4", "cpu 8", "cpu 2"]
COSTS = ["cpu 1"] * 3 + ["cpu 2", "cpu 4, gpu 1", "gpu 1", "gpu 0.5", "cpu 1, memory 50", "", "cpu 4"]
SECONDS = [0.001, 0.1, 1.0, 3.0, 20.0]


def nodes(random):
    """Draw nodes; the first one can hold every function."""
    others = [random.choice(CAPACITIES) for _ in range(random.randint(0, 3))]
    return [node(f"n{i}", capacity) for i, capacity in enumerate(["cpu 4, gpu 1, memory 50", *others])]


def draw_run(random, run_id):
    """Draw a run with known dependencies: its spec, the inputs of each function, and the durations."""
    pool = [fn(cost, code=str(i % 3), priority=random.choice([0, 0, 0, 1])) for i, cost in enumerate(COSTS)]
    pool = random.sample(pool, random.randint(1, 4))
    kinds = [random.choice(pool) for _ in range(random.randint(1, 40))]
    needs = {i: random.sample(range(i), random.randint(0, min(i, 2))) for i in range(len(kinds))}
    of_kind = {kind: random.choice(SECONDS) for kind in pool}
    regular = random.random() < 0.5
    seconds = [of_kind[kind] if regular else random.choice(SECONDS) for kind in kinds]
    wrong = [random.choice([0.0, *SECONDS]) for _ in kinds]
    spec = make_spec(
        kinds,
        run_id,
        needs,
        seconds=random.choice([(), seconds, wrong]),
        priority=random.choice([0, 0, 1]),
        strategy=random.choice(sorted(ALLOCATORS)),
        max_concurrency=random.choice([None, None, None, 2]),
    )
    return spec, needs, seconds


class CheckedCluster(VirtualCluster):
    blocked = False  # whether a claim has blocked a function

    def start(self):
        started = super().start()
        self.blocked |= bool(self.state.placement.claims.blocked_nodes)
        for name, worker in self.workers.items():
            capacity = self.state.nodes[name].capacity
            for resource in {r for f in worker.started for r in f.cost}:
                assert sum(f.cost.get(resource, 0) for f in worker.started) <= capacity[resource]
            devices = [i for f in worker.started if f.cost.get(GPU, 0) >= 2**20 for i in f.devices]
            assert len(devices) == len(set(devices))
        return started


@given(st.sampled_from([0.0, 0.01]), st.booleans(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=examples(150))
def test_everything_finishes(horizon, deep, seed):
    random = Random(seed)
    cluster = CheckedCluster(Settings(prefetch_horizon=horizon))
    for n in nodes(random):
        cluster.join(n)
    took = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backlog, "_FANOUT", 2 if deep else 8)
        for i in range(random.randint(1, 3)):
            spec, needs, seconds = draw_run(random, f"r{i}")
            took |= dict(zip(cluster.add(spec, needs).functions, seconds, strict=True))
        ended = cluster.run(took.__getitem__, limit=10_000)
    assert {run.status.value for run in ended} == {"finished"}
    assert len(ended) == len(cluster.state.runs)
    assert all([a.outcome for a in f.attempts] == ["finished"] for f in took)
    assert cluster.now <= sum(took.values()) + 1e-6
    assert not any(any(n.used.values()) or n.running or n.prefetched for n in cluster.state.nodes.values())
    # No claim and no timer remains.
    assert cluster.state.next_wake() is None
    event("claims blocked functions" if cluster.blocked else "claims blocked nothing")


@given(st.integers(0, 2**32))
@example(50)  # a claim once blocked a more urgent function of its own run
@settings(deadline=None, max_examples=examples(50))
def test_simulation_plays_every_run_to_its_end(seed):
    random = Random(seed)
    spec, _, seconds = draw_run(random, "r")
    simulation = Simulation([Node(n.name, n.capacity) for n in nodes(random)], spec, seconds)
    simulation.play()
    assert simulation.run.status.value == "finished"
    assert simulation.now <= sum(seconds) + 1e-6
