"""Large DAGs: the work is linear in their size, and nothing recurses."""

import sys

import pytest
from helpers import identity

from handoff_dask import DAG, CyclicDependencyError, Function

N = 100_000

#: Far beyond the recursion limit.
LENGTHS = pytest.mark.parametrize("n", [20_000, pytest.param(N, marks=pytest.mark.slow)])


def code(*args):
    return args


def chain(n, ids=range):
    """Return a chain whose functions are added in reverse, so that insertion order is not topological."""
    dag = DAG()
    names = list(ids(n))
    for i in reversed(range(1, n)):
        dag.add_function(Function(names[i], identity, args=[names[i - 1]]))
    return dag.add_function(Function(names[0], list)), names


@LENGTHS
def test_chain(n):
    dag, ids = chain(n)
    dag.validate()
    assert list(dag) == ids
    assert (dag.sources, dag.sinks) == ((0,), (n - 1,))
    assert len(dag.subset(n - 1)) == n


@pytest.mark.parametrize(
    ("depth", "width"),
    [
        (1000, 20),
        (20, 1000),
        *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in [(1000, 100), (100, 1000)]),
    ],
)
def test_layers(depth, width):
    dag = DAG()
    for layer in reversed(range(depth)):
        for n in range(width):
            deps = [(layer - 1, (n + k) % width) for k in range(3)] if layer else []
            dag.add_function(Function((layer, n), code, args=deps))
    dag.validate()
    position = {id: n for n, id in enumerate(dag)}
    assert len(position) == depth * width
    for (layer, n), place in position.items():
        assert not layer or all(position[layer - 1, (n + k) % width] < place for k in range(3))


@LENGTHS
def test_cycle_through_everything(n):
    dag = DAG()
    for i in range(n):
        dag.add_function(Function(i, identity, args=[(i - 1) % n]))
    with pytest.raises(CyclicDependencyError) as caught:
        dag.validate()
    cycle = caught.value.cycle
    start = cycle.index(0)
    assert cycle[start:] + cycle[:start] == tuple(range(n))


def test_no_recursion():
    """Validate with hardly more stack than the test itself takes."""
    dag, ids = chain(500)
    depth = 0
    frame = sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + 100)
    try:
        dag.validate()
        assert list(dag) == ids
        assert len(dag.subset(ids[-1])) == 500
    finally:
        sys.setrecursionlimit(limit)


class Counted:
    """An id that counts how often it is hashed or compared."""

    operations = 0

    def __init__(self, n):
        self.n = n

    def __hash__(self):
        Counted.operations += 1
        return hash(self.n)

    def __eq__(self, other):
        Counted.operations += 1
        return self.n == other.n


def operations(n, what):
    dag, _ = chain(n, ids=lambda n: map(Counted, range(n)))
    Counted.operations = 0
    what(dag)
    return Counted.operations


@pytest.mark.parametrize(
    "what",
    [DAG.validate, list, lambda dag: dag.sinks, lambda dag: dag.subset(dag.sinks[0])],
    ids=["validate", "iterate", "sinks", "subset"],
)
def test_linear(what):
    small, large = operations(500, what), operations(4000, what)
    assert small >= 500
    assert large <= 8.1 * small
