"""Grouping of equivalent functions into boxes, and the layout of boxes."""

import time
from functools import partial

import pytest
from helpers import add, dag_of, identity

from handoff_dask import DAG, Argument, Collocated, Function
from handoff_dask._display.groups import compact, outline
from handoff_dask._display.layout import GAP, layers_of, layout


def drawn(dag, collapse=10):
    """Return the title of each box → its other lines, and the titles of the boxes it depends on."""
    boxes, edges = outline(dag, collapse)
    titles = [box.lines[0] for box in boxes]
    assert sum(len(box.functions) for box in boxes) == len(dag)
    return {
        title: (list(box.lines[1:]), {titles[a] for a, b in edges if b == n})
        for n, (title, box) in enumerate(zip(titles, boxes, strict=True))
    }


def chains(n, *, cost=None, pins=(None,)):
    dag = DAG("chains")
    for i in range(n):
        dag.add_function(Function(f"load-{i}", list, cost=cost, node=pins[i % len(pins)]))
        dag.add_function(Function(f"use-{i}", identity, args=[f"load-{i}"]))
    return dag.add_function(Function("all", add, args=[f"use-{i}" for i in range(n)]))


def test_five_hundred_equivalent_functions_are_one_box():
    assert drawn(chains(500, cost={"cpu": 2})) == {
        "list × 500": (["load-0 … load-499", "cpu 2"], set()),
        "identity × 500": (["use-0 … use-499"], {"list × 500"}),
        "all": ([], {"identity × 500"}),
    }


@pytest.mark.parametrize(("n", "boxes"), [(9, 19), (10, 3)])
def test_default_collapse_threshold(n, boxes):
    assert len(drawn(chains(n))) == boxes


@pytest.mark.parametrize(("collapse", "boxes"), [(2, 3), (5, 3), (6, 11), (None, 11)])
def test_collapse_threshold(collapse, boxes):
    assert len(drawn(chains(5), collapse)) == boxes


@pytest.mark.parametrize("wrong", [1, 0, -3, 2.5, "many"])
def test_invalid_collapse_threshold(wrong):
    for draw in (DAG().to_mermaid, DAG().visualize):
        with pytest.raises(ValueError, match="collapse must be a whole number of at least 2"):
            draw(collapse=wrong)


def test_different_pins_separate_functions_and_their_dependents():
    boxes = outline(chains(40, pins=("n1", "n2"))).boxes
    assert sorted(len(box.functions) for box in boxes) == [1, 20, 20, 20, 20]
    assert sorted(box.lines[2] for box in boxes if box.functions[0].code is list) == ["on n1", "on n2"]


@pytest.mark.parametrize(
    "fields",
    [
        {"cost": {"cpu": 1}},
        {"code": sorted},
        {"node": "n1"},
        {"type": "inline"},
        {"node": Collocated("other")},
    ],
)
def test_properties_that_separate_functions(fields):
    dag = dag_of(Function("other", set), *(Function(i, list) for i in range(20)))
    for i in range(20, 40):
        dag.add_function(Function(i, **{"code": list, **fields}))
    assert sorted(len(box.functions) for box in outline(dag).boxes) == [1, 20, 20]


def test_distant_dependents_separate_functions():
    """Twenty chains of five functions; every second chain ends with different code."""
    dag = DAG()
    for i in range(20):
        for step in range(5):
            code = sorted if step == 4 and i % 2 else identity
            dag.add_function(Function((i, step), code, args=[(i, step - 1)] if step else ()))
    assert sorted(len(box.functions) for box in outline(dag).boxes) == [10] * 10


def test_different_lambdas_are_separated_but_one_lambda_in_a_loop_is_not():
    dag = DAG()
    for i in range(10):
        dag.add_function(Function(("a", i), lambda: 1))
        dag.add_function(Function(("b", i), lambda: 2))
        dag.add_function(Function(("c", i), partial(identity, i)))
    assert sorted(len(box.functions) for box in outline(dag).boxes) == [10, 10, 10]


