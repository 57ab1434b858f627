"""Claims of functions that are about to be ready, and of overtaken functions."""

from __future__ import annotations

import pytest
from scheduling.harness import Core, core_with_claim, fn, many, node, turn_claims_off
from scheduling.virtual import make_spec

from handoff_dask._scheduling import backlog
from handoff_dask._scheduling.functions import State
from handoff_dask._scheduling.simulate import Simulation

# test bed: eight functions after a source need the only GPU, and fillers could use the cores of its node


@pytest.mark.parametrize("known", [True, False], ids=["durations known", "durations learnt"])
@pytest.mark.parametrize("first", [True, False], ids=["added first", "added last"])
@pytest.mark.parametrize("filler", [0.1, 0.2, 0.3])
def test_bottleneck_nodes_are_claimed(first, known, filler):
    fillers, source = [(fn("cpu 1", code="filler"), filler)] * 40, (fn("cpu 1", code="source"), 0.1)
    scarce = [(fn("cpu 4, gpu 1", code="scarce"), 0.2)] * 8
    functions = [source, *scarce, *fillers] if first else [*fillers, source, *scarce]
    n = functions.index(source)
    kinds, seconds = zip(*functions, strict=True)
    spec = make_spec(kinds, needs={n + i: [n] for i in range(1, 9)}, seconds=seconds if known else ())
    simulation = Simulation([node("a", "cpu 4, gpu 1"), node("b", "cpu 8")], spec, seconds)
    simulation.play()
    assert simulation.run.status.value == "finished"
    # The shortest schedule: the source, then the scarce functions sequentially on a, undelayed by fillers.
    assert simulation.now == pytest.approx(0.1 + 8 * 0.2)


def on(core, name):
    return [f.id for f in core.state.nodes[name].running]


class BottleneckCore(Core):
    """``s`` is pinned to b; ``g0`` to ``g7`` need its result and node a; ``f0`` to ``f7`` fit anywhere."""

    def __init__(self, source=10.0, filler=30.0, scarce=10.0, count=8, **options):
        super().__init__(**options)
        self.nodes(a="cpu 4, gpu 1", b="cpu 3")
        self.run(
            s=fn("cpu 1", pin="b", priority=1),
            **many(count, fn("cpu 4, gpu 1"), "g"),
            **many(8, fn("cpu 1")),
            ready="s " + " ".join(f"f{i}" for i in range(8)),
            options={
                "dependents": [[i + 1 for i in range(count)], *([] for _ in range(count + 8))],
                "seconds": [source, *[scarce] * count, *[filler] * 8],
                "fail_fast": False,
            },
        )


WITH_CLAIM = ["s@b", "f0@b", "f1@b"]


def test_function_that_would_outstay_a_claim_waits():
    core = BottleneckCore()
    assert core.decide() == WITH_CLAIM
    # s should end at 10, when g0 becomes ready; fillers take 30 s, so they would not end in time.
    assert core.state.next_wake() is not None
    assert 0 < core.state.next_wake() <= 40
    core.wait(10)
    core.finish("s")
    core.ready(" ".join(f"g{i}" for i in range(8)))
    assert core.decide()[0] == "g0@a"


def test_claim_ends_once_its_functions_are_ready():
    core = BottleneckCore(filler=9.0)  # the fillers end in time, so the claim blocks none of them
    core.decide()
    assert core.state.placement.claims.active
    core.wait(10)
    core.finish("s")
    core.ready(" ".join(f"g{i}" for i in range(8)))
    core.decide()
    assert not core.state.placement.claims.active, "while any claim exists, nothing is prefetched"


def test_function_that_ends_in_time_backfills():
    core = BottleneckCore(filler=9.0)
    core.decide()
    assert on(core, "a") == ["f0", "f1", "f2", "f3"]
    core = BottleneckCore(filler=10.5)
    core.decide()
    assert on(core, "a") == []


def test_claim_covers_only_what_the_coming_functions_can_use():
    core = Core()
    core.nodes(a="cpu 4, gpu 4", b="cpu 3")
    core.run(
        s=fn("cpu 1", pin="b", priority=1),
        g=fn("cpu 1, gpu 2"),
        **many(5, fn("cpu 1")),
        ready="s f0 f1 f2 f3 f4",
        options={"dependents": [[1], *([] for _ in range(6))], "seconds": [10, 500, *[150] * 5]},
    )
    core.decide()
    assert on(core, "a") == ["f0", "f1", "f2"]
    assert on(core, "b") == ["s", "f3", "f4"]


