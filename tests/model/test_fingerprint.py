"""Fingerprints change if and only if a function does something else."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from collections import OrderedDict

import cloudpickle
import numpy as np
import pandas as pd
import pytest

from handoff_dask import Function
from handoff_dask._model.fingerprint import FingerprintError, fingerprints


def of(*functions):
    """Return the fingerprint of the last function."""
    by_id = {f.id: f for f in functions}
    return fingerprints(by_id, by_id, cloudpickle.dumps)[functions[-1].id]


def of_code(code):
    return of(Function("f", code))


def of_argument(value):
    return of(Function("f", print, extra_args=[value]))


def defined(source, name="f", **namespace):
    """Execute source as a module of its own and return one of its names."""
    namespace["__name__"] = "somewhere"
    exec(source, namespace)
    return namespace[name]


SOURCE = "def f(x, y=1, *, z=2):\n    return x + y + z\n"


@pytest.mark.parametrize(
    "other",
    [
        SOURCE.replace("x + y", "x - y"),
        SOURCE.replace("y=1", "y=3"),
        SOURCE.replace("z=2", "z=3"),
        SOURCE.replace("+ z", "+ z + 0"),
        SOURCE.replace("+ z", "+ (lambda: z)()"),
        SOURCE.replace("(x, y", "(y, x").replace("x, y=1", "y, x=1"),
        SOURCE.replace("+ z", "+ z.real"),
    ],
)
def test_changed_code_counts(other):
    assert of_code(defined(other)) != of_code(defined(SOURCE))


@pytest.mark.parametrize("same", [SOURCE, "\n\n# moved\n" + SOURCE, SOURCE.replace("    ", "  ") + "# said"])
def test_the_location_of_code_does_not_count(same):
    assert of_code(defined(same)) == of_code(defined(SOURCE))


def test_nested_code_constants_and_names_count():
    source = "def f(x):\n    def g(y):\n        return [h for h in y if h in {'a', 'b'}]\n    return g(x)\n"
    assert of_code(defined(source)) == of_code(defined(source))
    assert of_code(defined(source.replace("'b'", "'c'"))) != of_code(defined(source))
    assert of_code(defined("def f(x): return x.a")) != of_code(defined("def f(x): return x.b"))
    assert of_code(defined("def f(): return 0.0")) != of_code(defined("def f(): return -0.0"))
    assert of_code(defined("def f(): return 1")) != of_code(defined("def f(): return True"))


def test_closures_count():
    def add(n):
        return lambda x: x + n

    assert of_code(add(1)) == of_code(add(1))
    assert of_code(add(1)) != of_code(add(2))


def test_a_closure_may_contain_itself_and_opaque_values():
    import threading

    def make(n):
        lock = threading.Lock()

        def f(x):
            with lock:
                return f(x - n)

        return f

    assert of_code(make(1)) == of_code(make(1))
    assert of_code(make(1)) != of_code(make(2))


MODULE = """
K = 1
OTHER = 1
def helper(x): return deeper(x) + K
def deeper(x): return helper(x - 1) if x else 0
def unused(x): return x
def f(x): return helper(x)
"""


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("K = 1", "K = 2", True),
        ("if x else 0", "if x else 1", True),
        ("OTHER = 1", "OTHER = 2", False),
        ("def unused(x): return x", "def unused(x): return 2 * x", False),
    ],
)
def test_globals_of_the_module_count_if_they_are_used(old, new, changes):
    assert (of_code(defined(MODULE.replace(old, new))) != of_code(defined(MODULE))) is changes


HELPERS = """
import contextlib, functools, threading
def decorate(f):
    def call(*args): return f(*args) + "D"
    return call
class Noted:
    def __init__(self, f):
        functools.update_wrapper(self, f)
        self.f, self.lock = f, threading.Lock()
    def __call__(self, *args): return self.noted(self.f(*args))
    def noted(self, x): return x + "N"
class Kept:
    def __init__(self, n="I"): self.n = n
    def method(self): return self.other() + self.n
    def other(self): return "O"
