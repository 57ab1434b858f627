"""Prefetch: short functions are sent before they fit, so that a node has the next one at hand."""

from __future__ import annotations

import pytest
from scheduling.harness import Core, fn, many, node

#: Options of a run that goes after all others.
LATER = {"priority": -1}

SHORT = fn("cpu 1", code="short")


@pytest.fixture
def core():
    """A core whose horizon allows ten functions of 1 ms per core."""
    core = Core(prefetch_horizon=0.0105, prefetch_limit=40)
    yield core
    core.state.check()


def learn(core, code="short", took=0.001):
    """Let the core observe the duration of functions of this code."""
    core.nodes(school="cpu 1")
    core.run(id="lesson", lesson=fn("cpu 1", code=code, pin="school"))
    core.decide()
    core.wait(1)
    core.finish("lesson", took=took)
    core.remove("lesson")
    core.leave("school")


def prefetched(core, name="a"):
    return [f.id for f in core.state.nodes[name].prefetched]


def booked(core, name="a"):
    return [f.id for f in core.state.nodes[name].running]


def test_short_functions_are_prefetched(core):
    learn(core)
    core.nodes(a="cpu 2")
    core.run(**many(30, SHORT))
    assert core.decide() == [f"f{i}@a" for i in range(22)]
    assert booked(core) == ["f0", "f1"]
    assert prefetched(core) == [f"f{i}" for i in range(2, 22)]
    assert core.used("a") == {"cpu": 2}
    assert core.states("f21 f22") == "running ready"


def test_no_prefetch_behind_a_long_function(core):
    """It would wait for that function although another node may soon have free capacity."""
    learn(core)
    core.nodes(a="cpu 2", b="cpu 1")
    core.run(long=fn("cpu 2", pin="a"))
    core.decide()
    core.run(id="other", **many(3, SHORT))
    assert core.decide() == ["f0@b", "f1@b", "f2@b"]
    assert prefetched(core, "b") == ["f1", "f2"]
    core.finish("long")
    core.run(id="more", long2=fn("cpu 1", pin="a"), **many(3, SHORT, "g"))
    core.decide()
    assert booked(core, "a") == ["long2", "g0"]
    assert set(prefetched(core, "a") + prefetched(core, "b")) == {"f1", "f2", "g1", "g2"}


def test_prefetched_function_is_recalled_from_behind_a_long_one(core):
    """A function may run a nested DAG and wait for it, so nested functions must not queue behind it."""
    learn(core)
    core.nodes(a="cpu 1")
    core.run(**many(3, SHORT))
    core.decide()
    assert prefetched(core) == ["f1", "f2"]
    core.state.seceded(core["f0"])
    assert core.decide() == ["f1 back from a", "f2 back from a"]
    for id in ("f1", "f2"):
        core.state.returned(core[id])
    core.ready("f1 f2")
    assert core.decide() == []
    assert core.outcomes("f1") == []
    core.nodes(b="cpu 1")
    assert core.decide() == ["f1@b", "f2@b"]
    core.finish("f0 f1 f2")
    assert core.decide() == ["r finished"]


def test_prefetched_function_is_recalled_if_a_long_one_takes_its_capacity(core):
    learn(core)
    core.join(node("a", "cpu 2, threads 4", enforced="cpu"))
    core.run(x=SHORT, wide=fn("cpu 2", code="short"))
    core.decide()
    assert prefetched(core) == ["wide"]
    core.run(id="other", long=fn("cpu 1"), options={"priority": 1})
    assert core.decide() == ["long@a", "wide back from a"]


def test_function_that_secedes_before_it_is_booked(core):
    learn(core)
    core.join(node("a", "cpu 1", enforced="cpu"))
    core.run(**many(3, SHORT))
    core.decide()
    core.state.seceded(core["f1"])  # the worker started it first
    assert core.decide() == []
    core.finish("f0")
    assert core.decide() == ["f2 back from a"]


def test_prefetched_functions_are_booked_in_order(core):
    learn(core)
    core.nodes(a="cpu 1")
    core.run(**many(5, SHORT))
    core.decide()
    core.finish("f0")
    assert booked(core) == ["f1"]
    assert prefetched(core) == ["f2", "f3", "f4"]
    assert core.used("a") == {"cpu": 1}
    core.finish("f1 f2 f3 f4")
    assert core.decide() == ["r finished"]
    assert core.used("a") == {}


def test_function_may_finish_before_it_is_booked(core):
    learn(core)
    core.nodes(a="cpu 1")
    core.run(**many(4, SHORT))
    core.decide()
    core.finish("f2")
    assert (booked(core), prefetched(core)) == (["f0"], ["f1", "f3"])
    core.finish("f0")
    assert (booked(core), prefetched(core)) == (["f1"], ["f3"])
    assert core.outcomes("f2") == [("a", "finished")]


