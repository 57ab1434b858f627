"""Careless and hostile DAGs, and an oracle in plain Python that predicts the outcome.

Functions are described by dictionaries, from which alone the oracle derives their faults: it uses none of the
package's own checks.
"""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Real

from hypothesis import strategies as st

from handoff_dask import (
    DAG,
    AllocationError,
    Collocated,
    CyclicDependencyError,
    DuplicateFunctionError,
    Function,
    InvalidCollocationError,
    InvalidCostError,
    InvalidFunctionError,
    MissingFunctionError,
    RetryPolicy,
)

NODES = {"node1": {"cpu": 4, "memory": 8192, "gpu": 1}, "node2": {"cpu": 2, "memory": 4096}}

#: Names of the functions below that have run on nodes in this process.
RAN: list[str] = []


def value_of(*inputs):
    """Return a value that depends on every input and on their order; a list counts as its elements."""
    value = 7
    for x in inputs:
        value = (value * 31 + (value_of(*x) if isinstance(x, list) else x)) % 1_000_003
    return value


def loose(*args, **kwargs):
    RAN.append("loose")
    return value_of(*args, *(kwargs[name] for name in sorted(kwargs)))


def two(x, y):
    RAN.append("two")
    return value_of(x, y, 2)


def named(x=1, *, key=2):
    RAN.append("named")
    return value_of(x, key, 3)


def none():
    RAN.append("none")
    return 11


CODES = (loose, two, named, none)

NAN = float("nan")  # not equal to itself, yet a dictionary finds it by identity
IDS = ("a", "b", "", ("t", 1), ("t", (2, "x")), None, 1, True, 0, 2.5, b"x", frozenset({1}), NAN, "serialize")
ABSENT = ("absent", ("t", 9), -1)


class Odd:
    """An object that is valid nowhere."""

    def __repr__(self):
        return "an odd thing"


ODD = Odd()

#: Field → valid and invalid values; the oracle decides which are invalid.
VALUES = {
    "cost": [
        *({"cpu": n} for n in (1, 0, 0.5, Fraction(1, 3), Decimal("0.25"), 4, 1e-30, -0.0)),
        *({"cpu": n} for n in (-1, -1e-9, NAN, math.inf, -math.inf, "2", None, True, 1j, 10**400, [1], ODD)),
        *({"memory": 1, name: 1} for name in ("", 3, None, ("cpu",), "threads")),
        *({"licence": n} for n in (0, 1)),
        *({"cpu": n} for n in (5, 2**60, 1e300, 10**300)),
        *("much", 5, [("cpu", 1)], {"cpu"}, ODD, {}, {"gpu": 0.5, "memory": 100}),
    ],
    "node": [
        *("node1", "node2", ["node1", "node2"], ("node2",), "nowhere", ["nowhere", "node1"], 17),
        *("", [], ["node1", ""], True, 3.5, ODD, [None], {"node1": 1}, b"node1"),
        *(Collocated("absent"), Collocated([])),
    ],
    "code": [loose, two, named, none, 5, None, "no path", "os:", ":path", "a.b", b"os:path", ODD, []],
    "args": ["ab", 5, None, {"x": "a"}, ODD, [[]], [{}]],
    "extra_args": [(), (1,), [1, 2], "xy", 5, {"x": 1}, None],
    "kwargs": [{1: "a"}, "ab", 5, None, [("key", "a")], {"key": []}],
    "extra_kwargs": [{"key": 5}, {"x": 5}, {"nothing": 5}, {5: 5}, "ab", [1], None],
    "type": ["inline", "inline", "input", "other", None, 5],
    "argument_inclusion": ["as_list", "as_list", "list", None, 5],
    "max_retries": [0, 2, -1, 1.5, True, "3", NAN, 2**70],
    "retry": [RetryPolicy(2), RetryPolicy(0, elsewhere=False), 3, {"max_retries": 3}, RetryPolicy, "often"],
    "timeout": [0, -1, NAN, math.inf, "5", True, ODD, 10**400],
    "priority": [1, -3.5, math.inf, NAN, "high", None, True, 1j],
}


