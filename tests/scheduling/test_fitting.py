"""The node index: the vectorised search over nodes gives the same choices as an exhaustive one."""

from __future__ import annotations

import pytest
from helpers import examples
from hypothesis import event, given, settings
from hypothesis import strategies as st
from scheduling.harness import Core, fn, many, turn_claims_off
from scheduling.scenarios import COSTS, Scenario

from handoff_dask._model.resources import THREADS

#: Shares of the largest node are exact floats, so ties go to the first node by name.
EXACT = [
    "cpu 4, memory 64",
    "cpu 2, memory 32",
    "cpu 4, gpu 2, memory 64, threads 8",
    "cpu 1, gpu 0.5",
    "cpu 8",
]

#: Shares are inexact, so the scores of tied nodes may differ in the last digit.
ROUNDED = ["cpu 3, memory 70", "cpu 7, memory 30", "cpu 5, gpu 1.7, memory 9, threads 9", "cpu 1, gpu 0.3"]

#: Costs that fragment the devices of each node differently.
GPU_COSTS = ["gpu 0.5"] * 3 + ["gpu 0.25", "gpu 1", "gpu 1"]

#: Memory runs out before cores, so prefetched functions wait for memory while cores are free.
PREFETCH_COSTS = ["cpu 0.5, memory 32"] * 3 + ["cpu 2", "memory 20", "cpu 3"]


def candidate_nodes(f, nodes):
    """Return the nodes to which a function may go, now or later."""
    members = [f] if f.group is None else f.group.members
    found = [
        n
        for n in nodes
        if all(units <= n.capacity.get(r, 0) for g in members for r, units in g.cost.items())
        and all(g.kind.pins is None or n.aliases & set(g.kind.pins) for g in members)
    ]
    if f.group is not None and f.group.node is not None:
        return [n for n in found if n is f.group.node]
    if f.retry.avoid:
        return [n for n in found if n.accepting and n.name not in f.retry.avoid] or found
    return found


def score(f, n, nodes):
    """Score a node for a function by its strategy, from running functions alone; lower is better."""
    if f.run.spec.strategy == "first_available":
        return 0.0
    after = {r: f.cost.get(r, 0) for r, total in n.capacity.items() if total}
    for r in after:
        after[r] += sum(g.cost.get(r, 0) for g in n.running)
    if f.run.spec.strategy == "load_balanced":
        return max(units / n.capacity[r] for r, units in after.items())
    del after[THREADS]
    everywhere = [r for r in after if all(other.capacity.get(r) for other in nodes)]
    weight = next(w for w in (1, 2, 4, 8, 16) if w > len(everywhere))
    most = {r: max(other.capacity.get(r, 0) for other in nodes) for r in after}
    return sum(
        (n.capacity[r] - units) / most[r] * (1 if r in everywhere else weight) for r, units in after.items()
    )


class CheckedCore(Core):
    """A core that compares each choice of a node with an exhaustive search."""

    def __init__(self, exact, **settings):
        super().__init__(**settings)
        self.exact = exact
        self.choices = 0
        turn_claims_off(self.state)
        self._carry_out = self.state.placement._carry_out
        self.state.placement._carry_out = self.choose

    def choose(self, proposal, view):
        _, f, chosen, prefetch = proposal
        nodes = sorted(self.state.nodes.values(), key=lambda n: str(n.name))
        candidates = candidate_nodes(f, nodes)
        free = [
            n
            for n in candidates
            if n.accepting and n.fits(f.cost) and (not n.prefetched or n.can_spare(f.cost))
        ]
        assert chosen in candidates
        if prefetch:
            assert not free
            return self._carry_out(proposal, view)
        assert chosen in free
        scores = {n: score(f, n, nodes) for n in free}
        assert scores[chosen] <= min(scores.values()) + 1e-9
        if self.exact or f.run.spec.strategy != "best_fit":
            assert chosen is next(n for n in free if scores[n] == scores[chosen])
        self.choices += len(free) > 1
        return self._carry_out(proposal, view)


@pytest.mark.interpreted
@pytest.mark.parametrize("exact", [True, False])
@given(
    st.integers(2, 16),
    st.integers(1, 120),
    st.sampled_from([0.0, 0.01]),
    st.sampled_from([COSTS, GPU_COSTS, PREFETCH_COSTS]),
    st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=examples(150))
def test_choices_match_an_exhaustive_search(exact, nodes, steps, horizon, costs, seed):
    core = CheckedCore(exact, prefetch_horizon=horizon, prefetch_limit=3)
    Scenario(core, seed, EXACT if exact else ROUNDED, nodes, costs).play(steps)
    event(f"{core.choices // 50 * 50} choices or more")


def test_differently_fragmented_devices_are_told_apart():
    """Both nodes use one of two GPUs, but a uses half of each, so no whole one is left there."""
    core = Core()
    core.nodes(a="cpu 8, gpu 2", b="cpu 8, gpu 2")
    core.run(
        **many(4, fn("gpu 0.5", pin="a"), "a"),
        **many(2, fn("gpu 0.5", pin="b"), "b"),
        x=fn("gpu 1, memory 0", priority=-1),
        ready="a0 a1 a2 a3 b0 b1",
    )
    core.decide()
    core.finish("a1 a3")
    core.decide()
    assert core.used("a") == core.used("b") == {"gpu": 1}
    core.ready("x")
    assert core.decide() == ["x@b"]
