"""What deciding costs at scale: nodes and queues that are looked at are counted, not time."""

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
    """How often a node was asked whether something fits, and a queue for its head."""
    counted = {"nodes": 0, "queues": 0}

    def count(of, owner, method):
        original = getattr(owner, method)

        def counting(self, *args):
            counted[of] += 1
            return original(self, *args)

        monkeypatch.setattr(owner, method, counting)

    count("nodes", Node, "can_start")
    count("nodes", Node, "fits")
    count("queues", Queue, "head_entry")
    return counted


def test_twenty_thousand_functions_on_a_thousand_nodes(counts):
    """Of four kinds: a placement looks at few nodes one by one, not at a thousand."""
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


def test_thousands_of_queues_in_front_of_ten_nodes(counts):
    """Each function has a cost of its own: what is freed is compared with all at once."""
    n = 5000
    core = Core(prefetch_horizon=0.0)
    for i in range(10):
        core.join(node(f"n{i}", "cpu 6000, threads 2"))
    # The most urgent are mostly too large for what is freed.
    core.run(**{f"f{i}": fn(f"cpu {1 + i * 2741 % n}") for i in range(n)})
    decisions = core.state.decide(core.now)
    assert len(decisions) == 20
    looks = []
    while decisions and core.state.runs["r"].counts[State.FINISHED] < 200:
        counts.update(nodes=0, queues=0)
        core.state.finished(core.state.runs["r"].functions[min(running(core))], core.now)
        decisions = core.state.decide(core.now)
        assert len(decisions) == 1
        looks.append((counts["nodes"], counts["queues"]))
    assert max(nodes for nodes, _ in looks) <= 30
    assert max(queues for _, queues in looks) <= 60


def running(core):
    return [f.number for n in core.state.nodes.values() for f in n.running]
