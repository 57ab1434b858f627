"""Claims of functions that are about to be ready, and of one that others have overtaken."""

from __future__ import annotations

import pytest
from scheduling.harness import Core, fn, many, node
from scheduling.harness import overtaken as overtaken_core
from scheduling.virtual import make_spec

from handoff_dask._scheduling import backlog
from handoff_dask._scheduling.claims import Claims
from handoff_dask._scheduling.functions import State
from handoff_dask._scheduling.simulate import Simulation

# the bench: eight functions that need the one GPU, after a source, and others that could use its cores


@pytest.mark.parametrize("known", [True, False], ids=["durations known", "durations learnt"])
@pytest.mark.parametrize("first", [True, False], ids=["added first", "added last"])
@pytest.mark.parametrize("filler", [0.1, 0.2, 0.3])
def test_the_nodes_that_bound_the_end_are_kept(first, known, filler):
    fillers, source = [(fn("cpu 1", code="filler"), filler)] * 40, (fn("cpu 1", code="source"), 0.1)
    scarce = [(fn("cpu 4, gpu 1", code="scarce"), 0.2)] * 8
    functions = [source, *scarce, *fillers] if first else [*fillers, source, *scarce]
    n = functions.index(source)
    kinds, seconds = zip(*functions, strict=True)
    spec = make_spec(kinds, needs={n + i: [n] for i in range(1, 9)}, seconds=seconds if known else ())
    simulation = Simulation([node("a", "cpu 4, gpu 1"), node("b", "cpu 8")], spec, seconds)
    simulation.play()
    assert simulation.run.status.value == "finished"
    # No schedule is shorter: the source, and then one after the other on a. Nothing else may delay that.
    assert simulation.now == pytest.approx(0.1 + 8 * 0.2)


def on(core, name):
    return [f.id for f in core.state.nodes[name].running]


class Bench(Core):
    """``s`` runs on b, ``g0`` to ``g7`` need it and a; ``f0`` to ``f7`` run anywhere."""

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


KEPT = ["s@b", "f0@b", "f1@b"]


def test_who_would_stay_too_long_is_turned_away_and_looked_at_again():
    core = Bench()
    assert core.decide() == KEPT
    # s is expected to end at 10; who takes 30 seconds would have to end before g0 is ready.
    assert core.state.next_wake() is not None
    assert 0 < core.state.next_wake() <= 40
    core.wait(10)
    core.finish("s")
    core.ready(" ".join(f"g{i}" for i in range(8)))
    assert core.decide()[0] == "g0@a"


def test_who_will_have_ended_in_time_is_let_in():
    core = Bench(filler=9.0)
    core.decide()
    assert on(core, "a") == ["f0", "f1", "f2", "f3"]
    core = Bench(filler=10.5)
    core.decide()
    assert on(core, "a") == []


def test_only_as_much_is_kept_as_those_that_come_can_use():
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


def test_what_will_have_ended_in_time_makes_room_that_others_may_take():
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
    # q0 and q1 end long before g is ready; it needs what they leave, and f0 and f1 may have the rest.
    assert on(core, "a") == ["q0", "q1", "f0", "f1"]


def test_nothing_is_kept_where_that_is_no_bottleneck():
    # Two seconds on the node that has a GPU, of 35 that all nodes need; then forty of fifty-eight.
    for count, scarce in [(2, 1.0), (4, 10.0)]:
        core = Bench(count=count, scarce=scarce)
        core.decide()
        assert len(on(core, "a")) == 4


def test_nothing_is_kept_from_who_is_more_urgent():
    core = Bench()
    assert core.decide() == KEPT
    for i, priority in enumerate([1, -1]):
        options = {"priority": priority, "seconds": [30.0, 1.0], "dependents": [[1], []]}
        core.run(id=f"r{i}", **{f"u{i}": fn("cpu 1"), f"w{i}": fn("cpu 1")}, ready=f"u{i}", options=options)
    core.decide()
    assert on(core, "a") == ["u0"]


