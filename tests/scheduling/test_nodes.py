"""Nodes come, go, pause and refuse."""

from __future__ import annotations

import pytest
from scheduling.harness import Core, fn, many, node, one_ahead

from handoff_dask._scheduling.functions import State


def test_waiting_work_goes_to_a_node_that_joins(core):
    core.nodes(a="cpu 1")
    core.run(**many(4, fn("cpu 1")))
    assert core.decide() == ["f0@a"]
    core.nodes(b="cpu 2")
    assert core.decide() == ["f1@b", "f2@b"]


def test_what_runs_on_a_lost_node_is_lost_and_uses_no_retry(core):
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


def test_a_node_may_come_back_under_its_name(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1", pin="a"))
    core.decide()
    core.leave("a")
    core.ready("x")
    assert core.decide() == []
    core.nodes(a="cpu 1")
    assert core.decide() == ["x@a"]


def test_a_node_that_joins_twice_has_left_in_between(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"))
    core.decide()
    core.nodes(a="cpu 2")
    assert core.states("x") == "waiting"
    assert core.used("a") == {}
    core.ready("x")
    assert core.decide() == ["x@a"]
    assert core["x"].node is core.state.nodes["a"]


def test_an_unknown_node_leaves_and_pauses_without_effect(core):
    core.nodes(a="cpu 1")
    core.leave("b")
    core.pause("b")
    core.run(x=fn("cpu 1"))
    assert core.decide() == ["x@a"]


def test_a_late_word_about_a_lost_attempt_changes_nothing(core):
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(x=fn("cpu 1"))
    core.decide()
    core.leave("a")
    assert core.fail("x") is False
    core.lose("x")
    assert core.states("x") == "waiting"
    assert core.outcomes("x") == [("a", "lost")]


def test_a_single_attempt_may_be_lost_or_cancelled(core):
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


def test_a_lost_result_is_computed_again(core):
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


def test_a_run_is_not_finished_while_a_result_is_lost(core):
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


def test_a_result_lost_after_the_end_is_computed_again(core):
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
    assert core.decide() == []  # it has been said that the run is finished


def test_a_result_may_turn_up_without_having_run(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"))
    assert core.decide() == ["x@a"]
    core.finish("y")
    core.finish("x")
    assert core.decide() == ["r finished"]
    assert core["y"].attempts == ()


# pauses


def test_a_paused_node_gets_nothing_new(core):
    core.nodes(a="cpu 2", b="cpu 1")
    core.run(**many(4, fn("cpu 1")), ready="f0")
    core.decide()
    core.pause("a")
    core.ready("f1 f2 f3")
    assert core.decide() == ["f1@b"]
    core.finish("f0")  # what ran there ends as usual
    assert core.decide() == []
    core.resume("a")
    assert core.decide() == ["f2@a", "f3@a"]


def test_all_paused_is_no_shortfall(core):
    core.nodes(a="cpu 1")
    core.pause("a")
    core.run(x=fn("cpu 1"))
    assert core.decide() == []
    assert core.state.next_wake() is None
    core.wait(10_000)
    assert core.decide() == []
    core.resume("a")
    assert core.decide() == ["x@a"]


def test_a_node_may_join_paused(core):
    a = node("a", "cpu 1")
    a.accepting = False
    core.join(a)
    core.run(x=fn("cpu 1"))
    assert core.decide() == []
    core.resume("a")
    assert core.decide() == ["x@a"]


# refusals


def test_what_a_node_refused_goes_elsewhere(core):
    core.nodes(a="cpu 2", b="cpu 1")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"))
    assert core.decide() == ["x@a", "y@a"]
    core.refuse("y")
    assert core.states("x y") == "running ready"
    assert core.used("a") == {"cpu": 1}
    assert core.decide() == ["y@b"]
    assert core["y"].attempts == ()  # it never ran


def test_a_node_that_refused_gets_nothing_until_it_accepts_again(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"))
    core.decide()
    core.refuse("x")
    assert core.decide() == []
    core.resume("a")
    assert core.decide() == ["x@a"]


def test_what_was_refused_after_its_run_ended_is_cancelled(core):
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
def test_devices_come_back_however_an_attempt_ends(core, how):
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


# a function that is taken back while its thread goes on


def test_what_is_taken_back_goes_on_to_take_what_it_took(core):
    core.nodes(a="cpu 2, gpu 2")
    core.run(limits="db 1", x=fn("cpu 1, gpu 1", limit="db 1"), y=fn("cpu 2"), z=fn(limit="db 1"), ready="x")
    core.decide()
    hold = core.state.taken_back(core["x"], core.now)
    core.state.check()
    core.ready("y z")
    assert core.states("x") == "waiting"
    assert core.outcomes("x") == [("a", "cancelled")]
    assert core.used("a") == {"cpu": 1, "gpu": 1}
    assert core["x"].run.share == 0, "its run is not charged for what it does not get"
    assert core.decide() == [], "neither its node nor the limits of its run have room"
    core.state.orphan_ended(hold)
    core.state.orphan_ended(hold)
    core.state.check()
    assert core.used("a") == {}
    assert core.decide() == ["y@a", "z@a"]
    core.ready("x")
    core.finish("y z")
    assert core.decide() == ["x@a"]
    assert core["x"].devices == {0: 2**20}


def test_another_attempt_uses_another_device_meanwhile(core):
    core.nodes(a="cpu 2, gpu 2")
    core.run(x=fn("gpu 1"))
    core.decide()
    core.state.taken_back(core["x"], core.now)
    core.resize(a="cpu 2, gpu 2")
    core.ready("x")
    assert core.decide() == ["x@a"]
    assert list(core["x"].devices) == [1]
    core.state.check()


def test_what_is_taken_back_goes_with_its_node(core):
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(limits="db 1", x=fn("cpu 1", limit="db 1"))
    core.decide()
    hold = core.state.taken_back(core["x"], core.now)
    core.ready("x")
    assert core.decide() == [], "its limits are held"
    core.leave("a")
    assert core.decide() == ["x@b"]
    core.state.orphan_ended(hold)
    core.state.check()


def test_what_was_only_sent_ahead_takes_nothing_when_it_is_taken_back():
    core = Core(prefetch_horizon=10)
    core.state.placement.estimates.learn("short", 0.0, 0.001)
    core.nodes(a="cpu 1")
    core.run(**many(2, fn("cpu 1", code="short")))
    core.decide()
    assert core.state.taken_back(core["f1"], core.now) is None
    assert core.state.taken_back(core["f1"], core.now) is None
    core.finish("f0")
    assert core.used("a") == {}


# nodes that have become too small for what they were sent


def test_what_a_node_will_never_start_is_asked_back(core):
    core = one_ahead()
    core.resize(a="cpu 4, memory 4")
    assert core.decide() == ["all back from a", "next back from a"]
    core.state.returned(core["next"])
    assert core.states("all next") == "running waiting"  # the first has started
    assert core["next"].attempts == ()
    core.ready("next")
    core.finish("all")
    assert "next@a" not in core.decide()
    core.resize(a="cpu 4, memory 5")
    assert core.decide() == ["next@a"]


def test_what_fits_again_before_the_decision_is_not_asked_back(core):
    core.nodes(a="cpu 4")
    core.run(x=fn("cpu 3"))
    core.decide()
    core.resize(a="cpu 2")
    core.resize(a="cpu 4")
    assert core.decide() == []


def test_what_was_asked_back_from_a_run_that_was_cancelled_does_not_run(core):
    core.nodes(a="cpu 4")
    core.run(x=fn("cpu 3"))
    core.decide()
    core.resize(a="cpu 2")
    core.cancel()
    assert core.decide() == ["x back from a", "r cancelled"]
    core.state.returned(core["x"])
    assert core.states("x") == "cancelled"
    assert core.used("a") == {}
