"""Data of timelines: lanes, utilisation, the critical path."""

import itertools

import pytest
from helpers import dag_of, identity
from hypothesis import given, settings
from hypothesis import strategies as st

import handoff_dask as handoff
from handoff_dask import Attempt, Function, Records
from handoff_dask._display.timeline_data import family_of, level_of, prepare
from handoff_dask._model.records import Summary

NODES = {"a": {"cpu": 4, "gpu": 1}, "b": {"cpu": 2}}


def records_of(attempts, cost=None):
    """Return records, given id → attempts."""
    cost = cost or {}
    return Records(attempts, lambda id: Summary("finished", attempts[id]), lambda id: cost.get(id, {}))


times = st.integers(0, 40).map(lambda n: 1000 + n / 4)


@st.composite
def attempts(draw):
    """Draw an attempt as a run may record it, possibly with missing times."""
    queued, started, stopped = sorted(draw(st.tuples(times, times, times)))
    outcome = draw(st.sampled_from(["finished", "failed", "lost", "cancelled", "running"]))
    known = st.booleans() if outcome in ("lost", "cancelled") else st.just(outcome != "running")
    return Attempt(
        1,
        draw(st.sampled_from(["a", "b"])),
        queued,
        started if draw(known) else None,
        None if outcome == "running" else stopped,
        outcome,
    )


drawn = st.lists(st.tuples(attempts(), st.sampled_from([0, 0.1, 0.25, 1, 3])), max_size=25)


@given(drawn)
def test_lanes_never_overlap_and_every_attempt_has_one(made):
    data = prepare(records_of({n: (a,) for n, (a, _) in enumerate(made)}))
    assert sorted(bar.id for bar in data.bars) == list(range(len(made)))
    for node, bars in data.by_node.items():
        assert {bar.lane for bar in bars} == set(range(data.lanes[node]))
        for lane in range(data.lanes[node]):
            inside = [bar for bar in bars if bar.lane == lane]
            assert all(x.stopped <= y.started for x, y in itertools.pairwise(inside))
    for bar in data.bars:
        assert 0 <= bar.started <= bar.stopped <= data.end
        attempt = made[bar.id][0]
        assert bar.guessed == (attempt.started is None)
        if attempt.started is not None:
            assert bar.started + data.begin == attempt.started
        assert bar.started + data.begin >= attempt.queued


@given(drawn)
def test_utilisation_is_the_sum_of_the_costs_of_running_attempts(made):
    costs = {n: {"cpu": amount} for n, (_, amount) in enumerate(made)}
    data = prepare(records_of({n: (a,) for n, (a, _) in enumerate(made)}, costs))
    for (node, resource), level in data.utilisation.items():
        for time in {t + d for bar in data.bars for t in (bar.started, bar.stopped) for d in (0, 0.1, -0.1)}:
            running = [b for b in data.by_node[node] if b.started <= time < b.stopped]
            wanted = sum(1 if resource == "functions" else b.cost["cpu"] for b in running)
            assert level.at(time) == pytest.approx(wanted, abs=1e-6)
        assert level.amounts[-1:] in ((), (0.0,))
    for time in {bar.started for bar in data.bars}:
        assert data.waiting.at(time) == sum(b.queued <= time < b.started for b in data.bars)


@given(drawn)
def test_waits_are_drawn_where_their_lane_is_empty(made):
    data = prepare(records_of({n: (a,) for n, (a, _) in enumerate(made)}))
    for bar, since in data.waits:
        assert bar.queued <= since < bar.started
        for other in data.by_node[bar.node]:
            if other.lane == bar.lane and other is not bar:
                assert other.stopped <= since or other.started >= bar.started


