"""Random DAGs, run repeatedly while checkpoint files vanish or are damaged and functions change."""

from __future__ import annotations

import json
import tempfile
import threading
from collections import Counter
from pathlib import Path

import pytest
from helpers import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import handoff_dask as handoff
from handoff_dask import DAG, Collocated, Function

CALLS: Counter = Counter()
LOCK = threading.Lock()


def first_code(*arguments):
    """Return the sum of the inputs and the extra argument. Count the call."""
    *inputs, name, extra = arguments
    with LOCK:
        CALLS[name] += 1
    return sum(inputs) + extra


def second_code(*arguments):
    *inputs, name, extra = arguments
    with LOCK:
        CALLS[name] += 1
    return sum(inputs) + 100 * extra


CODES = [(first_code, 1), (second_code, 100)]


@st.composite
def dag_specs(draw):
    """For each function: its inputs, whether it is inline, and the function it is collocated with."""
    specs = []
    for i in range(draw(st.integers(1, 7))):
        inline = draw(st.integers(0, 4)) == 4
        others = [j for j in range(i) if not specs[j]["inline"]]
        collocated = draw(st.sampled_from([None, None, *others])) if not inline else None
        inputs = sorted(draw(st.sets(st.integers(0, i - 1), max_size=3))) if i else []
        specs.append({"inputs": inputs, "inline": inline, "collocated": collocated})
    return specs


@st.composite
def steps(draw, n):
    """Changes before a call (functions, damaged and removed files), and the options of the call."""
    ids = st.sets(st.integers(0, n - 1), max_size=3)
    return {
        "changed": draw(ids),
        "damaged": draw(st.dictionaries(st.integers(0, n - 1), st.integers(0, 10**6), max_size=3)),
        "removed": draw(ids),
        "keep": draw(st.one_of(st.sampled_from(["all", "sinks"]), ids)),
        "checkpoint_of": draw(st.one_of(st.none(), ids)),
        "locally": draw(st.booleans()),
    }


class Model:
    """The trivial model: which functions must run, and their values."""

    def __init__(self, specs):
        self.specs = specs
        self.version = [0] * len(specs)
        self.placed = [i for i, s in enumerate(specs) if not s["inline"]]
        self.deps = {i: self.placed_inputs(i) for i in self.placed}
        self.files: dict = {}

    def placed_inputs(self, i):
        found = set()
        for j in self.specs[i]["inputs"]:
            found |= self.placed_inputs(j) if self.specs[j]["inline"] else {j}
        return found

    def state(self, i):
        return (i, self.version[i], tuple(self.state(j) for j in self.specs[i]["inputs"]))

    def value(self, i):
        inputs = sum(self.value(j) for j in self.specs[i]["inputs"])
        _, factor = CODES[self.version[i] % 2]
        return inputs + factor * (self.version[i] + i)

    def dag(self):
        dag = DAG("random")
        for i, s in enumerate(self.specs):
            dag.add_function(
                Function(
                    i,
                    CODES[self.version[i] % 2][0],
                    args=s["inputs"],
                    extra_args=[i, self.version[i] + i],
                    type="inline" if s["inline"] else "regular",
                    node=None if s["collocated"] is None else Collocated(s["collocated"]),
                )
            )
        return dag

    def sinks(self):
        return set(self.placed) - set().union(*self.deps.values(), set())

    def expected(self, keep):
        """Return the functions that must run."""
        run = set()
        stack = list(self.placed if keep == "all" else self.sinks() | (set() if keep == "sinks" else keep))
        while stack:
            i = stack.pop()
            if i not in run and self.state(i) not in self.files:
                run.add(i)
                stack.extend(self.deps[i])
        return run


def damage(path: Path, how: int) -> None:
    data = bytearray(path.read_bytes())
    if how % 3:
        data[how % len(data)] ^= 1 << how % 8
    else:
        del data[how % len(data) :]
    path.write_bytes(data)


def name_of(path: Path) -> int:
    return int(json.loads(path.read_bytes().split(b"\n")[2].partition(b"}")[0] + b"}")["function"])


@given(st.data())
@settings(
    deadline=None,
    max_examples=examples(60),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.timeout(600)
def test_exactly_the_necessary_functions_run_again(client, data):
    model = Model(data.draw(dag_specs()))
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(data.draw(st.integers(1, 4))):
            check_call(client, model, Path(folder), data.draw(steps(len(model.specs))))


def check_call(client, model, folder, step):
    for i in step["changed"]:
        model.version[i] += 1
    for i, how in step["damaged"].items():
        if path := model.files.pop(model.state(i), None):
            damage(path, how)
    for i in step["removed"]:
        if path := model.files.pop(model.state(i), None):
            path.unlink()
    keep = step["keep"] if isinstance(step["keep"], str) else step["keep"] & set(model.placed)
    checkpoint_of = None if step["checkpoint_of"] is None else step["checkpoint_of"] & set(model.placed)
    selected = set(model.placed) if checkpoint_of is None else checkpoint_of
    stored = model.files
    model.files = {state: path for state, path in stored.items() if state[0] in selected}
    expected = model.expected(keep)
    model.files = stored
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    CALLS.clear()
    options = {"checkpoint": folder, "checkpoint_of": checkpoint_of, "keep": keep}
    result = (
        handoff.execute_local(model.dag(), **options)
        if step["locally"]
        else handoff.execute(model.dag(), client, **options)
    )
    assert {i for i in CALLS if i in model.placed} == expected
    assert all(CALLS[i] == 1 for i in expected)
    kept = {"all": set(model.placed), "sinks": model.sinks()}.get(str(keep), keep)
    assert result.results == {i: model.value(i) for i in kept}
    assert expected.isdisjoint(result.restored)
    assert kept <= expected | set(result.restored)
    written = {p for p in folder.iterdir() if before.get(p) != p.stat().st_mtime_ns}
    assert sorted(name_of(p) for p in written) == sorted(expected & selected)
    for path in written:
        model.files[model.state(name_of(path))] = path
