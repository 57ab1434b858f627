"""The cost of decisions at scale, measured in visits to nodes and queues, not in time."""

from __future__ import annotations

import pytest
from scheduling.harness import Core, fn, node
from scheduling.virtual import VirtualCluster, make_spec

from handoff_dask._scheduling.decisions import Settings
from handoff_dask._scheduling.functions import State
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.queues import Queue


@pytest.fixture
def counts(monkeypatch):
    """Count how often nodes check whether a cost fits, and queues return their head."""
    totals = {"nodes": 0, "queues": 0}

    def count(of, owner, method):
        original = getattr(owner, method)

        def counted(self, *args):
            totals[of] += 1
            return original(self, *args)

        monkeypatch.setattr(owner, method, counted)

    count("nodes", Node, "can_start")
    count("nodes", Node, "fits")
    count("queues", Queue, "head_entry")
    return totals


@pytest.mark.interpreted
def test_twenty_thousand_functions_on_a_thousand_nodes(counts):
    """Each placement visits a few nodes one by one, not a thousand."""
    n = 20_000
    cluster = VirtualCluster(Settings(prefetch_horizon=0.0))
    for i in range(1000):
        cluster.join(node(f"n{i:04}", ["cpu 4, memory 16", "cpu 8, memory 16"][i % 2]))
    kinds = [fn("cpu 1"), fn("cpu 2, memory 1"), fn("cpu 1, memory 4"), fn("memory 2")]
    run = cluster.add(make_spec([kinds[i % 4] for i in range(n)]), {})
    cluster.run(lambda f: 1.0 + f.number % 3)
    assert run.counts[State.FINISHED] == n
    assert counts["nodes"] <= 40 * n
    assert counts["queues"] <= 40 * n


@pytest.mark.slow
@pytest.mark.interpreted
def test_thousands_of_queues_on_ten_nodes(counts):
    """Each function has a different cost; freed capacity is compared with all of them at once."""
    n = 5000
    core = Core(prefetch_horizon=0.0)
    for i in range(10):
        core.join(node(f"n{i}", "cpu 6000, threads 2"))
    # The most urgent functions are mostly too large for the freed capacity.
    core.run(**{f"f{i}": fn(f"cpu {1 + i * 2741 % n}") for i in range(n)})
    decisions = core.state.decide(core.now)
    assert len(decisions) == 20
    visits = []
    while decisions and core.state.runs["r"].counts[State.FINISHED] < 200:
        counts.update(nodes=0, queues=0)
        core.state.finished(core.state.runs["r"].functions[min(running(core))], core.now)
        decisions = core.state.decide(core.now)
        assert len(decisions) == 1
        visits.append((counts["nodes"], counts["queues"]))
    assert max(nodes for nodes, _ in visits) <= 30
    assert max(queues for _, queues in visits) <= 60


def running(core):
    return [f.number for n in core.state.nodes.values() for f in n.running]
