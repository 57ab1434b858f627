"""Data locality: large inputs draw a function to their node if that outweighs a better fit elsewhere."""

from __future__ import annotations

import pytest
from scheduling.harness import Core, fn

MB = 10**6


def place(nbytes, *, seconds=1.0, strategy="best_fit", elsewhere=None, full="", wide=0):
    """Place a function whose input is on b, where best_fit alone would choose a; return its node.

    Of four cores each, a has one left afterwards and b three. A leftover core counts 1/8, since c has eight.
    A move that takes as long as the function runs counts 1.
    """
    core = Core(bandwidth=100.0 * MB)
    core.nodes(a="cpu 4", b="cpu 4", c="cpu 8")
    core.run(id="others", busy=fn("cpu 2", pin="a"), full=fn("cpu 4" if full == "b" else "", pin=full or "a"))
    core.run(
        **{f"in{i}": fn(pin="b") for i in range(wide + 1)},
        other=fn(pin=elsewhere or "b"),
        x=fn("cpu 1", code="x"),
        ready=" ".join([f"in{i}" for i in range(wide + 1)] + ["other"]),
        strategy=strategy,
        options={"dependents": [[wide + 2]] * (wide + 2) + [[]], "seconds": [seconds] * (wide + 3)},
    )
    core.decide()
    for i in range(wide + 1):
        core.state.finished(core[f"in{i}"], core.now, nbytes=nbytes)
    core.state.finished(core["other"], core.now, nbytes=30 * MB if elsewhere else None)
    core.ready("x")
    (placed,) = core.decide()
    return placed


def test_large_inputs_draw_a_function():
    assert place(26 * MB) == "x@b"


def test_better_node_outweighs_a_short_move():
    assert place(24 * MB) == "x@a"


def test_move_time_is_relative_to_the_duration():
    assert place(240 * MB, seconds=10.0) == "x@a"
    assert place(260 * MB, seconds=10.0) == "x@b"


def test_inputs_on_a_node_add_up():
    assert place(10 * MB) == "x@a"
    assert place(10 * MB, wide=2) == "x@b"


def test_inputs_on_third_nodes_count_for_all_nodes():
    # b must fetch 30 MB from c; a these and 51 MB from b; c 51 MB, and would have seven of eight cores left.
    assert place(51 * MB, elsewhere="c") == "x@b"
    # With the 30 MB on a itself, the difference of 21 MB is not worth two more leftover cores.
    assert place(51 * MB, elsewhere="a") == "x@a"


def test_function_does_not_wait_for_the_node_with_its_inputs():
    assert place(500 * MB, full="b") == "x@a"


@pytest.mark.parametrize(("nbytes", "node"), [(99_999, "a"), (100_000, "b")])
def test_small_inputs_do_not_matter_even_for_short_functions(nbytes, node):
    assert place(nbytes, seconds=0.001) == f"x@{node}"


def test_small_inputs_do_not_matter_in_a_run_with_large_results():
    core = Core()
    core.nodes(a="cpu 2", b="cpu 4")
    options = {"dependents": [[2], [], []], "seconds": [0.001] * 3}
    core.run(i=fn(pin="b"), h=fn(pin="b"), x=fn("cpu 1"), ready="i h", strategy="best_fit", options=options)
    core.decide()
    core.state.finished(core["h"], core.now, nbytes=500 * MB)
    core.state.finished(core["i"], core.now, nbytes=99_999)
    core.ready("x")
    assert core.decide() == ["x@a"]


def test_node_with_the_inputs_is_considered_even_if_another_is_equal():
    core = Core()
    core.nodes(a="cpu 4", b="cpu 4", c="cpu 4")
    core.run(i=fn(pin="b"), x=fn("cpu 1"), ready="i", strategy="best_fit", options={"dependents": [[1], []]})
    core.decide()
    core.state.finished(core["i"], core.now, nbytes=50 * MB)
    core.ready("x")
    assert core.decide() == ["x@b"]


@pytest.mark.parametrize("strategy", ["first_available", "load_balanced"])
def test_only_best_fit_considers_inputs(strategy):
    assert place(500 * MB, strategy=strategy) == ("x@a" if strategy == "first_available" else "x@c")


def test_inputs_on_a_node_that_left_do_not_count():
    core = Core()
    core.nodes(a="cpu 4", b="cpu 8")
    core.run(i=fn(pin="b"), x=fn("cpu 1"), ready="i", strategy="best_fit", options={"dependents": [[1], []]})
    core.decide()
    core.state.finished(core["i"], core.now, nbytes=500 * MB)
    core.leave("b")
    core.nodes(b="cpu 8")
    core.ready("x")
    assert core.decide() == ["x@a"]
