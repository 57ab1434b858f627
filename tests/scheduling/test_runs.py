"""How runs end, and the final states of their functions."""

from __future__ import annotations

import pytest
from scheduling.harness import fn, many

from handoff_dask._model.retry import RetryPolicy

KEEP_GOING = {"options": {"fail_fast": False}}


def test_empty_run_is_finished(core):
    run = core.run()
    assert core.decide() == ["r finished"]
    assert run.ended
    assert core.decide() == []


def test_run_finishes_with_its_last_function(core):
    core.nodes(a="cpu 4")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"), ready="x")
    core.decide()
    core.finish("x")
    assert core.decide() == []
    core.ready("y")
    core.decide()
    core.finish("y")
    assert core.decide() == ["r finished"]


def test_duplicate_run_id_is_refused(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"))
    with pytest.raises(ValueError, match="'r'"):
        core.run(x=fn("cpu 1"))
    assert core.decide() == ["x@a"]
    core.remove()
    core.run(x=fn("cpu 1"))
    assert core.decide() == ["x@a"]


# failures


def in_every_state(core, **options):
    """Make a run with a function in every non-final state, and a finished one."""
    core.nodes(a="cpu 4")
    core.run(
        done=fn("cpu 1"),
        bad=fn("cpu 1"),
        running=fn("cpu 1"),
        delayed=fn("cpu 1", policy=RetryPolicy(delay=9.0)),
        stuck=fn("cpu 4"),
        waiting=fn("cpu 1"),
        ready="done bad running delayed",
        **options,
    )
    core.decide()
    core.finish("done")
    core.fail("delayed")
    core.ready("delayed stuck")
    assert core.decide() == []
    assert (
        core.states("done bad running delayed stuck waiting")
        == "finished running running delayed ready waiting"
    )


def test_fail_fast_ends_the_run_at_the_first_failure(core):
    in_every_state(core)
    core.fail("bad")
    assert core.decide() == ["r failed"]
    assert (
        core.states("done bad running delayed stuck waiting")
        == "finished failed running cancelled cancelled cancelled"
    )
    assert core.state.next_wake() is None
    core.finish("running")  # running functions keep their outcome
    assert core.states("running") == "finished"
    assert core.decide() == []
    assert core.used("a") == {}


def test_without_fail_fast_independent_functions_continue(core):
    in_every_state(core, **KEEP_GOING)
    core.fail("bad")
    core.state.skipped(core["waiting"], core.now)
    assert core.decide() == []
    core.finish("running")
    assert core.decide() == ["stuck@a"]
    core.finish("stuck")
    core.wait(9)
    assert core.decide() == ["delayed@a"]
    core.finish("delayed")
    assert core.decide() == ["r failed"]
    assert (
        core.states("done bad running delayed stuck waiting")
        == "finished failed finished finished finished skipped"
    )
    assert [f.id for f in core["bad"].run.failed] == ["bad"]


def test_failures_are_listed_in_order_of_time(core):
    core.nodes(a="cpu 3")
    run = core.run(**many(3, fn("cpu 1")), **KEEP_GOING)
    core.decide()
    core.fail("f1")
    core.fail("f2")
    core.state.abandoned(core["f0"], core.now, "it took down three nodes")
    assert core.decide() == ["r failed"]
    assert [f.id for f in run.failed] == ["f1", "f2", "f0"]
    last = core["f0"].attempts[-1]
    assert (last.outcome, last.error) == ("lost", "it took down three nodes")


def test_no_retry_after_the_end_of_the_run(core):
    core.nodes(a="cpu 3")
    core.run(**many(3, fn("cpu 1", retries=3)))
    core.decide()
    core.cancel()
    assert core.decide() == ["r cancelled"]
    assert core.fail("f0") is False
    core.lose("f1")
    core.leave("a")
    assert core.states("f0 f1 f2") == "failed cancelled cancelled"
    assert core.decide() == []


def test_skipped_functions_complete_a_run(core):
    core.nodes(a="cpu 1")
    core.run(bad=fn("cpu 1"), x=fn("cpu 1"), y=fn("cpu 1"), ready="bad", **KEEP_GOING)
    core.decide()
    core.fail("bad")
    core.state.skipped(core["x"], core.now)
    assert core.decide() == []
    core.state.skipped(core["y"], core.now)
    assert core.decide() == ["r failed"]
    assert core.states("bad x y") == "failed skipped skipped"


def test_skipping_a_running_function_releases_its_allocation(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"))
    core.decide()
    core.state.skipped(core["x"], core.now)
    assert core.used("a") == {}
    assert core.outcomes("x") == [("a", "cancelled")]


# stopping functions that run in their own process


def isolated_and_not(core):
    core.nodes(a="cpu 2", b="cpu 1")
    core.run(x=fn("cpu 1", isolated=True), y=fn("cpu 1"), z=fn("cpu 1", isolated=True, retries=3))
    assert core.decide() == ["x@a", "y@a", "z@b"]


def test_ending_a_run_stops_isolated_functions(core):
    isolated_and_not(core)
    core.cancel()
    assert core.decide() == ["stop x@a, attempt 1", "stop z@b, attempt 1", "r cancelled"]
    assert core.states("x y z") == "running running running"
    assert core.used("b") == {"cpu": 1}  # until it has ended
    assert core.stopped("z") is False
    assert core.states("x y z") == "running running cancelled"
    assert core.outcomes("z") == [("b", "cancelled")]
    assert core["z"].failures == 0
    assert core.used("b") == {}
    core.finish("y")
    assert core.stopped("x") is False
    assert core.decide() == []


def test_failure_that_ends_a_run_stops_other_functions(core):
    isolated_and_not(core)
    core.fail("x")
    assert core.decide() == ["stop z@b, attempt 1", "r failed"]
    core.stopped("z")
    assert [f.id for f in core["x"].run.failed] == ["x"]
    assert [f.id for f, _ in core["x"].run.failed_attempts] == ["x"]


@pytest.mark.parametrize("end", ["finish", "fail", "lose"])
def test_function_that_ends_before_it_is_stopped_keeps_its_outcome(core, end):
    isolated_and_not(core)
    core.cancel()
    core.decide()
    getattr(core, end)("x")
    state = core.states("x")
    assert core.stopped("x") is False
    assert core.states("x") == state


def test_finishing_a_run_stops_nothing(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1", isolated=True))
    core.decide()
    core.finish("x")
    assert core.decide() == ["r finished"]


def test_withdrawn_function_is_stopped_and_runs_again(core):
    """Its input was lost, so it will start again; the attempt's number says which attempt to stop."""
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1", isolated=True))
    core.decide()
    hold = core.state.taken_back(core["x"], core.now)
    core.ready("x")
    assert core.decide() == ["stop x@a, attempt 1"]
    core.state.orphan_ended(hold)
    assert core.decide() == ["x@a"]


def test_attempt_stopped_in_a_live_run_is_repeated(core):
    """Dask lets a thread that is still busy with the last attempt serve the next one."""
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1", isolated=True))
    core.decide()
    assert core.stopped("x") is True
    assert core.states("x") == "waiting"
    core.ready("x")
    assert core.decide() == ["x@a"]
    core.finish("x")
    assert core.outcomes("x") == [("a", "cancelled"), ("a", "finished")]


# cancelling, releasing, removing


def test_cancelled_run_starts_nothing(core):
    in_every_state(core)
    core.cancel()
    assert core.decide() == ["r cancelled"]
    assert (
        core.states("done bad running delayed stuck waiting")
        == "finished running running cancelled cancelled cancelled"
    )
    assert core.used("a") == {"cpu": 2}  # until they end
    core.finish("running")
    core.fail("bad")
    assert core.used("a") == {}
    assert core.decide() == []
    core.ready("waiting stuck")
    assert core.decide() == ["waiting too late", "stuck too late"]


def test_cancelling_an_ended_run_changes_nothing(core):
    core.nodes(a="cpu 1")
    run = core.run(x=fn("cpu 1"))
    core.decide()
    core.finish("x")
    core.cancel()
    assert core.decide() == ["r finished"]
    core.cancel()
    assert core.decide() == []
    assert run.status.value == "finished"


def test_cancelling_one_run_leaves_others_alone(core):
    core.nodes(a="cpu 1")
    core.run(id="r1", **many(3, fn("cpu 1"), "x"))
    core.run(id="r2", **many(2, fn("cpu 1"), "y"))
    assert core.decide() == ["x0@a"]
    core.cancel("r1")
    core.finish("x0")
    assert core.decide() == ["y0@a", "r1 cancelled"]


def test_removing_a_run_releases_its_allocations(core):
    core.nodes(a="cpu 2, gpu 1", b="cpu 1")
    core.run(
        id="r1", x=fn("cpu 2, gpu 1", limit="db 1"), y=fn("cpu 1"), z=fn("cpu 1"), limits="db 1", ready="x y"
    )
    core.run(id="r2", w=fn("cpu 2, gpu 1"))
    assert core.decide() == ["x@a", "y@b"]
    core.remove("r1")
    assert core.states("x y z") == "cancelled cancelled cancelled"
    assert core.used("b") == {}
    assert core.decide() == ["w@a"]
    assert list(core.state.runs) == ["r2"]


def test_removed_run_does_not_announce_its_end(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"))
    core.decide()
    core.finish("x")
    core.remove()
    assert core.decide() == []


def test_late_events_of_a_removed_run_change_nothing(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1", retries=1), y=fn("cpu 1"))
    core.decide()
    core.remove()
    core.finish("x y")
    core.lose("x")
    assert core.fail("x") is False
    core.ready("y")
    assert core.states("x y") == "cancelled cancelled"
    assert core.decide() == []
    core.leave("a")


def test_released_functions_end_their_run(core):
    in_every_state(core)
    core.state.forgotten(core["waiting"], core.now)
    assert core.decide() == ["r cancelled"]
    core.state.forgotten(core["running"], core.now)
    core.state.forgotten(core["bad"], core.now)
    assert (
        core.states("done bad running delayed stuck waiting")
        == "finished cancelled cancelled cancelled cancelled cancelled"
    )
    assert core.used("a") == {}
    assert core.outcomes("running") == [("a", "cancelled")]
    assert core.decide() == []


def test_finished_function_can_be_released_at_any_time(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"))
    core.decide()
    core.finish("x")
    core.state.forgotten(core["x"], core.now)
    assert core.decide() == ["y@a"]
    core.finish("y")
    assert core.decide() == ["r finished"]


def test_end_is_announced_once(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"))
    core.decide()
    core.fail("x")
    core.cancel()
    core.state.forgotten(core["x"], core.now)
    assert core.decide() == ["r failed"]
    assert core.decide() == []


@pytest.mark.parametrize("how", ["finishes", "fails", "is cancelled", "is removed"])
def test_ended_run_leaves_no_queues(core, how):
    """Not even while a client holds its results: every decision would inspect the queues."""
    core.nodes(a="cpu 1")
    run = core.run(**many(3, fn("cpu 1")))
    core.decide()
    if how == "finishes":
        for i in range(3):
            core.finish(f"f{i}")
            core.decide()
    elif how == "fails":
        core.fail("f0")
    elif how == "is cancelled":
        core.cancel()
    else:
        core.remove()
    core.decide()
    placement = core.state.placement
    assert not list(placement._order)
    assert not run.backlog.queues


def test_result_lost_after_the_end_is_recomputed(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"))
    for id in ("x", "y"):
        core.decide()
        core.finish(id)
    assert core.decide() == ["r finished"]
    core.state.result_lost(core["x"])
    core.ready("x")
    assert core.decide() == ["x@a"]
    core.finish("x")
    assert core.decide() == []
    assert core.states("x y") == "finished finished"


def test_dependents_of_a_failed_function_are_skipped_by_any_event(core):
    core.nodes(a="cpu 2")
    x = fn("cpu 1")
    core.run(
        **dict.fromkeys("abcde", x),
        ready="a e",
        options={"fail_fast": False, "dependents": [[1, 2], [3], [3], [], []]},
    )
    assert core.decide() == ["a@a", "e@a"]
    assert not core.fail("a")
    assert core.states("a b c d e") == "failed skipped skipped skipped running"
    core.finish("e")
    assert core.decide() == ["r failed"]


def test_inputs_of_only_failed_functions_are_skipped(core):
    core.nodes(a="cpu 2")
    x = fn("cpu 1")
    core.run(
        **dict.fromkeys("abcd", x),
        ready="a b",
        options={"fail_fast": False, "dependents": [[2], [2], [3], []]},
    )
    core.decide()
    core.fail("a")
    assert core.states("a b c d") == "failed running skipped skipped"
    core.state.lost(core["b"], core.now)  # Dask takes it back
    core.state.unneeded(core["b"], core.now)
    assert core.states("b") == "skipped"
    assert core.decide() == ["r failed"]


def test_functions_unneeded_for_other_reasons_are_not_skipped(core):
    core.nodes(a="cpu 2")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"), z=fn("cpu 1"), options={"dependents": [[1], [], []]})
    core.decide()
    core.fail("z")
    before = core.states("x y")
    for id in "xy":
        core.state.unneeded(core[id], core.now)
    assert core.states("x y") == before