@st.composite
def descriptions(draw, most=6):
    """Draw a list of functions as dictionaries of fields, of which ``id`` and ``code`` are always set."""
    ids = draw(st.lists(st.sampled_from(IDS), max_size=most, unique_by=id))
    found = []
    for n, id_ in enumerate(ids):
        f = {"id": id_, "code": draw(st.sampled_from(CODES))}
        # Mostly depend on earlier functions, so that many DAGs have no cycle.
        deps = st.sampled_from([*ids[:n] * 20, *ids, *ABSENT])
        if f["code"] is loose:
            f["args"] = draw(st.lists(deps, max_size=3)) if n else []
        elif f["code"] is two:
            f["args"], f["extra_args"] = ([draw(deps), draw(deps)], []) if n else ([], [1, 2])
        elif f["code"] is named and n and draw(st.booleans()):
            f["kwargs"] = {draw(st.sampled_from(["x", "key", "key", "key", "other"])): draw(deps)}
        if n and draw(st.integers(0, 5)) == 0:
            f["node"] = Collocated(draw(st.sampled_from([*ids[:n] * 10, id_, *ABSENT[:1]])))
        for _ in range(draw(st.sampled_from([0] * 14 + [1, 1, 2]))):  # few, and a bounded number
            field = draw(st.sampled_from([*sorted(VALUES), *["cost"] * 5, *["node"] * 2]))
            f[field] = draw(st.sampled_from(VALUES[field]))
        found.append(f)
    if draw(st.integers(0, 50)) == 0:
        found.append({"id": draw(st.sampled_from([[], {}, set()])), "code": loose})
    return found


def build(functions):
    dag = DAG("hostile")
    for f in functions:
        dag.add_function(Function(**f))
    return dag


# ---------------------------------------------------------------------- faults


def is_hashable(x):
    try:
        hash(x)
    except TypeError:
        return False
    return True


def is_amount(x):
    """Return whether ``x`` is an amount of a resource or of seconds: real, finite and not negative."""
    if isinstance(x, bool) or not isinstance(x, (Real, Decimal)):
        return False
    try:
        return math.isfinite(x) and x >= 0
    except OverflowError:  # finite, but beyond the range of floats
        return False


def sequence(f, field):
    """Return the elements of a field that takes a list, or None if its value is not one."""
    value = f.get(field, ())
    return list(value) if isinstance(value, (list, tuple)) else None


def mapping(f, field):
    value = f.get(field, {})
    return value if isinstance(value, dict) and all(isinstance(k, str) for k in value) else None


def dependencies(f):
    args, kwargs = sequence(f, "args"), f.get("kwargs", {})
    if args is None or not isinstance(kwargs, dict):
        return []
    return [*args, *kwargs.values()]


def has_cycle(graph):
    """Remove functions without remaining dependencies until none is left: the rest contains a cycle."""
    left = {id: set(deps) for id, deps in graph.items()}
    while free := [id for id, deps in left.items() if not deps & left.keys()]:
        for id in free:
            del left[id]
    return bool(left)


def bad_cost(f):
    cost = f.get("cost")
    if cost is None:
        return False
    if not isinstance(cost, dict):
        return True
    return any(
        not isinstance(name, str) or name in ("", "threads") or not is_amount(amount)
        for name, amount in cost.items()
    )


def bad_collocation(f, by_id):
    node = f.get("node")
    if not isinstance(node, Collocated):
        return False
    if not is_hashable(node.id) or node.id not in by_id or by_id[node.id] is f:
        return True
    return by_id[node.id].get("type", "regular") in ("inline", "input")


def bad_node(f):
    node = f.get("node")
    if node is None or isinstance(node, Collocated):
        return False
    names = list(node) if isinstance(node, (list, tuple)) else [node]
    return not names or not all(isinstance(n, (str, int)) and n != "" and n is not True for n in names)


def bad_call(f):
    """Return whether the arguments are malformed or do not match the signature of the code."""
    args, extra = sequence(f, "args"), sequence(f, "extra_args")
    kwargs, extra_kwargs = mapping(f, "kwargs"), mapping(f, "extra_kwargs")
    inclusion = f.get("argument_inclusion", "variadic")
    if None in (args, extra) or kwargs is None or extra_kwargs is None:
        return True
    if inclusion not in ("variadic", "as_list"):
        return True
    if not all(is_hashable(d) for d in dependencies(f)):
        return True
    if f.get("type", "regular") == "input":
        return False
    code = f["code"]
    if code not in CODES:
        return True
    if set(kwargs) & set(extra_kwargs):
        return True
    n = (1 if inclusion == "as_list" else len(args)) + len(extra)
    names = {*kwargs, *extra_kwargs}
    if code is two:
        # Positional arguments fill x, y from the left; keyword arguments fill the rest.
        return n > 2 or names != set(["x", "y"][n:])
    if code is named:
        return n > 1 or not names <= ({"x", "key"} if n == 0 else {"key"})
    if code is none:
        return n > 0 or bool(names)
    return False