def test_who_is_more_urgent_and_comes_later_is_not_held_back_with_those_that_were_turned_away():
    core = Bench()
    assert core.decide() == KEPT
    options = {"priority": 1, "seconds": [30.0, 1.0], "dependents": [[1], []]}
    core.run(id="r2", u=fn("cpu 1"), w=fn("cpu 1"), ready="u", options=options)
    assert core.decide() == ["u@a"]


def test_a_source_that_takes_much_longer_does_not_keep_a_node_idle_for_ever():
    core = Bench(source=10.0, filler=30.0)
    assert core.decide() == KEPT
    looks = 0
    while core.decide() == []:
        looks += 1
        assert core.state.next_wake() > core.now
        core.now = core.state.next_wake()
        assert core.now <= 60, "as late as the function takes, and a little"
    assert [core[f"f{i}"].state for i in range(2, 6)] == [State.RUNNING] * 4
    assert looks <= 5


@pytest.mark.parametrize(
    "how", ["fails", "is skipped", "is given up", "run ends", "run is removed", "is lost"]
)
def test_what_is_not_to_come_keeps_nobody_away(how):
    core = Bench()
    other = {"dependents": [[]] * 4, "seconds": [100.0] * 4, "priority": -1}
    core.run(id="r2", **many(4, fn("cpu 1"), "x"), options=other)
    assert core.decide() == KEPT
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


def test_a_node_that_comes_back_is_not_kept_by_what_was_said_of_the_old_one():
    core = Bench()
    assert core.decide() == KEPT
    core.leave("a")
    core.nodes(a="cpu 4, gpu 1")
    core.decide()
    assert len(on(core, "a")) == 4


def test_a_node_that_has_left_is_not_the_one_that_is_kept():
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
    assert core.decide() == KEPT
    assert on(core, "c") == []


# starvation


def overtaken(core, wide, narrow, seconds=1.0):
    """An endless stream of narrow functions; when the wide one starts, or None."""
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
def test_a_wide_function_starts_although_narrow_ones_come_all_the_time(same_run, fanout, monkeypatch):
    monkeypatch.setattr(backlog, "_FANOUT", fanout)
    due = overtaken_by_a_stream(same_run)
    # The wait for a first look, as long as the function is expected to take, and as long as what runs there.
    assert due is not None
    assert due <= 10.0 + 2.5 + 2.0


def overtaken_by_a_stream(same_run):
    core = Core(prefetch_horizon=0.0)
    core.nodes(a="cpu 4", b="cpu 2")
    stream = many(2000, fn("cpu 1", code="narrow"), "n")
    if same_run:
        core.run(**many(6, fn("cpu 1", code="narrow"), "n"), wide=fn("cpu 4", code="wide"))
    else:
        core.run(id="early", **many(6, fn("cpu 1", code="narrow"), "early"))
        core.run(id="r0", wide=fn("cpu 4", code="wide"))
    core.run(id="stream", ready="", **{f"m{i}": kind for i, kind in enumerate(stream.values())})
    return overtaken(core, "wide", lambda n: core.ready(" ".join(f"m{8 * n + i}" for i in range(8))))


def test_without_a_claim_it_is_overtaken_for_ever(monkeypatch):
    monkeypatch.setattr(Claims, "blocks", lambda *_: False)
    assert overtaken_by_a_stream(same_run=True) is None


def test_priority_wins_over_claims():
    core = Core(prefetch_horizon=0.0)
    core.nodes(a="cpu 4")
    core.run(**many(4, fn("cpu 1"), "n"), wide=fn("cpu 4"))
    core.run(id="stream", ready="", options={"priority": 1}, **many(2000, fn("cpu 1"), "m"))
    assert overtaken(core, "wide", lambda n: core.ready(" ".join(f"m{8 * n + i}" for i in range(8)))) is None


def test_a_claim_is_withdrawn_when_its_function_is_cancelled():
    core = overtaken_core()
    core.cancel("r0")
    core.decide()
    assert core["last"].state is State.RUNNING