@functools.lru_cache
def cached(): return "L"
def plain(x, y): return x + y + "P"
def _Class__mangled(): return "M"
def __hidden(): return "H"
__dunder__ = "U"
partially = functools.partial(plain, "A")
by_method = Kept().method
@decorate
def decorated(): return "E"
@Noted
def noted(): return "T"
@contextlib.contextmanager
def managed(): yield "G"
@functools.singledispatch
def dispatched(x): return "S"
@dispatched.register
def _(x: int): return "R"
def unused(): return "X"
class Class:
    constant = "C"
    def __call__(self): return __mangled() + self.cached() + self.static() + self.named() + self.part()
    @functools.lru_cache
    def cached(self): return "l"
    @staticmethod
    @functools.lru_cache
    def static(): return "s"
    @classmethod
    @functools.cache
    def named(cls): return "n"
    @functools.cached_property
    def once(self): return "o"
    @property
    def settable(self): return "r"
    @settable.setter
    def settable(self, x): x + "t"
    def whole(self, x): return x + "w"
    part = functools.partialmethod(whole, "p")
    @functools.singledispatchmethod
    def several(self, x): return "v"
    @several.register
    def _(self, x: int): return "i"
    @Noted
    def wrapped(self): return "e"
    def __private(self): return "y"
    __size__ = "z"
def f():
    yield cached() + partially("B") + by_method() + __hidden() + __dunder__ + decorated()
    yield noted() + dispatched(1)
    with managed() as x: yield x
"""


@pytest.mark.parametrize("part", "DNIOLPHUAETGSR")
def test_helpers_count_in_any_wrapper_and_under_any_name(part):
    before, after = (defined(source) for source in (HELPERS, HELPERS.replace(f'"{part}"', '"changed"')))
    assert of_code(after) != of_code(before)


@pytest.mark.parametrize("part", "CMlsnortwpvieyzNPL")
def test_methods_count_in_any_wrapper_and_under_any_name(part):
    source = HELPERS.replace("return __mangled()", "return __mangled() + partially() + cached()")
    before, after = (
        defined(source, "Class") for source in (source, source.replace(f'"{part}"', '"changed"'))
    )
    assert of_code(after) != of_code(before)
    for wrap in (lambda code: code, functools.partial, functools.lru_cache):
        assert of_code(wrap(after())) != of_code(wrap(before()))
        assert of_code(wrap(after().whole)) != of_code(wrap(before().whole)), (
            "whole() may call another method"
        )
        assert of_argument(wrap(after().whole)) != of_argument(wrap(before().whole))
        assert of_code(wrap(before().whole)) == of_code(wrap(before().whole))


def test_other_methods_of_the_class_count():
    source = "class C:\n    @classmethod\n    def f(cls): return cls.g()\n"
    source += "    @classmethod\n    def g(cls): return 1\n"
    assert of_code(defined(source, "C").f) == of_code(defined(source, "C").f)
    assert of_code(defined(source.replace("1", "2"), "C").f) != of_code(defined(source, "C").f)


def test_unused_globals_do_not_count():
    assert of_code(defined(HELPERS.replace('"X"', '"changed"'))) == of_code(defined(HELPERS))
    assert of_code(defined(HELPERS, __file__="a", __doc__="b")) == of_code(defined(HELPERS))


def test_opaque_helpers_are_accepted():
    source = "def f(x): return helper(x)\n"
    for helper in (
        functools.partial(print, file=sys.stdout),
        functools.partial(np.random.default_rng(1).normal, size=(x for x in ())),
        functools.lru_cache(functools.partial(print, file=sys.stdout)),
    ):
        assert of_code(defined(source, helper=helper)) == of_code(defined(source, helper=helper))


REBOUND = """
def one(x): return 1
def two(x): return 2
class Class:
    def one(self, x): return 1
    def two(self, x): return 2
    use = one
