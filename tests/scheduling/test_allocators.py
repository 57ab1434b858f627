"""Custom allocators: their view of functions and nodes, and the handling of their proposals."""

from __future__ import annotations

import gc
import weakref
from fractions import Fraction

import pytest
from helpers import examples, greedily
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scheduling.harness import Core, core_with_prefetched, fn, many, node

from handoff_dask._model.allocator import ReadyFunction
from handoff_dask._model.retry import RetryPolicy
from handoff_dask._scheduling.decisions import End, Place
from handoff_dask._scheduling.runs import RunStatus


class Scripted:
    """Returns scripted proposals, one per call, and records its arguments."""

    def __init__(self, *proposals) -> None:
        self.proposals = list(proposals)
        self.ready: list[dict[str, ReadyFunction]] = []
        self.free: list[dict] = []

    def allocate(self, ready, free):
        self.ready.append({f.id: f for f in ready})
        self.free.append(free)
        return self.proposals.pop(0) if self.proposals else {}


def greedy(ready, free):
    """Place each function on the first node with free capacity, based on the arguments alone."""
    return greedily(ready, free)


def lazy(ready, free):
    return {}


def nothing_booked(core):
    return not any(core.used(name) for name in core.state.nodes)


# its view


def test_view_of_functions_and_free_capacity(core):
    core.nodes(a="cpu 4, memory 10", b="cpu 2, gpu 1")
    allocator = Scripted({"x": "a"})
    core.wait(5)
    core.run(x=fn("cpu 1.5, memory 4"), y=fn("gpu 1", priority=-2), strategy=allocator)
    assert core.decide() == ["x@a"]
    assert list(allocator.ready[0].values()) == [
        ReadyFunction("x", {"threads": 1, "cpu": 1.5, "memory": 4}, None, {}, 0, 5.0),
        ReadyFunction("y", {"threads": 1, "gpu": 1}, None, {}, -2, 5.0),
    ]
    assert allocator.free == [
        {"a": {"cpu": 4, "memory": 10, "threads": 4}, "b": {"cpu": 2, "gpu": 1, "threads": 2}}
    ]
    core.decide()
    assert list(allocator.ready[1]) == ["y"]
    assert allocator.free[1]["a"] == {"cpu": 2.5, "memory": 6, "threads": 3}


def test_plain_callable(core):
    core.nodes(a="cpu 1")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"), strategy=greedy)
    assert core.decide() == ["x@a"]
    core.finish("x")
    assert core.decide() == ["y@a"]
    core.finish("y")
    assert core.decide() == ["r finished"]


def test_called_only_if_functions_are_ready(core):
    core.nodes(a="cpu 1")
    allocator = Scripted({"x": "a"})
    core.run(x=fn("cpu 1"), strategy=allocator, ready="")
    core.decide()
    core.ready("x")
    core.decide()
    core.decide()
    assert len(allocator.ready) == 1


def test_most_urgent_function_comes_first(core):
    core.nodes(a="cpu 1")
    allocator = Scripted()
    core.run(
        short=fn("cpu 1"),
        long=fn("cpu 1"),
        first=fn("cpu 1", priority=1),
        after=fn("cpu 1"),
        strategy=allocator,
        options={"dependents": [[], [3], [], []], "seconds": [1.0, 1.0, 1.0, 9.0]},
        ready="short long first",
    )
    core.decide()
    assert list(allocator.ready[0]) == ["first", "long", "short"]


def test_nodes_are_sorted_by_name(core):
    core.nodes(b="cpu 1", a="cpu 1", c="cpu 1")
    allocator = Scripted()
    core.run(x=fn(), y=fn(pin="c a"), strategy=allocator)
    core.decide()
    assert list(allocator.free[0]) == ["a", "b", "c"]
    assert allocator.ready[0]["y"].nodes == ("a", "c")


def test_paused_nodes_are_left_out(core):
    core.nodes(a="cpu 1", b="cpu 1")
    core.pause("a")
    allocator = Scripted({}, {"x": "a"})
    core.run(x=fn(), strategy=allocator)
    core.decide()
    assert list(allocator.free[0]) == ["b"]
    core.resume("a")
    assert core.decide() == ["x@a"]


