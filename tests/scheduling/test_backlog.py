"""Clean queues: decisions do not depend on the shape of the tree over their costs."""

from __future__ import annotations

import pytest
from helpers import examples
from hypothesis import event, given, settings
from hypothesis import strategies as st
from scheduling.harness import Core, fn, turn_claims_off
from scheduling.scenarios import COSTS, Scenario

from handoff_dask._scheduling import backlog

NODES = ["cpu 4, memory 64, gpu 1", "cpu 2, memory 32", "cpu 4, gpu 2, memory 64, threads 8", "cpu 8"]

#: Costs for dozens of queues, some with a resource that the others do not use.
MANY_COSTS = COSTS + [f"cpu {i / 16}, memory {i % 5}" for i in range(1, 40)]

FLAT, BUSHY, DEEP = 10**9, 5, 2


@pytest.fixture(params=[FLAT, DEEP], ids=["flat", "deep tree"])
def fanout_of_tree(request, monkeypatch):
    """Fix the fanout of the tree of queues."""
    monkeypatch.setattr(backlog, "_FANOUT", request.param)


def play(fanout, nodes, steps, costs, paths, seed):
    """Play a scenario with a tree of this fanout, and return the decisions.

    Claims are off, because refusals are remembered per node and so depend on how nodes were found.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backlog, "_FANOUT", fanout)
        core = Core(prefetch_horizon=0.0)
        turn_claims_off(core.state)
        trace = Scenario(core, seed, NODES, nodes, costs, paths).play(steps)
    # Functions that time out together fail in any order.
    return [
        sorted(decided, key=lambda text: ("@" not in text, "@" not in text and text)) for decided in trace
    ]


def placed(core):
    return [text for text in core.decide() if "@" in text]


@given(
    st.integers(1, 12),
    st.integers(1, 120),
    st.sampled_from([COSTS, MANY_COSTS]),
    st.booleans(),
    st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=examples(60))
def test_decisions_do_not_depend_on_the_fanout(nodes, steps, costs, paths, seed):
    trace = play(FLAT, nodes, steps, costs, paths, seed)
    assert play(BUSHY, nodes, steps, costs, paths, seed) == trace
    assert play(DEEP, nodes, steps, costs, paths, seed) == trace
    placements = sum("@" in text for decided in trace for text in decided)
    event(f"{placements // 50 * 50} placements or more")


def test_rank_changes_reach_blocked_queues(fanout_of_tree):
    core = Core()
    core.nodes(a="cpu 4, x 1, y 1")
    core.run(
        t=fn("cpu 3, x 1", code="quick"),
        q=fn("cpu 3", code="quick"),
        s=fn("cpu 3, y 1", code="slow"),
        ready="t",
        options={"dependents": [[], [], []]},
    )
    assert placed(core) == ["t@a"]
    core.ready("q s")
    assert placed(core) == []
    core.state.placement.estimates.learn("slow", 0.0, 50.0)
    core.finish("t", took=1)
    # Slow functions go first, now that their durations are known.
    assert placed(core) == ["s@a"]


def test_most_urgent_blocked_queue_that_fits_goes_first(fanout_of_tree):
    core = Core()
    core.nodes(a="cpu 4")
    core.run(id="first", all=fn("cpu 4"))
    core.decide()
    core.leave("a")
    core.nodes(a="cpu 4", b="cpu 9")
    core.run(id="also", b=fn("cpu 9"), c=fn("cpu 4"))
    core.decide()
    # Eight functions of different costs, and three more urgent ones that do not fit on a.
    functions = {f"f{i}": fn(f"cpu {2 + i / 4}", priority=i % 4) for i in range(8)}
    core.run(**functions, **{f"g{i}": fn(f"cpu {5 + i}", priority=9) for i in range(3)})
    assert placed(core) == []
    core.finish("c")
    order = []
    while len(order) < 8:
        (first,) = placed(core)
        order.append(first)
        core.finish(first.split("@")[0])
    assert order == [f"f{i}@a" for i in (3, 7, 2, 6, 1, 5, 0, 4)]


def test_blocked_queue_gets_a_more_urgent_head(fanout_of_tree):
    core = Core()
    core.nodes(a="cpu 4")
    core.run(id="first", all=fn("cpu 4"))
    core.decide()
    core.run(x=fn("cpu 3", priority=1), y=fn("cpu 4", priority=-1), z=fn("cpu 4", priority=2), ready="x y")
    assert placed(core) == []
    core.ready("z")
    core.finish("all")
    assert placed(core) == ["z@a"]
    core.finish("z")
    assert placed(core) == ["x@a"]
    core.finish("x")
    assert placed(core) == ["y@a"]


@pytest.mark.parametrize("how", ["withdrawn", "cancelled", "removed"])
def test_blocked_queue_loses_its_head(fanout_of_tree, how):
    core = Core()
    core.nodes(a="cpu 4")
    core.run(id="first", all=fn("cpu 4"))
    core.decide()
    core.run(id="r1", x=fn("cpu 3", priority=1))
    core.run(id="r2", y=fn("cpu 3"), z=fn("cpu 4", priority=0.5))
    assert placed(core) == []
    if how == "withdrawn":
        core.state.withdrawn(core["x"])
    elif how == "cancelled":
        core.cancel("r1")
    else:
        core.remove("r1")
    core.finish("all")
    assert placed(core) == ["z@a"]
    core.finish("z")
    assert placed(core) == ["y@a"]


@pytest.mark.parametrize("least", [2**53, 10**30, 10**400, -(10**400), float("inf")])
def test_any_priorities(fanout_of_tree, least):
    core = Core()
    core.nodes(a="cpu 4")
    core.run(id="first", all=fn("cpu 4"))
    core.decide()
    core.run(
        x=fn("cpu 3", priority=least),
        y=fn("cpu 2, threads 2", priority=least + 1),
        z=fn("cpu 4", priority=least),
    )
    assert placed(core) == []
    core.finish("all")
    first = "x@a" if least == float("inf") else "y@a"
    assert placed(core) == [first]
    core.finish(first[0])
    assert placed(core) == (["y@a"] if first == "x@a" else ["x@a"])
    core.finish("y" if first == "x@a" else "x")
    assert placed(core) == ["z@a"]


@pytest.mark.parametrize("most", [2**40, 2**44, 10**30])
def test_huge_amounts(fanout_of_tree, most):
    """A unit is 2**-20, so amounts above 2**43 exceed 64 bits."""
    core = Core()
    core.nodes(a=f"cpu 4, bytes {most}")
    core.run(x=fn(f"bytes {most}"))
    assert placed(core) == ["x@a"]
    core.run(id="r2", y=fn(f"bytes {most - 1}"), z=fn("bytes 2"), w=fn(f"cpu 1, bytes {most}"))
    assert placed(core) == []
    core.finish("x")
    # z does not fit beside y, nor w beside anything.
    assert placed(core) == ["y@a"]
    core.finish("y")
    assert placed(core) == ["z@a"]
    core.finish("z")
    assert placed(core) == ["w@a"]


@pytest.mark.slow
def test_thousands_of_queues(monkeypatch):
    """Each has a different cost, and one of a hundred resources; they are placed in order."""
    core = Core()
    core.nodes(a="cpu 4000, threads 1, " + ", ".join(f"r{i} 1" for i in range(40)))
    core.run(**{f"f{i}": fn(f"cpu {1 + i}, r{i % 40} 1", priority=i * 7919 % 3001) for i in range(3001)})
    order = []
    while len(order) < 3001:
        (placed,) = core.state.decide(core.now)
        order.append(placed.function.kind.priority)
        core.state.finished(placed.function, core.now)
    assert order == list(range(3000, -1, -1))
