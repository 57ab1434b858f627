"""The estimated remaining time of a run."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduling.harness import Core, fn, many, node
from scheduling.virtual import make_spec

from handoff_dask._scheduling.bounds import time_left
from handoff_dask._scheduling.simulate import Simulation


def eta(core, run):
    placement = core.state.placement
    return time_left(run, placement.nodes, core.now)


def test_no_estimate_before_any_duration_is_known():
    core = Core()
    core.nodes(a="cpu 2")
    run = core.run(**many(4, fn("cpu 1", code="f")))
    core.decide()
    assert eta(core, run) is None


def test_remaining_work_over_capacity():
    core = Core()
    core.nodes(a="cpu 2")
    run = core.run(**many(5, fn("cpu 1", code="f")))
    core.decide()
    core.wait(10)
    core.finish("f0", took=10)  # f1 has run for 10 s, f2 to f4 have not started
    found = eta(core, run)
    assert found.seconds == pytest.approx((3 * 10 + 1) / 2)  # f1 is overdue and gets a little longer
    assert found.known == 1
    core.finish("f1", took=10)
    core.decide()
    assert eta(core, run).seconds == pytest.approx(15)
    core.wait(4)
    assert eta(core, run).seconds == pytest.approx((6 + 6 + 10) / 2)


def test_remaining_chain():
    core = Core()
    core.nodes(a="cpu 8")
    run = core.run(**many(4, fn("cpu 1", code="f")), options={"dependents": [[1], [2], [3], []]}, ready="f0")
    core.decide()
    core.wait(5)
    core.finish("f0", took=5)
    assert eta(core, run).seconds == pytest.approx(15)


@pytest.mark.parametrize(
    "options", [{"limits": "db 2"}, {"options": {"max_concurrency": 2}}], ids=["limits", "max_concurrency"]
)
def test_limits_of_the_run_count(options):
    core = Core()
    core.nodes(a="cpu 8")
    run = core.run(**many(5, fn("cpu 1", code="f", limit="db 1" if "limits" in options else "")), **options)
    core.decide()
    core.wait(2)
    core.finish("f0 f1", took=2)
    assert eta(core, run).seconds == pytest.approx(3 * 2 / 2)


def test_known_fraction():
    core = Core()
    core.nodes(a="cpu 1")
    run = core.run(**many(2, fn("cpu 1", code="f")), **many(1, fn("cpu 1", code="g"), "g"))
    core.decide()
    core.wait(1)
    core.finish("f0", took=1)
    found = eta(core, run)
    assert 0 < found.known < 1
    assert found.seconds > 1


def test_capacity_held_by_other_runs_does_not_count():
    core = Core()
    core.nodes(a="cpu 4")
    core.run(**many(2, fn("cpu 1", code="other"), "o"), id="other")
    core.decide()
    run = core.run(**many(4, fn("cpu 1", code="f")))
    core.decide()
    core.wait(1)
    core.finish("f0 f1", took=1)
    assert eta(core, run).seconds == pytest.approx(2 / 2)


def test_finished_run_has_no_remaining_time():
    core = Core()
    core.nodes(a="cpu 1")
    run = core.run(f=fn("cpu 1"))
    core.decide()
    core.finish("f", took=1)
    assert eta(core, run) == (0, 1)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["cpu 1", "cpu 2", "cpu 0.5, gpu 1", ""]), st.integers(0, 9)),
        min_size=1,
        max_size=15,
    ),
    st.integers(0, 2**15),
)
def test_estimate_with_known_durations_is_a_lower_bound(functions, graph):
    needs = {
        n: [i for i in range(n) if graph >> (n * 7 + i * 3) % 15 & 1 and i % 3 == 0]
        for n in range(len(functions))
    }
    seconds = [float(s) for _, s in functions]
    spec = make_spec((fn(cost) for cost, _ in functions), needs=needs, seconds=seconds)
    simulation = Simulation([node("a", "cpu 3, gpu 1"), node("b", "cpu 2")], spec, seconds)
    placement = simulation.state.placement
    expected = time_left(simulation.run, placement.nodes, 0.0)
    simulation.play()
    assert expected.seconds <= simulation.now + 1e-9
    assert expected.seconds >= max(seconds)


def test_unfinished_attempts_are_listed_in_order():
    core = Core()
    core.nodes(a="cpu 1", b="cpu 1")
    run = core.run(x=fn("cpu 1", retries=1), y=fn("cpu 1"))
    core.decide()
    core.fail("x", error="no")
    core.lose("y")
    assert [(f.id, number) for f, number in run.failed_attempts] == [("x", 1), ("y", 1)]
