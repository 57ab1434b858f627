"""A value whose ``repr`` raises does not prevent the display of anything else."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from helpers import dag_of

import handoff_dask as handoff
from handoff_dask import DAG, Function, InvalidDAGError
from handoff_dask._cli.main import cli
from handoff_dask._model.safe_repr import safe_repr

TEXT = "<Unprintable, whose repr raises RuntimeError>"


class Unprintable:
    """A value whose repr raises."""

    def __repr__(self):
        raise RuntimeError("no repr")


class UnprintableError(Exception):
    """An exception whose repr and str raise."""

    def __repr__(self):
        raise RuntimeError("no repr")

    __str__ = __repr__


def make_unprintable(*args, **kwargs):
    return Unprintable()


def fail():
    raise UnprintableError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1, "a"], "[1, 'a']"),
        (Unprintable(), TEXT),
        ((Unprintable(),), f"({TEXT},)"),
        ((1, Unprintable()), f"(1, {TEXT})"),
        ([Unprintable(), 1], f"[{TEXT}, 1]"),
        ({"a": Unprintable(), Unprintable(): 1}, f"{{'a': {TEXT}, {TEXT}: 1}}"),
        ([[Unprintable()]], "[<list, whose repr raises RuntimeError>]"),
    ],
)
def test_safe_repr_replaces_only_the_parts_that_raise(value, text):
    assert safe_repr(value) == text


UNPRINTABLE_DAG = dag_of(
    Function("f", make_unprintable, extra_args=[1, Unprintable()], extra_kwargs={"x": Unprintable()}),
    Function("g", len, extra_args=[[]]),
)


def test_reprs_of_functions_and_dags():
    assert repr(UNPRINTABLE_DAG["f"]) == (
        f"Function(id='f', code=make_unprintable, extra_args=(1, {TEXT}), extra_kwargs={{'x': {TEXT}}})"
    )
    for text in (repr(UNPRINTABLE_DAG), UNPRINTABLE_DAG._repr_html_(), UNPRINTABLE_DAG.to_mermaid()):
        assert text


@pytest.mark.parametrize(
    "fields",
    [
        {"extra_args": Unprintable()},
        {"extra_kwargs": Unprintable()},
        {"cost": Unprintable()},
        {"cost": {"cpu": Unprintable()}},
        {"node": Unprintable()},
        {"code": Unprintable()},
        {"type": Unprintable()},
        {"retry": Unprintable()},
    ],
)
def test_validation_and_reprs_of_invalid_functions(fields, monkeypatch):
    dag = DAG("wrong").add_function(Function("f", **{"code": make_unprintable, **fields}))
    with pytest.raises(InvalidDAGError, match="Unprintable"):
        dag.validate()
    for text in (dag._repr_html_(), dag.to_mermaid(), repr(dag["f"])):
        assert text
    monkeypatch.setattr("handoff_dask._cli.dags.load_dag", lambda target: dag)
    assert CliRunner().invoke(cli, ["show", "any:dag"]).exit_code == 0


@pytest.mark.parametrize("local", [True, False])
def test_reprs_of_results(client, local):
    result = handoff.execute_local(UNPRINTABLE_DAG) if local else handoff.execute(UNPRINTABLE_DAG, client)
    assert f"results {{'f': {TEXT}, 'g': 0}}" in repr(result)
    assert repr(result).startswith("<Result of DAG 'test' in ")
    assert "Unprintable, whose repr raises RuntimeError" in result._repr_html_()


def test_an_unprintable_error_of_a_local_run():
    with pytest.raises(handoff.FunctionFailedError) as caught:
        handoff.execute_local(dag_of(Function("f", fail, max_retries=0)))
    assert caught.value.attempts[0].error == "<UnprintableError, whose repr raises RuntimeError>"


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_output_of_the_command_line(monkeypatch, options):
    monkeypatch.setattr("handoff_dask._cli.run.load_dag", lambda target: UNPRINTABLE_DAG)
    done = CliRunner().invoke(cli, ["run", "any:dag", *options])
    assert done.exit_code == 0, done.output
    if options:
        assert [f["result"] for f in json.loads(done.stdout)["functions"]] == [TEXT, 0]
    else:
        assert TEXT in done.stdout