def test_pins_and_groups_are_lists_of_nodes(core):
    core.nodes(a="cpu 2", b="cpu 4", c="cpu 4")
    allocator = Scripted({"x": "b"})
    core.run(
        pinned=fn("cpu 1", pin="b a"),
        large=fn("cpu 3", pin="b a"),
        x=fn("cpu 1"),
        y=fn("cpu 3"),
        free=fn("cpu 4"),
        strategy=allocator,
        groups=("x y",),
    )
    core.decide()
    shown = {id: f.nodes for id, f in allocator.ready[0].items()}
    assert shown == {"pinned": ("a", "b"), "large": ("b",), "x": ("b", "c"), "y": None, "free": None}
    core.decide()
    assert allocator.ready[1]["y"].nodes == ("b",), "bound to the node of the first member"


def test_retry_excludes_failed_nodes_if_others_remain(core):
    core.nodes(a="cpu 1", b="cpu 1")
    allocator = Scripted({"x": "a"})
    core.run(x=fn("cpu 1", retries=3), strategy=allocator)
    core.decide()
    core.fail("x")
    core.ready("x")
    core.decide()
    assert allocator.ready[1]["x"].nodes == ("b",)
    core.pause("b")
    core.decide()
    assert allocator.ready[2]["x"].nodes == ("a", "b"), "the failed node is allowed again while b is paused"
    core.resume("b")
    core.decide()
    assert allocator.ready[3]["x"].nodes == ("b",)


def test_view_of_input_locations(core):
    core.nodes(a="cpu 2", b="cpu 2")
    allocator = Scripted({"x": "a", "y": "b", "z": "b"})
    core.run(
        x=fn(), y=fn(), z=fn(), sum=fn(), strategy=allocator, ready="x y z",
        options={"dependents": [[3], [3], [3], []]},
    )  # fmt: skip
    core.decide()
    for id, nbytes in (("x", 100), ("y", 20), ("z", 3)):
        core.state.finished(core[id], core.now, nbytes=nbytes)
    core.ready("sum")
    core.decide()
    assert allocator.ready[-1]["sum"].input_bytes == {"a": 100, "b": 23}


def test_modifying_the_view_is_harmless(core):
    core.nodes(a="cpu 2")

    def destructive(ready, free):
        chosen = {f.id: "a" for f in ready[:1]}
        for f in ready:
            f.cost.clear()
        ready.clear()
        free.clear()
        return chosen

    core.run(x=fn("cpu 1"), y=fn("cpu 1"), strategy=destructive)
    assert core.decide() == ["x@a"]
    assert core.used("a") == {"cpu": 1}
    assert core.decide() == ["y@a"]


