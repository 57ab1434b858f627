"""Collocated functions share a node; transfers learn both end nodes."""

from __future__ import annotations

import pytest
from scheduling.harness import fn, node


def test_group_follows_its_first_member(core):
    core.nodes(a="cpu 1", b="cpu 4")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"), z=fn("cpu 1"), groups=("y z",), ready="x y")
    assert core.decide() == ["x@a", "y@b"]
    core.finish("x y")
    core.ready("z")
    assert core.decide() == ["z@b"]  # although a is free and comes first


def test_ready_members_follow_in_the_same_decision(core):
    core.nodes(a="cpu 1", b="cpu 4")
    core.run(x=fn("cpu 2"), y=fn("cpu 1"), z=fn("cpu 1"), w=fn("cpu 1"), groups=("x y z",))
    assert core.decide() == ["x@b", "y@b", "z@b", "w@a"]


def test_members_that_do_not_fit_together_take_turns(core):
    core.nodes(a="cpu 2", b="cpu 2")
    core.run(x=fn("cpu 2"), y=fn("cpu 2"), groups=("x y",))
    assert core.decide() == ["x@a"]
    assert core.decide() == []
    core.finish("x")
    assert core.decide() == ["y@a"]


def test_group_needs_a_node_that_holds_each_member(core):
    core.nodes(a="cpu 2", b="cpu 2, memory 100", c="cpu 2, memory 100, gpu 1")
    core.run(x=fn("cpu 1"), y=fn("memory 100"), z=fn("gpu 1"), groups=("x y z",), ready="x")
    assert core.decide() == ["x@c"]


def test_group_waits_for_an_eligible_node_even_if_a_member_fits_elsewhere(core):
    core.nodes(a="cpu 2", b="cpu 1, gpu 1")
    core.run(g=fn("cpu 1"), x=fn("cpu 1"), y=fn("gpu 1"), groups=("x y",), ready="g")
    core.pause("a")
    assert core.decide() == ["g@b"]
    core.resume("a")
    core.ready("x")
    assert core.decide() == []
    core.finish("g")
    assert core.decide() == ["x@b"]


def test_groups_are_placed_independently(core):
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"), u=fn("cpu 1"), v=fn("cpu 1"), groups=("x y", "u v"))
    assert core.decide() == ["x@a", "u@b"]
    core.finish("u x")
    assert core.decide() == ["y@a", "v@b"]


def test_pin_of_one_member_pins_the_group(core):
    core.nodes(a="cpu 2", b="cpu 2")
    core.run(x=fn("cpu 1"), y=fn("cpu 1", pin="b"), groups=("x y",), ready="x")
    assert core.decide() == ["x@b"]


def test_pins_of_members_intersect_across_aliases(core):
    core.join(node("a", "cpu 2", "10.0.0.1"))
    core.join(node("b", "cpu 2", "10.0.0.2"))
    core.join(node("c", "cpu 2", "10.0.0.2"))
    core.run(
        x=fn("cpu 1", pin="10.0.0.2"), y=fn("cpu 1", pin="a c"), z=fn("cpu 1"), groups=("x y z",), ready="z"
    )
    assert core.decide() == ["z@c"]


def test_lost_node_unbinds_its_groups(core):
    core.nodes(a="cpu 2", b="cpu 2")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"), z=fn("cpu 1"), groups=("x y z",), ready="x y")
    assert core.decide() == ["x@a", "y@a"]
    core.finish("x")
    core.leave("a")
    assert core.states("x y z") == "finished waiting waiting"
    core.ready("z y")
    assert core.decide() == ["y@b", "z@b"]
    assert core.outcomes("y") == [("a", "lost")]


def test_lost_node_moves_ready_members(core):
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"), groups=("x y",))
    assert core.decide() == ["x@a"]
    core.finish("x")
    core.leave("a")
    assert core.decide() == ["y@b"]


def test_returning_node_does_not_rebind_groups(core):
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(u=fn("cpu 1"), x=fn("cpu 1"), y=fn("cpu 1"), groups=("x y",), ready="x")
    assert core.decide() == ["x@a"]
    core.finish("x")
    core.nodes(a="cpu 1")
    core.ready("u y")
    assert core.decide() == ["u@a", "y@b"]


def test_group_leaves_a_node_that_shrank(core):
    core.nodes(a="cpu 2", b="cpu 2")
    core.run(x=fn("cpu 1"), y=fn("cpu 2"), z=fn("cpu 1"), groups=("x y z",), ready="x")
    assert core.decide() == ["x@a"]
    core.resize(a="cpu 1")
    core.ready("y z")
    assert core.decide() == []  # not away from x, which runs
    core.wait(1000)
    assert core.decide() == []
    core.finish("x")
    assert core.decide() == ["y@b"]
    core.finish("y")
    assert core.decide() == ["z@b"]


def test_group_that_no_longer_fits_anywhere_fails(core):
    core.nodes(a="cpu 2")
    core.run(x=fn("cpu 1"), y=fn("cpu 2"), groups=("x y",), ready="x")
    assert core.decide() == ["x@a"]
    core.finish("x")
    core.resize(a="cpu 1")
    core.ready("y")
    assert core.decide() == []
    core.wait(core.state.next_wake())
    assert core.decide() == ["y unplaceable", "r failed"]


def test_member_is_retried_on_the_node_of_its_group(core):
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(x=fn("cpu 1", retries=1), y=fn("cpu 1"), groups=("x y",), ready="x")
    assert core.decide() == ["x@a"]
    assert core.fail("x")
    core.ready("x")
    assert core.decide() == ["x@a"]


