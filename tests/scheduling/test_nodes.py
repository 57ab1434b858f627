"""Nodes join, leave, pause and refuse functions."""

from __future__ import annotations

import pytest
from scheduling.harness import Core, core_with_prefetched, fn, many, node

from handoff_dask._scheduling.functions import State


def test_waiting_functions_go_to_a_joining_node(core):
    core.nodes(a="cpu 1")
    core.run(**many(4, fn("cpu 1")))
    assert core.decide() == ["f0@a"]
    core.nodes(b="cpu 2")
    assert core.decide() == ["f1@b", "f2@b"]


def test_lost_node_loses_its_functions_without_using_retries(core):
    core.nodes(a="cpu 2")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"))
    core.decide()
    core.wait(3)
    for name in "bcdef":
        core.nodes(**{name: "cpu 2"})
        core.leave(chr(ord(name) - 1))
        assert core.states("x y") == "waiting waiting"
        core.ready("x y")
        assert core.decide() == [f"x@{name}", f"y@{name}"]
    assert core.outcomes("x") == [(name, "lost") for name in "abcde"]
    assert core["x"].attempts[0].stopped == 3
    assert core["x"].failures == 0
    core.finish("x y")
    assert core.decide() == ["r finished"]


def test_node_returns_under_its_name(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1", pin="a"))
    core.decide()
    core.leave("a")
    core.ready("x")
    assert core.decide() == []
    core.nodes(a="cpu 1")
    assert core.decide() == ["x@a"]


def test_joining_twice_implies_leaving_in_between(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"))
    core.decide()
    core.nodes(a="cpu 2")
    assert core.states("x") == "waiting"
    assert core.used("a") == {}
    core.ready("x")
    assert core.decide() == ["x@a"]
    assert core["x"].node is core.state.nodes["a"]


def test_events_of_unknown_nodes_have_no_effect(core):
    core.nodes(a="cpu 1")
    core.leave("b")
    core.pause("b")
    core.run(x=fn("cpu 1"))
    assert core.decide() == ["x@a"]


def test_late_events_of_a_lost_attempt_change_nothing(core):
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(x=fn("cpu 1"))
    core.decide()
    core.leave("a")
    assert core.fail("x") is False
    core.lose("x")
    assert core.states("x") == "waiting"
    assert core.outcomes("x") == [("a", "lost")]


def test_single_attempt_is_lost_or_cancelled(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"))
    core.decide()
    core.lose("x")
    core.ready("x")
    assert core.decide() == ["x@a"]
    core.state.orphan_ended(core.state.taken_back(core["x"], core.now))
    assert core.outcomes("x") == [("a", "lost"), ("a", "cancelled")]
    assert core.used("a") == {}


# results


def test_lost_result_is_recomputed(core):
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"), ready="x")
    core.decide()
    core.finish("x")
    core.ready("y")
    core.leave("a")
    core.state.withdrawn(core["y"])
    core.state.result_lost(core["x"])
    assert core.states("x y") == "waiting waiting"
    core.ready("x")
    assert core.decide() == ["x@b"]
    core.finish("x")
    core.ready("y")
    assert core.decide() == ["y@b"]
    core.finish("y")
    assert core.decide() == ["r finished"]


def test_run_is_not_finished_while_a_result_is_lost(core):
    core.nodes(a="cpu 2")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"))
    core.decide()
    core.finish("x")
    core.state.result_lost(core["x"])
    core.finish("y")
    assert core.decide() == []
    core.ready("x")
    assert core.decide() == ["x@a"]
    core.finish("x")
    assert core.decide() == ["r finished"]


def test_result_lost_after_the_end_is_recomputed(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1", retries=1), y=fn("cpu 1"))
    core.decide()
    core.finish("x")
    core.decide()
    core.finish("y")
    assert core.decide() == ["r finished"]
    core.state.result_lost(core["x"])
    core.ready("x")
    assert core.decide() == ["x@a"]
    assert core.fail("x")
    core.ready("x")
    assert core.decide() == ["x@a"]
    core.finish("x")
    assert core.decide() == []  # the end of the run was announced before


def test_result_appears_without_an_attempt(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"))
    assert core.decide() == ["x@a"]
    core.finish("y")
    core.finish("x")
    assert core.decide() == ["r finished"]
    assert core["y"].attempts == ()


# pauses


def test_paused_node_gets_no_functions(core):
    core.nodes(a="cpu 2", b="cpu 1")
    core.run(**many(4, fn("cpu 1")), ready="f0")
    core.decide()
    core.pause("a")
    core.ready("f1 f2 f3")
    assert core.decide() == ["f1@b"]
    core.finish("f0")  # running functions end as usual
    assert core.decide() == []
    core.resume("a")
    assert core.decide() == ["f2@a", "f3@a"]


def test_pausing_all_nodes_is_not_a_shortfall(core):
    core.nodes(a="cpu 1")
    core.pause("a")
    core.run(x=fn("cpu 1"))
    assert core.decide() == []
    assert core.state.next_wake() is None
    core.wait(10_000)
    assert core.decide() == []
    core.resume("a")
    assert core.decide() == ["x@a"]


def test_node_joins_paused(core):
    a = node("a", "cpu 1")
    a.accepting = False
    core.join(a)
    core.run(x=fn("cpu 1"))
    assert core.decide() == []
    core.resume("a")
    assert core.decide() == ["x@a"]


# refusals


def test_refused_function_goes_elsewhere(core):
    core.nodes(a="cpu 2", b="cpu 1")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"))
    assert core.decide() == ["x@a", "y@a"]
    core.refuse("y")
    assert core.states("x y") == "running ready"
    assert core.used("a") == {"cpu": 1}
    assert core.decide() == ["y@b"]
    assert core["y"].attempts == ()  # it never ran


def test_refusing_node_gets_nothing_until_it_accepts_again(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"))
    core.decide()
    core.refuse("x")
    assert core.decide() == []
    core.resume("a")
    assert core.decide() == ["x@a"]


def test_function_refused_after_the_end_of_its_run_is_cancelled(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"))
    core.decide()
    core.cancel()
    core.refuse("x")
    assert core.states("x") == "cancelled"
    assert core.decide() == ["r cancelled"]
    core.resume("a")
    assert core.decide() == []


@pytest.mark.parametrize("how", ["finish", "fail", "lose", "refuse"])
def test_devices_are_released_for_every_outcome(core, how):
    core.nodes(a="cpu 1, gpu 1")
    core.run(x=fn("gpu 1", retries=1))
    core.decide()
    getattr(core, how)("x")
    core.resume("a")
    core.remove()
    core.run(id="other", y=fn("gpu 1"))
    assert core.decide() == ["y@a"]
    assert core["y"].device_indices() == {"gpu": (0,)}
    assert core["x"].state in (State.FINISHED, State.CANCELLED)


# orphaned attempts: functions withdrawn while their threads continue


def test_orphaned_attempt_keeps_its_allocation(core):
    core.nodes(a="cpu 2, gpu 2")
    core.run(limits="db 1", x=fn("cpu 1, gpu 1", limit="db 1"), y=fn("cpu 2"), z=fn(limit="db 1"), ready="x")
    core.decide()
    hold = core.state.taken_back(core["x"], core.now)
    core.state.check()
    core.ready("y z")
    assert core.states("x") == "waiting"
    assert core.outcomes("x") == [("a", "cancelled")]
    assert core.used("a") == {"cpu": 1, "gpu": 1}
    assert core["x"].run.share == 0, "orphaned attempts do not count towards the share of the run"
    assert core.decide() == [], "the orphaned attempt holds its node and the limits of its run"
    core.state.orphan_ended(hold)
    core.state.orphan_ended(hold)
    core.state.check()
    assert core.used("a") == {}
    assert core.decide() == ["y@a", "z@a"]
    core.ready("x")
    core.finish("y z")
    assert core.decide() == ["x@a"]
    assert core["x"].devices == {0: 2**20}


def test_next_attempt_uses_another_device_than_the_orphaned_one(core):
    core.nodes(a="cpu 2, gpu 2")
    core.run(x=fn("gpu 1"))
    core.decide()
    core.state.taken_back(core["x"], core.now)
    core.resize(a="cpu 2, gpu 2")
    core.ready("x")
    assert core.decide() == ["x@a"]
    assert list(core["x"].devices) == [1]
    core.state.check()


def test_orphaned_attempt_ends_with_its_node(core):
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(limits="db 1", x=fn("cpu 1", limit="db 1"))
    core.decide()
    hold = core.state.taken_back(core["x"], core.now)
    core.ready("x")
    assert core.decide() == [], "the orphaned attempt holds its limits"
    core.leave("a")
    assert core.decide() == ["x@b"]
    core.state.orphan_ended(hold)
    core.state.check()


def test_withdrawn_prefetched_function_leaves_no_orphan():
    core = Core(prefetch_horizon=10)
    core.state.placement.estimates.learn("short", 0.0, 0.001)
    core.nodes(a="cpu 1")
    core.run(**many(2, fn("cpu 1", code="short")))
    core.decide()
    assert core.state.taken_back(core["f1"], core.now) is None
    assert core.state.taken_back(core["f1"], core.now) is None
    core.finish("f0")
    assert core.used("a") == {}


# nodes that became too small for functions sent to them


def test_function_that_a_node_can_never_start_is_recalled(core):
    core = core_with_prefetched()
    core.resize(a="cpu 4, memory 4")
    assert core.decide() == ["all back from a", "next back from a"]
    core.state.returned(core["next"])
    assert core.states("all next") == "running waiting"  # the worker has started the first
    assert core["next"].attempts == ()
    core.ready("next")
    core.finish("all")
    assert "next@a" not in core.decide()
    core.resize(a="cpu 4, memory 5")
    assert core.decide() == ["next@a"]


def test_function_that_fits_again_before_the_decision_is_not_recalled(core):
    core.nodes(a="cpu 4")
    core.run(x=fn("cpu 3"))
    core.decide()
    core.resize(a="cpu 2")
    core.resize(a="cpu 4")
    assert core.decide() == []


def test_function_recalled_from_a_cancelled_run_does_not_run(core):
    core.nodes(a="cpu 4")
    core.run(x=fn("cpu 3"))
    core.decide()
    core.resize(a="cpu 2")
    core.cancel()
    assert core.decide() == ["x back from a", "r cancelled"]
    core.state.returned(core["x"])
    assert core.states("x") == "cancelled"
    assert core.used("a") == {}
