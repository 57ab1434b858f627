"""A function goes to where its inputs are when moving them takes longer than a better node saves."""

from __future__ import annotations

import pytest
from scheduling.harness import Core, fn

MB = 10**6


def place(nbytes, *, seconds=1.0, strategy="best_fit", elsewhere=None, full="", wide=0):
    """Where a function goes whose input is on b, when best_fit alone would choose a.

    Of four cores each, a has one left then and b three: a core left over counts an eighth, since c has
    eight, and moving as many bytes as the function's duration allows counts one.
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


def test_heavy_inputs_draw_a_function():
    assert place(26 * MB) == "x@b"


def test_a_better_node_is_worth_a_short_move():
    assert place(24 * MB) == "x@a"


def test_what_a_move_takes_is_compared_with_what_the_function_takes():
    assert place(240 * MB, seconds=10.0) == "x@a"
    assert place(260 * MB, seconds=10.0) == "x@b"


def test_inputs_on_a_node_add_up():
    assert place(10 * MB) == "x@a"
    assert place(10 * MB, wide=2) == "x@b"


def test_what_is_on_another_node_has_to_be_moved_anyway():
    # b needs 30 MB of c, a needs these and 51 MB of b, c needs 51 MB and has seven of eight cores left.
    assert place(51 * MB, elsewhere="c") == "x@b"
    # Here these 30 MB are on a itself: 21 MB are not worth two cores more.
    assert place(51 * MB, elsewhere="a") == "x@a"


def test_a_function_does_not_wait_for_the_node_that_has_its_inputs():
    assert place(500 * MB, full="b") == "x@a"


@pytest.mark.parametrize(("nbytes", "node"), [(99_999, "a"), (100_000, "b")])
def test_light_inputs_do_not_matter_however_short_the_function_is(nbytes, node):
    assert place(nbytes, seconds=0.001) == f"x@{node}"


def test_light_inputs_do_not_matter_in_a_run_with_heavy_results_either():
    core = Core()
    core.nodes(a="cpu 2", b="cpu 4")
    options = {"dependents": [[2], [], []], "seconds": [0.001] * 3}
    core.run(i=fn(pin="b"), h=fn(pin="b"), x=fn("cpu 1"), ready="i h", strategy="best_fit", options=options)
    core.decide()
    core.state.finished(core["h"], core.now, nbytes=500 * MB)
    core.state.finished(core["i"], core.now, nbytes=99_999)
    core.ready("x")
    assert core.decide() == ["x@a"]


def test_a_node_that_has_the_inputs_is_looked_at_although_another_one_is_alike():
    core = Core()
    core.nodes(a="cpu 4", b="cpu 4", c="cpu 4")
    core.run(i=fn(pin="b"), x=fn("cpu 1"), ready="i", strategy="best_fit", options={"dependents": [[1], []]})
    core.decide()
    core.state.finished(core["i"], core.now, nbytes=50 * MB)
    core.ready("x")
    assert core.decide() == ["x@b"]


@pytest.mark.parametrize("strategy", ["first_available", "load_balanced"])
def test_only_best_fit_looks_at_inputs(strategy):
    assert place(500 * MB, strategy=strategy) == ("x@a" if strategy == "first_available" else "x@c")


def test_a_node_that_left_draws_nobody():
    core = Core()
    core.nodes(a="cpu 4", b="cpu 8")
    core.run(i=fn(pin="b"), x=fn("cpu 1"), ready="i", strategy="best_fit", options={"dependents": [[1], []]})
    core.decide()
    core.state.finished(core["i"], core.now, nbytes=500 * MB)
    core.leave("b")
    core.nodes(b="cpu 8")
    core.ready("x")
    assert core.decide() == ["x@a"]
