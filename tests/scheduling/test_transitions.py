"""The transition table: a transition that is not in it raises and changes nothing."""

from __future__ import annotations

import pytest
from scheduling.harness import fn

from handoff_dask._scheduling.functions import FINAL, NAMES, TRANSITIONS, IllegalTransition, Retry, State

LEGAL = [(a, b) for a in State for b in State if b in TRANSITIONS[a]]
ILLEGAL = [(a, b) for a in State for b in State if b not in TRANSITIONS[a]]

W, D, R, P = State.WAITING, State.DELAYED, State.READY, State.RUNNING
F, X, S, C = State.FINISHED, State.FAILED, State.SKIPPED, State.CANCELLED


def function_in(core, state):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"), ready="")
    f = core["x"]
    f.run.counts[f.state], f.run.counts[state] = 0, 1
    f.run.unfinished = int(state not in FINAL)
    f.run.ready_by_kind = [int(state is R)]
    f.state = state
    return f


def counts(f):
    return {state: n for state, n in f.run.counts.items() if n}


@pytest.mark.parametrize(("old", "new"), ILLEGAL)
def test_illegal_transitions_raise_and_change_nothing(core, old, new):
    f = function_in(core, old)
    with pytest.raises(IllegalTransition, match=f"'x' of run r: {old.value}.* cannot become {new.value}"):
        f.move(new)
    assert f.state is old
    assert counts(f) == {old: 1}


@pytest.mark.parametrize(("old", "new"), LEGAL)
def test_legal_transitions_are_counted(core, old, new):
    f = function_in(core, old)
    f.move(new)
    assert f.state is new
    assert counts(f) == {new: 1}
    assert f.run.complete() == (new in FINAL)


def test_transition_table():
    assert set(TRANSITIONS) == set(State)
    assert {a for a, b in LEGAL if b is P} == {R}, "only ready functions are placed"
    assert {a for a in State if not TRANSITIONS[a]} == {C}
    assert TRANSITIONS[X] == TRANSITIONS[S] == {W}, "a failed function can only be retried"
    assert TRANSITIONS[F] <= {W, C}, "a result can only be lost"
    assert all(not TRANSITIONS[a] <= FINAL or a in FINAL for a in State)
    for state in {W, D, R, P}:
        assert TRANSITIONS[state] >= FINAL, "the end of a run can come in any non-final state"
    assert {state: state.value for state in State} == NAMES


# Events that come too late, or do not apply to the state of the function, are ignored.

QUIET = {
    "ready": (D, R, P, F, X, S, C),
    "withdrawn": (W, P, F, X, S, C),
    "refused": (W, D, R, F, X, S, C),
    "returned": (W, D, R, F, X, S, C),
    "retried": (W, D, R, P, F, C),
    "released": (F, X, S, C),
    "finished": (F, X, S, C),
    "failed": (W, D, R, F, X, S, C),
    "abandoned": (F, X, S, C),
    "lost": (W, D, R, F, X, S, C),
    "result_lost": (W, D, R, P, X, S, C),
    "skipped": (F, X, S, C),
    "forgotten": (F, X, S, C),
}


@pytest.mark.parametrize(("event", "state"), [(e, s) for e, states in QUIET.items() for s in states])
def test_inapplicable_events_change_nothing(core, event, state):
    f = function_in(core, state)
    before = f.run.status
    takes_no_time = {"withdrawn", "refused", "result_lost", "returned", "retried", "released"}
    getattr(core.state, event)(f, *([] if event in takes_no_time else [0.0]))
    assert f.state is state
    assert f.attempts == ()
    assert f.run.status is before
    assert core.decide() == []


FINAL_EVENTS = {
    "finished": (F, "finished"),
    "abandoned": (X, "failed"),
    "skipped": (S, "finished"),  # nothing failed before
    "forgotten": (C, "cancelled"),
}


@pytest.mark.parametrize("event", FINAL_EVENTS)
@pytest.mark.parametrize("state", [W, D, R, P])
def test_final_events_apply_in_any_state(core, event, state):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"), ready="")
    f = core["x"]
    if state is D:
        f.retry = Retry(not_before=5.0)
    if state is not W:
        core.ready("x")
    if state is P:
        core.decide()
    assert f.state is state
    getattr(core.state, event)(f, 1.0)
    core.state.check()
    assert (f.state, core.decide()) == (FINAL_EVENTS[event][0], [f"r {FINAL_EVENTS[event][1]}"])
    assert core.used("a") == {}
    core.wait(10)
    assert core.decide() == []
    assert core.state.next_wake() is None


@pytest.mark.parametrize("state", [F, X, S, C])
def test_function_that_becomes_ready_after_the_end_is_too_late(core, state):
    """Its result was lost after a cancellation, or a client asks for it. It must not stay parked."""
    f = function_in(core, state)
    core.cancel()
    assert core.decide() == ["r cancelled"]
    core.ready("x")
    assert core.decide() == ["x too late"]
    assert f.state is state
    assert core.decide() == []