used = one
def f(x): return one(x) + two(x) + used(x)
"""


def test_the_function_to_which_a_name_is_bound_counts():
    """Both functions have already been hashed under their own names."""
    rebound = REBOUND.replace("use = one", "use = two").replace("used = one", "used = two")
    for name in ("f", "Class"):
        assert of_code(defined(rebound, name)) != of_code(defined(REBOUND, name))
        assert of_code(defined(REBOUND, name)) == of_code(defined(REBOUND, name))
    swapped = REBOUND.replace("used = one", "used = one; one, two = two, one")
    assert of_code(defined(swapped)) != of_code(defined(REBOUND))


class Wrapping:
    def __init__(self, f, times):
        functools.update_wrapper(self, f)
        self.times = times

    def __call__(self, x):
        return self.times * self.__wrapped__(x)


def test_the_state_of_a_wrapper_counts():
    f, g = defined("def f(x): return x"), defined("def f(x): return -x")
    assert of_code(Wrapping(f, 2)) == of_code(Wrapping(f, 2))
    assert len({of_code(Wrapping(h, n)) for h in (f, g) for n in (1, 2)}) == 4
    assert len({of_argument(Wrapping(h, n)) for h in (f, g) for n in (1, 2)}) == 4
    assert of_code(functools.lru_cache(maxsize=1)(f)) == of_code(functools.lru_cache(maxsize=2)(f))
    assert of_code(functools.lru_cache(f)) != of_code(functools.lru_cache(g))


class Scale:
    factor = 2

    def __init__(self, n=1):
        self.n = n

    def __call__(self, x):
        return self.factor * self.n * x


def test_callables_of_every_kind(monkeypatch):
    codes = [
        Scale,
        Scale(1),
        Scale(2),
        Scale(1).__call__,
        Scale(2).__call__,
        functools.partial(divmod, 1),
        functools.partial(divmod, 2),
        functools.partial(divmod, 1, y=2),
        functools.lru_cache(of),
        of,
        "{}".format,
        "{} ".format,
        str.upper,
        np.add,
        np.mean,
        "operator:add",
        "operator:sub",
        "not_there:f",
    ]
    prints = [of_code(code) for code in codes]
    assert len(set(prints)) == len(codes)
    assert prints == [of_code(code) for code in codes]
    monkeypatch.setattr(Scale, "factor", 3)
    assert [of_code(code) != old for code, old in zip(codes[:3], prints, strict=False)] == [True] * 3
    monkeypatch.undo()
    monkeypatch.setattr(Scale, "__call__", lambda self, x: x)
    assert [of_code(code) != old for code, old in zip(codes[:3], prints, strict=False)] == [True] * 3


def test_import_paths_are_resolved(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = tmp_path / "looked_up.py"
    seen = set()
    for n in (1, 2, 1):
        module.write_text(f"def f(): return {n}\n")
        seen.add(of_code("looked_up:f"))
        del sys.modules["looked_up"]
    assert len(seen) == 2


VALUES = [
    None,
    0,
    False,
    0.0,
    -0.0,
    float("nan"),
    1j,
    "0",
    b"0",
    bytearray(b"0"),
    (),
    [],
    {},
    set(),
    (1, (2,)),
    (1, 2),
    [1, [2]],
    ["ab", "c"],
    ["a", "bc"],
    {"a": 1, "b": 2},
    {"b": 2, "a": 1},
    OrderedDict(a=1),
    {"a": 1},
    {("a", 1)},
    {1, 2},
    frozenset({1, 2}),
    np.arange(3),
    np.arange(3.0),
    np.arange(6).reshape(2, 3),
    np.arange(6).reshape(3, 2),
    np.array(["a-b", "c"], object),
    np.array(["a", "b-c"], object),
    pd.DataFrame({"a": [1, 2]}),
    pd.DataFrame({"b": [1, 2]}),
    Scale(1),
    Scale(2),
    len,
    lambda x: x,
    lambda x: x + 1,
    10**5000,
]


def test_arguments_of_every_kind():
    prints = [of_argument(value) for value in VALUES]
    assert len(set(prints)) == len(VALUES)


def test_sharing_of_immutable_parts_does_not_count():
    text, part = "some text", [1]
    assert of_argument([text, text]) == of_argument([text, "".join(["some ", "text"])])
    assert of_argument([(1, text), (1, text)]) == of_argument([(1, text)] * 2)
    circle = [part]
    circle.append(circle)
    again = [[1]]
    again.append(again)
    assert of_argument(circle) == of_argument(again)


class Node:
    def __init__(self, name, neighbours=()):
        self.name = name
        self.neighbours = set(neighbours)


def ring(*names):
    """Return nodes that form a ring."""
    nodes = [Node(name) for name in names]
    for n, node in enumerate(nodes):
        node.neighbours |= {nodes[n - 1], nodes[(n + 1) % len(nodes)]}
    return nodes


def around(value):
    """Return a frozenset with a member that refers back to it."""
    node = Node(value)
    node.around = frozenset({node, value})
    return node.around


def test_sets_may_contain_themselves():
    alone = Node("alone")
    alone.neighbours.add(alone)
    again = Node("alone")
    again.neighbours.add(again)
    assert of_argument(alone) == of_argument(again) != of_argument(Node("alone"))
    assert of_argument(ring(*"abcdef")) == of_argument(ring(*"abcdef"))
    others = ["abcdeg", "abcdfe", "abcde"]
    assert len({of_argument(ring(*names)[0]) for names in ["abcdef", *others]}) == 4
    far = [ring(*range(40))[0], ring(*range(20), 0, *range(21, 40))[0]]
    assert of_argument(far[0]) != of_argument(far[1]), "distant members count"
    assert of_argument(around(1)) == of_argument(around(1)) != of_argument(around(2))


def test_densely_connected_sets_are_hashed_fast():
    nodes = [Node(n) for n in range(30)]
    for node in nodes:
        node.neighbours.update(nodes)
    begin = time.process_time()
    first = of_argument(nodes)
    assert time.process_time() - begin < 20  # there are too many paths to follow each separately
    nodes[29].name = 31
    assert of_argument(nodes) != first


def test_the_passing_of_arguments_counts():
    a, b = Function("a", print), Function("b", print)
    base = Function("f", print, args=["a", "b"], extra_args=[1], extra_kwargs={"x": 1})
    others = [
        base,
        base.replace(args=["b", "a"]),
        base.replace(args=["a"], kwargs={"y": "b"}),
        base.replace(argument_inclusion="as_list"),
        base.replace(extra_args=[2]),
        base.replace(extra_kwargs={"x": 2}),
        base.replace(extra_kwargs={"z": 1}),
        base.replace(id="g"),
    ]
    assert len({of(a, b, f) for f in others}) == len(others)
    assert of(a.replace(extra_args=[0]), b, base) != of(a, b, base)
    assert of(a.replace(cost={"cpu": 2}, node="n", priority=1, max_retries=1), b, base) == of(a, b, base)


def test_opaque_arguments_are_an_error():
    with pytest.raises(FingerprintError) as caught:
        of_argument(x for x in ())
    assert caught.value.function_id == "f"
    assert "generator" in caught.value.reason


def test_a_long_chain_needs_no_recursion():
    chain = [Function(i, print, args=[i - 1] if i else []) for i in range(5000)]
    assert len(of(*chain)) == 64


PROGRAM = """
import sys
sys.path[:0] = {path!r}
import test_fingerprint as t
values = [{{"a", "b", "c"}}, frozenset("xyz"), {{"k": {{"p", "q"}}}}, t.Scale({{"u", "v", "w"}}), t.of]
values += [t.ring(*"abcdef")[0], {{frozenset("xy"), (frozenset("ab"), 1)}}, t.around("a")]
for value in values:
    print(t.of_argument(value))
for code in (t.of, t.Scale, t.defined("def f(x): return x in {{'a', 'b', 'c'}}"), lambda x: t.of(x)):
    print(t.of_code(code))
print(t.of_code(t.defined(t.HELPERS)), t.of_code(t.Wrapping(t.of, 2)))
"""


@pytest.mark.timeout(300)  # the first process may compile all of pandas
def test_fingerprints_are_equal_in_all_processes():
    here = os.path.dirname(__file__)
    outputs = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(path=[here])],
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert len(set(done.stdout.split())) == 14
        outputs.add(done.stdout)
    assert len(outputs) == 1