def test_capacity_that_becomes_free_in_time_serves_the_claim():
    core = Core()
    core.nodes(a="cpu 4, gpu 4", b="cpu 1")
    core.run(
        s=fn("cpu 1", pin="b", priority=1),
        g=fn("cpu 2, gpu 3"),
        **many(2, fn("cpu 1", pin="a", priority=1), "q"),
        **many(4, fn("cpu 1")),
        ready="s q0 q1 f0 f1 f2 f3",
        options={"dependents": [[1], *([] for _ in range(7))], "seconds": [10, 500, 1, 1, *[150] * 4]},
    )
    core.decide()
    # q0 and q1 end long before g is ready, and g can use their cores; f0 and f1 may backfill the rest.
    assert on(core, "a") == ["q0", "q1", "f0", "f1"]


def test_no_claim_on_nodes_that_are_not_a_bottleneck():
    # GPU work of 2 s in a run that takes 35 s on all nodes; then 40 s of 58 s.
    for count, scarce in [(2, 1.0), (4, 10.0)]:
        core = BottleneckCore(count=count, scarce=scarce)
        core.decide()
        assert len(on(core, "a")) == 4


def test_more_urgent_functions_ignore_claims():
    core = BottleneckCore()
    assert core.decide() == WITH_CLAIM
    for i, priority in enumerate([1, -1]):
        options = {"priority": priority, "seconds": [30.0, 1.0], "dependents": [[1], []]}
        core.run(id=f"r{i}", **{f"u{i}": fn("cpu 1"), f"w{i}": fn("cpu 1")}, ready=f"u{i}", options=options)
    core.decide()
    assert on(core, "a") == ["u0"]


def test_later_more_urgent_function_passes_refused_ones():
    core = BottleneckCore()
    assert core.decide() == WITH_CLAIM
    options = {"priority": 1, "seconds": [30.0, 1.0], "dependents": [[1], []]}
    core.run(id="r2", u=fn("cpu 1"), w=fn("cpu 1"), ready="u", options=options)
    assert core.decide() == ["u@a"]


def test_overdue_source_does_not_idle_a_node_forever():
    core = BottleneckCore(source=10.0, filler=30.0)
    assert core.decide() == WITH_CLAIM
    wakes = 0
    while core.decide() == []:
        wakes += 1
        assert core.state.next_wake() > core.now
        core.now = core.state.next_wake()
        assert core.now <= 60, "the claim outlives the duration of the filler"
    assert [core[f"f{i}"].state for i in range(2, 6)] == [State.RUNNING] * 4
    assert wakes <= 5


@pytest.mark.parametrize(
    "how", ["fails", "is skipped", "is given up", "run ends", "run is removed", "is lost"]
)
def test_claim_ends_if_its_functions_will_not_become_ready(how):
    core = BottleneckCore()
    other = {"dependents": [[]] * 4, "seconds": [100.0] * 4, "priority": -1}
    core.run(id="r2", **many(4, fn("cpu 1"), "x"), options=other)
    assert core.decide() == WITH_CLAIM
    if how == "run ends":
        core.cancel("r")
    elif how == "run is removed":
        core.remove("r")
    elif how == "is lost":
        core.lose("s")
        core.run(id="r3", **many(1, fn("cpu 1"), "y"), options={"priority": 9})
    elif how == "is skipped":
        core.state.forgotten(core["s"], core.now)
    elif how == "is given up":
        core.state.abandoned(core["s"], core.now)
    else:
        core.fail("s")
    for i in range(8):
        if core[f"g{i}"].state is State.WAITING and how in ("fails", "is given up"):
            core.state.skipped(core[f"g{i}"], core.now)
    core.decide()
    assert len(on(core, "a")) == 4


def test_returning_node_is_free_of_old_claims():
    core = BottleneckCore()
    assert core.decide() == WITH_CLAIM
    core.leave("a")
    core.nodes(a="cpu 4, gpu 1")
    core.decide()
    assert len(on(core, "a")) == 4


def test_claim_moves_from_a_node_that_left():
    core = Core()
    core.nodes(a="cpu 4, gpu 1", b="cpu 3", c="cpu 4, gpu 1")
    core.run(
        s=fn("cpu 1", pin="b", priority=1),
        g=fn("cpu 4, gpu 1"),
        **many(8, fn("cpu 1")),
        options={"dependents": [[1], *([] for _ in range(9))], "seconds": [10, 600, *[150] * 8]},
        ready="s " + " ".join(f"f{i}" for i in range(8)),
    )
    core.leave("a")
    assert core.decide() == WITH_CLAIM
    assert on(core, "c") == []


# overtaken functions


