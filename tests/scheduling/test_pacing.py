"""Nodes that differ in speed: fast ones get the long functions, and slow ones do not end last."""

from __future__ import annotations

import math
import random

import pytest
from scheduling.harness import Core, fn, many, node
from scheduling.virtual import VirtualCluster, make_spec

from handoff_dask._model.graph import path_lengths
from handoff_dask._scheduling.decisions import Settings
from handoff_dask._scheduling.spec import Known, Pace


def paces(**factors):
    """What a history knows of nodes: how many times as long functions take there."""
    return [Pace(("other", 0.0), name, 50, math.log(factor), 0.01) for name, factor in factors.items()]


def known(*seconds):
    return [Known((("n", s),)) for s in seconds]


@pytest.fixture
def core():
    core = Core()
    core.nodes(fast="cpu 1", slow="cpu 1")
    return core


def options(seconds, fast=1.0, slow=4.0):
    return {"known": known(*seconds), "paces": paces(fast=fast, slow=slow)}


def test_a_function_waits_for_the_faster_node(core):
    core.run(**many(2, fn("cpu 1", code="x")), options=options([1.0, 1.0]))
    (first,) = core.decide()
    assert first.endswith("@fast")
    assert "earlier on a faster node" in core.state.explain(core["f1"], core.now)
    core.wait(0.5)
    core.finish("f0", took=0.5)
    assert core.decide() == ["f1@fast"]


def test_a_slow_node_gets_a_shorter_function_from_behind(core):
    core.run(
        **many(3, fn("cpu 1", code="x")),
        options={**options([9.0, 8.0, 1.0]), "dependents": [(), (), ()], "keep_all": True},
    )
    assert sorted(core.decide()) == ["f0@fast", "f2@slow"]


def test_with_much_to_do_every_node_works(core):
    core.run(**many(20, fn("cpu 1", code="x")), options=options([1.0] * 20))
    assert len(core.decide()) == 2


def test_a_function_does_not_wait_for_a_node_that_others_hold(core):
    core.run(**many(1, fn("cpu 1", code="x")), options=options([1.0]))
    core.state.node_external("fast", {"cpu": 2**20})
    assert core.decide() == ["f0@slow"]


def test_a_function_does_not_wait_for_a_paused_node_or_one_it_must_not_use(core):
    core.state.node_accepting("fast", False)
    core.run(**many(1, fn("cpu 1", code="x")), options=options([1.0]))
    assert core.decide() == ["f0@slow"]


def test_pins_count(core):
    core.run(**many(1, fn("cpu 1", code="x", pin="slow")), options=options([1.0]))
    assert core.decide() == ["f0@slow"]


def test_it_waits_no_longer_than_the_slow_node_would_have_taken(core):
    """The function on the fast node is stuck."""
    core.run(**many(2, fn("cpu 1", code="x")), options=options([1.0, 1.0]))
    core.decide()
    for _ in range(100):
        wake = core.state.next_wake()
        assert wake is not None, "nothing else would wake the core"
        core.now = max(core.now, wake)
        if core.decide() == ["f1@slow"]:
            break
    assert 1 < core.now < 9


def test_given_durations_are_the_same_on_every_node(core):
    """As in a simulation."""
    core.run(**many(2, fn("cpu 1", code="x")), options={**options([]), "known": (), "seconds": [1.0, 1.0]})
    assert len(core.decide()) == 2


def ratio(n, sigma, seed, knows, layers=False):
    """Simulate a run on nodes of speed 1 : 2 : 4. Return its makespan over a lower bound."""
    rng = random.Random(seed)
    factors = {"a": 4.0, "b": 2.0, "c": 1.0}
    seconds = [rng.lognormvariate(0, sigma) for _ in range(n)]
    cluster = VirtualCluster(Settings(prefetch_horizon=0.0))
    for name in factors:
        cluster.join(node(name, "cpu 2"))
    needs = {}
    if layers:
        width = n // 8
        for i in range(width, n):
            first = (i // width - 1) * width
            needs[i] = sorted({rng.randrange(first, first + width) for _ in range(2)})
    given = {"known": known(*seconds), "paces": paces(**factors)} if knows else {}
    spec = make_spec([fn("cpu 1", code="w")] * n, needs=needs, keep_all=True, **given)
    cluster.add(spec, needs)
    cluster.run(lambda f: seconds[f.number] * factors[f.node.name])
    bound = max(sum(seconds) / 3.5, *path_lengths(spec.dependents, seconds))
    return cluster.now / bound


def mean(ratios):
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


@pytest.mark.parametrize(
    ("n", "sigma", "layers", "most"), [(60, 0.3, False, 1.06), (60, 1.0, False, 1.03), (300, 1.0, True, 1.02)]
)
def test_makespans_are_close_to_the_bound(n, sigma, layers, most):
    ratios = [ratio(n, sigma, seed, True, layers) for seed in range(10)]
    assert mean(ratios) <= most
    assert max(ratios) <= most + 0.05


def test_speeds_are_learnt_during_a_run():
    ratios = [ratio(600, 0.5, seed, False) for seed in range(5)]
    assert mean(ratios) <= 1.06