@example(cost=Fraction(2, 3), capacity=2, n=3)  # three fit, but not three of the rounded 0.66667
@example(cost=Fraction(333336, 10**6), capacity=1, n=3)  # three of the rounded 0.33333 would fit
@given(
    cost=st.fractions(Fraction(1, 12), 2, max_denominator=12),
    capacity=st.integers(1, 4),
    n=st.integers(1, 12),
)
@settings(max_examples=examples(100), deadline=None)
def test_amounts_in_the_view_sum_exactly(cost, capacity, n):
    """An allocator that sums the amounts in its view fills a node exactly."""
    core = Core()
    core.nodes(a=f"cpu {capacity}, threads 12")
    kind = fn(f"cpu {float(cost):.12f}")
    if float(cost) > capacity:
        return
    core.run(**many(n, kind), strategy=greedy)
    placed = core.decide()
    units = dict(kind.cost)["cpu"]
    assert len(placed) == min(n, core.state.nodes["a"].capacity["cpu"] // units)


# functions that it leaves out


def test_functions_left_out_wait_until_something_changes(core):
    core.nodes(a="cpu 2")
    allocator = Scripted({}, {"y": "a"}, {"x": "a"})
    core.run(x=fn("cpu 1"), y=fn("cpu 1"), strategy=allocator)
    assert core.decide() == []
    assert core.states("x y") == "ready ready"
    assert core.decide() == []
    assert len(allocator.ready) == 1, "nothing has changed, so it is not asked again"
    core.nodes(b="cpu 1")
    assert core.decide() == ["y@a"]
    assert core.decide() == ["x@a"], "its own placement is a change"


def test_limits_hold_back_proposed_functions(core):
    core.nodes(a="cpu 9")
    everything = {f"f{i}": "a" for i in range(4)}
    core.run(
        **many(4, fn("cpu 1", limit="db 1")),
        limits="db 3",
        strategy=Scripted(everything, {"f2": "a", "f3": "a"}, {"f3": "a"}),
        options={"max_concurrency": 2},
    )
    assert core.decide() == ["f0@a", "f1@a"]
    core.finish("f0")
    assert core.decide() == ["f2@a"]
    core.finish("f1")
    assert core.decide() == ["f3@a"]


def test_group_stays_together_regardless_of_proposals(core):
    """It learns of a collocation when the first member has a node, and is called again at once."""
    core.nodes(a="cpu 2", b="cpu 2")
    allocator = Scripted({"x": "a", "y": "b", "z": "b"}, {"y": "a"})
    core.run(x=fn("cpu 1"), y=fn("cpu 1"), z=fn("cpu 1"), groups=("x y",), strategy=allocator)
    assert core.decide() == ["x@a", "z@b", "y@a"]
    assert list(allocator.ready[1]) == ["y"]
    assert allocator.ready[1]["y"].nodes == ("a",)
    assert allocator.free[1]["a"]["cpu"] == 1


def test_fragmented_devices_are_not_an_invalid_proposal(core):
    core.nodes(a="cpu 4, gpu 2")
    core.run(half=fn("gpu 0.6"), other=fn("gpu 0.6"), whole=fn("gpu 0.8"), strategy=greedy)
    core.decide()
    assert core.states("whole") == "ready", "0.8 is free, but not on one device"
    core.finish("half")
    assert core.decide() == ["whole@a"]


def test_prefetched_functions_do_not_invalidate_proposals():
    core = core_with_prefetched()
    core.run(id="own", wide=fn("cpu 2"), strategy=greedy)
    assert core.decide() == []
    core.finish("all next")
    assert core.decide() == ["wide@a", "r finished"]


# invalid proposals


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Odd:
    """An object whose repr and equality raise."""

    __hash__ = object.__hash__

    def __repr__(self):
        raise RuntimeError("no repr")

    def __eq__(self, other):
        raise RuntimeError("not comparable")


def raises(error):
    def allocate(ready, free):
        raise error

    return allocate


@pytest.mark.parametrize(
    ("proposal", "reason"),
    [
        ({"nobody": "a"}, "it placed 'nobody' on 'a': no ready function has this id"),
        ({"later": "a"}, "it placed 'later' on 'a': no ready function has this id"),
        ({"x": "nowhere"}, "it placed 'x' on 'nowhere': the nodes that accept functions are 'a', 'b'"),
        ({"x": "paused"}, "it placed 'x' on 'paused': the nodes that accept functions are 'a', 'b'"),
        ({"x": None}, "it placed 'x' on None: the nodes that accept functions are 'a', 'b'"),
        ({"pinned": "a"}, "it placed 'pinned' on 'a': the only nodes that may run it are 'b'"),
        ({"member": "b"}, "it placed 'member' on 'b': the only nodes that may run it are 'a'"),
        (
            {"full": "b"},
            "it placed 'full' on 'b': asked: threads 1, cpu 3; free: threads 2, cpu 2",
        ),
        (
            {"x": "a", "z": "a"},
            "it placed 'z' on 'a': asked: threads 1, cpu 2.5; free: threads 3, cpu 2",
        ),
        (None, "it returned None instead of a mapping of function ids to node names"),
        ([("x", "a")], "it returned [('x', 'a')] instead of a mapping of function ids to node names"),
        ("xa", "it returned 'xa' instead of a mapping of function ids to node names"),
        ({"x": ["a"]}, "it raised TypeError: "),
        ({Odd(): "a"}, "it raised RuntimeError: "),
        ({"x": Odd()}, "it raised RuntimeError: no repr"),
        (Odd(), "it raised RuntimeError: no repr"),
    ],
    ids=lambda value: "",
)
def test_invalid_proposal_ends_its_run(core, proposal, reason):
    core.nodes(a="cpu 4", b="cpu 2", paused="cpu 9")
    core.pause("paused")
    run = core.run(
        x=fn("cpu 2"),
        z=fn("cpu 2.5"),
        full=fn("cpu 3"),
        pinned=fn("cpu 1", pin="b"),
        member=fn("cpu 1"),
        sibling=fn("cpu 3", pin="a b"),
        later=fn(),
        groups=("member sibling",),
        ready="x z full pinned member sibling",
        strategy=Scripted(proposal),
    )
    decisions = core.decide()
    assert decisions[-1] == "r failed"
    assert run.fault.startswith(reason)
    assert run.fault == reason or reason.startswith("it raised")
    assert run.status is RunStatus.FAILED
    placed = [d.split("@")[0] for d in decisions[:-1]]
    assert placed == (["x"] if "'z'" in reason else []), "decisions before it stand"
    core.finish(" ".join(placed))
    assert nothing_booked(core)
    core.run(id="next", y=fn("cpu 4"), strategy="best_fit")
    assert core.decide() == ["y@a"], "other runs continue"


@pytest.mark.parametrize(
    ("error", "summary"),
    [
        (ValueError("no idea"), "it raised ValueError: no idea\n"),
        (Unprintable(), "it raised "),
        (SystemExit(3), "it raised SystemExit: 3\n"),
    ],
    ids=["exception", "without text", "exit"],
)
def test_exception_ends_its_run(core, error, summary):
    core.nodes(a="cpu 4")
    run = core.run(x=fn("cpu 1"), strategy=raises(error))
    assert core.decide() == ["r failed"]
    assert run.fault.startswith(summary)
    assert "in allocate" in run.fault, "includes the traceback"


def test_invalid_proposal_is_reported_once(core):
    core.nodes(a="cpu 4")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"), strategy=Scripted({"x": "a"}, {"y": "b"}))
    assert core.decide() == ["x@a"]
    assert core.decide() == ["r failed"]
    assert core.decide() == []
    core.finish("x")
    assert core.decide() == []
    assert core.states("x y") == "finished cancelled"


def test_not_called_after_its_run_has_ended(core):
    core.nodes(a="cpu 4")
    allocator = Scripted()
    core.run(x=fn("cpu 1"), strategy=allocator)
    core.cancel()
    core.decide()
    assert allocator.ready == []


def test_allocator_is_released_with_its_run(core):
    core.nodes(a="cpu 4")
    allocator = Scripted()
    gone = weakref.ref(allocator)
    core.run(x=fn("cpu 1"), strategy=allocator)
    core.decide()
    core.remove()
    core.decide()
    core.functions.clear()
    del allocator
    gc.collect()
    assert gone() is None


# with several runs


def test_each_run_has_its_own_allocator(core):
    core.nodes(a="cpu 2", b="cpu 2")
    one, two = Scripted({"x": "a"}), Scripted({"y": "b"})
    core.run(id="one", x=fn("cpu 2"), strategy=one)
    core.run(id="two", y=fn("cpu 2"), strategy=two)
    core.run(id="three", z=fn("cpu 2"), strategy="first_available")
    assert core.decide() == ["x@a", "y@b"], "in the order in which the runs began"
    assert core.states("x y z") == "running running ready"


def test_second_allocator_sees_the_allocations_of_the_first(core):
    core.nodes(a="cpu 3")
    one, two = Scripted({"x": "a"}), Scripted({"y": "a"})
    core.run(id="one", x=fn("cpu 2"), strategy=one)
    core.run(id="two", y=fn("cpu 1"), strategy=two)
    assert core.decide() == ["x@a", "y@a"]
    assert (one.free[0]["a"]["cpu"], two.free[0]["a"]["cpu"]) == (3, 1)


def test_joining_node_appears(core):
    core.nodes(a="cpu 1")
    allocator = Scripted()
    core.run(x=fn("cpu 1"), strategy=allocator)
    core.decide()
    core.nodes(b="cpu 1")
    core.decide()
    assert [list(free) for free in allocator.free] == [["a"], ["a", "b"]]


def test_functions_without_eligible_nodes_are_left_out():
    core = Core(node_timeout=5.0)
    core.nodes(a="cpu 1", b="cpu 4")
    allocator = Scripted()
    core.run(x=fn("cpu 1"), y=fn("cpu 4"), strategy=allocator)
    core.decide()
    core.leave("b")
    core.decide()
    assert [list(ready) for ready in allocator.ready] == [["x", "y"], ["x"]]
    core.wait(6)
    assert core.decide() == ["y unplaceable", "r failed"]


def test_lost_function_appears_again(core):
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(x=fn("cpu 1"), strategy=Scripted({"x": "a"}, {"x": "b"}))
    core.decide()
    core.leave("a")
    core.ready("x")
    assert core.decide() == ["x@b"]


# random proposals


@st.composite
def scripts(draw):
    """Draw the proposals of two allocators, and the events in between."""
    ids = [f"f{i}" for i in range(6)]
    names = ["a", "b", "c"]
    some = st.dictionaries(
        st.sampled_from([*ids, *ids, "nobody"]),
        st.sampled_from([*names, *names, *names, "nowhere"]),
        max_size=3,
    )
    events = st.sampled_from(["finish", "fail", "pause", "resume", "leave", "join", "nothing"])
    return draw(st.lists(st.tuples(some, some, events, st.integers(0, 20)), min_size=1, max_size=12))


@given(script=scripts(), right=st.booleans())
@settings(max_examples=examples(150), deadline=None)
def test_ledger_stays_consistent_for_any_proposals(script, right):
    """An invalid proposal ends its run and no other; the core continues."""
    core = Core()
    core.nodes(a="cpu 3, memory 4", b="cpu 2, gpu 1", c="cpu 2")
    kinds = [
        fn("cpu 1"),
        fn("cpu 2", retries=2),
        fn("gpu 0.6"),
        fn("cpu 1", pin="b c"),
        fn("memory 3"),
        fn("cpu 1"),
    ]
    own = Scripted(*(dict(one) for one, *_ in script))
    run = core.run(
        **{f"f{i}": kind for i, kind in enumerate(kinds)},
        id="own",
        groups=("f0 f5",),
        limits="db 1",
        options={"max_concurrency": 4, "fail_fast": False},
        strategy=own,
    )
    kinds = {f"g{i}": fn("cpu 1", retries=99, policy=RetryPolicy(99)) for i in range(6)}
    other = core.run(
        **kinds, id="other", strategy=greedy if right else Scripted(*(dict(two) for _, two, *_ in script))
    )
    ended = []
    for _, _, event, chosen in script:
        core.decide()  # checks the ledger
        for decision in core.decisions:
            if isinstance(decision, Place):
                assert decision.node.accepting
                group = decision.function.group
                assert group is None or group.node is decision.node
            elif isinstance(decision, End):
                ended.append(decision.run.spec.run_id)
        for n in core.state.nodes.values():
            assert all(n.used[r] <= n.capacity.get(r, 0) for r in n.used)
        assert sum(f.allocated for f in run.functions) <= 4
        running = [f for f in core.functions.values() if f.state.value == "running"]
        f = running[chosen % len(running)] if running else None
        name = "abc"[chosen % 3]
        if event == "finish" and f:
            core.finish(f.id)
        elif event == "fail" and f and core.fail(f.id):
            core.ready(f.id)
        elif event == "pause" and name in core.state.nodes:
            core.pause(name)
        elif event == "resume" and name in core.state.nodes:
            core.resume(name)
        elif event == "leave" and name == "a" and name in core.state.nodes:
            core.leave(name)
            core.ready(" ".join(f.id for f in running))
        elif event == "join":
            core.join(node("a", "cpu 3, memory 4"))
            core.ready(" ".join(f.id for f in running))
    assert len(set(ended)) == len(ended)
    assert (run.fault is not None) <= (run.status is RunStatus.FAILED)
    if right:
        assert other.fault is None
        assert other.status in (RunStatus.RUNNING, RunStatus.FINISHED)
    for id in ("own", "other"):
        core.remove(id)
    assert nothing_booked(core)


@pytest.mark.parametrize(("priority", "placed"), [(10, "y@a"), (0, "x@a"), (-1, "x@a")])
def test_priorities_of_runs_hold_across_allocators(core, priority, placed):
    core.nodes(a="cpu 1")
    core.run(id="built in", x=fn("cpu 1"), strategy="first_available")
    core.run(id="own", y=fn("cpu 1"), strategy=greedy, options={"priority": priority})
    assert core.decide() == [placed]


def test_earlier_run_goes_first_across_allocators(core):
    core.nodes(a="cpu 1")
    core.run(id="own", y=fn("cpu 1"), strategy=greedy)
    core.run(id="built in", x=fn("cpu 1"), strategy="first_available")
    assert core.decide() == ["y@a"]
    core.finish("y")
    assert "x@a" in core.decide()