def start_time(core, wide, narrow, seconds=1.0):
    """Add narrow functions until the wide one starts; return the time of its start, or None."""
    core.decide()
    for n in range(200):
        if core[wide].state is State.RUNNING:
            return core.now
        core.wait(seconds / 2)
        running = [f for f in core.functions.values() if f.state is State.RUNNING]
        core.finish(" ".join(f.id for f in running[::2]), took=seconds)
        narrow(n)
        core.decide()
    return None


@pytest.mark.parametrize("fanout", [2, 8])
@pytest.mark.parametrize("same_run", [True, False])
def test_wide_function_starts_despite_a_stream_of_narrow_ones(same_run, fanout, monkeypatch):
    monkeypatch.setattr(backlog, "_FANOUT", fanout)
    due = start_of_wide(same_run)
    # The wait until it may claim, its expected duration, and the duration of the functions running there.
    assert due is not None
    assert due <= 10.0 + 2.5 + 2.0


def start_of_wide(same_run, claims=True):
    core = Core(prefetch_horizon=0.0)
    if not claims:
        turn_claims_off(core.state)
    core.nodes(a="cpu 4", b="cpu 2")
    stream = many(2000, fn("cpu 1", code="narrow"), "n")
    if same_run:
        core.run(**many(6, fn("cpu 1", code="narrow"), "n"), wide=fn("cpu 4", code="wide"))
    else:
        core.run(id="early", **many(6, fn("cpu 1", code="narrow"), "early"))
        core.run(id="r0", wide=fn("cpu 4", code="wide"))
    core.run(id="stream", ready="", **{f"m{i}": kind for i, kind in enumerate(stream.values())})
    return start_time(core, "wide", lambda n: core.ready(" ".join(f"m{8 * n + i}" for i in range(8))))


def test_without_claims_a_wide_function_starves():
    assert start_of_wide(same_run=True, claims=False) is None


def test_priority_overrides_claims():
    core = Core(prefetch_horizon=0.0)
    core.nodes(a="cpu 4")
    core.run(**many(4, fn("cpu 1"), "n"), wide=fn("cpu 4"))
    core.run(id="stream", ready="", options={"priority": 1}, **many(2000, fn("cpu 1"), "m"))
    assert start_time(core, "wide", lambda n: core.ready(" ".join(f"m{8 * n + i}" for i in range(8)))) is None


def test_claim_does_not_block_a_more_urgent_function_of_its_run():
    core = Core(prefetch_horizon=0.0)
    core.nodes(a="cpu 4, gpu 1")
    run = core.run(
        running=fn("gpu 1"), small=fn("cpu 1"), urgent=fn("gpu 1"), late=fn("gpu 1"), ready="running"
    )
    assert core.decide() == ["running@a"]
    core.ready("late")
    assert core.decide() == []
    core.state.placement.claims.claim_node(core["late"], core.now)
    core.ready("small urgent")
    core.finish("running", took=1)
    # The share of the run grows with ``small``, before ``urgent`` is compared with the claim.
    assert core.decide() == ["small@a", "urgent@a"]
    assert run.share > 0


def test_cancelling_a_function_withdraws_its_claim():
    core = core_with_claim()
    core.cancel("r0")
    core.decide()
    assert core["last"].state is State.RUNNING


@pytest.mark.parametrize("how", ["no node can hold it", "its run is at a limit"])
def test_more_urgent_function_that_does_not_wait_for_room_prevents_no_claim(how):
    core = Core(prefetch_horizon=0.0, node_timeout=1e9)
    core.nodes(a="cpu 5", b="gpu 1")
    urgent = fn("gpu 1", priority=9) if "node" in how else fn(limit="db 1", priority=9)
    core.run(id="other", limits="db 1", holder=fn("gpu 1", limit="db 1"), urgent=urgent, ready="holder")
    assert core.decide() == ["holder@b"]
    core.ready("urgent")
    core.decide()
    if "node" in how:
        core.leave("b")
    core.run(id="first", **many(5, fn("cpu 1", code="narrow"), "n"))
    core.decide()
    core.run(id="r0", wide=fn("cpu 5"))
    core.run(id="r1", **many(60, fn("cpu 1", code="narrow"), "m"))
    while core.states("wide") == "ready" and any(core.states(f"m{i}") != "finished" for i in range(60)):
        core.wait(2)
        core.finish(next(iter(core.state.nodes["a"].running)).id, took=8)
        core.decide()
    assert core.states("urgent") == "ready"
    assert core.states("wide") == "running"
    assert any(core.states(f"m{i}") == "ready" for i in range(60)), "wide has not waited for all others"
