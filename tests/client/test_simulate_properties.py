"""Properties of every simulation, for any DAG, nodes, durations and options."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from helpers import dag_of, examples
from hypothesis import given, settings
from hypothesis import strategies as st

from handoff_dask import DAG, AllocationError, Argument, Collocated, Function, InvalidDAGError, simulate
from handoff_dask._model.resources import to_units


class RandomAllocator:
    """Places functions in random order on random nodes with enough free capacity; skips some."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def allocate(self, ready, free):
        chosen = {}
        shuffled = list(ready)
        self.random.shuffle(shuffled)
        for f in shuffled:
            if chosen and self.random.random() < 0.3:
                continue
            suitable = [
                name
                for name in (free if f.nodes is None else f.nodes)
                if name in free and all(free[name].get(r, 0) >= amount for r, amount in f.cost.items())
            ]
            if suitable:
                chosen[f.id] = self.random.choice(suitable)
                for r, amount in f.cost.items():
                    free[chosen[f.id]][r] -= amount
        return chosen


def code(*args):
    raise AssertionError("a simulation must not call code")


AMOUNTS = st.sampled_from([0.5, 1, 1 / 3, 2 / 3, 2])
SECONDS = st.sampled_from([0, 0.1, 0.3, 1, 1, 2.5, 7]) | st.floats(0, 10)


@st.composite
def problems(draw):
    """A DAG, nodes that can usually hold it, durations, and options of the run."""
    names = [f"n{i}" for i in range(draw(st.integers(1, 4)))]
    nodes = {
        name: {"cpu": draw(st.integers(2, 4)), "memory": draw(st.sampled_from([10, 30]))} for name in names
    }
    gpus = draw(st.sampled_from([0, 0, 1, 2]))
    if gpus:
        nodes["n0"]["gpu"] = gpus
    dag = DAG("random")
    placed = []
    for i in range(draw(st.integers(1, 14))):
        cost = {"cpu": draw(AMOUNTS)}
        node = None
        where = draw(st.integers(0, 9))
        if where < 2:
            node = draw(st.sampled_from(names))
        elif where < 4 and placed:
            node = Collocated(draw(st.sampled_from(placed)))
        elif where < 6 and gpus:
            cost["gpu"] = draw(st.sampled_from([0.5, 1]))
        if draw(st.booleans()):
            cost["memory"] = draw(st.sampled_from([1, 5, 10]))
        if draw(st.integers(0, 3)) == 0:
            cost["db"] = 1
        args = draw(st.lists(st.sampled_from([f"f{j}" for j in range(i)]), max_size=2)) if i else []
        inline = draw(st.integers(0, 9)) == 0
        if not inline:
            placed.append(f"f{i}")
            args = [
                Argument(id) if draw(st.integers(0, 9)) == 0 and dag[id].type == "regular" else id
                for id in args
            ]
        dag.add_function(
            Function(
                f"f{i}",
                code,
                args=args,
                cost=cost,
                node=None if inline else node,
                type="inline" if inline else "regular",
                priority=draw(st.sampled_from([0, 0, 0, 1])),
            )
        )
    durations = defaultdict(float, {id: draw(SECONDS) for id in dag})
    options = {
        "limits": {"db": draw(st.integers(1, 2))},
        "max_concurrency": draw(st.sampled_from([None, None, 1, 3])),
    }
    return dag, nodes, durations, options


def simulate_problem(problem, **options):
    """Return the schedule, or None if no schedule is possible."""
    dag, nodes, durations, run_options = problem
    try:
        return simulate(dag, nodes, durations, **run_options, **options)
    except (AllocationError, InvalidDAGError):
        return None  # pins and collocation contradict each other


def running_sets(schedule):
    """Yield the records of all running functions, for each moment at which a function starts."""
    records = [r for r in schedule.records.values() if r.stopped > r.started]
    for moment in {r.started for r in records}:
        yield [r for r in records if r.started <= moment < r.stopped]


def in_use(records, name):
    return sum(to_units(r.cost.get(name, 0)) for r in records)


def check(schedule, dag, nodes, durations, options):
    placed = {id for id in dag if dag[id].type != "inline"}
    assert set(schedule.records) == placed
    for id, r in schedule.records.items():
        assert (r.status, len(r.attempts), r.node in nodes) == ("finished", 1, True)
        assert r.attempts[0].queued <= r.started <= r.stopped <= schedule.makespan
        assert r.stopped == r.started + durations[id]
        needed = list(dag[id].dependencies)
        for d in needed:  # grows by the dependencies of inline functions
            if dag[d].type == "inline":
                needed += dag[d].dependencies
            else:
                assert schedule.records[d].stopped <= r.attempts[0].queued
        pin = dag[id].node
        if isinstance(pin, Collocated):
            assert r.node == schedule.allocations[pin.id]
        elif pin is not None:
            assert r.node in pin
    for running in running_sets(schedule):
        for name, capacity in nodes.items():
            here = [r for r in running if r.node == name]
            assert len(here) <= max(1, int(capacity["cpu"]))
            for resource in ("cpu", "memory", "gpu"):
                assert in_use(here, resource) <= to_units(capacity.get(resource, 0))
            whole = [i for r in here if r.cost.get("gpu") == 1 for i in r.devices["gpu"]]
            assert len(set(whole)) == len(whole)
        assert in_use(running, "db") <= to_units(options["limits"]["db"])
        assert options["max_concurrency"] is None or len(running) <= options["max_concurrency"]
    assert schedule.makespan == max((r.stopped for r in schedule.records.values()), default=0)
    for shares in schedule.utilisation.values():
        assert all(-1e-9 <= share <= 1 + 1e-9 for share in shares.values())


@pytest.mark.parametrize("strategy", ["best_fit", "load_balanced", "first_available", "custom"])
@given(problem=problems(), known=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=examples(60), deadline=None)
def test_schedules_respect_all_constraints_and_are_deterministic(strategy, problem, known, seed):
    def run_once():
        allocator = RandomAllocator(seed) if strategy == "custom" else strategy
        return simulate_problem(problem, allocation_strategy=allocator, known=known)

    schedule = run_once()
    if schedule is None:
        return
    check(schedule, *problem)
    again = run_once()
    assert dict(again.records) == dict(schedule.records)
    assert again.bounds == schedule.bounds


@given(problem=problems(), seed=st.integers(0, 10**6))
@settings(max_examples=examples(100), deadline=None)
def test_no_schedule_beats_the_bounds(problem, seed):
    schedules = [
        simulate_problem(problem, allocation_strategy=strategy)
        for strategy in (
            "best_fit",
            "load_balanced",
            "first_available",
            *(RandomAllocator(seed + i) for i in range(5)),
        )
    ]
    if schedules[0] is None:
        return
    bounds = schedules[0].bounds
    shortest = min(s.makespan for s in schedules)
    for s in schedules:
        assert s.bounds == bounds, "independent of the placement"
        assert s.lower_bound <= s.makespan
    for name, bound in bounds.items():
        assert bound <= shortest * (1 + 1e-9), name


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12))
@settings(max_examples=examples(50), deadline=None)
def test_one_core_is_never_idle(seconds):
    dag = dag_of(*(Function(i, code, cost={"cpu": 1}) for i in range(len(seconds))))
    s = simulate(dag, {"a": {"cpu": 1}}, dict(enumerate(seconds)))
    assert s.makespan == s.lower_bound == sum(seconds)
    assert s.utilisation == {"a": {"cpu": 1}}