def bad_options(f):
    retries, timeout, priority = f.get("max_retries"), f.get("timeout"), f.get("priority", 0)
    if retries is not None and (
        isinstance(retries, bool) or not isinstance(retries, Integral) or retries < 0
    ):
        return True
    if f.get("retry") is not None and not isinstance(f["retry"], RetryPolicy):
        return True
    if timeout is not None and (not is_amount(timeout) or timeout == 0):
        return True
    return isinstance(priority, bool) or not isinstance(priority, (int, float)) or priority != priority


def bad_type(f):
    kind = f.get("type", "regular")
    if kind == "regular":
        return False
    if kind not in ("inline", "input"):
        return True
    unfit = {"node"}
    unfit |= {"max_retries", "retry", "timeout"} if kind == "inline" else {"code", "cost", "args", "kwargs"}
    unfit |= {"extra_args", "extra_kwargs"} if kind == "input" else set()
    return any(f.get(field) not in (None, (), [], {}) for field in unfit)


def refusal(functions):
    """Return the class of the exception with which ``add_function`` rejects a function, or None."""
    seen = set()
    for f in functions:
        if not is_hashable(f["id"]):
            return InvalidFunctionError
        if f["id"] in seen:
            return DuplicateFunctionError
        seen.add(f["id"])
    return None


def faults(functions):
    """Return exception class → ids of the faulty functions, in the order in which problems are reported."""
    by_id = {f["id"]: f for f in functions}
    graph = {id: [d for d in dependencies(f) if is_hashable(d)] for id, f in by_id.items()}
    found = {
        MissingFunctionError: [id for id, deps in graph.items() if any(d not in by_id for d in deps)],
        CyclicDependencyError: [None] if has_cycle(graph) else [],
        InvalidCostError: [id for id, f in by_id.items() if bad_cost(f)],
        InvalidCollocationError: [id for id, f in by_id.items() if bad_collocation(f, by_id)],
        InvalidFunctionError: [
            id for id, f in by_id.items() if bad_node(f) or bad_call(f) or bad_options(f) or bad_type(f)
        ],
    }
    return {kind: ids for kind, ids in found.items() if ids}


# ---------------------------------------------------------------------- results


def results(functions):
    """Return id → value for each function with a result, evaluated one by one."""
    by_id = {f["id"]: f for f in functions}
    values = {}

    def value(id):
        if id not in values:
            f = by_id[id]
            inputs = [value(d) for d in f.get("args", ())]
            if f.get("argument_inclusion") == "as_list":
                inputs = [inputs]
            given = {name: value(d) for name, d in f.get("kwargs", {}).items()}
            values[id] = f["code"](*inputs, *f.get("extra_args", ()), **given, **f.get("extra_kwargs", {}))
        return values[id]

    for id in by_id:
        value(id)
    return {id: v for id, v in values.items() if by_id[id].get("type") != "inline"}


def fits(functions):
    """Return whether each collocation group has a node on which every member alone fits."""
    placed = {f["id"]: f for f in functions if f.get("type", "regular") == "regular"}
    group = {id: {id} for id in placed}
    for id, f in placed.items():
        if isinstance(f.get("node"), Collocated):
            joined = group[id] | group[f["node"].id]
            for member in joined:
                group[member] = joined
    return all(
        any(all(_on(placed[m], node) for m in members) for node in NODES) for members in group.values()
    )


def _on(f, node):
    pins = f.get("node")
    if pins is not None and not isinstance(pins, Collocated):
        names = pins if isinstance(pins, (list, tuple)) else [pins]
        if node not in names:
            return False
    return all(amount <= NODES[node].get(name, 0) for name, amount in (f.get("cost") or {}).items())


def verdict(functions):
    """Return the class of the exception with which a run is rejected, or None."""
    if any(f.get("type") == "input" for f in functions):
        return InvalidFunctionError  # an input function has a value only in a stream
    return None if fits(functions) else AllocationError