@pytest.mark.parametrize("how", ["lose", "refuse", "fail", "remove"])
def test_function_that_ends_before_it_is_booked_leaves_nothing(core, how):
    learn(core)
    core.nodes(a="cpu 1")
    core.run(**many(2, SHORT))
    core.run(id="other", x=SHORT, options=LATER)
    core.decide()
    assert prefetched(core) == ["f1", "x"]
    getattr(core, how)("other" if how == "remove" else "x")
    assert (booked(core), prefetched(core)) == (["f0"], ["f1"])


def test_prefetched_functions_are_lost_with_their_node(core):
    learn(core)
    core.nodes(a="cpu 1")
    core.run(**many(3, SHORT))
    core.decide()
    core.leave("a")
    assert core.states("f0 f1 f2") == "waiting waiting waiting"
    assert core.outcomes("f2") == [("a", "lost")]


def test_prefetch_limit(core):
    core = Core(prefetch_horizon=10, prefetch_limit=3)
    learn(core)
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(**many(30, SHORT))
    core.decide()
    assert (len(prefetched(core, "a")), len(prefetched(core, "b"))) == (3, 3)


def test_prefetch_horizon(core):
    learn(core, took=0.004)
    core.nodes(a="cpu 1")
    core.run(**many(30, SHORT))
    core.decide()
    assert len(prefetched(core)) == 2


def test_prefetched_functions_are_spread_over_nodes(core):
    learn(core)
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(**many(6, SHORT))
    assert core.decide() == ["f0@a", "f1@b", "f2@a", "f3@b", "f4@a", "f5@b"]


def test_zero_horizon_turns_prefetch_off():
    core = Core(prefetch_horizon=0)
    learn(core, took=0.0)
    core.nodes(a="cpu 1")
    core.run(**many(3, SHORT))
    assert core.decide() == ["f0@a"]


def test_no_prefetch_before_a_duration_is_known(core):
    core.nodes(a="cpu 1")
    core.run(**many(3, SHORT))
    assert core.decide() == ["f0@a"]
    core.finish("f0")
    assert core.decide() == ["f1@a"]
    core.wait(1)
    core.finish("f1", took=0.001)
    core.run(id="other", **many(3, SHORT, "g"))
    assert core.decide() == ["f2@a", "g0@a", "g1@a", "g2@a"]


def test_no_prefetch_after_a_long_function_of_the_code(core):
    learn(core)
    learn(core, took=1)
    for _ in range(20):
        learn(core)
    core.nodes(a="cpu 1")
    core.run(**many(3, SHORT))
    assert core.decide() == ["f0@a"]


def test_prefetch_resumes_after_enough_short_functions(core):
    learn(core, took=1)
    for _ in range(60):
        learn(core)
    core.nodes(a="cpu 1")
    core.run(**many(3, SHORT))
    assert core.decide() == ["f0@a", "f1@a", "f2@a"]


def test_durations_are_learnt_per_code(core):
    learn(core)
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1", code="another"), y=fn("cpu 1", code="another"))
    assert core.decide() == ["x@a"]


@pytest.mark.parametrize("options", [{"limits": "db 9"}, {"options": {"max_concurrency": 9}}])
def test_no_prefetch_with_limits(core, options):
    learn(core)
    core.nodes(a="cpu 1")
    core.run(**many(3, SHORT), **options)
    assert core.decide() == ["f0@a"]


def test_no_prefetch_with_a_gpu(core):
    learn(core)
    core.join(node("a", "cpu 4, gpu 1", enforced="gpu cpu"))
    core.run(**many(3, fn("gpu 1", code="short")))
    assert core.decide() == ["f0@a"]


def test_no_prefetch_to_a_paused_node(core):
    learn(core)
    core.nodes(a="cpu 1")
    core.run(**many(3, SHORT), ready="f0")
    core.decide()
    core.pause("a")
    core.ready("f1 f2")
    assert core.decide() == []


def test_no_prefetch_before_a_group_has_its_node(core):
    learn(core)
    core.nodes(a="cpu 1", b="cpu 2")
    core.run(id="other", o=fn("cpu 1", pin="a"), q=fn("cpu 2", pin="b"))
    core.decide()
    core.run(x=SHORT, y=SHORT, groups=("x y",))
    assert core.decide() == []
    core.finish("o")
    assert core.decide() == ["x@a", "y@a"]
    assert prefetched(core) == ["y"]


def test_prefetch_respects_pins(core):
    learn(core)
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(**many(3, fn("cpu 1", code="short", pin="b")))
    assert core.decide() == ["f0@b", "f1@b", "f2@b"]


# only resources that the node enforces


def is_prefetched(core, capacity, enforced, kind, others=()):
    learn(core)
    core.join(node("a", capacity, enforced=enforced))
    core.run(id="others", **{f"o{i}": other for i, other in enumerate(others)})
    core.run(**many(20, kind))
    core.decide()
    return bool(prefetched(core))


