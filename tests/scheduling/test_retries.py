"""Retries: how many, when and where."""

from __future__ import annotations

import pytest
from scheduling.harness import Core, fn, many

from handoff_dask._model.retry import RetryPolicy
from handoff_dask._scheduling.explain import explain_loss


def retry(core, id):
    """Report a function ready and decide, as after each retried failure."""
    core.ready(id)
    return core.decide()


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_number_of_retries(core, retries):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1", retries=retries))
    core.decide()
    for _ in range(retries):
        assert core.fail("x", error="boom") is True
        assert core.states("x") == "waiting"
        assert core.used("a") == {}
        assert retry(core, "x") == ["x@a"]
    assert core.fail("x", error="boom", traceback="line 1") is False
    assert core.decide() == ["r failed"]
    assert core.states("x") == "failed"
    assert [a.number for a in core["x"].attempts] == list(range(1, retries + 2))
    assert [f.id for f in core["x"].run.failed] == ["x"]
    last = core["x"].attempts[-1]
    assert (last.outcome, last.error, last.traceback) == ("failed", "boom", "line 1")


def test_a_retry_that_succeeds(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1", retries=1))
    core.decide()
    core.fail("x", started=1.0, stopped=2.0)
    retry(core, "x")
    core.finish("x")
    assert core.decide() == ["r finished"]
    assert core.outcomes("x") == [("a", "failed"), ("a", "finished")]
    assert core["x"].attempts[0][3:5] == (1.0, 2.0)


def test_errors_that_are_not_retryable(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1", retries=3))
    core.decide()
    assert core.fail("x", retryable=False) is False
    assert core.decide() == ["r failed"]


def test_delay_and_backoff(core):
    core.nodes(a="cpu 1")
    policy = RetryPolicy(max_retries=4, delay=2.0, backoff=3.0, max_delay=20.0)
    core.run(x=fn("cpu 1", policy=policy))
    core.wait(100)
    core.decide()
    for delay in (2.0, 6.0, 18.0, 20.0):
        assert core.fail("x")
        core.wait(0.5)
        assert retry(core, "x") == []
        assert core.states("x") == "delayed"
        assert core.state.next_wake() == core.now + delay - 0.5
        core.wait(delay - 1)
        assert core.decide() == []
        core.wait(0.5)
        assert core.decide() == ["x@a"]
        assert core.state.next_wake() is None
    assert not core.fail("x")


def test_delayed_function_holds_no_resources_and_blocks_nothing(core):
    core.nodes(a="cpu 1, gpu 1")
    core.run(
        x=fn("cpu 1, gpu 1", limit="db 1", policy=RetryPolicy(delay=5.0)),
        y=fn("cpu 1, gpu 1", limit="db 1"),
        limits="db 1",
    )
    assert core.decide() == ["x@a"]
    core.fail("x")
    assert retry(core, "x") == ["y@a"]
    core.wait(5)
    assert core.decide() == []
    assert core.states("x") == "ready"
    core.finish("y")
    assert core.decide() == ["x@a"]


def test_delay_starts_at_the_failure(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1", policy=RetryPolicy(delay=5.0)))
    core.decide()
    core.fail("x")
    core.wait(5)
    assert retry(core, "x") == ["x@a"]


def test_delay_survives_a_lost_input(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1", policy=RetryPolicy(delay=5.0)))
    core.decide()
    core.fail("x")
    core.ready("x")
    core.wait(1)
    core.state.withdrawn(core["x"])
    assert core.states("x") == "waiting"
    assert core.state.next_wake() is None
    core.wait(1)
    assert retry(core, "x") == []
    assert core.state.next_wake() == 5
    core.wait(3)
    assert core.decide() == ["x@a"]


def test_function_ready_before_the_end_of_its_delay(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1", policy=RetryPolicy(delay=5.0)))
    core.decide()
    core.fail("x")
    for _ in range(3):
        core.ready("x")
        core.state.withdrawn(core["x"])
    core.ready("x")
    core.wait(5)
    assert core.decide() == ["x@a"]
    assert core.decide() == []


def test_simultaneous_failures(core):
    core.nodes(a="cpu 3")
    core.run(id="q", **many(1, fn("cpu 1", policy=RetryPolicy(delay=5.0)), "g"))
    core.run(**many(2, fn("cpu 1", policy=RetryPolicy(delay=5.0))))
    assert core.decide() == ["g0@a", "f0@a", "f1@a"]
    for id in ("f1", "g0", "f0"):
        core.fail(id)
        core.ready(id)
    core.wait(5)
    assert core.decide() == ["g0@a", "f0@a", "f1@a"]


def test_jitter_uses_the_given_random_numbers():
    draws = iter([0.5, 0.0])
    core = Core(lambda: next(draws))
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1", policy=RetryPolicy(delay=2.0, backoff=1.0, jitter=0.5)))
    core.decide()
    core.fail("x")
    retry(core, "x")
    assert core.state.next_wake() == 2.5
    core.wait(2.5)
    core.decide()
    core.fail("x")
    retry(core, "x")
    assert core.state.next_wake() == 4.5


def test_next_wake_is_the_earliest_delay(core):
    core.nodes(a="cpu 3")
    core.run(**{f"f{d}": fn("cpu 1", policy=RetryPolicy(delay=d)) for d in (7, 3, 5)})
    core.decide()
    for id in ("f7", "f3", "f5"):
        core.fail(id)
        core.ready(id)
    assert core.decide() == []
    assert core.state.next_wake() == 3
    core.wait(6)
    assert core.decide() == ["f3@a", "f5@a"]
    assert core.state.next_wake() == 7


def test_cancelled_retries_set_no_wake(core):
    core.nodes(a="cpu 3")
    core.run(x=fn("cpu 1", policy=RetryPolicy(delay=5.0)))
    core.decide()
    core.fail("x")
    core.ready("x")
    core.cancel()
    assert core.decide() == ["r cancelled"]
    assert core.state.next_wake() is None
    core.wait(10)
    assert core.decide() == []


# elsewhere


def test_retry_goes_to_another_node(core):
    core.nodes(a="cpu 1", b="cpu 1", c="cpu 1")
    core.run(x=fn("cpu 1", retries=5))
    order = []
    for _ in range(5):
        order += core.decide()
        core.fail("x")
        core.ready("x")
    order += core.decide()
    assert order[:3] == ["x@a", "x@b", "x@c"]
    assert order[3:] == ["x@a"] * 3  # has failed on every node: any node will do


def test_retry_waits_for_another_node(core):
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(x=fn("cpu 1", retries=1), y=fn("cpu 1"))
    assert core.decide() == ["x@a", "y@b"]
    core.fail("x")
    assert retry(core, "x") == []
    core.finish("y")
    assert core.decide() == ["x@b"]


def test_retry_returns_if_no_other_node_is_eligible(core):
    core.nodes(a="cpu 2", b="cpu 1")
    core.run(x=fn("cpu 2", retries=1))
    core.decide()
    core.fail("x")
    assert retry(core, "x") == ["x@a"]


def test_retry_returns_if_the_other_node_leaves_or_pauses(core):
    core.nodes(a="cpu 1", b="cpu 1", c="cpu 1")
    core.run(x=fn("cpu 1", retries=1), y=fn("cpu 1", pin="b"), z=fn("cpu 1", pin="c"))
    core.decide()
    core.fail("x")
    assert retry(core, "x") == []
    core.leave("b")
    assert core.decide() == []
    core.pause("c")
    assert core.decide() == ["x@a"]


def test_joining_node_takes_a_retry(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1", retries=2))
    core.decide()
    core.fail("x")
    core.ready("x")
    core.nodes(b="cpu 1")
    assert core.decide() == ["x@b"]


def test_elsewhere_false_allows_any_node(core):
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(x=fn("cpu 1", policy=RetryPolicy(elsewhere=False)))
    core.decide()
    core.fail("x")
    assert retry(core, "x") == ["x@a"]


def test_pinned_function_is_retried_on_its_pin(core):
    core.nodes(a="cpu 1", b="cpu 1", c="cpu 1")
    core.run(x=fn("cpu 1", pin="b", retries=1), y=fn("cpu 1", pin="b c", retries=1))
    assert core.decide() == ["x@b", "y@c"]
    core.fail("x")
    core.fail("y")
    core.ready("x y")
    assert core.decide() == ["x@b"]
    core.finish("x")
    assert core.decide() == ["y@b"]


def test_avoided_node_serves_other_functions(core):
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(x=fn("cpu 1", retries=1), y=fn("cpu 1"), ready="x")
    core.decide()
    core.fail("x")
    core.ready("x y")
    assert core.decide() == ["x@b", "y@a"]


def test_untransferable_result_is_a_failed_attempt(core):
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(x=fn("cpu 1", policy=RetryPolicy(max_retries=1, delay=5.0)), y=fn(pin="b"), ready="x")
    core.decide()
    core.finish("x")
    core.ready("y")
    core.decide()
    assert core.state.unmovable(core["x"], core.now, "it does not pickle", "line 1") is True
    assert core.state.unmovable(core["x"], core.now, "told twice") is False
    core.state.orphan_ended(core.state.taken_back(core["y"], core.now))
    assert core.states("x y") == "waiting waiting"
    assert core["x"].attempts[0][5:8] == ("failed", "it does not pickle", "line 1")
    core.ready("x")
    assert core.states("x") == "delayed"
    core.wait(5)
    assert core.decide() == ["x@b"], "retried on another node"
    core.finish("x")
    core.ready("y")
    assert core.decide() == ["y@b"]
    core.finish("y")
    assert core.decide() == ["r finished"]
    assert core.outcomes("x") == [("a", "failed"), ("b", "finished")]
    assert [a.number for a in core["x"].attempts] == [1, 2]


@pytest.mark.parametrize("retries", [0, 2])
def test_untransferable_result_fails_permanently(core, retries):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1", retries=retries), y=fn("cpu 1"), ready="x", options={"fail_fast": False})
    for _ in range(retries + 1):
        if core["x"].state.value == "waiting":
            core.ready("x")
        assert "x@a" in core.decide()
        core.finish("x")
        core.state.unmovable(core["x"], core.now, "it does not pickle")
    core.ready("x")
    assert core.decide() == ["x unplaceable"], "it has failed permanently"
    assert core.states("x") == "failed"
    assert core.outcomes("x") == [("a", "failed")] * (retries + 1)
    assert [f.id for f in core["x"].run.failed] == ["x"]


def test_untransferable_result_of_a_cancelled_run_is_ignored(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1", retries=1), y=fn("cpu 1"), ready="x")
    core.decide()
    core.finish("x")
    core.state.run_cancelled("r")
    assert core.state.unmovable(core["x"], core.now, "it does not pickle") is False
    assert core.outcomes("x") == [("a", "finished")]


# retries that a client requests


def test_requested_retry_restores_all_retries(core):
    core.nodes(a="cpu 1, threads 3")
    run = core.run(
        x=fn("cpu 0.25", retries=1), y=fn(), z=fn("cpu 0.5"), ready="x z", options={"fail_fast": False}
    )
    assert core.decide() == ["x@a", "z@a"]
    for _ in range(2):
        core.fail("x")
        core.ready("x")
        core.decide()
    core.state.skipped(core["y"], core.now)
    assert core.states("x y z") == "failed skipped running"
    assert core.state.retried(core["x"])
    assert core.state.retried(core["y"])
    assert run.failed == []
    core.ready("x")
    assert core.decide() == ["x@a"]
    assert core.fail("x")
    core.ready("x")
    core.decide()
    core.finish("x")
    core.ready("y")
    assert core.decide() == ["y@a"]
    core.finish("y z")
    assert core.decide() == ["r finished"]
    assert [a.number for a in core["x"].attempts] == [1, 2, 3, 4]


def test_no_requested_retry_after_the_end_of_the_run(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"))
    core.decide()
    core.fail("x")
    assert core.decide() == ["r failed"]
    assert not core.state.retried(core["x"])
    core.ready("x")
    assert core.decide() == ["x too late"]


def test_finished_attempt_has_no_error(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"))
    core.decide()
    with pytest.raises(AssertionError, match="has finished, with the error broken"):
        core["x"].close_attempt("finished", None, None, "broken")
    core.finish("x")
    core["x"].attempts = (core["x"].attempts[0]._replace(error="broken"),)
    with pytest.raises(AssertionError, match="'x'"):
        core.state.check()
    core["x"].attempts = ()


@pytest.mark.parametrize("ends", [1, 3])
def test_function_lost_too_often_lists_its_lost_attempts(core, ends):
    core.run(x=fn("cpu 1"), options={"wait_for_nodes": 9.0})
    for i in range(ends):
        core.nodes(**{f"n{i}": "cpu 1"})
        core.decide()
        core.finish("x")
        core.leave(f"n{i}")
        core.state.result_lost(core["x"])
        core.ready("x")
    for i in range(2):
        core.nodes(**{f"m{i}": "cpu 1"})
        assert f"x@m{i}" in core.decide()
        if not i:
            core.leave("m0")
            core.ready("x")
    text = explain_loss(core["x"], 1)
    assert f"2 nodes were lost while it ran, and {ends} that held its result after it had finished" in text
    core.state.abandoned(core["x"], core.now, text)
    assert [(a.outcome, a.error) for a in core["x"].attempts] == [
        *[("finished", None)] * ends,
        ("lost", None),
        ("lost", text),
    ]
    core.state.check()


def test_requested_retry_of_an_unplaceable_function(core):
    core.nodes(a="cpu 2", b="gpu 1")
    run = core.run(x=fn("gpu 1"), y=fn("gpu 1"), z=fn("cpu 1"), options={"fail_fast": False})
    core.leave("b")
    core.decide()
    core.wait(31)
    assert core.decide() == ["x unplaceable", "y unplaceable"]
    assert [s.function_ids for s in run.shortfalls] == [("x", "y")]
    core.nodes(b="gpu 1")
    assert core.state.retried(core["x"])
    assert [s.function_ids for s in run.shortfalls] == [("y",)]
    core.ready("x")
    assert core.decide() == ["x@b"]
    assert core.state.retried(core["y"])
    assert run.shortfalls == ()
    core.ready("y")
    core.finish("x")
    core.decide()
    core.finish("y z")
    assert core.decide() == ["r finished"]