functions = st.lists(
    st.tuples(
        st.sets(st.integers(0, 11), max_size=3),
        st.sampled_from([{}, {"cpu": 1}, {"cpu": 2}, {"cpu": 0.5}, {"cpu": 1, "gpu": 1}]),
        st.integers(0, 4),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None)
@given(functions)
def test_each_step_of_the_critical_path_delayed_the_next(made):
    dag = dag_of(
        *(
            Function(n, lambda *a: 0, args=[d for d in sorted(inputs) if d < n], cost=cost)
            for n, (inputs, cost, _) in enumerate(made)
        )
    )
    schedule = handoff.simulate(dag, NODES, lambda id: made[id][2])
    data = schedule.timeline()._parts[0][1]
    path = data.critical_path
    assert path[-1].bar.stopped == data.end == schedule.makespan
    assert len({step.bar.id for step in path}) == len(path)
    assert path[0].reason == "start"
    for before, step in itertools.pairwise(path):
        assert before.bar.stopped <= step.bar.started
        if step.reason == "input":
            assert before.bar.id in dag[step.bar.id].dependencies
        else:
            assert step.reason == "capacity"
            assert before.bar.node == step.bar.node
            assert step.bar.queued < before.bar.stopped


def attempt(node="a", queued=0.0, started=0.0, stopped=1.0, number=1, outcome="finished"):
    return Attempt(number, node, queued, started, stopped, outcome)


def path_of(attempts, inputs, **more):
    data = prepare(records_of(attempts, more.get("cost")), inputs, more.get("capacities"))
    return [(step.bar.id, step.bar.attempt, step.reason) for step in data.critical_path]


def test_a_retry_follows_its_previous_attempt():
    tries = (attempt(stopped=2, outcome="failed"), attempt("b", 3, 3, 4, number=2))
    assert path_of({"f": tries}, {}) == [("f", 1, "start"), ("f", 2, "retry")]


def test_the_critical_path_includes_recomputing_a_lost_result():
    load = (attempt(), attempt("b", 2, 2, 5, number=2))
    found = path_of({"load": load, "use": (attempt("a", 5, 5, 6),)}, {"use": ["load"]})
    assert found == [("load", 1, "start"), ("load", 2, "retry"), ("use", 1, "input")]


def test_an_attempt_that_waited_without_a_scarce_resource_follows_its_input():
    """For example, it waited for a limit of the run: another attempt ended, but the node had had room."""
    attempts = {"in": (attempt(),), "other": (attempt(stopped=3),), "f": (attempt("a", 1, 3, 4),)}
    costs = {id: {"cpu": 1} for id in attempts}
    capacities = {"a": {"cpu": 4, "threads": 4}}
    for asked, reason in ((capacities, "input"), ({"a": {"cpu": 1, "threads": 4}}, "capacity")):
        found = path_of(attempts, {"f": ["in"]}, cost=costs, capacities=asked)
        assert found[-1] == ("f", 1, reason)
        assert found[-2][0] == {"input": "in", "capacity": "other"}[reason]


def test_no_critical_path_without_dependencies():
    assert path_of({"f": (attempt(),)}, None) == []
    assert prepare({}).critical_path == ()


def test_the_critical_path_of_instantaneous_attempts_ends():
    attempts = {n: (attempt("a", 0, 1, 1),) for n in range(3)}
    inputs = {0: [1], 1: [2], 2: [0]}  # impossible in a DAG, but clocks that disagree can produce it
    assert len(path_of(attempts, inputs)) == 3


def test_running_attempts_are_drawn_until_now():
    running = Attempt(1, "a", 5.0)
    data = prepare(
        records_of({"f": (attempt(queued=5.0, started=6.0, stopped=8.0),), "g": (running,)}), now=9
    )
    assert data.begin == 5
    assert [(b.id, b.started, b.stopped, b.guessed) for b in data.bars] == [
        ("f", 1, 3, False),
        ("g", 3, 4, True),  # its node had room once the other attempt had ended
    ]


def test_functions_without_attempts_are_counted():
    data = prepare(records_of({"f": (attempt(),), "g": (), "h": ()}))
    assert data.counts == {"finished": 1, "not run": 2}


def test_idle_nodes_are_included():
    data = prepare(records_of({"f": (attempt("b"),)}), None, {"a": {"cpu": 2}, "b": {"cpu": 1}})
    assert data.lanes == {"a": 0, "b": 1}


def test_limits_of_a_run_are_not_resources_of_a_node():
    costs = {"f": {"cpu": 1, "db": 2}}
    data = prepare(records_of({"f": (attempt(),)}, costs), None, {"a": {"cpu": 2, "threads": 2}})
    assert set(data.utilisation) == {("a", "cpu")}
    assert data.capacity("a", "cpu") == 2
    assert set(prepare(records_of({"f": (attempt(),)}, costs)).utilisation) == {("a", "cpu"), ("a", "db")}


@pytest.mark.parametrize(
    ("id", "family"),
    [
        ("load-3", "load"),
        ("load", "load"),
        (("train", 1), "train"),
        (7, "numbered"),
        ((), "()"),
        ("x_10", "x"),
    ],
)
def test_family(id, family):
    assert family_of(id) == family


def test_levels():
    level = level_of([(0, 2, 1), (1, 3, 0.5), (2, 2, 9)])
    assert level.times == (0, 1, 2, 3)
    assert level.amounts == (1, 1.5, 0.5, 0)
    assert [level.before(1), level.at(1), level.before(0), level.at(9)] == [1, 1.5, 0, 0]
    assert level.peak == 1.5
    assert level.mean(4) == pytest.approx(3 / 4)
    assert level_of([]).mean(0) == level_of([]).peak == 0


def test_dependencies_through_inline_functions():
    dag = dag_of(
        Function("load", list),
        Function("scale", identity, args=["load"], type="inline"),
        Function("use", identity, args=["scale"]),
    )
    result = handoff.execute_local(dag)
    for found in (result.records._inputs(), handoff.simulate(dag, NODES, 1).records._inputs()):
        assert list(found["use"]) == ["load"]