def test_collocation_with_a_common_function_or_with_one_each():
    dag = DAG()
    for i in range(10):
        dag.add_function(Function(f"load-{i}", list))
        dag.add_function(Function(f"use-{i}", identity, args=[f"load-{i}"], node=Collocated(f"load-{i}")))
        dag.add_function(Function(f"log-{i}", sorted, node=Collocated("load-0")))
    lines = {box.lines[0]: box.lines[-1] for box in outline(dag).boxes}
    assert lines["identity × 10"] == "beside load-0 … load-9"
    assert lines["sorted × 10"] == "beside load-0"


def test_synthetic_functions_are_grouped():
    dag = dag_of(Function("p", list))
    for i in range(10):
        dag.add_function(Function(i, identity, args=[Argument("p", serialize=sorted)]))
    assert set(drawn(dag)) == {"p", "serialize: sorted × 10", "deserialize: pass_data × 10", "identity × 10"}


def test_boxes_have_no_edges_to_themselves():
    boxes, edges = outline(chains(100))
    layers = layers_of(len(boxes), edges)
    assert all(layers[a] < layers[b] for a, b in edges)


@pytest.mark.parametrize("most", [5, 60])
@pytest.mark.parametrize("shape", ["chain", "different", "equal"])
def test_compact_outlines_never_exceed_the_maximum_number_of_boxes(shape, most):
    dag = DAG()
    for i in range(500):
        cost = {"cpu": i + 1} if shape == "different" else None
        dag.add_function(Function(i, identity, args=[i - 1] if i and shape == "chain" else (), cost=cost))
    boxes, edges = compact(dag, most)
    assert len(boxes) <= most
    assert sum(len(box.functions) for box in boxes) == 500
    assert all(a != b for a, b in edges)
    lines = [line for box in boxes for line in box.lines]
    assert (f"{500 - most + 1} other functions" in lines) == (shape == "different")
    assert ("with internal dependencies" in lines) == (shape == "chain")


def test_two_thousand_functions_are_grouped_quickly():
    begin = time.thread_time()  # processor time, which other processes on the machine do not change
    outline(chains(1000))
    assert time.thread_time() - begin < 2


# ------------------------------------------------------------------------------ layout


def overlaps(sizes, centres):
    boxes = list(zip(sizes, centres, strict=True))
    return [
        (n, m)
        for n, ((w, h), (x, y)) in enumerate(boxes)
        for m, ((v, g), (a, b)) in enumerate(boxes[:n])
        if abs(x - a) < (w + v) / 2 + GAP - 1e-6 and abs(y - b) < (h + g) / 2 - 1e-6
    ]


@pytest.mark.parametrize("seed", range(5))
def test_boxes_do_not_overlap_and_edges_connect_them(seed):
    from random import Random

    random = Random(seed)
    sizes = [(random.uniform(20, 200), random.uniform(20, 60)) for _ in range(40)]
    edges = [(random.randrange(n), n) for n in range(1, 40) for _ in range(2)]
    places = layout(sizes, edges)
    assert overlaps(sizes, places.centres) == []
    for (width, height), (x, y) in zip(sizes, places.centres, strict=True):
        assert width / 2 <= x + 1e-6
        assert x <= places.width - width / 2 + 1e-6
        assert height / 2 <= y + 1e-6
        assert y <= places.height - height / 2 + 1e-6
    for (a, b), path in zip(edges, places.paths, strict=True):
        (ax, ay), (bx, by) = places.centres[a], places.centres[b]
        assert path[0] == pytest.approx((ax, ay + sizes[a][1] / 2))
        assert path[-1] == pytest.approx((bx, by - sizes[b][1] / 2))
        assert ay < by


def test_a_tree_has_no_crossings():
    """The leaves start in the worst order, and move to their dependents."""
    edges = [(n, 8 + n % 4) for n in range(8)] + [(8 + n, 12) for n in range(4)]
    x = [x for x, _ in layout([(20.0, 20.0)] * 13, edges).centres]
    inner = [(a, b) for a, b in edges if a < 8]
    assert not [1 for a, b in inner for c, d in inner if (x[a] - x[c]) * (x[b] - x[d]) < -1e-6]


def test_layout_of_a_cycle():
    places = layout([(10.0, 10.0)] * 3, [(0, 1), (1, 2), (2, 0)])
    assert len({y for _, y in places.centres}) == 3
    assert len(places.paths) == 3


def test_layout_of_nothing():
    assert layout([], []).centres == []