@pytest.mark.parametrize(
    ("capacity", "enforced", "cost", "expected"),
    [
        ("cpu 2", "", "", True),  # threads are always enforced
        ("cpu 2", "", "cpu 1", True),  # and a thread stands for a core
        ("cpu 2", "", "cpu 0.5", True),
        ("cpu 2", "cpu", "cpu 2", True),
        ("cpu 2", "", "cpu 2", False),  # one thread, two cores
        ("cpu 2, threads 4", "", "cpu 1", False),  # the worker would start four
        ("cpu 2, threads 4", "cpu", "cpu 1", True),
        ("cpu 9, threads 2", "", "cpu 1", True),
        ("cpu 2, memory 100", "", "cpu 1, memory 60", False),
        ("cpu 2, memory 100", "cpu", "cpu 1, memory 60", False),
        ("cpu 2, memory 100", "memory", "cpu 1, memory 60", True),
        ("cpu 2, memory 100", "cpu memory", "memory 60", True),
    ],
)
def test_prefetch_only_for_enforced_resources(core, capacity, enforced, cost, expected):
    assert is_prefetched(core, capacity, enforced, fn(cost, code="short")) == expected


def test_threads_do_not_bound_cores_while_a_wide_function_runs(core):
    wide = fn("cpu 3")
    assert not is_prefetched(core, "cpu 4", "", SHORT, [wide])
    core.finish("o0")
    core.decide()
    assert prefetched(core)


def test_threads_do_not_bound_cores_of_a_wide_function(core):
    # Functions without a core use all threads: as they end, two functions of two cores each would start.
    assert not is_prefetched(core, "cpu 2", "", fn("cpu 2", code="short"), [fn(), fn()])


def test_wide_functions_are_prefetched_if_cores_are_enforced(core):
    assert is_prefetched(core, "cpu 4", "cpu", SHORT, [fn("cpu 3")])


def test_wide_function_waits_for_prefetched_functions_that_may_take_its_cores(core):
    learn(core)
    core.join(node("a", "cpu 4, memory 100", enforced="memory"))
    core.run(**many(4, fn("cpu 1, memory 10", code="short")))
    core.run(id="others", big=fn("memory 95", code="short"), s=SHORT, t=SHORT, options=LATER)
    core.decide()
    core.finish("f0 f1 f2")
    assert (booked(core), prefetched(core)) == (["f3"], ["big", "s", "t"])
    # s and t are on the node, which may have started them. Together with wide, they would use six cores.
    core.run(id="wide", wide=fn("cpu 3"))
    assert core.decide() == []
    core.finish("f3")
    assert (booked(core), prefetched(core)) == (["big", "s", "t"], [])
    core.finish("s")
    assert core.decide() == ["wide@a", "r finished"]


def test_prefetched_functions_block_only_what_they_need(core):
    learn(core)
    core.join(node("a", "cpu 2, threads 4, gpu 1, memory 100", enforced="cpu"))
    core.run(**many(8, SHORT), g=fn("gpu 1"), m=fn("memory 100"), c=fn("cpu 1"))
    core.decide()
    assert prefetched(core) == ["f2", "f3", "f4", "f5", "f6", "f7"]
    assert booked(core) == ["f0", "f1", "g", "m"]
    assert core.states("c") == "ready"


def test_function_takes_cores_that_prefetched_functions_do_not_need(core):
    learn(core)
    core.join(node("a", "cpu 4, threads 2"))
    core.run(**many(5, fn(code="short")))
    core.decide()
    assert len(prefetched(core)) == 3
    core.run(id="other", x=fn("cpu 3"))
    assert core.decide() == []
    core.state.node_resized("a", {"threads": 6 * 2**20, "cpu": 4 * 2**20})
    assert prefetched(core) == []  # prefetched functions are booked by now
    assert core.decide() == ["x@a"]


def test_prefetched_functions_move_up_when_one_goes_away(core):
    learn(core)
    core.join(node("a", "cpu 4, threads 8", enforced="cpu"))
    core.run(x=fn("cpu 3", code="short"), big=fn("cpu 4", code="short"), small=fn("cpu 2", code="short"))
    core.run(id="other", tiny=fn("cpu 1", code="short"), options=LATER)
    assert core.decide() == ["x@a", "big@a", "small@a", "tiny@a"]
    core.finish("tiny")
    core.resize(a="cpu 5")
    assert prefetched(core) == ["big", "small"]
    core.lose("big")
    assert (booked(core), prefetched(core)) == (["x", "small"], [])


def test_prefetch_with_many_different_costs():
    """Many queues, more than are inspected one by one."""
    core = Core(prefetch_horizon=0.0105, prefetch_limit=40)
    learn(core)
    core.join(node("a", "cpu 1, memory 1000", enforced="memory"))
    core.run(**{f"f{i}": fn(f"cpu 1, memory {100 + i}", code="short") for i in range(100)})
    assert core.decide() == [f"f{i}@a" for i in range(11)]
    assert booked(core) == ["f0"]
    assert prefetched(core) == [f"f{i}" for i in range(1, 11)]
    core.finish("f0 f1", took=0.001)
    assert core.decide() == ["f11@a", "f12@a"], "even if all queues are blocked"
    core.finish(" ".join(f"f{i}" for i in range(2, 13)), took=0.001)
    assert core.decide() == [f"f{i}@a" for i in range(13, 24)]
