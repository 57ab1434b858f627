"""``help()`` of the functions that everybody calls first describes every parameter."""

import doctest
import inspect
import re

import pytest

import handoff_dask as handoff
from handoff_dask import DAG, Function
from handoff_dask._model.function import STREAMING_FIELDS, FunctionFields


def section(thing, heading):
    """Return name → description for a section of a docstring; "a, b : type" counts as two entries."""
    text = inspect.getdoc(thing).partition(f"{heading}\n{'-' * len(heading)}\n")[2]
    lines = re.split(r"\n\n?\w+\n-+\n", text)[0].splitlines()
    entries, names = {}, []
    for line in lines:
        if line and not line.startswith(" "):
            names = line.partition(" : ")[0].split(", ")
            entries.update(dict.fromkeys(names, ""))
        else:
            entries.update({name: f"{entries[name]} {line.strip()}".strip() for name in names})
    return entries


@pytest.mark.parametrize("run", [handoff.execute, handoff.submit, handoff.execute_local, handoff.simulate])
def test_every_parameter_is_described(run):
    described = section(run, "Parameters")
    assert set(described) == set(inspect.signature(run).parameters)
    for name, description in described.items():
        assert len(description) > 15, name
        assert not description.startswith("As for"), name


def test_parameters_of_execute_and_submit_are_described_alike():
    """The texts are written out twice, because editors show a docstring as it stands in the source."""
    execute, submit = section(handoff.execute, "Parameters"), section(handoff.submit, "Parameters")
    assert set(execute) - set(submit) == {"timeout", "progress"}
    assert set(submit) <= set(execute)
    # Only the caller of submit has a Run that can be garbage-collected.
    aside = " The run is not written if its :class:`Run` has been garbage-collected before it ends."
    assert aside in submit["history"]
    submit["history"] = submit["history"].replace(aside, "")
    assert {name: execute[name] for name in submit} == submit


@pytest.mark.parametrize("run", [handoff.execute, handoff.submit])
def test_examples(run):
    (example,) = doctest.DocTestFinder(recurse=False).find(inspect.unwrap(run), globs={})
    runner = doctest.DocTestRunner()
    assert runner.run(example).failed == 0
    assert runner.summarize().attempted >= 5


def test_the_decorator_describes_every_field_in_order():
    documented = re.findall(r"^ *- ``(\w+)``: ", DAG.function.__doc__, re.MULTILINE)
    assert ["id", "code", *documented] == list(inspect.signature(Function).parameters)


def test_fields_of_a_function():
    """Fields that only streaming will use are neither in the signature nor described; they still work."""
    described = section(Function, "Attributes")
    shown = inspect.signature(Function).parameters
    assert set(described) == set(shown)
    assert set(shown) == set(Function.__dataclass_fields__) - set(STREAMING_FIELDS)
    assert "stream" not in Function.__doc__
    assert Function("f", len, batch_size=3).batch_size == 3


def test_the_decorator_takes_every_field():
    """Editors and type checkers know the fields from this class."""
    assert set(FunctionFields.__annotations__) == set(inspect.signature(Function).parameters) - {"id", "code"}
    dag = DAG()
    dag.function(batch_size=3)(len)  # not shown, but accepted
    assert dag["len"].batch_size == 3
