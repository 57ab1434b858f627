"""Estimates: what is known of functions before they run, from the most to the least specific source."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduling.harness import Core, fn

from handoff_dask._model.used import Used
from handoff_dask._scheduling.estimates import MAX_PEAKS, UNKNOWN, Estimates
from handoff_dask._scheduling.spec import Hint, Known, Pace
from handoff_dask._scheduling.speeds import Speeds


def expected(estimates, *keys):
    return estimates.expected([(key, 0.0) for key in keys])


# ---------------------------------------------------------------------- sources of durations


def test_the_most_specific_source_counts():
    estimates = Estimates()
    assert expected(estimates, "m:train#1 a") == [UNKNOWN]
    estimates.hint("m:train#1 ", Hint(7.0))
    assert expected(estimates, "m:train#1 a") == [7.0], "its code, elsewhere"
    estimates.learn("m:train#1 b", 0.0, 2.0)
    assert expected(estimates, "m:train#1 a") == [2 * UNKNOWN], "its code, here"
    estimates.hint("m:train#1 a", Hint(5.0))
    assert expected(estimates, "m:train#1 a") == [5.0], "its code and stem, elsewhere"
    estimates.learn("m:train#1 a", 0.0, 3.0)
    assert expected(estimates, "m:train#1 a", "m:train#1 b") == [3.0, 2.0], "its code and stem, here"


def test_code_of_the_same_name_teaches_nothing():
    estimates = Estimates()
    estimates.learn("mine:train#1 a", 0.0, 100.0)
    assert not estimates.knows("mine:train#2 a"), "changed since"
    assert not estimates.knows("yours:train#1 a")
    assert estimates.knows("mine:train#1 c")


def test_a_function_that_ran_before_is_known_by_itself(core):
    core.nodes(a="cpu 1")
    known = [Known((("n", 5.0),), 300.0), None, Known((), 100.0)]
    run = core.run(**{name: fn("cpu 1", code="work") for name in "xyz"}, options={"known": known})
    run.estimates.update({})
    assert list(run.estimates.all_seconds()) == [5.0, UNKNOWN, UNKNOWN]
    assert list(run.estimates.known()) == [True, False, False]
    core.decide()
    core.finish("x", took=2.0)
    assert list(run.estimates.latest()) == [5.0, 2.0, 2.0]
    assert list(run.estimates.known()) == [True] * 3


def test_peaks_come_from_the_same_sources_and_are_bounded():
    estimates = Estimates()
    assert list(estimates.peaks("m:f#1 a")) == []
    estimates.hint("m:f#1 ", Hint(1.0, (70.0, 80.0)))
    assert list(estimates.peaks("m:f#1 a")) == [70.0, 80.0]
    estimates.learn("m:f#1 b", 0.0, 1.0, usage=Used(2.0, 50.0, False))
    assert list(estimates.peaks("m:f#1 a")) == [70.0, 80.0], "an estimate of a thread is no measurement"
    for n in range(3 * MAX_PEAKS):
        estimates.learn("m:f#1 b", 0.0, 1.0, usage=Used(2.0, float(n), True))
    assert sorted(estimates.peaks("m:f#1 b")) == list(range(2 * MAX_PEAKS, 3 * MAX_PEAKS)), "the latest"
    assert estimates.peaks("m:f#1 a") == estimates.peaks("m:f#1 b")
    assert set(estimates.cores("m:f#1 a")) == {2.0}


# ---------------------------------------------------------------------- speeds of nodes


def durations(rng, factors, n, sigma, codes=3):
    """Yield (code, node, seconds) of functions whose durations are lognormal within each code."""
    for _ in range(n):
        code = rng.randrange(codes)
        node = rng.choice(list(factors))
        yield (f"code{code}", 0.0), node, factors[node] * 10**code * math.exp(rng.gauss(0, sigma))


@given(st.integers(0, 10**6))
def test_nodes_of_different_speed_are_told_apart(seed):
    speeds = Speeds()
    factors = {"slow": 4.0, "middle": 2.0, "fast": 1.0}
    for code, node, seconds in durations(random.Random(seed), factors, 300, 0.3):
        speeds.learn(code, node, seconds)
    assert speeds.factor("slow") / speeds.factor("middle") == pytest.approx(2, rel=0.3)
    assert speeds.factor("middle") / speeds.factor("fast") == pytest.approx(2, rel=0.3)
    assert speeds.factor("unknown") == 1.0


def test_equal_nodes_stay_equal_however_durations_scatter():
    wrong = 0
    for seed in range(50):
        speeds = Speeds()
        for code, node, seconds in durations(random.Random(seed), dict.fromkeys("abcdefgh", 1.0), 400, 1.5):
            speeds.learn(code, node, seconds)
            wrong += bool(speeds.factors)
    assert wrong <= 50 * 400 * 0.02


def test_code_that_runs_on_one_node_says_nothing_about_it():
    speeds = Speeds()
    for n in range(50):
        speeds.learn(("pinned", 0.0), "a", 100.0)
        speeds.learn(("shared", 0.0), "ab"[n % 2], 1.0)
        speeds.learn(("other", 0.0), "b", 0.1)
    assert speeds.factors == {}


def test_short_functions_do_not_count():
    speeds = Speeds()
    for _ in range(100):
        speeds.learn(("f", 0.0), "a", 0.001)
        speeds.learn(("f", 0.0), "b", 0.01)
    assert speeds.factors == {}


def test_speeds_are_recalled_unless_the_code_has_run_here():
    paces = [Pace(("f", 0.0), node, 50, math.log(factor), 0.01) for node, factor in (("a", 1.0), ("b", 4.0))]
    speeds = Speeds()
    speeds.recall(paces)
    assert speeds.factor("b") / speeds.factor("a") == pytest.approx(4, rel=0.05)
    again = speeds.factors
    speeds.recall(paces)
    assert speeds.factors == again, "not counted twice"


def test_the_model_of_speeds_is_bounded():
    speeds = Speeds()
    for n in range(3000):
        speeds.learn((f"code{n}", 0.0), n % 7, 1.0)
    assert len(speeds._codes) <= 1_000
    assert speeds._paces == sum(map(len, speeds._codes.values()))


def test_estimates_are_those_of_an_ordinary_node():
    """Code has run on a slow node only; then it is expected on a fast one."""
    core = Core()
    core.nodes(a="cpu 1", b="cpu 1")
    estimates = core.state.placement.estimates
    estimates.speeds.recall(
        [Pace(("other", 0.0), node, 50, math.log(factor), 0.0) for node, factor in (("a", 1.0), ("b", 4.0))]
    )
    estimates.learn("work", 0.0, 8.0, node="b")
    run = core.run(x=fn("cpu 1", code="work"))
    run.estimates.update({})
    (x,) = run.functions
    seconds = {name: run.estimates.seconds(x, node) for name, node in core.state.nodes.items()}
    assert seconds == {"a": pytest.approx(2, rel=0.05), "b": pytest.approx(8, rel=0.05)}


def test_ranks_follow_when_the_speeds_of_nodes_become_known():
    """Two functions took equally long, one of them on a node that turns out to be slow."""
    core = Core()
    core.nodes(a="cpu 1", b="cpu 1")
    known = [Known((("a", 4.0),)), Known((("b", 4.0),))]
    kinds = {name: fn("cpu 1", code="work", pin="none") for name in "xy"}
    run = core.run(**kinds, options={"known": known, "dependents": [(), ()], "wait_for_nodes": 60})
    assert run.estimates.update({})
    assert list(run.estimates.all_seconds()) == [4.0, 4.0]
    assert not run.estimates.update({}), "nothing has changed"
    speeds = core.state.placement.estimates.speeds
    speeds.recall([Pace(("f", 0.0), node, 50, math.log(t), 0.0) for node, t in (("a", 1.0), ("b", 4.0))])
    assert run.estimates.update({}), "so that the functions are ranked again"
    x, y = run.estimates.all_seconds()
    assert x / y == pytest.approx(4, rel=0.05)
