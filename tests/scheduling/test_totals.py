"""Counts of what has ended, and of what is ready by kind of cost."""

from __future__ import annotations

from scheduling.harness import fn, many


def attempts(core):
    return {outcome: n for outcome, n in core.state.totals.attempts.items() if n}


def runs(core):
    return {status: n for status, n in core.state.totals.runs.items() if n}


def test_attempts_are_counted_by_outcome(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1", retries=3))
    core.decide()
    assert attempts(core) == {}
    core.fail("x")
    core.ready("x")
    core.decide()
    core.lose("x")
    core.ready("x")
    core.decide()
    core.finish("x")
    assert attempts(core) == {"failed": 1, "lost": 1, "finished": 1}
    assert core.state.totals.failures == 0


def test_a_result_that_cannot_be_moved_counts_as_a_failed_attempt_too(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1", retries=1), y=fn("cpu 1"), ready="x")
    core.decide()
    core.finish("x")
    assert core.state.unmovable(core["x"], core.now, "too large")
    assert attempts(core) == {"finished": 1, "failed": 1}


def test_permanent_failures_are_counted_without_their_retries(core):
    core.nodes(a="cpu 2")
    core.run(x=fn("cpu 1", retries=1), y=fn("cpu 1"), options={"fail_fast": False})
    core.decide()
    core.fail("x")
    core.fail("y")
    assert core.state.totals.failures == 1
    core.ready("x")
    core.decide()
    core.fail("x")
    assert core.state.totals.failures == 2
    assert attempts(core) == {"failed": 3}


def test_runs_are_counted_by_final_status(core):
    core.nodes(a="cpu 3")
    for id in ("good", "bad", "ugly"):
        core.run(id=id, **{id[0]: fn("cpu 1")})
    core.decide()
    assert runs(core) == {}
    core.finish("g")
    core.fail("b")
    core.cancel("ugly")
    core.run(id="impossible", i=fn("gpu 1"))
    core.decide()
    assert runs(core) == {"finished": 1, "failed": 2, "cancelled": 1}


def test_counts_outlive_their_runs(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"))
    core.decide()
    core.finish("x")
    core.decide()
    core.remove()
    assert attempts(core) == runs(core) == {"finished": 1}


def test_ready_functions_are_counted_by_kind(core):
    core.nodes(a="cpu 2")
    run = core.run(**many(3, fn("cpu 1")), wide=fn("cpu 2"), late=fn("cpu 2"), ready="f0 f1 f2 wide")
    assert run.ready_by_kind == [3, 1]
    core.decide()
    assert run.ready_by_kind == [1, 1]
    core.ready("late")
    assert run.ready_by_kind == [1, 2]
    core.state.withdrawn(core["late"])
    assert run.ready_by_kind == [1, 1]
    core.cancel()
    assert run.ready_by_kind == [0, 0]


def test_functions_of_a_run_that_waits_for_nodes_are_ready(core):
    core.nodes(a="cpu 1")
    run = core.run(x=fn("gpu 1"), y=fn("cpu 1"), options={"wait_for_nodes": 10})
    assert core.decide() == []
    assert run.ready_by_kind == [1, 1]