def test_group_waits_while_its_node_is_paused(core):
    core.nodes(a="cpu 1", b="cpu 1")
    core.run(x=fn("cpu 1"), y=fn("cpu 1"), groups=("x y",), ready="x")
    core.decide()
    core.finish("x")
    core.pause("a")
    core.ready("y")
    assert core.decide() == []
    core.resume("a")
    assert core.decide() == ["y@a"]


@pytest.mark.parametrize("strategy", ["first_available", "load_balanced", "best_fit"])
def test_every_strategy_keeps_groups_together(core, strategy):
    core.nodes(a="cpu 2", b="cpu 3", c="cpu 4")
    functions = {f"{g}{i}": fn("cpu 1") for g in "uvw" for i in range(3)}
    groups = tuple(" ".join(f"{g}{i}" for i in range(3)) for g in "uvw")
    core.run(**functions, groups=groups, strategy=strategy)
    where = {}
    for _ in range(9):
        for placed in core.decide():
            if "@" in placed:
                where.setdefault(placed[0], set()).add(placed[-1])
                core.finish(placed[:2])
    assert {g: len(nodes) for g, nodes in where.items()} == {"u": 1, "v": 1, "w": 1}


# transfers: producer p and serializer s share a node, as do deserializer d and consumer c

TRANSFER = {"groups": ("p s", "d c"), "peers": {"s": "d"}}


def transfer(core, c=fn("cpu 1"), d=fn("cpu 1"), **options):  # noqa: B008 - frozen
    core.run(p=fn("cpu 1"), s=fn("cpu 1"), d=d, c=c, ready="p", **TRANSFER, **options)


def test_serializer_learns_and_binds_the_consumers_node(core):
    core.nodes(a="cpu 2", b="cpu 4, gpu 1")
    transfer(core, c=fn("cpu 1, gpu 1"))
    assert core.decide() == ["p@a"]
    core.finish("p")
    core.ready("s")
    assert core.decide() == ["s@a peer b"]
    core.finish("s")
    core.nodes(a0="cpu 4, gpu 1")  # comes first, but too late
    core.ready("d")
    assert core.decide() == ["d@b peer a"]
    core.finish("d")
    core.ready("c")
    assert core.decide() == ["c@b"]


def test_consumers_node_has_free_capacity(core):
    core.nodes(a="cpu 1", b="cpu 2, gpu 1", c="cpu 2, gpu 1")
    core.run(id="other", o=fn("cpu 2", pin="b"))
    core.decide()
    transfer(core, c=fn("gpu 1"))
    assert core.decide() == ["p@a"]
    core.finish("p")
    core.ready("s")
    assert core.decide() == ["s@a peer c"]


def test_consumers_node_is_not_paused(core):
    core.nodes(a="cpu 1", b="cpu 2, gpu 1", c="cpu 2, gpu 1")
    core.run(id="other", o=fn("gpu 1", pin="c"))
    core.decide()
    transfer(core, c=fn("gpu 1"))
    core.decide()
    core.finish("p")
    core.pause("b")
    core.ready("s")
    assert core.decide() == ["s@a peer c"]  # not free, but it will be


def test_transfer_within_a_node_stays_there(core):
    core.nodes(a="cpu 2", b="cpu 2")
    core.run(
        p=fn("cpu 1"),
        s=fn("cpu 1"),
        d=fn("cpu 1"),
        c=fn("cpu 1"),
        groups=("p s d c",),
        peers={"s": "d"},
        ready="p",
    )
    assert core.decide() == ["p@a"]
    core.finish("p")
    core.ready("s")
    assert core.decide() == ["s@a peer a"]
    core.finish("s")
    core.ready("d")
    assert core.decide() == ["d@a peer a"]


def test_serializer_gets_no_peer_if_no_node_is_eligible(core):
    core.nodes(a="cpu 1", b="cpu 1, gpu 1")
    transfer(core, c=fn("gpu 1"))
    core.decide()
    core.finish("p")
    core.leave("b")
    core.ready("s")
    assert core.decide() == ["s@a"]
    core.finish("s")
    core.ready("d")
    core.nodes(b="cpu 1, gpu 1")
    assert core.decide() == ["d@b peer a"]


def test_rerun_serializer_gets_the_same_peer(core):
    core.nodes(a="cpu 1", b="cpu 2, gpu 1", c="cpu 2, gpu 1")
    transfer(core, c=fn("gpu 1"))
    core.decide()
    core.finish("p")
    core.ready("s")
    assert core.decide() == ["s@a peer b"]
    core.lose("s")
    core.run(id="other", o=fn("gpu 1", pin="b"))
    assert core.decide() == ["o@b"]
    core.ready("s")
    assert core.decide() == ["s@a peer b"]


def test_functions_queued_behind_a_bound_one_do_not_overtake_it(core):
    core.nodes(a="cpu 3", b="cpu 1, gpu 1")
    core.run(
        p=fn(),
        s=fn("cpu 0.5", priority=9),
        d=fn("cpu 1"),
        e=fn("cpu 1", priority=5),  # waits in one queue with x, until s is placed
        x=fn("cpu 1"),
        y=fn("cpu 0.9", priority=1),
        groups=("p s", "d e"),
        peers={"s": "d"},
        ready="s e x y",
    )
    core.pause("b")
    assert core.decide() == ["s@a peer a", "e@a", "y@a"]


def test_consumers_bound_by_a_serializer_start_in_the_same_decision(core):
    core.nodes(a="cpu 2", b="cpu 2, gpu 1")
    # c does not depend on the transfer, like other members of a consumer's group.
    core.run(
        p=fn("cpu 1"), s=fn("cpu 1"), d=fn("cpu 1"), c=fn("gpu 1"), e=fn("cpu 1"),
        groups=("p s", "d c e"), peers={"s": "d"}, ready="s e",
    )  # fmt: skip
    assert core.decide() == ["s@a peer b", "e@b"]
